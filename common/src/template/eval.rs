//! Nodes and a row to text.

use std::ops::ControlFlow;

use anyhow::{Context, Result, bail, ensure};

use super::format::print;
use super::functions::call;
use super::value::Value;
use super::{Expr, Node, Pipeline, Template};

/// The most text that one row, or a value on the way, may become: `print $x $x` doubles it each time.
pub(super) const LIMIT: usize = 16 << 20;
/// The most steps that one row may take: a range in a range in a range ends.
const STEPS: usize = 1 << 24;

/// Runs the template over a row; for a heading, Docker's functions do nothing.
pub(super) fn render(template: &Template, row: &Value, heading: bool) -> Result<String> {
    let typed = template.typed;
    let mut run = Run { row, heading, typed, out: String::new(), variables: Vec::new(), steps: 0 };
    // Outside a range there is nothing to break out of: the parser has seen to it.
    let _ = run.nodes(&template.nodes, row)?;
    Ok(run.out)
}

struct Run<'a> {
    row: &'a Value,
    heading: bool,
    typed: bool,
    out: String,
    /// The innermost scope last.
    variables: Vec<(String, Value)>,
    /// How much has been done.
    steps: usize,
}

/// What ends a loop's body early.
enum Jump {
    Break,
    Continue,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<ControlFlow<Jump>> {
        for node in nodes {
            self.spend(1)?;
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        match value {
                            Value::Absent | Value::Nil => self.out.push_str("<no value>"),
                            value => print(&mut self.out, &value),
                        }
                    }
                }
                Node::If { condition, then, otherwise } => {
                    let scope = self.variables.len();
                    let value = self.pipeline(condition, dot)?;
                    let flow = self.nodes(if value.truth() { then } else { otherwise }, dot)?;
                    self.variables.truncate(scope);
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
                Node::With { value, then, otherwise } => {
                    let scope = self.variables.len();
                    let value = self.pipeline(value, dot)?;
                    let flow = match value.truth() {
                        true => self.nodes(then, &value)?,
                        false => self.nodes(otherwise, dot)?,
                    };
                    self.variables.truncate(scope);
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
                Node::Range { over, body, otherwise } => {
                    let flow = self.range(over, body, otherwise, dot)?;
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
                Node::Break => return Ok(ControlFlow::Break(Jump::Break)),
                Node::Continue => return Ok(ControlFlow::Break(Jump::Continue)),
            }
            ensure!(self.out.len() <= LIMIT, "the template makes more than {LIMIT} bytes");
        }
        Ok(ControlFlow::Continue(()))
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<ControlFlow<Jump>> {
        let scope = self.variables.len();
        let value = self.commands(over, dot)?;
        let items: Box<dyn Iterator<Item = (Value, Value)>> = match &value {
            Value::List(items) => {
                Box::new(items.iter().enumerate().map(|(at, item)| (at.into(), item.clone())))
            }
            Value::Map(fields) => {
                Box::new(fields.iter().map(|(key, value)| (key.as_str().into(), value.clone())))
            }
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                ensure!(over.variables.len() < 2, "range over a number takes one variable");
                let end = number.as_u64().unwrap_or(0);
                Box::new((0..end).map(|at| (Value::Nil, Value::Number(at.into()))))
            }
            value if value.is_nil() => Box::new(std::iter::empty()),
            other => bail!("range cannot go over {}", other.kind()),
        };
        let mut items = items.peekable();
        if items.peek().is_none() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            self.spend(1)?;
            self.variables.truncate(scope);
            match &over.variables[..] {
                [] => {}
                [item_name] => self.assign(over, item_name, item.clone())?,
                [key_name, item_name, ..] => {
                    self.assign(over, key_name, key)?;
                    self.assign(over, item_name, item.clone())?;
                }
            }
            if let ControlFlow::Break(Jump::Break) = self.nodes(body, &item)? {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(ControlFlow::Continue(()))
    }

    fn assign(&mut self, pipeline: &Pipeline, name: &str, value: Value) -> Result<()> {
        match self.variables.iter_mut().rev().find(|(other, _)| other == name) {
            Some((_, old)) if !pipeline.declares => *old = value,
            None if !pipeline.declares => bail!("undefined variable ${name}"),
            _ => self.variables.push((name.into(), value)),
        }
        Ok(())
    }

    /// Returns the value of a pipeline, after giving it to its variables.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let value = self.commands(pipeline, dot)?;
        if let [name, ..] = &pipeline.variables[..] {
            self.assign(pipeline, name, value.clone())?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        // The parser makes no pipeline without commands.
        Ok(piped.unwrap_or(Value::Absent))
    }

    fn command(&mut self, command: &[Expr], dot: &Value, piped: Option<Value>) -> Result<Value> {
        let (first, rest) = command.split_first().context("a command is empty")?;
        let Expr::Function(name) = first else {
            let value = self.operand(first, dot)?;
            // A field with an argument is what Go has for a method: .Label "key".
            let key = match (rest, piped) {
                ([], None) => return Ok(value),
                ([key], None) => self.operand(key, dot)?,
                ([], Some(key)) => key,
                _ => bail!("only a function can be given arguments"),
            };
            let (Expr::Field(_), Value::Map(fields), Value::Text(key)) = (first, &value, &key)
            else {
                bail!("{} cannot be given an argument", value.kind());
            };
            return Ok(fields.get(&**key).cloned().unwrap_or_else(|| "".into()));
        };
        // `and` and `or` look no further than they must.
        if let ("and" | "or", false) = (name.as_str(), rest.is_empty()) {
            let mut value = Value::Absent;
            let stop = name == "or";
            for expr in rest {
                value = self.operand(expr, dot)?;
                if value.truth() == stop {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut args =
            rest.iter().map(|expr| self.operand(expr, dot)).collect::<Result<Vec<_>>>()?;
        args.extend(piped);
        self.call(name, &args)
    }

    fn call(&mut self, name: &str, args: &[Value]) -> Result<Value> {
        let value = call(name, args, self.heading).with_context(|| format!("function {name}"))?;
        match &value {
            Value::Text(text) => {
                ensure!(text.len() <= LIMIT, "function {name}: more than {LIMIT} bytes");
                self.spend(text.len() / 64)?;
            }
            Value::List(items) => self.spend(items.len() / 4)?,
            _ => {}
        }
        Ok(value)
    }

    fn operand(&mut self, expr: &Expr, dot: &Value) -> Result<Value> {
        self.spend(1)?;
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Function(name) => self.call(name, &[]),
            Expr::Field(fields) => self.fields(dot, fields, std::ptr::eq(dot, self.row)),
            Expr::Variable(name, fields) if name.is_empty() => self.fields(self.row, fields, true),
            Expr::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(other, _)| other == name);
                let (_, value) = found.with_context(|| format!("undefined variable ${name}"))?;
                self.fields(value, fields, false)
            }
            Expr::Nested(pipeline, fields) => {
                let value = self.pipeline(pipeline, dot)?;
                self.fields(&value, fields, false)
            }
        }
    }

    /// Follows `.A.B`. A row has the fields it has, as a Go struct; below it, what is absent has no value, as in a map.
    fn fields(&self, value: &Value, fields: &[String], mut is_row: bool) -> Result<Value> {
        let mut value = value;
        for field in fields {
            value = match value {
                Value::Map(map) => match self.field(map, field) {
                    Some(found) => found,
                    None if is_row => {
                        let names: Vec<String> =
                            map.keys().map(|name| format!(".{name}")).collect();
                        bail!("no field .{field}: there are {}", names.join(" "));
                    }
                    None => &Value::Absent,
                },
                Value::Absent | Value::Zero(_) => &Value::Absent,
                other => bail!("{} has no field .{field}", other.kind()),
            };
            is_row = false;
        }
        Ok(value.clone())
    }

    fn field<'v>(
        &self,
        map: &'v std::collections::BTreeMap<String, Value>,
        name: &str,
    ) -> Option<&'v Value> {
        let same = |other: &&String| other.eq_ignore_ascii_case(name);
        let other = || map.keys().filter(|_| self.typed).find(same);
        map.get(name).or_else(|| map.get(other()?))
    }

    fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps += steps;
        ensure!(self.steps <= STEPS, "the template takes more than {STEPS} steps");
        Ok(())
    }
}
