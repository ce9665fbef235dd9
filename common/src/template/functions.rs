//! Go's functions and Docker's.

use std::cmp::Ordering;

use anyhow::{Context, Result, bail, ensure};

use super::eval::LIMIT;
use super::format::{json, print, printf};
use super::value::Value;

/// The most items that `split` makes.
const ITEMS: usize = 1 << 20;

/// The names that begin a command.
pub(super) const FUNCTIONS: &[&str] = &[
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
];

/// Docker's own, which leave a heading as it is.
const DOCKERS: &[&str] = &["json", "join", "split", "lower", "upper", "title", "pad", "truncate"];

/// Calls a function.
pub(super) fn call(name: &str, args: &[Value], heading: bool) -> Result<Value> {
    if heading && DOCKERS.contains(&name) {
        let named = args.iter().find(|arg| matches!(arg, Value::Text(_)));
        return Ok(named.cloned().unwrap_or_else(|| "".into()));
    }
    let count = |wanted: usize| {
        ensure!(args.len() == wanted, "takes {wanted} arguments, not {}", args.len());
        Ok(())
    };
    Ok(match name {
        "not" => {
            count(1)?;
            (!args[0].truth()).into()
        }
        "and" | "or" => args.first().context("takes arguments")?.clone(),
        "eq" => {
            ensure!(args.len() >= 2, "takes 2 arguments or more, not {}", args.len());
            for other in &args[1..] {
                if args[0].equals(other)? {
                    return Ok(true.into());
                }
            }
            false.into()
        }
        "ne" => {
            count(2)?;
            (!args[0].equals(&args[1])?).into()
        }
        "lt" | "le" | "gt" | "ge" => {
            count(2)?;
            let order = args[0].compare(&args[1])?;
            match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }
            .into()
        }
        "len" => {
            count(1)?;
            length(&args[0])?.into()
        }
        "index" => {
            let (value, keys) = args.split_first().context("takes arguments")?;
            keys.iter().try_fold(value.clone(), |value, key| index(&value, key))?
        }
        "slice" => slice(args)?,
        "print" | "println" => {
            let mut out = String::new();
            for (at, arg) in args.iter().enumerate() {
                // Go's Print puts a blank between two operands of which neither is a string.
                let text = |arg: &Value| matches!(arg, Value::Text(_));
                if at > 0 && (name == "println" || !(text(arg) || text(&args[at - 1]))) {
                    out.push(' ');
                }
                print(&mut out, arg);
                ensure!(out.len() <= LIMIT, "more than {LIMIT} bytes");
            }
            if name == "println" {
                out.push('\n');
            }
            out.into()
        }
        "printf" => {
            let (format, args) = args.split_first().context("takes a format")?;
            printf(format.text()?, args)?.into()
        }
        "json" => {
            count(1)?;
            let mut out = String::new();
            json(&mut out, &args[0]);
            out.into()
        }
        "lower" | "upper" | "title" => {
            count(1)?;
            let text = args[0].text()?;
            match name {
                "lower" => text.chars().map(lower).collect::<String>(),
                "upper" => text.chars().map(upper).collect(),
                _ => title(text),
            }
            .into()
        }
        "split" => {
            count(2)?;
            let (text, separator) = (args[0].text()?, args[1].text()?);
            let items: Box<dyn Iterator<Item = Value>> = match separator {
                "" => Box::new(text.chars().map(|c| c.to_string().into())),
                _ => Box::new(text.split(separator).map(Value::from)),
            };
            let items: Vec<Value> = items.take(ITEMS + 1).collect();
            ensure!(items.len() <= ITEMS, "more than {ITEMS} pieces");
            Value::List(items.into())
        }
        "join" => {
            count(2)?;
            let items: Vec<&str> = match &args[0] {
                Value::List(items) => items.iter().map(Value::text).collect::<Result<_>>()?,
                nil if nil.is_nil() => Vec::new(),
                other => bail!("cannot join {}", other.kind()),
            };
            let separator = args[1].text()?;
            let length: usize = items.iter().map(|item| item.len() + separator.len()).sum();
            ensure!(length <= LIMIT, "more than {LIMIT} bytes");
            items.join(separator).into()
        }
        "pad" => {
            count(3)?;
            let (before, after) = (args[1].size(LIMIT)?, args[2].size(LIMIT)?);
            match args[0].text()? {
                "" => "".into(),
                text => format!("{}{text}{}", " ".repeat(before), " ".repeat(after)).into(),
            }
        }
        "truncate" => {
            count(2)?;
            let (text, size) = (args[0].text()?, args[1].size(LIMIT)?);
            // Docker counts bytes; half a character is dropped rather than printed.
            let end = (0..=size.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
            text[..end.unwrap_or_default()].into()
        }
        _ => bail!("not defined"),
    })
}

fn length(value: &Value) -> Result<usize> {
    match value {
        Value::Text(text) => Ok(text.len()),
        Value::List(items) => Ok(items.len()),
        Value::Map(fields) => Ok(fields.len()),
        Value::Zero(_) => Ok(0),
        other => bail!("{} has no length", other.kind()),
    }
}

fn index(value: &Value, key: &Value) -> Result<Value> {
    match (value, key) {
        (Value::List(items), key) => {
            let at = key.size(LIMIT)?;
            let item = items.get(at).cloned();
            item.with_context(|| format!("index {at} is out of range: there are {}", items.len()))
        }
        (Value::Text(text), key) => {
            let at = key.size(LIMIT)?;
            let byte = text.as_bytes().get(at);
            let byte = byte.with_context(|| format!("index {at} is out of range"))?;
            Ok(usize::from(*byte).into())
        }
        (Value::Map(fields), Value::Text(key)) => {
            let text = |value: &Value| matches!(value, Value::Text(_));
            Ok(match fields.get(&**key) {
                Some(value) => value.clone(),
                // Of a map of strings, as labels are, Go returns the empty one.
                None if fields.values().take(ITEMS).all(text) => "".into(),
                None => Value::Absent,
            })
        }
        (Value::Zero(_), Value::Text(_)) => Ok("".into()),
        (value, key) => bail!("cannot index {} with {}", value.kind(), key.kind()),
    }
}

fn slice(args: &[Value]) -> Result<Value> {
    let (value, bounds) = args.split_first().context("takes arguments")?;
    let most = if matches!(value, Value::List(_)) { 3 } else { 2 };
    ensure!(bounds.len() <= most, "takes {} arguments at most", most + 1);
    let length = match value {
        Value::Text(_) | Value::List(_) | Value::Zero(_) => length(value)?,
        other => bail!("cannot slice {}", other.kind()),
    };
    let bound = |at: usize| bounds.get(at).map(|bound| bound.size(LIMIT)).transpose();
    let (from, to) = (bound(0)?.unwrap_or(0), bound(1)?.unwrap_or(length));
    // The third is a capacity, which nothing here has.
    let capacity = bound(2)?.unwrap_or(length);
    let fits = from <= to && to <= capacity && capacity <= length;
    ensure!(fits, "{from}:{to} is out of range: there are {length}");
    Ok(match value {
        Value::Text(text) => text.get(from..to).context("cuts a character in two")?.into(),
        Value::List(items) => Value::List(items[from..to].into()),
        other => other.clone(),
    })
}

/// Returns what Go's unicode.ToUpper does: one character for one.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// Go's strings.Title: a word begins after what is no part of one.
fn title(text: &str) -> String {
    let mut start = true;
    let word = |c: char| {
        let title = if start { upper(c) } else { c };
        start = match c.is_ascii() {
            true => !(c.is_ascii_alphanumeric() || c == '_'),
            false => c.is_whitespace(),
        };
        title
    };
    text.chars().map(word).collect()
}
