//! A moment on a command line: `--filter until=24h`.

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};

/// Reads a moment: RFC 3339, a date, seconds since 1970, or how long ago as Go writes it (`1h30m`).
pub fn moment(text: &str) -> Result<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Timestamp::from_second(seconds)?);
    }
    let zone = jiff::tz::TimeZone::system();
    if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
        return Ok(local.to_zoned(zone)?.timestamp());
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        return Ok(date.to_zoned(zone)?.timestamp());
    }
    let ago = duration(text)
        .with_context(|| format!("{text:?}: neither a time nor a duration (as 24h)"))?;
    Ok(Timestamp::now().checked_sub(ago)?)
}

/// Reads a Go duration: `1h30m`, `10s`.
fn duration(mut text: &str) -> Result<SignedDuration> {
    ensure!(!text.is_empty(), "empty");
    let mut total = SignedDuration::ZERO;
    while !text.is_empty() {
        let (number, rest) = text
            .split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
        let (unit, rest) =
            rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => bail!("unknown unit {unit:?}"),
        };
        let part = SignedDuration::try_from_secs_f64(number.parse::<f64>()? * seconds)?;
        total = total.checked_add(part).context("too long")?;
        text = rest;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_read_in_all_their_forms() {
        for good in [
            "2026-11-20T00:00:00Z",
            "2026-11-20",
            "2026-11-20T10:00:00",
            "1700000000",
            "1h30m",
            "10s",
        ] {
            assert!(moment(good).is_ok(), "{good}");
        }
        for bad in ["", "yesterday", "10", "1x", "h", "1h30"]
            .into_iter()
            .filter(|bad| bad.parse::<i64>().is_err())
        {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_the_sum_of_its_parts(parts in prop::collection::vec((0u32..10000, 0usize..4), 1..4)) {
            let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
            let text: String = parts.iter().map(|(n, unit)| format!("{n}{}", units[*unit].0)).collect();
            let sum: i64 = parts.iter().map(|(n, unit)| i64::from(*n) * units[*unit].1).sum();
            let found = duration(&text).unwrap();
            prop_assert!((found.as_millis() - i128::from(sum)).abs() <= 1, "{}: {:?}", text, found);
        }
    }
}
