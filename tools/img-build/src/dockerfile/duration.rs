//! Times of HEALTHCHECK: `30s`, `1m30s`, `1.5h`, as Go reads them.

use crate::error::{Error, Result};

/// A time in nanoseconds, as an image's config holds it.
pub type Nanoseconds = i64;

/// The shortest time that a health check may have.
const SHORTEST: Nanoseconds = 1_000_000;

/// Reads the value of a flag; none, and zero, is the default.
pub fn flag(name: &str, value: Option<&str>) -> Result<Nanoseconds> {
    let Some(text) = value else { return Ok(0) };
    match parse(text) {
        Some(time) if time == 0 || time >= SHORTEST => Ok(time),
        Some(_) => Err(Error::new(format!("--{name}={text}: less than 1ms"))),
        None => {
            Err(Error::new(format!("--{name}={text}: not a time")).hint(format!("--{name}=30s")))
        }
    }
}

/// Reads numbers with units, one after the other; the unit may be left out of zero alone.
pub fn parse(text: &str) -> Option<Nanoseconds> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, more) = rest.split_at(end);
        let (part, more) = match more.strip_prefix('.') {
            Some(more) => {
                more.split_at(more.find(|c: char| !c.is_ascii_digit()).unwrap_or(more.len()))
            }
            None => ("", more),
        };
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let end = more.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(more.len());
        let (unit, more) = more.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        // More digits than these say nothing.
        let part = &part[..part.len().min(18)];
        let fraction = match part {
            "" => 0,
            part => part.parse::<i128>().ok()? * unit / 10i128.pow(part.len() as u32),
        };
        let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? };
        total = total.checked_add(i128::from(whole) * unit + fraction)?;
        // Not of this world, and soon too large to add to.
        if total > 1 << 64 {
            return None;
        }
        rest = more;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_gos() {
        let table = [
            ("0", Some(0)),
            ("+0", Some(0)),
            ("-0", Some(0)),
            ("0s", Some(0)),
            ("1ns", Some(1)),
            ("1us", Some(1_000)),
            ("1µs", Some(1_000)),
            ("1μs", Some(1_000)),
            ("1.5ms", Some(1_500_000)),
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1h", Some(3_600_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("-1s", Some(-1_000_000_000)),
            ("1s1s", Some(2_000_000_000)),
            ("0.0000000001s", Some(0)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("2562047h48m", None),
            ("99999999999999999999h", None),
            ("", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1 s", None),
            ("1s ", None),
            ("--1s", None),
            ("1e3s", None),
            ("00", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[0-9.+hmsun-]{0,24}|\\PC{0,20}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_seconds_are_themselves(seconds in 0i64..1 << 32) {
            prop_assert_eq!(parse(&format!("{seconds}s")), Some(seconds * 1_000_000_000));
        }
    }
}
