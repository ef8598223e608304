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
/// Older changes go with the next one that comes. Cursors are never that old: bookmarks come every
/// half minute. It bounds what a small cluster's history costs over months.
const AGE_MAX: Duration = Duration::from_secs(600);

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
