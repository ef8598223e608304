//! The time of day, as a value that is passed to who needs it: planners get the time itself, the shells
//! around them a clock.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A source of wall-clock time.
#[derive(Debug, Clone)]
pub struct Clock(Option<(Timestamp, Instant)>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows `start` now and moves with Tokio's timers, also when those are paused:
    /// for simulations.
    pub fn simulated(start: Timestamp) -> Self {
        Self(Some((start, Instant::now())))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some((start, origin)) => {
                let passed = SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::MAX);
                start.checked_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }
}
