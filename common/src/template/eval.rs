//! Nodes and a row to text.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::format::{print, printf};
use super::{Expr, Node, Pipeline};

/// The most text that one row, or a value on the way, may become: `print $x $x` doubles it each time.
const LIMIT: usize = 16 << 20;

pub(super) fn render(nodes: &[Node], row: &Value, heading: bool) -> Result<String> {
    let mut run = Run { row, heading, out: String::new(), variables: Vec::new() };
    // Outside a range there is nothing to break out of: the parser has seen to it.
    let _ = run.nodes(nodes, row)?;
    Ok(run.out)
}

struct Run<'a> {
    row: &'a Value,
    heading: bool,
    out: String,
    /// The innermost scope last.
    variables: Vec<(String, Value)>,
}

/// What ends a loop's body early.
enum Jump {
    Break,
    Continue,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<ControlFlow<Jump>> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        print(&mut self.out, &value);
                    }
                }
                Node::If { condition, then, otherwise } => {
                    let scope = self.variables.len();
                    let value = self.pipeline(condition, dot)?;
                    let flow = self.nodes(if truth(&value) { then } else { otherwise }, dot)?;
                    self.variables.truncate(scope);
                    if flow.is_break() {
                        return Ok(flow);
                    }
                }
                Node::With { value, then, otherwise } => {
                    let scope = self.variables.len();
                    let value = self.pipeline(value, dot)?;
                    let flow = match truth(&value) {
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
        let items: Vec<(Value, Value)> = match self.commands(over, dot)? {
            Value::Array(items) => {
                items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect()
            }
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
            }
            Value::Null => Vec::new(),
            other => bail!("range cannot go over {}", kind(&other)),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
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
        Ok(piped.unwrap_or_default())
    }

    fn command(&mut self, command: &[Expr], dot: &Value, piped: Option<Value>) -> Result<Value> {
        let (first, rest) = command.split_first().context("a command is empty")?;
        let Expr::Function(name) = first else {
            // A field with an argument is what Go has for a method: .Label "key".
            let value = self.operand(first, dot)?;
            return match (rest, piped) {
                ([], None) => Ok(value),
                ([key], None) => {
                    let key = self.operand(key, dot)?;
                    let (Value::Object(fields), Value::String(key)) = (&value, &key) else {
                        bail!("{} cannot be given an argument", kind(&value));
                    };
                    Ok(fields.get(key).cloned().unwrap_or(Value::String(String::new())))
                }
                _ => bail!("only a function can be given arguments"),
            };
        };
        // `and` and `or` look no further than they must.
        if let ("and" | "or", false) = (name.as_str(), rest.is_empty()) {
            let mut value = Value::Null;
            let stop = name == "or";
            for expr in rest {
                value = self.operand(expr, dot)?;
                if truth(&value) == stop {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut args =
            rest.iter().map(|expr| self.operand(expr, dot)).collect::<Result<Vec<_>>>()?;
        args.extend(piped);
        let value = call(name, args, self.heading).with_context(|| format!("function {name}"))?;
        let long = value.as_str().is_some_and(|text| text.len() > LIMIT);
        ensure!(!long, "function {name}: more than {LIMIT} bytes");
        Ok(value)
    }

    fn operand(&mut self, expr: &Expr, dot: &Value) -> Result<Value> {
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Function(name) => {
                call(name, Vec::new(), self.heading).with_context(|| format!("function {name}"))
            }
            Expr::Field(fields) => self.fields(dot.clone(), fields, std::ptr::eq(dot, self.row)),
            Expr::Variable(name, fields) if name.is_empty() => {
                self.fields(self.row.clone(), fields, true)
            }
            Expr::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(other, _)| other == name);
                let (_, value) = found.with_context(|| format!("undefined variable ${name}"))?;
                self.fields(value.clone(), fields, false)
            }
            Expr::Nested(pipeline, fields) => {
                let value = self.pipeline(pipeline, dot)?;
                self.fields(value, fields, false)
            }
        }
    }

    /// Follows `.A.B`. A row has the fields it has, as a Go struct; below it, what is absent has no value, as in a map.
    fn fields(&self, mut value: Value, fields: &[String], mut is_row: bool) -> Result<Value> {
        for field in fields {
            value = match value {
                Value::Object(mut object) => match object.remove(field) {
                    Some(found) => found,
                    None if is_row => {
                        let names: Vec<String> =
                            object.keys().map(|name| format!(".{name}")).collect();
                        bail!("no field .{field}: there are {}", names.join(" "));
                    }
                    None => Value::Null,
                },
                Value::Null => bail!("nil has no field .{field}"),
                other => bail!("{} has no field .{field}", kind(&other)),
            };
            is_row = false;
        }
        Ok(value)
    }
}

fn call(name: &str, args: Vec<Value>, heading: bool) -> Result<Value> {
    let count = |wanted: usize| {
        ensure!(args.len() == wanted, "takes {wanted} arguments, not {}", args.len());
        Ok(())
    };
    if heading
        && matches!(
            name,
            "json" | "join" | "split" | "lower" | "upper" | "title" | "pad" | "truncate"
        )
    {
        let named = args.into_iter().find(Value::is_string);
        return Ok(named.unwrap_or_default());
    }
    Ok(match name {
        "not" => {
            count(1)?;
            (!truth(&args[0])).into()
        }
        "and" | "or" => args.into_iter().next().context("takes arguments")?,
        "eq" => {
            ensure!(args.len() >= 2, "takes 2 arguments or more, not {}", args.len());
            args[1..].iter().any(|other| compare(&args[0], other) == Some(Ordering::Equal)).into()
        }
        "ne" => {
            count(2)?;
            (compare(&args[0], &args[1]) != Some(Ordering::Equal)).into()
        }
        "lt" | "le" | "gt" | "ge" => {
            count(2)?;
            let order = compare(&args[0], &args[1]).with_context(|| {
                format!("cannot compare {} and {}", kind(&args[0]), kind(&args[1]))
            })?;
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        "len" => {
            count(1)?;
            match &args[0] {
                Value::String(text) => text.len().into(),
                Value::Array(items) => items.len().into(),
                Value::Object(fields) => fields.len().into(),
                other => bail!("{} has no length", kind(other)),
            }
        }
        "index" => {
            let mut args = args.into_iter();
            let mut value = args.next().context("takes arguments")?;
            for key in args {
                value = index(value, &key)?;
            }
            value
        }
        "slice" => slice(&args)?,
        "print" | "println" => {
            let mut out = String::new();
            for (at, arg) in args.iter().enumerate() {
                // Go's Print puts a blank between two operands of which neither is a string.
                let blank =
                    at > 0 && (name == "println" || !(arg.is_string() || args[at - 1].is_string()));
                if blank {
                    out.push(' ');
                }
                print(&mut out, arg);
            }
            if name == "println" {
                out.push('\n');
            }
            out.into()
        }
        "printf" => {
            let (format, args) = args.split_first().context("takes a format")?;
            printf(text(format)?, args)?.into()
        }
        "json" => {
            count(1)?;
            serde_json::to_string(&args[0])?.into()
        }
        "lower" | "upper" | "title" => {
            count(1)?;
            let text = text(&args[0])?;
            match name {
                "lower" => text.to_lowercase(),
                "upper" => text.to_uppercase(),
                _ => title(text),
            }
            .into()
        }
        "split" => {
            count(2)?;
            let (text, separator) = (text(&args[0])?, text(&args[1])?);
            match separator {
                "" => Value::Array(text.chars().map(|c| c.to_string().into()).collect()),
                _ => Value::Array(text.split(separator).map(Value::from).collect()),
            }
        }
        "join" => {
            count(2)?;
            let items = match &args[0] {
                Value::Array(items) => items.iter().map(text).collect::<Result<Vec<_>>>()?,
                Value::Null => Vec::new(),
                other => bail!("cannot join {}", kind(other)),
            };
            items.join(text(&args[1])?).into()
        }
        "pad" => {
            count(3)?;
            let (text, before, after) = (text(&args[0])?, size(&args[1])?, size(&args[2])?);
            match text {
                "" => text.into(),
                _ => format!("{}{text}{}", " ".repeat(before), " ".repeat(after)).into(),
            }
        }
        "truncate" => {
            count(2)?;
            let (text, size) = (text(&args[0])?, size(&args[1])?);
            // Docker counts bytes; half a character is dropped rather than printed.
            let end = (0..=size.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
            text[..end.unwrap_or_default()].into()
        }
        _ => bail!("not defined"),
    })
}

fn index(value: Value, key: &Value) -> Result<Value> {
    match (value, key) {
        (Value::Array(mut items), key) => {
            let at = size(key)?;
            ensure!(at < items.len(), "index {at} is out of range: there are {}", items.len());
            Ok(items.swap_remove(at))
        }
        (Value::String(text), key) => {
            let at = size(key)?;
            Ok((*text.as_bytes().get(at).with_context(|| format!("index {at} is out of range"))?)
                .into())
        }
        (Value::Object(mut fields), Value::String(key)) => {
            Ok(fields.remove(key).unwrap_or(Value::Null))
        }
        (Value::Null, _) => Ok(Value::Null),
        (value, key) => bail!("cannot index {} with {}", kind(&value), kind(key)),
    }
}

fn slice(args: &[Value]) -> Result<Value> {
    let (value, bounds) = args.split_first().context("takes arguments")?;
    ensure!(bounds.len() <= 2, "takes 3 arguments at most");
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => bail!("cannot slice {}", kind(other)),
    };
    let from = bounds.first().map(size).transpose()?.unwrap_or(0);
    let to = bounds.get(1).map(size).transpose()?.unwrap_or(length);
    ensure!(from <= to && to <= length, "{from}:{to} is out of range: there are {length}");
    Ok(match value {
        Value::String(text) => text.get(from..to).context("cuts a character in two")?.into(),
        Value::Array(items) => items[from..to].to_vec().into(),
        _ => Value::Null,
    })
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("wants a string, not {}", kind(value)))
}

fn size(value: &Value) -> Result<usize> {
    let size =
        value.as_u64().with_context(|| format!("wants a number from 0, not {}", kind(value)))?;
    ensure!(size as usize <= LIMIT, "{size} is too large");
    Ok(size as usize)
}

/// Returns whether Go's `if` takes the value.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !Map::is_empty(fields),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase())
        } else {
            out.push(c)
        }
        start = !(c.is_alphanumeric() || matches!(c, '_' | '\''));
    }
    out
}
