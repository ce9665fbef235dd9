//! A moment on a command line: `--filter until=24h`.

use anyhow::{Context, Result};
use jiff::Timestamp;

/// Reads a moment: RFC 3339, a date, seconds since 1970, or how long ago (`1h30m`).
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
    // A plain number is a moment, and no time.
    let ago = super::duration(text).ok().filter(|_| text.ends_with(char::is_alphabetic));
    let ago = ago.with_context(|| format!("{text:?}: neither a time nor a duration (as 24h)"))?;
    Ok(Timestamp::now().checked_sub(ago)?)
}

#[cfg(test)]
mod tests {
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
            "2d",
        ] {
            assert!(moment(good).is_ok(), "{good}");
        }
        for bad in ["", "yesterday", "1x", "h", "1h30m2", "1.5"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
