//! The in-memory truth: every object, every change, one writer.
//!
//! Reads and watches are served from here and never touch the store. A write is checked against
//! the truth, joins a group, becomes durable with the group in one commit, comes back as a change
//! in the store's order, is applied, published to watches, and only then acknowledged. Changes that
//! other masters made come the same way. [`sequencer`] is the only task that changes anything.
//!
//! Invariant: what a snapshot shows and what a watch delivered is durable; versions only rise.

mod apply;
mod entry;
mod log;
mod pod_facts;
mod sequencer;
mod snapshot;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use compact_str::CompactString;
use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    kinds::KINDS,
    selector::{FieldSelector, LabelSelector},
};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch as signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use entry::{Entries, Entry, Facts, Key, Owner};
pub use pod_facts::{ContainerPort, HostPort, PodFacts, PodPhase};
pub use snapshot::Snapshot;
pub use watch::{EventType, WatchItem, Watcher};

use crate::{
    source::Source,
    store::{Expect, Fence, Health, Loaded, Op, Store, StoreError, Updates},
};
use log::EventLog;
pub(crate) use log::LogLimits;
use sequencer::{Answer, WriteRequest};

/// Writes that wait to join a group.
const WRITE_QUEUE: usize = 4096;
/// How long a write waits for a place in the queue before the client is told to come back.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of a read-modify-write under contention.
const MODIFY_ATTEMPTS: usize = 32;
/// How long a write that met a newer state waits for this master to hear of it.
const NEWS_TIMEOUT: Duration = Duration::from_secs(2);

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
        self.namespace.as_ref().is_none_or(|ns| entry.key.namespace == *ns) && self.picks(entry)
    }

    /// [`Selection::matches`] for an entry of the right namespace.
    fn picks(&self, entry: &Entry) -> bool {
        self.labels.matches_with(|key| entry.label(key)) && self.fields.matches_with(|field| entry.field(field))
    }
}

/// An object as it is stored: its JSON without a resourceVersion, and its facts.
#[derive(Debug)]
pub struct Written {
    kind: &'static Kind,
    key: Key,
    json: Bytes,
    facts: Facts,
}

impl Written {
    /// Writes an object out.
    pub fn of(mut object: Box<dyn Object>) -> Self {
        Self::from(&mut *object)
    }

    /// [`Written::of`] that leaves the object to its owner, without its resourceVersion.
    pub fn from(object: &mut dyn Object) -> Self {
        object.meta_mut().resource_version = None;
        Self { kind: object.kind(), key: Key::of(object), json: object.to_json().into(), facts: Facts::of(object) }
    }

    /// An entry's object with the status of another object of its kind, of which the rest counts for nothing.
    pub fn with_status(current: &Entry, object: &dyn Object) -> Result<Self, ApiError> {
        let (json, facts) = current.with_status(object).map_err(ApiError::internal)?;
        Ok(Self { kind: current.kind, key: current.key.clone(), json: json.into(), facts })
    }

    /// Whether this is what the entry holds.
    pub fn is_in(&self, entry: &Entry) -> bool {
        entry.holds(&self.json)
    }

    /// The JSON.
    pub fn json(&self) -> &Bytes {
        &self.json
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
    /// Held while a set of changes is published, and by those who want all kinds at one version.
    cut: Mutex<()>,
    /// What the present objects claim.
    claims: Mutex<HashSet<CompactString>>,
    health: signal::Receiver<Health>,
}

/// A handle on the registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
    /// Goes with the writes of this handle.
    fence: Option<Fence>,
    source: Source,
}

impl Registry {
    /// Loads the store and starts the sequencer on `tasks`, until `stop`.
    pub async fn open(store: Arc<dyn Store>, tasks: &TaskTracker, stop: CancellationToken) -> Result<Self, StoreError> {
        let (loaded, updates) = store.load().await?;
        Self::start(store, loaded, updates, tasks, stop)
    }

    /// [`Registry::open`] for a caller that has loaded the store already.
    pub fn start(
        store: Arc<dyn Store>,
        loaded: Loaded,
        updates: Updates,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        Self::start_with(store, loaded, updates, LogLimits::default(), tasks, stop)
    }

    /// [`Registry::start`] with other bounds of the history.
    pub(crate) fn start_with(
        store: Arc<dyn Store>,
        loaded: Loaded,
        updates: Updates,
        limits: LogLimits,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let version = loaded.version;
        let shelves = entry::load(loaded.items)?;
        let claims = claims_of(&shelves);
        let shelves = shelves
            .into_iter()
            .map(|(kind, entries)| Shelf {
                kind,
                snapshot: ArcSwap::from_pointee(Snapshot::new(version, entries)),
                log: RwLock::new(EventLog::new(version, limits.clone())),
                published: signal::Sender::new(version),
            })
            .collect();
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let inner = Inner {
            shelves,
            applied: signal::Sender::new(version),
            writes,
            stats: Default::default(),
            cut: Mutex::default(),
            claims: Mutex::new(claims),
            health: store.health(),
        };
        let registry = Self { inner: Arc::new(inner), fence: None, source: Source::default() };
        tasks.spawn(sequencer::run(registry.clone(), store, queue, updates, stop));
        Ok(registry)
    }

    /// A handle whose writes happen only under this leadership.
    pub fn fenced(&self, fence: Option<Fence>) -> Self {
        Self { fence, ..self.clone() }
    }

    /// A handle whose users get the time and new ids from this source.
    pub fn with_source(&self, source: Source) -> Self {
        Self { source, ..self.clone() }
    }

    /// Where this handle's users get the time and new ids from.
    pub fn source(&self) -> Source {
        self.source.clone()
    }

    /// The time, for what is written through this handle.
    pub fn now(&self) -> Timestamp {
        self.source.now()
    }

    /// [`Registry::now`] in whole seconds, as timestamps go on the wire.
    pub(crate) fn now_s(&self) -> Timestamp {
        let now = self.now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// A new id.
    pub fn new_id(&self) -> Uuid {
        self.source.id()
    }

    /// How the store is doing.
    pub fn health(&self) -> signal::Receiver<Health> {
        self.inner.health.clone()
    }

    /// All objects of all kinds at one version.
    pub fn snapshot_all(&self) -> (u64, Vec<(&'static Kind, Entries)>) {
        let _cut = self.inner.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let shelves = self.inner.shelves.iter().map(|s| (s.kind, s.snapshot.load().entries.clone())).collect();
        (self.version(), shelves)
    }

    /// Whether a present object claims this; see [`coracle_api::TypedObject::claims`].
    pub fn is_claimed(&self, claim: &str) -> bool {
        self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner).contains(claim)
    }

    /// Waits until this master has heard of `version`, for `limit` at most. Returns whether it has.
    pub async fn reached(&self, version: u64, limit: Duration) -> bool {
        let mut applied = self.inner.applied.subscribe();
        let heard = applied.wait_for(|at| *at >= version);
        matches!(tokio::time::timeout(limit, heard).await, Ok(Ok(_)))
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
        let Written { kind, key, json, facts } = Written::of(object);
        let exists = || ApiError::already_exists(kind.error_name, &key.name);
        if let Some(there) = self.get(kind, &key.namespace, &key.name) {
            let mut error = exists();
            if there.is_ending() {
                error.message.push_str(": it is being deleted; try again when it is gone");
            }
            return Err(error);
        }
        self.submit(kind, key.clone(), Some((json, facts)), Expect::Absent).await?.ok_or_else(exists)
    }

    /// Replaces an object. Whether anything changes is the caller's matter.
    pub async fn update(&self, object: Box<dyn Object>, expected: Expected) -> Result<Arc<Entry>, ApiError> {
        self.update_written(Written::of(object), expected).await
    }

    /// [`Registry::update`] with an object that was written out already.
    pub async fn update_written(&self, object: Written, expected: Expected) -> Result<Arc<Entry>, ApiError> {
        let Written { kind, key, json, facts } = object;
        let current =
            self.get(kind, &key.namespace, &key.name).ok_or_else(|| ApiError::not_found(kind.error_name, &key.name))?;
        let version = match expected {
            Expected::Any => current.version,
            Expected::Version(v) if v == current.version => v,
            Expected::Version(v) => return Err(changed(kind, &key, v, current.version)),
        };
        self.submit(kind, key.clone(), Some((json, facts)), Expect::Version(version))
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
            let Written { json, facts, .. } = Written::of(Box::new(object));
            if let Some(entry) = self.submit(kind, current.key.clone(), Some((json, facts)), expect).await? {
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
        content: Option<(Bytes, Facts)>,
        expect: Expect,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let before = self.get(kind, &key.namespace, &key.name);
        let had = before.as_ref().map_or(&[][..], |entry| entry.claims());
        let wants = content.as_ref().map_or(&[][..], |(_, facts)| facts.claims());
        let claims = claim_ops(kind, &key, had, wants);
        let (answer, answered) = oneshot::channel();
        let request = WriteRequest { kind, key: key.clone(), content, expect, claims, fence: self.fence, answer };
        match self.inner.writes.send_timeout(request, QUEUE_TIMEOUT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(ApiError::unavailable("too many writes are waiting for the store; try again"));
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(stopping()),
        }
        match answered.await.map_err(|_| stopping())? {
            Answer::Done(entry) => Ok(Some(entry)),
            Answer::Changed => {
                self.await_news(kind, &key, expect).await;
                Ok(None)
            }
            Answer::Claimed { claim } => {
                let what = claim.rsplit('/').next().unwrap_or_default();
                let why = format!("{what} was taken by another object at this moment; try again");
                Err(ApiError::conflict(kind.error_name, &key.name, why))
            }
            Answer::Refused(error) => Err(error),
        }
    }

    /// Waits until what is known here contradicts `expect`, as what is stored does: another master
    /// wrote it, and whoever tries again must see it.
    async fn await_news(&self, kind: &Kind, key: &Key, expect: Expect) {
        let stale = || match (expect, self.get(kind, &key.namespace, &key.name)) {
            (Expect::Absent, None) => true,
            (Expect::Version(v), Some(entry)) => entry.version == v,
            _ => false,
        };
        let mut published = self.shelf(kind).published.subscribe();
        let news = async { while stale() && published.changed().await.is_ok() {} };
        // In vain when the store can't be reached: the caller's next attempt says so.
        drop(tokio::time::timeout(NEWS_TIMEOUT, news).await);
    }
}

fn claims_of(shelves: &[(&'static Kind, Entries)]) -> HashSet<CompactString> {
    shelves.iter().flat_map(|(_, entries)| entries.values()).flat_map(|entry| entry.claims().iter().cloned()).collect()
}

/// Before every claim in the store.
pub(crate) const CLAIMS: &str = "claims/";

/// Takes what the object newly has, gives back what it has no more. Giving back needs no condition:
/// the object's own version says that it is the one who has it.
pub(crate) fn claim_ops(kind: &Kind, key: &Key, had: &[CompactString], wants: &[CompactString]) -> Vec<Op> {
    let name = |claim: &CompactString| format!("{CLAIMS}{claim}");
    let holder = Bytes::from(key.stored(kind));
    let taken = wants.iter().filter(|claim| !had.contains(claim)).map(|claim| Op {
        key: name(claim),
        value: Some(holder.clone()),
        expect: Expect::Absent,
    });
    let returned = had.iter().filter(|claim| !wants.contains(claim)).map(|c| Op {
        key: name(c),
        value: None,
        expect: Expect::Any,
    });
    taken.chain(returned).collect()
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
