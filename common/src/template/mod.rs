//! The Go templates behind every `--format`: text/template, as far as Docker's documentation shows it.
//!
//! A template is parsed once and run for each row, over JSON values: fields,
//! pipelines, variables, `range`, `if`, `with`, the built-in functions and
//! Docker's (`json join split lower upper title pad truncate`). Where Go would
//! fail, so does this, but that whole numbers and fractions are compared as
//! numbers. What is not supported (`define`, `template`, `block`, `call`) is
//! refused when it is parsed.
//!
//! Whatever the template and the row are, it ends, and what it makes is bounded.

mod eval;
mod format;
mod functions;
mod parse;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;

use value::Value;

/// A template, parsed.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
    typed: bool,
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Template> {
        Ok(Template { nodes: parse::parse(text)?, typed: false })
    }

    /// Takes rows for what they are in `docker inspect`: values of Go's types, not of JSON.
    ///
    /// What is shown as `Id` its type calls `ID`, and a template may use both;
    /// null is a list or a map without anything in it.
    pub fn typed(self) -> Template {
        Template { typed: true, ..self }
    }

    /// Returns what the template makes of `row`.
    pub fn render(&self, row: &serde_json::Value) -> Result<String> {
        eval::render(self, &Value::of(row, self.typed), false)
    }

    /// Returns the heading of a table: the template run over the names of its columns.
    ///
    /// Docker's own functions leave the names as they are, so that `{{truncate .Image 3}}` is headed IMAGE.
    pub fn heading(&self, names: &BTreeMap<&str, &str>) -> Result<String> {
        let row = names.iter().map(|(field, name)| ((*field).to_owned(), Value::from(*name)));
        eval::render(self, &Value::Map(Arc::new(row.collect())), true)
    }
}

/// A piece of a template.
#[derive(Debug)]
enum Node {
    Text(String),
    /// Prints its value, unless it is an assignment.
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// `$i, $x := command | command`.
#[derive(Debug)]
struct Pipeline {
    /// The variables that get its value: two in `range $i, $x := ...`.
    variables: Vec<String>,
    /// Whether the variables are new (`:=`) or there already (`=`).
    declares: bool,
    commands: Vec<Vec<Expr>>,
}

/// An operand or a function's name.
#[derive(Debug)]
enum Expr {
    Literal(Value),
    Function(String),
    /// `.A.B`; `.` alone is no fields at all.
    Field(Vec<String>),
    /// `$x.A`; `$` alone is the row.
    Variable(String, Vec<String>),
    /// `(pipeline).A`.
    Nested(Pipeline, Vec<String>),
}

#[cfg(test)]
mod tests;
