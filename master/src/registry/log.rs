//! The recent changes of one kind: a bounded ring with one writer and many cursors.
//!
//! Where the kind has an indexed field, each of its values has a [`Lane`]: the ring's events that
//! concern the value, and a bell of its own. A watch of one value reads its lane, so that an event
//! for one of thousands of minions costs the others nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use compact_str::CompactString;
use tokio::{sync::watch as signal, time::Instant};

use super::{Entry, EventType};

/// How often a ring that gets no changes is trimmed.
pub(super) const TRIM_EVERY: Duration = Duration::from_secs(60);

/// What a ring keeps.
#[derive(Debug, Clone)]
pub(crate) struct LogLimits {
    /// Changes at most.
    pub(crate) events_max: usize,
    /// Changes however old.
    pub(crate) events_min: usize,
    /// JSON bytes kept alive by the ring, beyond what the snapshot holds anyway.
    pub(crate) bytes_max: usize,
    /// Older changes go. Cursors are not that old, as bookmarks come every half minute. A burst of
    /// writes thus costs no memory once it is over.
    pub(crate) age_max: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        // Ten seconds and more of the highest rate at which a master writes.
        Self { events_max: 1 << 17, events_min: 1024, bytes_max: 160 << 20, age_max: Duration::from_secs(150) }
    }
}

/// One change.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) event: EventType,
    /// The state after it; for a deletion the last state at the version of the deletion.
    pub(super) entry: Arc<Entry>,
    /// The state before it.
    pub(super) before: Option<Arc<Entry>>,
}

/// The part of a ring that concerns one value of the indexed field.
#[derive(Debug)]
pub(super) struct Lane {
    tail: RwLock<Tail>,
    bell: signal::Sender<u64>,
}

/// Changes after `floor`, oldest first.
#[derive(Debug)]
struct Tail {
    events: VecDeque<Arc<Event>>,
    floor: u64,
}

impl Tail {
    fn after(&self, version: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if version < self.floor {
            return None;
        }
        let start = start_after(&self.events, |e| e.entry.version <= version);
        Some(self.events.range(start..))
    }
}

impl Lane {
    fn new(floor: u64) -> Self {
        Self { tail: RwLock::new(Tail { events: VecDeque::new(), floor }), bell: signal::Sender::new(floor) }
    }

    /// Rings for those who wait.
    pub(super) fn wake(&self, version: u64) {
        self.bell.send_replace(version);
    }

    pub(super) fn subscribe(&self) -> signal::Receiver<u64> {
        self.bell.subscribe()
    }

    /// Calls `each` with the changes after `version` until it says stop. `None` when some are gone.
    pub(super) fn read(&self, version: u64, each: impl FnMut(&Arc<Event>) -> bool) -> Option<()> {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        tail.after(version)?.map(each).find(|go_on| !go_on);
        Some(())
    }
}

/// The index of the first item that a cursor has not seen. Nearly all cursors are near the end, so the search
/// begins there, in steps that double: it touches few of a hundred thousand items.
fn start_after<T>(items: &VecDeque<T>, seen: impl Fn(&T) -> bool) -> usize {
    let is_seen = |at: usize| items.get(at).is_some_and(&seen);
    let (mut end, mut step) = (items.len(), 1);
    // All from `end` on are not seen.
    let mut begin = loop {
        let at = end.saturating_sub(step);
        if at == end || is_seen(at) {
            break at;
        }
        (end, step) = (at, step * 2);
    };
    // All before `begin` are seen.
    while begin < end {
        let middle = begin + (end - begin) / 2;
        if is_seen(middle) { begin = middle + 1 } else { end = middle }
    }
    begin
}

/// The ring. Holds every change after `floor`.
#[derive(Debug)]
pub(super) struct EventLog {
    events: VecDeque<(Instant, Arc<Event>)>,
    bytes: usize,
    floor: u64,
    limits: LogLimits,
    lanes: HashMap<CompactString, Arc<Lane>, foldhash::fast::FixedState>,
}

impl EventLog {
    /// An empty ring.
    pub(super) fn new(version: u64, limits: LogLimits) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor: version, limits, lanes: HashMap::default() }
    }

    /// Takes changes in, and returns the lanes to wake, each once.
    pub(super) fn push_all(&mut self, events: Vec<Arc<Event>>, now: Instant) -> Vec<Arc<Lane>> {
        let mut touched = BTreeMap::new();
        for event in events {
            for value in Self::values(&event) {
                let floor = self.floor;
                let name = value.clone();
                let lane = self.lanes.entry(value).or_insert_with(|| Arc::new(Lane::new(floor)));
                lane.tail.write().unwrap_or_else(PoisonError::into_inner).events.push_back(event.clone());
                touched.entry(name).or_insert_with(|| lane.clone());
            }
            self.bytes += event.entry.json.len();
            self.events.push_back((now, event));
        }
        self.trim(now);
        touched.into_values().collect()
    }

    /// The lanes that an event belongs to: of the value before and of the one after it.
    fn values(event: &Event) -> impl Iterator<Item = CompactString> + use<> {
        let value = |entry: &Entry| entry.indexed().map(CompactString::from);
        let now = value(&event.entry);
        let before = event.before.as_deref().and_then(value).filter(|value| Some(value) != now.as_ref());
        now.into_iter().chain(before)
    }

    /// Lets go of what is beyond the bounds.
    pub(super) fn trim(&mut self, now: Instant) {
        while self.is_over(now) {
            let Some((_, old)) = self.events.pop_front() else { return };
            self.bytes -= old.entry.json.len();
            self.floor = old.entry.version;
            for value in Self::values(&old) {
                let Some(lane) = self.lanes.get(&value) else { continue };
                let mut tail = lane.tail.write().unwrap_or_else(PoisonError::into_inner);
                tail.events.pop_front();
                tail.floor = self.floor;
                let idle = tail.events.is_empty();
                drop(tail);
                // Nobody watches it: the next watch starts a new one at the ring's floor.
                if idle && Arc::strong_count(lane) == 1 {
                    self.lanes.remove(&value);
                }
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let (count, limits) = (self.events.len(), &self.limits);
        let is_old = |(at, _): &(Instant, Arc<Event>)| now.saturating_duration_since(*at) > limits.age_max;
        count > limits.events_max
            || (self.bytes > limits.bytes_max && count > 1)
            || (count > limits.events_min && self.events.front().is_some_and(is_old))
    }

    /// Whether every change after `version` is here.
    pub(super) fn reaches(&self, version: u64) -> bool {
        version >= self.floor
    }

    /// Calls `each` with the changes after `version`, oldest first, until it says stop. `None` when
    /// some of them are gone.
    pub(super) fn read(&self, version: u64, each: impl FnMut(&Arc<Event>) -> bool) -> Option<()> {
        if !self.reaches(version) {
            return None;
        }
        let start = start_after(&self.events, |(_, e)| e.entry.version <= version);
        self.events.range(start..).map(|(_, e)| e).map(each).find(|go_on| !go_on);
        Some(())
    }

    /// The lane of a value, for a watch.
    pub(super) fn lane(&mut self, value: &str) -> Arc<Lane> {
        let floor = self.floor;
        // Lanes that were watched once and have no events any more go when others come.
        if self.lanes.len() > 64 && self.lanes.len().is_power_of_two() {
            self.lanes.retain(|_, lane| {
                Arc::strong_count(lane) > 1
                    || !lane.tail.read().unwrap_or_else(PoisonError::into_inner).events.is_empty()
            });
        }
        self.lanes.entry(value.into()).or_insert_with(|| Arc::new(Lane::new(floor))).clone()
    }

    /// All lanes.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.values()
    }

    /// Forgets everything: what happened up to `version` is not known.
    pub(super) fn restart(&mut self, version: u64) {
        self.events.clear();
        (self.bytes, self.floor) = (0, version);
        for lane in self.lanes.values() {
            let mut tail = lane.tail.write().unwrap_or_else(PoisonError::into_inner);
            tail.events.clear();
            tail.floor = version;
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::{Object, TypedObject, core::Namespace};

    use super::*;
    use crate::registry::{Facts, Key};

    #[test]
    fn a_cursor_finds_its_place_wherever_it_is() {
        for length in [0_usize, 1, 2, 3, 7, 8, 9, 100] {
            let items: VecDeque<usize> = (0..length).collect();
            for seen in 0..=length {
                assert_eq!(start_after(&items, |item| *item < seen), seen, "of {length}");
            }
        }
    }

    fn count(log: &EventLog, version: u64) -> Option<usize> {
        let mut count = 0;
        log.read(version, |_| {
            count += 1;
            true
        })?;
        Some(count)
    }

    fn event(version: u64) -> Arc<Event> {
        let object = Namespace::default();
        let (kind, key) = (Namespace::row(), Key::of(&object));
        let entry = Entry::new(kind, key, version, &object.to_json(), Facts::of(&object), EventType::Modified);
        Arc::new(Event { event: EventType::Modified, entry: Arc::new(entry), before: None })
    }

    #[test]
    fn old_changes_go_but_for_the_last_thousand_and_cursors_before_them_expire() {
        let limits = LogLimits::default();
        let (mut log, start) = (EventLog::new(0, limits.clone()), Instant::now());
        log.push_all((1..=2000).map(event).collect(), start);
        log.trim(start + limits.age_max);
        assert_eq!(count(&log, 0), Some(2000));
        log.trim(start + limits.age_max + Duration::from_secs(1));
        let floor = 2000 - limits.events_min as u64;
        assert_eq!((count(&log, floor), count(&log, floor - 1)), (Some(limits.events_min), None));
    }
}
