//! A watch: a cursor into the ring of one kind. It buffers nothing, so a slow watcher costs
//! nothing and is told `Expired` once the ring has moved past it.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use coracle_api::{ApiError, Kind, error::Reason};
use tokio::sync::watch as signal;

use super::{
    Entry, Registry, Selection,
    log::{Event, Lane},
};

/// Items delivered in one call at most: bounds the time the ring is locked.
const BATCH_MAX: usize = 256;

/// What a change means to a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Exists, or started to match.
    Added,
    /// Changed.
    Modified,
    /// Gone, or stopped to match.
    Deleted,
}

impl EventType {
    pub(super) fn prefix(self) -> &'static str {
        match self {
            EventType::Added => "{\"type\":\"ADDED\",\"object\":",
            EventType::Modified => "{\"type\":\"MODIFIED\",\"object\":",
            EventType::Deleted => "{\"type\":\"DELETED\",\"object\":",
        }
    }

    /// `ADDED`, `MODIFIED`, `DELETED`
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// One delivered change.
#[derive(Debug, Clone)]
pub struct WatchItem {
    /// What it means to this watcher.
    pub event: EventType,
    /// The object; for `Deleted` its last state with the version of the deletion.
    pub entry: Arc<Entry>,
    /// Its state before, if this change is the one that made it what it is now.
    pub before: Option<Arc<Entry>>,
}

impl WatchItem {
    /// A present object, of which nobody says what it was before.
    pub fn present(event: EventType, entry: Arc<Entry>) -> Self {
        Self { event, entry, before: None }
    }

    /// The line that goes on the wire in `v1`.
    pub fn line(&self) -> Bytes {
        self.entry.line(self.event)
    }
}

/// A running watch.
#[derive(Debug)]
pub struct Watcher {
    registry: Registry,
    kind: &'static Kind,
    selection: Selection,
    /// Where the changes come from when the selection names one value of the indexed field.
    lane: Option<Arc<Lane>>,
    /// Everything up to here was delivered or did not concern this watcher.
    version: u64,
    /// Present objects not yet delivered, last first.
    initial: Vec<Arc<Entry>>,
    bell: signal::Receiver<u64>,
}

impl Watcher {
    pub(super) fn new(
        registry: Registry,
        kind: &'static Kind,
        selection: Selection,
        from: Option<u64>,
    ) -> Result<Self, ApiError> {
        let shelf = registry.shelf(kind);
        let value = kind.watch_index.and_then(|index| selection.fields.exact(index));
        let lane = value.map(|value| shelf.log.write().unwrap_or_else(PoisonError::into_inner).lane(value));
        let bell = lane.as_ref().map_or_else(|| shelf.published.subscribe(), |lane| lane.subscribe());
        let latest = registry.version().max(shelf.snapshot.load().version);
        let (version, initial) = match from {
            Some(version) if version > latest => {
                // A version of another life of the cluster: the client's view is worthless.
                return Err(expired(kind, version));
            }
            Some(version) => (version, Vec::new()),
            None => {
                let snapshot = registry.snapshot(kind);
                let mut initial: Vec<_> = snapshot.select(kind, &selection, None).cloned().collect();
                initial.reverse();
                (snapshot.version, initial)
            }
        };
        let reaches = shelf.log.read().unwrap_or_else(PoisonError::into_inner).reaches(version);
        if !reaches {
            return Err(expired(kind, version));
        }
        Ok(Self { registry, kind, selection, lane, version, initial, bell })
    }

    /// The version up to which the watcher is complete; what a bookmark says.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The next changes, at least one and at most 256, in order. `Expired` when the ring has moved
    /// past the cursor: the client must list again. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<WatchItem>, ApiError> {
        if !self.initial.is_empty() {
            let from = self.initial.len().saturating_sub(BATCH_MAX);
            let batch = self.initial.drain(from..).rev();
            return Ok(batch.map(|entry| WatchItem::present(EventType::Added, entry)).collect());
        }
        loop {
            self.bell.borrow_and_update();
            let items = self.poll()?;
            if !items.is_empty() {
                return Ok(items);
            }
            if self.bell.changed().await.is_err() {
                return Err(ApiError::unavailable("the master is shutting down; watch again"));
            }
        }
    }

    /// What has changed for this watcher until now. Moves the cursor past it.
    fn poll(&mut self) -> Result<Vec<WatchItem>, ApiError> {
        // Read first: everything up to it is in the rings by now.
        let applied = self.registry.version();
        let (mut items, mut reached) = (Vec::new(), self.version.max(applied));
        let selection = &self.selection;
        let each = |event: &Arc<Event>| {
            if items.len() == BATCH_MAX {
                return false;
            }
            items.extend(seen_by(selection, event));
            reached = reached.max(event.entry.version);
            if items.len() == BATCH_MAX {
                reached = event.entry.version;
            }
            true
        };
        self.read(each).ok_or_else(|| expired(self.kind, self.version))?;
        self.version = reached;
        Ok(items)
    }

    /// Calls `each` with the changes after the cursor until it says stop. `None` when some are gone.
    fn read(&self, each: impl FnMut(&Arc<Event>) -> bool) -> Option<()> {
        match &self.lane {
            Some(lane) => lane.read(self.version, each),
            None => {
                let log = self.registry.shelf(self.kind).log.read().unwrap_or_else(PoisonError::into_inner);
                log.read(self.version, each)
            }
        }
    }

    /// Moves an idle cursor to the present, for a bookmark. Only when `next` has nothing: the
    /// caller holds the watcher, so nothing can come between.
    pub fn advance(&mut self) -> u64 {
        let applied = self.registry.version();
        let mut idle = self.initial.is_empty();
        let each = |_: &Arc<Event>| {
            idle = false;
            false
        };
        let read = self.read(each);
        if idle && read.is_some() {
            self.version = self.version.max(applied);
        }
        self.version
    }
}

/// What a change means under a selection: an object that starts to match is added, one that stops
/// is deleted.
fn seen_by(selection: &Selection, event: &Event) -> Option<WatchItem> {
    let is = event.event != EventType::Deleted && selection.matches(&event.entry);
    let was = event.before.as_ref().is_some_and(|before| selection.matches(before));
    let item =
        |kind, entry: &Arc<Entry>| Some(WatchItem { event: kind, entry: entry.clone(), before: event.before.clone() });
    match (was, is) {
        (false, false) => None,
        (false, true) => item(EventType::Added, &event.entry),
        (true, true) => item(EventType::Modified, &event.entry),
        (true, false) if event.event == EventType::Deleted => item(EventType::Deleted, &event.entry),
        (true, false) => {
            let gone = event.before.as_ref()?.deleted(event.entry.version);
            item(EventType::Deleted, &Arc::new(gone))
        }
    }
}

fn expired(kind: &Kind, version: u64) -> ApiError {
    ApiError::new(
        Reason::Expired,
        format!("resourceVersion {version} of {} is no longer in the history; list again", kind.plural),
    )
}
