//! The recent changes of one kind: a bounded ring with one writer and many cursors.

use std::{collections::VecDeque, sync::Arc};

use super::{Entry, EventType};

/// Changes kept per kind.
const EVENTS_MAX: usize = 16_384;
/// JSON bytes kept alive by the ring per kind, beyond what the snapshot holds anyway.
const BYTES_MAX: usize = 32 << 20;

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
    events: VecDeque<Event>,
    bytes: usize,
    floor: u64,
}

impl EventLog {
    pub(super) fn starting_at(version: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor: version }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.entry.json.len();
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            if let Some(old) = self.events.pop_front() {
                self.bytes -= old.entry.json.len();
                self.floor = old.entry.version;
            }
        }
    }

    /// The changes after `version`, oldest first; `None` when some of them are gone.
    pub(super) fn after(&self, version: u64) -> Option<impl Iterator<Item = &Event>> {
        if version < self.floor {
            return None;
        }
        let start = self.events.partition_point(|e| e.entry.version <= version);
        Some(self.events.range(start..))
    }
}
