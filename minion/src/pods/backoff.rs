//! How long to wait before trying again. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Longest wait before a crashing container is started or a missing image pulled again.
pub const CRASH_DELAY_MAX: Duration = Duration::from_secs(300);
/// Longest wait before the engine is asked again for something that it refused.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Longest wait before a local engine is asked again whether a missing image is there by now.
pub const IMAGE_CHECK_PERIOD: Duration = Duration::from_secs(5);
/// A run at least that long ends a series of crashes.
pub const STEADY_RUN: Duration = Duration::from_secs(10);

/// Nothing after the first failure, then 1 s, 2 s, 4 s, ..., `max`.
pub fn delay(failures: u32, max: Duration) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(20)).min(max),
    }
}

/// The length of a series of crashes after one more run that ended.
pub fn crashes_after_run(before: u32, started_at: Timestamp, finished_at: Timestamp) -> u32 {
    if is_steady(started_at, finished_at) { 1 } else { before.saturating_add(1) }
}

/// Whether a run that lasts until `at` is no part of a series, whatever came before it.
pub fn is_steady(started_at: Timestamp, at: Timestamp) -> bool {
    at.duration_since(started_at) >= SignedDuration::try_from(STEADY_RUN).unwrap_or(SignedDuration::MAX)
}

/// `at` plus `delay`, without overflow.
pub fn after(at: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    at.checked_add(delay).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crash_costs_nothing_and_the_wait_doubles_to_its_cap() {
        let seconds: Vec<u64> = (0..=12).map(|n| delay(n, CRASH_DELAY_MAX).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(delay(u32::MAX, CRASH_DELAY_MAX), CRASH_DELAY_MAX);
    }

    #[test]
    fn a_steady_run_starts_a_new_series() {
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!(crashes_after_run(7, start, after(start, STEADY_RUN)), 1);
        assert_eq!(crashes_after_run(7, start, after(start, Duration::from_millis(9_999))), 8);
        assert_eq!(crashes_after_run(0, start, start), 1);
    }
}
