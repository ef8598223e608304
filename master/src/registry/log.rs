//! The recent changes of one kind: a bounded ring with one writer and many cursors.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Entry, EventType};

/// Changes kept per kind.
const EVENTS_MAX: usize = 16_384;
/// JSON bytes kept alive by the ring per kind, beyond what the snapshot holds anyway.
const BYTES_MAX: usize = 32 << 20;

/// Changes kept per kind however old.
const EVENTS_MIN: usize = 1024;
/// Older changes go. Cursors are not that old, as bookmarks come every half minute. A burst of
/// writes thus costs no memory once it is over.
const AGE_MAX: Duration = Duration::from_secs(150);
/// How often a ring that gets no changes is trimmed.
pub(super) const TRIM_EVERY: Duration = Duration::from_secs(60);

/// One change.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) event: EventType,
    /// The state after it; for a deletion the last state at the version of the deletion.
    pub(super) entry: Arc<Entry>,
    /// The state before it.
    pub(super) before: Option<Arc<Entry>>,
}

/// The ring. Holds every change after `floor`.
#[derive(Debug)]
pub(super) struct EventLog {
    events: VecDeque<(Instant, Event)>,
    bytes: usize,
    floor: u64,
}

impl EventLog {
    pub(super) fn starting_at(version: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor: version }
    }

    pub(super) fn push(&mut self, event: Event, now: Instant) {
        self.bytes += event.entry.json.len();
        self.events.push_back((now, event));
        self.trim(now);
    }

    /// Lets go of what is beyond the bounds.
    pub(super) fn trim(&mut self, now: Instant) {
        while self.is_over(now) {
            if let Some((_, old)) = self.events.pop_front() {
                self.bytes -= old.entry.json.len();
                self.floor = old.entry.version;
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let count = self.events.len();
        let is_old = |(at, _): &(Instant, Event)| now.saturating_duration_since(*at) > AGE_MAX;
        count > EVENTS_MAX
            || (self.bytes > BYTES_MAX && count > 1)
            || (count > EVENTS_MIN && self.events.front().is_some_and(is_old))
    }

    /// The changes after `version`, oldest first; `None` when some of them are gone.
    pub(super) fn after(&self, version: u64) -> Option<impl Iterator<Item = &Event>> {
        if version < self.floor {
            return None;
        }
        let start = self.events.partition_point(|(_, e)| e.entry.version <= version);
        Some(self.events.range(start..).map(|(_, e)| e))
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::{Object, TypedObject, core::Namespace};

    use super::*;
    use crate::registry::{Facts, Key};

    #[test]
    fn old_changes_go_but_for_the_last_thousand_and_cursors_before_them_expire() {
        let (mut log, start) = (EventLog::starting_at(0), Instant::now());
        let object = Namespace::default();
        for version in 1..=2000 {
            let (kind, key) = (Namespace::row(), Key::of(&object));
            let entry = Entry::new(kind, key, version, &object.to_json(), Facts::of(&object), EventType::Modified);
            log.push(Event { event: EventType::Modified, entry: Arc::new(entry), before: None }, start);
        }
        let after = |log: &EventLog, version| log.after(version).map(Iterator::count);
        log.trim(start + AGE_MAX);
        assert_eq!(after(&log, 0), Some(2000));
        log.trim(start + AGE_MAX + Duration::from_secs(1));
        let floor = 2000 - EVENTS_MIN as u64;
        assert_eq!((after(&log, floor), after(&log, floor - 1)), (Some(EVENTS_MIN), None));
    }
}
