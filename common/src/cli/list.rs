//! Lists: Docker's tables, and its `--format`.
//!
//! ```text
//! table             the default columns
//! table TEMPLATE    other columns, headed
//! json              one object a line
//! TEMPLATE          anything, a line each
//! ```
//!
//! Where nothing is asked for, `imagesFormat` or `psFormat` of
//! `~/.docker/config.json` decides, as it does for Docker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::error::is_odd;
use crate::human;
use crate::template::Template;

/// A column is at least this wide, with [`PADDING`] after its widest cell: Go's tabwriter, as Docker sets it up.
const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// What a list shows of a row: its fields.
pub type Row = Map<String, Value>;

/// A kind of list.
pub struct List {
    /// The fields that a row has, each with its heading.
    pub columns: &'static [(&'static str, &'static str)],
    /// The template of the default table.
    pub table: String,
    /// Where Docker's config keeps another default, if it does.
    pub config_key: Option<&'static str>,
}

/// How a list is written.
pub struct Format {
    kind: Kind,
}

enum Kind {
    Json,
    Template { is_table: bool, heading: String, template: Template, fields: Option<Vec<String>> },
}

impl List {
    /// Returns the list as text, in the format asked for.
    pub fn render(&self, rows: &[Row], format: Option<&str>) -> Result<String> {
        self.format(format)?.render(rows.iter().cloned())
    }

    /// Returns the format that was asked for, or else the one that is configured.
    pub fn format(&self, format: Option<&str>) -> Result<Format> {
        let configured;
        let format = match format {
            Some(format) => format,
            None => {
                configured = self.config_key.map(configured_format).transpose()?.flatten();
                configured.as_deref().unwrap_or("table")
            }
        };
        if format == "json" {
            return Ok(Format { kind: Kind::Json });
        }
        let (is_table, template) = match format.strip_prefix("table") {
            Some("") => (true, self.table.clone()),
            Some(rest) if rest.starts_with([' ', '\\', '\t', '{']) => {
                (true, rest.trim().to_owned())
            }
            _ => (false, format.to_owned()),
        };
        // A shell passes \t as two characters.
        let text = template.replace("\\t", "\t").replace("\\n", "\n");
        let template = Template::parse(&text).context("--format")?;
        let heading = match is_table {
            true => template.heading(&BTreeMap::from_iter(self.columns.iter().copied())),
            false => Ok(String::new()),
        };
        let (heading, fields) = (heading.context("--format")?, self.fields(&text));
        Ok(Format { kind: Kind::Template { is_table, heading, template, fields } })
    }

    /// Returns the fields of a template that is nothing but fields with tabs between them.
    fn fields(&self, template: &str) -> Option<Vec<String>> {
        let field = |cell: &str| {
            let field = cell.strip_prefix("{{.")?.strip_suffix("}}")?;
            let known = self.columns.iter().any(|(name, _)| *name == field);
            known.then(|| field.to_owned())
        };
        template.split('\t').map(field).collect()
    }
}

impl Format {
    /// Returns whether a field of a row is looked at.
    pub fn shows(&self, field: &str) -> bool {
        match &self.kind {
            Kind::Template { fields: Some(fields), .. } => fields.iter().any(|it| it == field),
            _ => true,
        }
    }

    /// Returns these rows as text.
    pub fn render(&self, rows: impl IntoIterator<Item = Row>) -> Result<String> {
        let Kind::Template { is_table, heading, template, fields } = &self.kind else {
            let lines = rows.into_iter().map(|row| Ok(serde_json::to_string(&row)? + "\n"));
            return lines.collect();
        };
        let mut lines = Vec::new();
        if *is_table {
            lines.push(heading.clone());
        }
        for row in rows {
            let mut row = Value::Object(row);
            if *is_table {
                flatten(&mut row);
            }
            // Ten thousand rows are many for a language with variables.
            lines.push(match fields.as_ref().and_then(|fields| cells(&row, fields)) {
                Some(line) => line,
                None => template.render(&row).context("--format")?,
            });
        }
        match is_table {
            true => Ok(align(&lines)),
            false => Ok(lines.into_iter().map(|line| line + "\n").collect()),
        }
    }
}

/// Returns these fields with tabs between them, if all are text.
fn cells(row: &Value, fields: &[String]) -> Option<String> {
    let mut line = String::new();
    for (n, field) in fields.iter().enumerate() {
        if n > 0 {
            line.push('\t');
        }
        line.push_str(row.get(field)?.as_str()?);
    }
    Some(line)
}

/// Makes every text one line of plain characters: images say what they like, and a table has a line a row.
fn flatten(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(is_odd) => {
            let plain = |c: char| match c {
                '\t' => " ".into(),
                c if is_odd(c) => c.escape_default().to_string(),
                c => c.to_string(),
            };
            *text = text.chars().map(plain).collect();
        }
        Value::Array(items) => items.iter_mut().for_each(flatten),
        Value::Object(fields) => fields.values_mut().for_each(flatten),
        _ => {}
    }
}

/// Lines up the cells that tabs end.
fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut widths = Vec::new();
    for row in &rows {
        // The last cell of a line ends no column.
        for (column, cell) in row.iter().enumerate().take(row.len() - 1) {
            if widths.len() <= column {
                widths.push(MIN_WIDTH);
            }
            widths[column] = widths[column].max(human::width(cell) + PADDING);
        }
    }
    let mut out = String::new();
    for row in &rows {
        let (last, cells) = row.split_last().unwrap_or((&"", &[]));
        for (cell, width) in cells.iter().zip(&widths) {
            out.push_str(cell);
            out.push_str(&" ".repeat(width.saturating_sub(human::width(cell))));
        }
        out.push_str(last);
        out.push('\n');
    }
    out
}

/// Returns what `~/.docker/config.json` says of `key`.
fn configured_format(key: &str) -> Result<Option<String>> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(None) };
    let Ok(text) = std::fs::read(&path) else { return Ok(None) };
    let config: Value =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    Ok(config[key].as_str().map(str::to_owned).filter(|format| !format.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> (List, Vec<Row>) {
        let list = List {
            columns: &[("Repository", "REPOSITORY"), ("Size", "SIZE")],
            table: "{{.Repository}}\t{{.Size}}".into(),
            config_key: None,
        };
        let row = |repository: &str, size: &str| match json!({"Repository": repository, "Size": size})
        {
            Value::Object(row) => row,
            _ => Row::new(),
        };
        (list, vec![row("a-long-repository", "1MB"), row("b", "22MB")])
    }

    #[test]
    fn tables_are_aligned_as_docker_aligns_them() {
        let (list, rows) = list();
        let table = "REPOSITORY          SIZE\na-long-repository   1MB\nb                   22MB\n";
        assert_eq!(list.render(&rows, Some("table")).unwrap(), table);
        let swapped = "SIZE      REPOSITORY\n1MB       a-long-repository\n22MB      b\n";
        assert_eq!(list.render(&rows, Some(r"table {{.Size}}\t{{.Repository}}")).unwrap(), swapped);
    }

    #[test]
    fn wide_characters_are_aligned_and_others_stay_on_their_line() {
        let (list, mut rows) = list();
        rows[0].insert("Repository".into(), "漢字漢字漢字".into());
        rows[1].insert("Repository".into(), "a\tb\nc\u{1b}[2J\u{202e}".into());
        let table = "REPOSITORY                SIZE\n漢字漢字漢字              1MB\na b\\nc\\u{1b}[2J\\u{202e}   22MB\n";
        assert_eq!(list.render(&rows, Some("table")).unwrap(), table);
        // For programs they are what they are.
        let plain = list.render(&rows[1..], Some("{{.Repository}}")).unwrap();
        assert_eq!(plain, "a\tb\nc\u{1b}[2J\u{202e}\n");
    }

    #[test]
    fn a_list_of_fields_is_what_the_template_says() {
        let (list, mut rows) = list();
        rows[0].insert("Size".into(), json!(7)); // no text
        for text in ["{{.Size}}\t{{.Repository}}", "{{.Repository}}", "{{.Size}}"] {
            let quick = list.format(Some(text)).unwrap();
            // With a blank it is a template like any other.
            let slow = list.format(Some(&text.replace("}}", " }}"))).unwrap();
            assert!(!quick.shows("none") && slow.shows("none"));
            let (quick, slow) = (quick.render(rows.clone()), slow.render(rows.clone()));
            assert_eq!(quick.unwrap(), slow.unwrap(), "{text}");
        }
        assert!(!list.format(Some("table {{.Size}}")).unwrap().shows("Repository"));
        for all in ["{{json .}}", "json", "{{.Size}} {{.Repository}}"] {
            assert!(list.format(Some(all)).unwrap().shows("Repository"), "{all}");
        }
        assert!(list.render(&rows, Some("{{.Size}}\t{{.Nope}}")).is_err());
    }

    #[test]
    fn json_and_templates_have_a_line_a_row() {
        let (list, rows) = list();
        let json = "{\"Repository\":\"a-long-repository\",\"Size\":\"1MB\"}\n{\"Repository\":\"b\",\"Size\":\"22MB\"}\n";
        assert_eq!(list.render(&rows, Some("json")).unwrap(), json);
        assert_eq!(list.render(&rows, Some("{{.Size}}")).unwrap(), "1MB\n22MB\n");
        assert!(list.render(&rows, Some("{{.Nope}}")).is_err());
    }
}
