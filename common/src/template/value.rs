//! The values that a template works on: cheap to copy, whatever is below them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Number;

/// A value of a row, or what a function made of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// What a map does not have.
    Absent,
    /// Go's nil; JSON's null.
    Nil,
    /// What is not there of Docker's types, and how Go prints it: it reads as empty, and is null in JSON.
    Zero(&'static str),
    /// Go's struct{}, which a set has for each of its members.
    Unit,
    Bool(bool),
    Number(Number),
    Text(Arc<str>),
    List(Arc<[Value]>),
    Map(Arc<BTreeMap<String, Value>>),
}

impl Value {
    /// Takes a row over. In a typed one, fields are what Docker's types make them.
    pub(super) fn of(json: &serde_json::Value, typed: bool) -> Value {
        match json {
            serde_json::Value::Null if typed => Value::Zero("[]"),
            serde_json::Value::Null => Value::Nil,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => Value::Number(number.clone()),
            serde_json::Value::String(text) => text.as_str().into(),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| Value::of(item, typed)).collect())
            }
            serde_json::Value::Object(fields) => {
                let of = |(key, value): (&String, _)| match typed {
                    true => (key.clone(), Value::of_docker(key, value)),
                    false => (key.clone(), Value::of(value, false)),
                };
                Value::Map(Arc::new(fields.iter().map(of).collect()))
            }
        }
    }

    /// Takes over a field of Docker's types: of those that a config has, few are neither texts nor lists.
    fn of_docker(field: &str, json: &serde_json::Value) -> Value {
        match (field, json) {
            ("ExposedPorts" | "Volumes", serde_json::Value::Object(set)) => {
                Value::Map(Arc::new(set.keys().map(|key| (key.clone(), Value::Unit)).collect()))
            }
            ("ExposedPorts" | "Labels" | "Volumes", serde_json::Value::Null) => {
                Value::Zero("map[]")
            }
            ("Healthcheck", serde_json::Value::Null) => Value::Zero("<nil>"),
            (_, json) => Value::of(json, true),
        }
    }

    /// Returns whether Go's `if` takes the value.
    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Absent | Value::Nil | Value::Zero(_) => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(fields) => !fields.is_empty(),
            Value::Unit => true,
        }
    }

    /// Says what kind of value this is, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Absent | Value::Nil | Value::Zero(_) => "nil",
            Value::Bool(_) => "a bool",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Unit => "a struct",
        }
    }

    pub(super) fn is_nil(&self) -> bool {
        matches!(self, Value::Absent | Value::Nil | Value::Zero(_))
    }

    pub(super) fn text(&self) -> Result<&str> {
        match self {
            Value::Text(text) => Ok(text),
            other => bail!("wants a string, not {}", other.kind()),
        }
    }

    /// Returns a number that counts something.
    pub(super) fn size(&self, limit: usize) -> Result<usize> {
        let number = match self {
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        let size = number.with_context(|| format!("wants a number from 0, not {}", self.kind()))?;
        ensure!(size <= limit as u64, "{size} is too large");
        Ok(size as usize)
    }

    /// Returns whether two values are equal. Numbers are compared as numbers, whole or not.
    pub(super) fn equals(&self, other: &Value) -> Result<bool> {
        match (self, other) {
            (a, b) if a.is_nil() || b.is_nil() => Ok(a.is_nil() && b.is_nil()),
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            (a, b) => Ok(a.compare(b)? == Ordering::Equal),
        }
    }

    /// Returns which of two values is less.
    pub(super) fn compare(&self, other: &Value) -> Result<Ordering> {
        let order = match (self, other) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
            },
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            _ => None,
        };
        order.with_context(|| format!("cannot compare {} and {}", self.kind(), other.kind()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number.into())
    }
}
