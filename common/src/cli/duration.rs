//! A time on a command line: `90`, `1.5s`, `1h30m`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Reads a time: seconds, or numbers with units as Go has them.
pub fn duration(text: &str) -> Result<Duration> {
    let wrong = || "not a time (90, 1.5s, 1h30m)";
    let number = |text: &str| {
        let digits = text.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        let number: Option<f64> = text.parse().ok().filter(|_| digits);
        number.with_context(wrong)
    };
    let mut seconds = 0.0;
    let mut rest = text;
    if let Ok(plain) = number(text) {
        (seconds, rest) = (plain, "");
    } else {
        ensure!(!text.is_empty(), wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').with_context(wrong)?;
        let (value, more) = rest.split_at(digits);
        let end = more.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(more.len());
        let (unit, more) = more.split_at(end);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => bail!(wrong()),
        };
        seconds += number(value)? * unit;
        rest = more;
    }
    Duration::try_from_secs_f64(seconds).ok().with_context(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_seconds_or_gos() {
        let table = [
            ("90", 90.0),
            ("1.5", 1.5),
            ("0", 0.0),
            ("90s", 90.0),
            ("1h30m", 5400.0),
            ("1m30.5s", 90.5),
            ("300ms", 0.3),
            ("2d", 172800.0),
        ];
        for (text, seconds) in table {
            assert_eq!(duration(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
        let bads = [
            "",
            "s",
            "-1",
            "-1s",
            "+1s",
            "1x",
            "1h30",
            "1 h",
            "1e3",
            "inf",
            "nan",
            "NaN",
            ".",
            "1..5s",
            "1s ",
            "99999999999999999999999",
            "0x10",
        ];
        for bad in bads {
            let err = duration(bad).unwrap_err();
            assert_eq!(err.to_string(), "not a time (90, 1.5s, 1h30m)", "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,20}|[0-9.hms]{0,12}") {
            let _ = duration(&text);
        }
    }
}
