//! The in-memory truth: every object, every change, one writer.
//!
//! Reads and watches are served from here and never touch the store. A write is checked against
//! the truth, joins a group, becomes durable with the group in one commit, is applied, published
//! to watches, and only then acknowledged. [`sequencer`] is the only task that changes anything.
//!
//! Invariant: what a snapshot shows and what a watch delivered is durable; versions only rise.

mod entry;
mod log;
mod pod_facts;
mod sequencer;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    kinds::KINDS,
    selector::{FieldSelector, LabelSelector},
};
use imbl::OrdMap;
use tokio::{
    sync::{mpsc, oneshot, watch as signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use entry::{Entry, Facts, Key, Owner};
pub use pod_facts::{HostPort, PodFacts, PodPhase};
pub use watch::{EventType, WatchItem, Watcher};

use crate::store::{Expect, Loaded, Store, StoreError};
use log::EventLog;
use sequencer::WriteRequest;

/// Writes that wait to join a group.
const WRITE_QUEUE: usize = 4096;
/// How long a write waits for a place in the queue before the client is told to come back.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of a read-modify-write under contention.
const MODIFY_ATTEMPTS: usize = 32;

/// Objects by namespace and name. Copies are cheap and never change.
pub type Entries = OrdMap<Key, Arc<Entry>>;

/// All objects of a kind at one moment. Cheap to take and to keep.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every change up to and including this version is in, none after it.
    pub version: u64,
    /// The objects by namespace and name.
    pub entries: Entries,
}

impl Snapshot {
    /// The entries of one namespace, or all of them.
    pub fn range(&self, namespace: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        let start = Key::new(namespace.unwrap_or_default(), "");
        let namespace = namespace.map(str::to_owned);
        self.entries
            .range(start..)
            .take_while(move |(key, _)| namespace.as_ref().is_none_or(|ns| key.namespace == *ns))
            .map(|(_, entry)| entry)
    }
}

/// What a list or watch wants.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: LabelSelector,
    /// Fields; those that the kind's row names, and `metadata.*`.
    pub fields: FieldSelector,
}

impl Selection {
    /// Whether the entry is wanted.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.namespace.as_ref().is_none_or(|ns| entry.key.namespace == *ns)
            && self.labels.matches_with(|key| entry.label(key))
            && self.fields.matches_with(|field| entry.field(field))
    }
}

/// Which stored state a write is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there now.
    Any,
    /// This version, else `Conflict`.
    Version(u64),
}

/// One kind's truth and its recent changes.
#[derive(Debug)]
struct Shelf {
    kind: &'static Kind,
    snapshot: ArcSwap<Snapshot>,
    log: RwLock<EventLog>,
    /// The last version published; wakes the watchers.
    published: signal::Sender<u64>,
}

impl Shelf {
    fn trim(&self, now: Instant) {
        self.log.write().unwrap_or_else(PoisonError::into_inner).trim(now);
    }
}

#[derive(Debug)]
struct Inner {
    shelves: Vec<Shelf>,
    /// The last version applied, of any kind.
    applied: signal::Sender<u64>,
    writes: mpsc::Sender<WriteRequest>,
    stats: sequencer::Stats,
}

/// A handle on the registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

impl Registry {
    /// Loads the store and starts the sequencer on `tasks`, until `stop`.
    pub async fn open(store: Arc<dyn Store>, tasks: &TaskTracker, stop: CancellationToken) -> Result<Self, StoreError> {
        let loaded = store.load().await?;
        Self::start(store, loaded, tasks, stop)
    }

    /// [`Registry::open`] for a caller that has loaded the store already.
    pub fn start(
        store: Arc<dyn Store>,
        loaded: Loaded,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let version = loaded.version;
        let shelves = entry::load(loaded)?
            .into_iter()
            .map(|(kind, entries)| Shelf {
                kind,
                snapshot: ArcSwap::from_pointee(Snapshot { version, entries }),
                log: RwLock::new(EventLog::starting_at(version)),
                published: signal::Sender::new(version),
            })
            .collect();
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let inner = Inner { shelves, applied: signal::Sender::new(version), writes, stats: Default::default() };
        let registry = Self { inner: Arc::new(inner) };
        tasks.spawn(sequencer::run(registry.clone(), store, queue, stop));
        Ok(registry)
    }

    fn shelf(&self, kind: &Kind) -> &Shelf {
        // `open` makes one shelf for each stored row, in the table's order.
        self.inner.shelves.iter().find(|s| s.kind == kind).unwrap_or(&self.inner.shelves[0])
    }

    /// One object.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.shelf(kind).snapshot.load().entries.get(&Key::new(namespace, name)).cloned()
    }

    /// One object, decoded.
    pub fn get_typed<T: TypedObject>(&self, namespace: &str, name: &str) -> Option<T> {
        self.get(T::row(), namespace, name).and_then(|entry| entry.typed())
    }

    /// All objects of a kind. Its version is a valid start for a watch.
    pub fn snapshot(&self, kind: &Kind) -> Snapshot {
        // The order matters: a change applied between the two reads raises the snapshot's own
        // version, so the maximum never claims more than the snapshot holds.
        let applied = *self.inner.applied.borrow();
        let mut snapshot = Snapshot::clone(&self.shelf(kind).snapshot.load());
        snapshot.version = snapshot.version.max(applied);
        snapshot
    }

    /// The last version applied.
    pub fn version(&self) -> u64 {
        *self.inner.applied.borrow()
    }

    /// Counters for metrics.
    pub fn stats(&self) -> &sequencer::Stats {
        &self.inner.stats
    }

    /// Number of objects per kind.
    pub fn counts(&self) -> impl Iterator<Item = (&'static Kind, usize)> {
        self.inner.shelves.iter().map(|s| (s.kind, s.snapshot.load().entries.len()))
    }

    /// Watches a kind. `from` of `None` delivers the present objects as `ADDED` first; `Some(v)`
    /// delivers what changed after `v`, or `Expired` when that is no longer known.
    pub fn watch(&self, kind: &'static Kind, selection: Selection, from: Option<u64>) -> Result<Watcher, ApiError> {
        Watcher::new(self.clone(), kind, selection, from)
    }

    /// Stores a new object. Its metadata must be complete but for the resourceVersion.
    pub async fn create(&self, object: Box<dyn Object>) -> Result<Arc<Entry>, ApiError> {
        let (kind, key) = (object.kind(), Key::of(&*object));
        let exists = || ApiError::already_exists(kind.error_name, &key.name);
        if let Some(there) = self.get(kind, &key.namespace, &key.name) {
            let mut error = exists();
            if there.is_ending() {
                error.message.push_str(": it is being deleted; try again when it is gone");
            }
            return Err(error);
        }
        self.submit(kind, key.clone(), Some(object), Expect::Absent).await?.ok_or_else(exists)
    }

    /// Replaces an object. Whether anything changes is the caller's matter.
    pub async fn update(&self, object: Box<dyn Object>, expected: Expected) -> Result<Arc<Entry>, ApiError> {
        let (kind, key) = (object.kind(), Key::of(&*object));
        let current =
            self.get(kind, &key.namespace, &key.name).ok_or_else(|| ApiError::not_found(kind.error_name, &key.name))?;
        let version = match expected {
            Expected::Any => current.version,
            Expected::Version(v) if v == current.version => v,
            Expected::Version(v) => return Err(changed(kind, &key, v, current.version)),
        };
        self.submit(kind, key.clone(), Some(object), Expect::Version(version))
            .await?
            .ok_or_else(|| changed(kind, &key, version, self.version()))
    }

    /// Removes an object and returns its last state.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        expected: Expected,
    ) -> Result<Arc<Entry>, ApiError> {
        let key = Key::new(namespace, name);
        for _ in 0..MODIFY_ATTEMPTS {
            let current = self.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind.error_name, name))?;
            if let Expected::Version(v) = expected
                && v != current.version
            {
                return Err(changed(kind, &key, v, current.version));
            }
            if let Some(entry) = self.submit(kind, key.clone(), None, Expect::Version(current.version)).await? {
                return Ok(entry);
            }
        }
        Err(contended(kind, &key))
    }

    /// Reads, changes and writes back one object until no one else came between. `change` returns
    /// whether there is anything to write; it may run several times.
    pub async fn modify<T: TypedObject>(
        &self,
        namespace: &str,
        name: &str,
        mut change: impl FnMut(&mut T) -> Result<bool, ApiError>,
    ) -> Result<Arc<Entry>, ApiError> {
        let kind = T::row();
        for _ in 0..MODIFY_ATTEMPTS {
            let current = self.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind.error_name, name))?;
            let mut object: T = current.typed().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
            if !change(&mut object)? {
                return Ok(current);
            }
            let expect = Expect::Version(current.version);
            if let Some(entry) = self.submit(kind, current.key.clone(), Some(Box::new(object)), expect).await? {
                return Ok(entry);
            }
        }
        Err(contended(kind, &Key::new(namespace, name)))
    }

    /// `None`: the expectation failed.
    async fn submit(
        &self,
        kind: &'static Kind,
        key: Key,
        object: Option<Box<dyn Object>>,
        expect: Expect,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let content = object.map(|mut object| {
            object.meta_mut().resource_version = None;
            (object.to_json(), Facts::of(&*object))
        });
        let (answer, answered) = oneshot::channel();
        let request = WriteRequest { kind, key, content, expect, answer };
        match self.inner.writes.send_timeout(request, QUEUE_TIMEOUT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(ApiError::unavailable("too many writes are waiting for the store; try again"));
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(stopping()),
        }
        answered.await.map_err(|_| stopping())?
    }
}

fn changed(kind: &Kind, key: &Key, wanted: u64, found: u64) -> ApiError {
    let why = format!(
        "the object has been modified; please apply your changes to the latest version and try again \
         (it is at resourceVersion {found}, not {wanted})"
    );
    ApiError::conflict(kind.error_name, &key.name, why)
}

fn contended(kind: &Kind, key: &Key) -> ApiError {
    ApiError::conflict(kind.error_name, &key.name, "too many others are changing it; try again")
}

fn stopping() -> ApiError {
    ApiError::unavailable("the master is shutting down; try again")
}

/// The rows whose objects are stored, in the table's order.
fn stored_kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().filter(|k| k.stored)
}
