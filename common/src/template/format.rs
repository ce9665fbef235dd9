//! Values as Go's fmt prints them.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The widest field that printf pads to.
const WIDTH: usize = 1 << 16;

/// Prints a value as `%v` does.
pub(super) fn print(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<no value>"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                print(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (at, (key, value)) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                print(out, value);
            }
            out.push(']');
        }
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

/// Prints `args` as the format says: flags `-` `0` `+`, width, precision, verbs `%s %v %q %d %x %X %t %f %%`.
pub(super) fn printf(format: &str, args: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero, mut plus) = (false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            left |= flag == '-';
            zero |= flag == '0';
            plus |= flag == '+';
        }
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits
        };
        let width: usize = number().parse().unwrap_or(0);
        ensure!(width <= WIDTH, "%{width}: too wide");
        let precision: Option<usize> = match chars.next_if_eq(&'.') {
            Some(_) => {
                let mut digits = String::new();
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                Some(digits.parse().unwrap_or(0))
            }
            None => None,
        };
        let verb = chars.next().context("% without a verb")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(arg) = args.next() else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        let mut text = conversion(verb, arg, precision)?;
        if plus && matches!(verb, 'd' | 'f') && !text.starts_with('-') {
            text.insert(0, '+');
        }
        let missing = width.saturating_sub(text.chars().count());
        match (left, zero && !arg.is_string()) {
            (true, _) => out.push_str(&format!("{text}{}", " ".repeat(missing))),
            (false, true) => {
                let sign = text.starts_with(['-', '+']) as usize;
                out.push_str(&format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]));
            }
            (false, false) => out.push_str(&format!("{}{text}", " ".repeat(missing))),
        }
    }
    Ok(out)
}

fn conversion(verb: char, arg: &Value, precision: Option<usize>) -> Result<String> {
    let mut plain = String::new();
    print(&mut plain, arg);
    Ok(match (verb, arg) {
        ('v', _) => plain,
        ('s', _) => match precision {
            Some(precision) => plain.chars().take(precision).collect(),
            None => plain,
        },
        ('q', Value::String(_)) => serde_json::to_string(arg)?,
        ('t', Value::Bool(_)) => plain,
        ('d', Value::Number(number)) if number.is_i64() || number.is_u64() => plain,
        ('f', Value::Number(number)) => {
            format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or_default())
        }
        ('x' | 'X', Value::Number(number)) if number.is_i64() => {
            let number = number.as_i64().unwrap_or_default();
            let sign = if number < 0 { "-" } else { "" };
            let digits = format!("{sign}{:x}", number.unsigned_abs());
            if verb == 'X' { digits.to_uppercase() } else { digits }
        }
        ('x' | 'X', Value::String(text)) => {
            let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if verb == 'X' { digits.to_uppercase() } else { digits }
        }
        ('q' | 't' | 'd' | 'f' | 'x' | 'X', _) => format!("%!{verb}({plain})"),
        _ => bail!("%{verb}: unknown verb"),
    })
}
