//! The fields of an option: `type=bind,"src=/a,b",dst=/x`, and the values of those that are true or false.

use anyhow::{Context, Result, bail, ensure};

/// Reads a truth value, as Go's strconv.ParseBool does; nothing, if it is none.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Splits one line of CSV: RFC 4180, and as strict about quotes as Go's encoding/csv, which Docker uses.
pub fn csv(text: &str) -> Result<Vec<String>> {
    ensure!(!text.is_empty(), "there is nothing in it");
    ensure!(!text.contains(['\n', '\r', '\0']), "it must be one line");
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            ensure!(!field.contains('"'), "{field}: a quote in the middle of a field");
            fields.push(field.to_string());
            match more {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut left = quoted;
        loop {
            let (part, more) = left.split_once('"').context("a quote is not closed")?;
            field.push_str(part);
            match more.strip_prefix('"') {
                // Two quotes are one.
                Some(more) => {
                    field.push('"');
                    left = more;
                }
                None => {
                    left = more;
                    break;
                }
            }
        }
        fields.push(field);
        match left.strip_prefix(',') {
            Some(more) => rest = more,
            None if left.is_empty() => return Ok(fields),
            None => bail!("{left}: text after a closing quote"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_that_are_quoted_come_back(fields in prop::collection::vec("[ -~]{1,12}", 1..6)) {
            let quoted: Vec<String> =
                fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            prop_assert_eq!(csv(&quoted.join(",")).unwrap(), fields);
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[ -~]{0,40}|\\PC{0,40}") {
            let _ = csv(&text);
        }
    }
}
