//! What a step's result depends on: its inputs, each with a name, and their digest.
//!
//! Inputs come in one order, the most telling first, so that of two steps that
//! differ it can be said in what.

use std::fmt::{self, Display};

use common::digest::Digest;
use serde_json::{Value, json};

/// Is a part of every key: a change in what steps do makes it another.
const VERSION: u32 = 1;

/// The inputs of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs(Vec<(String, Value)>);

impl Inputs {
    /// Returns the inputs of a step of this kind.
    pub fn of(kind: &str) -> Inputs {
        Inputs(vec![("step".into(), json!([kind, VERSION]))])
    }

    /// Adds an input.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.push((name.into(), value.into()));
    }

    /// Returns the step's key.
    pub fn key(&self) -> Digest {
        Digest::of(self.to_json().to_string().as_bytes())
    }

    /// Returns the inputs as JSON: a list of names and values.
    pub fn to_json(&self) -> Value {
        let mut list: Value = self.0.iter().map(|(name, value)| json!([name, value])).collect();
        list.sort_all_objects();
        list
    }

    /// Reads what [`Inputs::to_json`] returned.
    pub fn from_json(value: &Value) -> Option<Inputs> {
        let pair = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.clone()));
        value.as_array()?.iter().map(pair).collect::<Option<_>>().map(Inputs)
    }

    /// Returns the first input that differs from `before`, or nothing if none does.
    pub fn differs(&self, before: &Inputs) -> Option<Difference> {
        let old = |name: &str| before.0.iter().find(|(known, _)| known == name);
        for (name, value) in &self.0 {
            match old(name) {
                Some((_, before)) if before == value => {}
                before => {
                    let before = before.map(|(_, value)| value.clone());
                    return Some(Difference {
                        name: name.clone(),
                        before,
                        now: Some(value.clone()),
                    });
                }
            }
        }
        let gone = before.0.iter().find(|(name, _)| !self.0.iter().any(|(known, _)| known == name));
        gone.map(|(name, value)| Difference {
            name: name.clone(),
            before: Some(value.clone()),
            now: None,
        })
    }
}

/// An input that is not what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// What it was, if it was there.
    pub before: Option<Value>,
    /// What it is, if it is there.
    pub now: Option<Value>,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| match value {
            None => "nothing".into(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        write!(f, "{} was {}, is {}", self.name, show(&self.before), show(&self.now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inputs(pairs: &[(&str, &str)]) -> Inputs {
        let mut inputs = Inputs::of("RUN");
        pairs.iter().for_each(|(name, value)| inputs.add(*name, *value));
        inputs
    }

    #[test]
    fn the_first_that_differs_is_told() {
        let old = inputs(&[("base", "a"), ("env A", "1"), ("user", "u")]);
        let table = [
            (inputs(&[("base", "a"), ("env A", "1"), ("user", "u")]), None),
            (inputs(&[("base", "b"), ("env A", "2"), ("user", "u")]), Some("base was a, is b")),
            (inputs(&[("base", "a"), ("user", "u")]), Some("env A was 1, is nothing")),
            (
                inputs(&[("base", "a"), ("env A", "1"), ("env B", "2"), ("user", "u")]),
                Some("env B was nothing, is 2"),
            ),
        ];
        for (new, expected) in table {
            let told = new.differs(&old).map(|difference| difference.to_string());
            assert_eq!(told.as_deref(), expected);
            assert_eq!(expected.is_none(), new.key() == old.key());
        }
    }

    proptest! {
        #[test]
        fn inputs_survive_their_json(pairs in proptest::collection::vec(("\\PC{0,8}", "\\PC{0,8}"), 0..6)) {
            let mut all = Inputs::of("COPY");
            pairs.iter().for_each(|(name, value)| all.add(name.clone(), value.clone()));
            let text = all.to_json().to_string();
            let read = Inputs::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
            prop_assert_eq!(read.key(), all.key());
        }
    }
}
