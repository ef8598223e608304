//! Events are best effort, and there may be many: each is a write, and stays for an hour. So there is
//! a burst of them and then so many a second (`EventRateLimit` in Kubernetes); further ones get 429,
//! and their authors let them be.

use std::sync::{Mutex, PoisonError};

use coracle_api::{ApiError, Kind, Object, TypedObject, core::Event, error::Reason, objects::event::EventType};
use tokio::time::Instant;

use super::Hook;
use crate::registry::Registry;

/// Events at once after a time of silence.
const BURST: f64 = 5_000.0;
/// Events a second after that: 180,000 in the hour for which they stay.
const PER_SECOND: f64 = 50.0;
/// Seconds after which an author may try again.
const RETRY_AFTER_S: i32 = 10;

/// The events that may be made. Warnings have a part of their own, so that routine never hides them.
#[derive(Debug)]
pub(crate) struct EventBudget([Mutex<Bucket>; 2]);

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Default for EventBudget {
    fn default() -> Self {
        let at = Instant::now();
        Self([(); 2].map(|()| Mutex::new(Bucket { left: BURST, at })))
    }
}

impl EventBudget {
    /// Whether another event may be made now.
    pub(crate) fn take(&self, event: &Event) -> bool {
        let is_routine = event.type_.as_deref() != Some(EventType::Warning.as_str());
        let now = Instant::now();
        let mut bucket = self.0[usize::from(is_routine)].lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left, bucket.at) = ((bucket.left + passed * PER_SECOND).min(BURST), now);
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }
}

impl Hook for EventBudget {
    fn concerns(&self, kind: &Kind) -> bool {
        kind == Event::row()
    }

    fn admit(&self, _: &Registry, object: &mut dyn Object, old: Option<&dyn Object>) -> Result<(), ApiError> {
        let is_new = old.is_none();
        match object.downcast_ref::<Event>() {
            Some(event) if is_new && !self.take(event) => {
                let message = format!("too many events are made: more than {PER_SECOND} a second");
                Err(ApiError { retry_after_s: Some(RETRY_AFTER_S), ..ApiError::new(Reason::TooManyRequests, message) })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_routine_passes_and_then_some_and_warnings_always_have_room() {
        let event = |type_: EventType| Event { type_: Some(type_.as_str().into()), ..Event::default() };
        let (routine, warning, budget) = (event(EventType::Normal), event(EventType::Warning), EventBudget::default());
        let passes = |event, tries: usize| (0..tries).filter(|_| budget.take(event)).count();
        assert_eq!(passes(&routine, 10_000), 5_000);
        assert_eq!(passes(&routine, 10_000), 0);
        assert_eq!(passes(&warning, 100), 100);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(passes(&routine, 10_000), 100);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(passes(&routine, 10_000), 5_000);
    }
}
