//! Values as Go's fmt and encoding/json print them.

use std::fmt::Write;

use anyhow::{Result, ensure};
use serde_json::Number;

use super::eval::LIMIT;
use super::value::Value;

/// The widest field, and the longest fraction, that printf makes.
const WIDTH: usize = 1 << 16;

/// Prints a value as `%v` does.
pub(super) fn print(out: &mut String, value: &Value) {
    match value {
        Value::Absent | Value::Nil => out.push_str("<nil>"),
        Value::Zero(text) => out.push_str(text),
        Value::Unit => out.push_str("{}"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match number.is_f64() {
            true => out.push_str(&general(number.as_f64().unwrap_or_default(), None)),
            false => out.push_str(&number.to_string()),
        },
        Value::Text(text) => out.push_str(text),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                print(out, item);
            }
            out.push(']');
        }
        Value::Map(fields) => {
            out.push_str("map[");
            for (at, (key, value)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                out.push_str(key);
                out.push(':');
                print(out, value);
            }
            out.push(']');
        }
    }
}

/// Prints a value as JSON, as Go's encoder does that was told to leave HTML alone.
pub(super) fn json(out: &mut String, value: &Value) {
    let text = |out: &mut String, text: &str| {
        // A text has no map whose keys could be no strings: this cannot fail.
        let quoted = serde_json::to_string(text).unwrap_or_default();
        out.push_str(&quoted.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"));
    };
    match value {
        Value::Absent | Value::Nil | Value::Zero(_) => out.push_str("null"),
        Value::Unit => out.push_str("{}"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) if float == 0.0 || (1e-6..1e21).contains(&float.abs()) => {
                let _ = write!(out, "{float}");
            }
            Some(float) => out.push_str(&scientific(float, None, 'e').replace("e-0", "e-")),
            None => out.push_str(&number.to_string()),
        },
        Value::Text(value) => text(out, value),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                json(out, item);
            }
            out.push(']');
        }
        Value::Map(fields) => {
            out.push('{');
            for (at, (key, value)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                text(out, key);
                out.push(':');
                json(out, value);
            }
            out.push('}');
        }
    }
}

/// What stands between `%` and the verb.
#[derive(Clone, Copy, Default)]
struct Spec {
    left: bool,
    zero: bool,
    plus: bool,
    blank: bool,
    sharp: bool,
    width: usize,
    precision: Option<usize>,
}

/// Prints `args` as the format says: flags, width, precision, `*`, `[n]`, and the verbs of
/// strings, whole numbers, fractions, truth and `%v`.
pub(super) fn printf(format: &str, args: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut next = 0;
    let mut reordered = false;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            match flag {
                '-' => spec.left = true,
                '0' => spec.zero = true,
                '+' => spec.plus = true,
                ' ' => spec.blank = true,
                _ => spec.sharp = true,
            }
        }
        let mut bad = false;
        let mut choose = |chars: &mut std::iter::Peekable<std::str::Chars>, next: &mut usize| {
            if chars.next_if_eq(&'[').is_some() {
                reordered = true;
                let index = number(chars).filter(|index| (1..=args.len()).contains(index));
                match (index, chars.next_if_eq(&']')) {
                    (Some(index), Some(_)) => *next = index - 1,
                    _ => bad = true,
                }
            }
        };
        choose(&mut chars, &mut next);
        if chars.next_if_eq(&'*').is_some() {
            match whole(args.get(next)) {
                Some(width) => {
                    spec.left |= width < 0;
                    spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
                }
                None => out.push_str("%!(BADWIDTH)"),
            }
            next += 1;
            choose(&mut chars, &mut next);
        } else {
            spec.width = number(&mut chars).unwrap_or(0);
        }
        if chars.next_if_eq(&'.').is_some() {
            choose(&mut chars, &mut next);
            spec.precision = Some(number(&mut chars).unwrap_or(0));
            if chars.next_if_eq(&'*').is_some() {
                let precision = whole(args.get(next)).map(usize::try_from);
                match precision {
                    Some(precision) => spec.precision = precision.ok(),
                    None => out.push_str("%!(BADPREC)"),
                }
                next += 1;
            }
            choose(&mut chars, &mut next);
        }
        choose(&mut chars, &mut next);
        ensure!(spec.width <= WIDTH, "%{}: too wide", spec.width);
        ensure!(spec.precision.is_none_or(|it| it <= WIDTH), "%.{:?}: too long", spec.precision);
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) if bad => {
                let _ = write!(out, "%!{verb}(BADINDEX)");
            }
            Some(verb) => {
                match args.get(next) {
                    Some(arg) => convert(&mut out, verb, spec, arg)?,
                    None => {
                        let _ = write!(out, "%!{verb}(MISSING)");
                    }
                }
                next += 1;
            }
        }
        ensure!(out.len() <= LIMIT, "more than {LIMIT} bytes");
    }
    if !reordered && next < args.len() {
        out.push_str("%!(EXTRA ");
        for (at, arg) in args[next..].iter().enumerate() {
            out.push_str(if at > 0 { ", " } else { "" });
            describe(&mut out, Spec::default(), arg)?;
        }
        out.push(')');
    }
    Ok(out)
}

fn number(chars: &mut std::iter::Peekable<std::str::Chars>) -> Option<usize> {
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    match digits.is_empty() {
        true => None,
        // More digits than fit are more than is allowed, too.
        false => Some(digits.parse().unwrap_or(usize::MAX)),
    }
}

fn whole(arg: Option<&Value>) -> Option<i64> {
    match arg {
        Some(Value::Number(number)) => number.as_i64(),
        _ => None,
    }
}

/// Prints one argument. A verb goes through lists and maps to what is in them.
fn convert(out: &mut String, verb: char, spec: Spec, arg: &Value) -> Result<()> {
    let before = out.len();
    match (verb, arg) {
        ('v', Value::Absent | Value::Nil | Value::Zero(_) | Value::Bool(_)) => {
            let mut text = String::new();
            print(&mut text, arg);
            pad(out, spec, &text, false);
        }
        (_, Value::Zero(text)) => out.push_str(text),
        (_, Value::Unit) => out.push_str("{}"),
        (_, Value::List(items)) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                element(out, verb, spec, item)?;
                ensure!(out.len() - before <= LIMIT, "more than {LIMIT} bytes");
            }
            out.push(']');
        }
        (_, Value::Map(fields)) => {
            out.push_str("map[");
            for (at, (key, value)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                convert(out, verb, spec, &key.as_str().into())?;
                out.push(':');
                element(out, verb, spec, value)?;
                ensure!(out.len() - before <= LIMIT, "more than {LIMIT} bytes");
            }
            out.push(']');
        }
        (_, Value::Text(text)) if string(out, verb, spec, text) => {}
        ('t', Value::Bool(value)) => pad(out, spec, if *value { "true" } else { "false" }, false),
        (_, Value::Number(number)) if !number.is_f64() && integer(out, verb, spec, number) => {}
        (_, Value::Number(number)) if number.is_f64() && float(out, verb, spec, number) => {}
        _ => {
            let _ = write!(out, "%!{verb}(");
            describe(out, spec, arg)?;
            out.push(')');
        }
    }
    Ok(())
}

/// Prints what is in a list or a map: a nil there is one, whatever the verb.
fn element(out: &mut String, verb: char, spec: Spec, item: &Value) -> Result<()> {
    match item {
        Value::Absent | Value::Nil => out.push_str("<nil>"),
        item => convert(out, verb, spec, item)?,
    }
    Ok(())
}

fn string(out: &mut String, verb: char, spec: Spec, text: &str) -> bool {
    let cut = |text: &str| match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    match verb {
        's' | 'v' => pad(out, spec, &cut(text), true),
        'q' => pad(out, spec, &quote(&cut(text), '"'), true),
        'x' | 'X' => {
            let bytes = &text.as_bytes()[..spec.precision.unwrap_or(text.len()).min(text.len())];
            let prefix = if spec.sharp { "0x" } else { "" };
            let blank = if spec.blank { " " } else { "" };
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let digits = match bytes.is_empty() {
                true => String::new(),
                false => format!("{prefix}{}", digits.join(blank)),
            };
            pad(out, spec, &if verb == 'X' { digits.to_uppercase() } else { digits }, true);
        }
        _ => return false,
    }
    true
}

fn integer(out: &mut String, verb: char, spec: Spec, number: &Number) -> bool {
    let value = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let value = value.unwrap_or_default();
    let magnitude = value.unsigned_abs();
    let c = || u32::try_from(value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    let (prefix, digits) = match verb {
        'd' | 'v' => ("", magnitude.to_string()),
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        'o' => ("0", format!("{magnitude:o}")),
        'b' => ("0b", format!("{magnitude:b}")),
        'c' => {
            pad(out, spec, &c().to_string(), false);
            return true;
        }
        'q' => {
            pad(out, spec, &quote(&c().to_string(), '\''), false);
            return true;
        }
        'U' => {
            pad(out, spec, &format!("U+{magnitude:04X}"), false);
            return true;
        }
        _ => return false,
    };
    let digits = match spec.precision {
        Some(0) if magnitude == 0 => String::new(),
        Some(precision) => format!("{digits:0>precision$}"),
        None => digits,
    };
    let digits = if spec.sharp { format!("{prefix}{digits}") } else { digits };
    // A precision says how many digits there are, so nothing is left for zeros to fill.
    let zero = spec.zero && spec.precision.is_none();
    signed(out, Spec { zero, ..spec }, value < 0, &digits);
    true
}

fn float(out: &mut String, verb: char, spec: Spec, number: &Number) -> bool {
    let value = number.as_f64().unwrap_or_default();
    let magnitude = value.abs();
    let digits = match verb {
        'f' | 'F' => format!("{:.*}", spec.precision.unwrap_or(6), magnitude),
        'e' | 'E' => scientific(magnitude, Some(spec.precision.unwrap_or(6)), verb),
        'g' | 'v' => general(magnitude, spec.precision),
        'G' => general(magnitude, spec.precision).to_uppercase(),
        _ => return false,
    };
    signed(out, spec, value.is_sign_negative(), &digits);
    true
}

/// Prints digits with their sign, and zeros between the two where they are asked for.
fn signed(out: &mut String, spec: Spec, negative: bool, digits: &str) {
    let sign = match (negative, spec.plus, spec.blank) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (.., true) => " ",
        _ => "",
    };
    let missing = spec.width.saturating_sub(sign.len() + digits.len());
    match spec.zero && !spec.left {
        true => out.extend([sign, &"0".repeat(missing), digits]),
        false => pad(out, spec, &format!("{sign}{digits}"), false),
    }
}

/// Prints a text as wide as it is asked for.
fn pad(out: &mut String, spec: Spec, text: &str, zeros: bool) {
    let missing = spec.width.saturating_sub(text.chars().count());
    match (spec.left, spec.zero && zeros) {
        (true, _) => out.extend([text, &" ".repeat(missing)]),
        (false, true) => out.extend([&"0".repeat(missing), text]),
        (false, false) => out.extend([&" ".repeat(missing), text]),
    }
}

/// Prints an argument that its verb does not fit, with the name of its type in Go.
fn describe(out: &mut String, spec: Spec, arg: &Value) -> Result<()> {
    let kind = match arg {
        Value::Bool(_) => "bool=",
        Value::Number(number) if number.is_f64() => "float64=",
        Value::Number(_) => "int=",
        Value::Text(_) => "string=",
        Value::List(_) => "[]interface {}=",
        Value::Map(_) => "map[string]interface {}=",
        Value::Unit => "struct {}=",
        Value::Absent | Value::Nil | Value::Zero(_) => {
            out.push_str("<nil>");
            return Ok(());
        }
    };
    out.push_str(kind);
    convert(out, 'v', spec, arg)
}

/// Quotes a text as Go writes it in source.
fn quote(text: &str, mark: char) -> String {
    let mut out = String::from(mark);
    for c in text.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            c if c == mark => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_ascii() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if crate::error::is_odd(c) || c.is_whitespace() => {
                out.push_str(&match c as u32 {
                    code @ ..=0xffff => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                });
            }
            c => out.push(c),
        }
    }
    out.push(mark);
    out
}

/// `%e`: without a precision, as many digits as tell the number from all others.
fn scientific(value: f64, precision: Option<usize>, mark: char) -> String {
    let text = match precision {
        Some(precision) => format!("{value:.precision$e}"),
        None => format!("{value:e}"),
    };
    // Rust writes 1e6 where Go writes 1e+06.
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{mark}{sign}{:02}", exponent.abs())
}

/// `%g`: an exponent where it is small or large.
fn general(value: f64, precision: Option<usize>) -> String {
    let precision = precision.map(|precision| precision.max(1));
    let text = match precision {
        Some(precision) => format!("{value:.*e}", precision - 1),
        None => format!("{value:e}"),
    };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    let significant = digits.bytes().filter(u8::is_ascii_digit).count();
    let most = match precision {
        // Of 6 and more digits that are all before the point, none is left out for an exponent.
        Some(precision) if precision > significant && significant as i32 > exponent => significant,
        Some(precision) => precision,
        None => 6,
    };
    if exponent < -4 || exponent >= most as i32 {
        let rounded: f64 = text.parse().unwrap_or(value);
        return scientific(rounded, None, 'e');
    }
    let rounded: f64 = text.parse().unwrap_or(value);
    format!("{rounded}")
}
