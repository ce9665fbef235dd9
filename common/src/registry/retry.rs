//! When a request is tried again, and after how long.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// The longest `Retry-After` that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns whether a response of this status may be another one if asked for again.
pub fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Returns how long to wait before try `n` + 1: it doubles, and varies so that many clients do not come back together.
pub fn pause(base: Duration, n: u32) -> Duration {
    // A RandomState is seeded by the system: no generator is needed for a jitter.
    let share = RandomState::new().hash_one(n) % 1000;
    let longest = base.saturating_mul(1 << n.min(8)).min(Duration::from_secs(30));
    longest / 2 + longest.mul_f64(share as f64 / 2000.0)
}

/// Reads `Retry-After`, a number of seconds or a date: RFC 9110, section 10.2.3.
pub fn after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    let parser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let date = parser.parse_timestamp(header).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(after("7", now), seconds(7));
        assert_eq!(after(" 0 ", now), seconds(0));
        assert_eq!(after("99999999999999999999999", now), seconds(u64::MAX));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", now), seconds(7));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT", now), seconds(0));
        for bad in ["", "-1", "soon", "1.5", "Sun, 66 Nov 1994 08:49:37 GMT"] {
            assert_eq!(after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn pauses_grow_within_bounds() {
        let base = Duration::from_millis(100);
        for n in 0..40 {
            let longest = base * (1 << n.min(8));
            let pause = pause(base, n);
            assert!(pause >= longest.min(Duration::from_secs(30)) / 2 && pause <= longest);
        }
    }
}
