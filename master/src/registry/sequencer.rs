//! The one writer: takes the waiting writes as a group, has the store commit them together, applies
//! what the store then reports as changed, own changes and those of other masters alike, publishes
//! it, and answers.
//!
//! One task, so that nothing else ever changes a snapshot or a ring. While the store makes a group
//! durable, changes are applied and the next group gathers; where many write, until they are as many
//! as last time, or for a millisecond, since a commit costs much the same whatever is in it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_api::{ApiError, Kind};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Entry, EventType, Facts, Key, Registry,
    apply::{Applier, Change},
    log::TRIM_EVERY,
};
use crate::store::{Expect, Fence, Op, Outcome, Store, StoreError, Update, Updates, Write};

/// Writes committed together at most.
const GROUP_MAX: usize = 1024;
/// After a group of more than so many writes the next one gathers.
const FEW: usize = 4;
/// Enough for a group.
const GROUP_FULL: usize = 32;
/// How long after the begin of the last commit a group gathers. The runtime's clock rounds up.
const GATHER: Duration = Duration::from_millis(1);

/// A write on its way. `content` of `None` deletes.
#[derive(Debug)]
pub(super) struct WriteRequest {
    pub(super) kind: &'static Kind,
    pub(super) key: Key,
    pub(super) content: Option<(Bytes, Facts)>,
    pub(super) expect: Expect,
    /// Names that the object takes or gives back with this write.
    pub(super) claims: Vec<Op>,
    pub(super) fence: Option<Fence>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// How a write ended.
#[derive(Debug)]
pub(super) enum Answer {
    /// Durable, applied and published.
    Done(Arc<Entry>),
    /// Something else is stored than was expected.
    Changed,
    /// Another object has what this one claims.
    Claimed {
        /// The claim's key in the store.
        claim: String,
    },
    /// For the caller.
    Refused(ApiError),
}

/// What the sequencer did since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Durable commits.
    pub commits: AtomicU64,
    /// Writes in them.
    pub writes: AtomicU64,
    /// Writes refused because the object had changed.
    pub conflicts: AtomicU64,
    /// Writes that the store refused.
    pub failures: AtomicU64,
}

/// A write that the store was given and that is not answered yet.
#[derive(Debug)]
struct Pending {
    kind: &'static Kind,
    key: Key,
    /// What a deletion takes away.
    before: Option<Arc<Entry>>,
    /// What was written: a change that shows the same needs no decoding.
    content: Option<(Bytes, Facts)>,
    claims: Vec<String>,
    answer: oneshot::Sender<Answer>,
    /// The version that the store committed it at, once known.
    committed: Option<u64>,
    /// Changes of the key applied meanwhile: this write's, and those that other masters made
    /// within the time of one commit.
    applied: Vec<Arc<Entry>>,
}

impl Pending {
    /// The result, once it is durable and everything up to it is published. Where its own change
    /// never came by, because the store handed over everything anew, it follows from what was written.
    fn result(&self, reached: u64) -> Option<Arc<Entry>> {
        let version = self.committed?;
        if let Some(entry) = self.applied.iter().find(|entry| entry.version == version) {
            return Some(entry.clone());
        }
        if version > reached {
            return None;
        }
        match (&self.content, &self.before) {
            (Some((json, facts)), _) => {
                let (kind, key) = (self.kind, self.key.clone());
                Some(Arc::new(Entry::new(kind, key, version, json, facts.clone(), EventType::Modified)))
            }
            (None, before) => before.as_ref().map(|before| Arc::new(before.deleted(version))),
        }
    }
}

/// Writes that the store was given, by their key there.
type Flight = HashMap<String, Pending>;
/// The keys of a group in its order, and what became of it.
type Commit = BoxFuture<'static, (Vec<String>, Vec<Outcome>)>;

pub(super) async fn run(
    registry: Registry,
    store: Arc<dyn Store>,
    mut queue: mpsc::Receiver<WriteRequest>,
    mut updates: Updates,
    stop: CancellationToken,
) {
    let mut waiting: Vec<WriteRequest> = Vec::new();
    let mut flight = Flight::new();
    let mut commit: Option<Commit> = None;
    let (mut enough, mut gather_until) = (0, Instant::now());
    let mut trim = tokio::time::interval(TRIM_EVERY);
    trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        let gathers = waiting.len() < enough && now < gather_until;
        if commit.is_none() && !gathers {
            let before = flight.len();
            commit = launch(&registry, &store, &mut waiting, &mut flight);
            if commit.is_some() {
                let writes = flight.len() - before;
                enough = if writes > FEW { writes.min(GROUP_FULL) } else { 0 };
                gather_until = now + GATHER;
            }
        }
        let idle = flight.is_empty() && waiting.is_empty();
        let room = GROUP_MAX.saturating_sub(waiting.len());
        // Cancel-safe: a commit is polled on, `recv` and `recv_many` take nothing when they lose, a sleep only waits, a
        // tick is none to miss.
        tokio::select! {
            biased;
            (keys, outcomes) = landed(&mut commit) => {
                commit = None;
                settle(&registry, &mut flight, keys, outcomes);
            }
            update = updates.recv() => match update {
                Some(update) => if let Err(error) = absorb(&registry, &mut flight, update) {
                    // Going on would leave a gap that nobody is told of.
                    return tracing::error!(%error, "what the store holds can't be read");
                },
                None => return tracing::error!("the store ended"),
            },
            _ = queue.recv_many(&mut waiting, room), if room > 0 => {}
            () = tokio::time::sleep_until(gather_until), if gathers && commit.is_none() && !waiting.is_empty() => {}
            () = stop.cancelled(), if idle => return,
            now = trim.tick() => registry.inner.shelves.iter().for_each(|shelf| shelf.trim(now)),
        }
    }
}

async fn landed(commit: &mut Option<Commit>) -> (Vec<String>, Vec<Outcome>) {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}

/// Gives the store the waiting writes, but for those whose key is in flight already: they find the
/// outcome of the write before them. Order per key is kept.
fn launch(
    registry: &Registry,
    store: &Arc<dyn Store>,
    waiting: &mut Vec<WriteRequest>,
    flight: &mut Flight,
) -> Option<Commit> {
    let mut later = Vec::new();
    let mut behind: HashSet<String> = HashSet::new();
    let (mut keys, mut batch) = (Vec::new(), Vec::new());
    for request in waiting.drain(..) {
        let key = request.key.stored(request.kind);
        let names = || std::iter::once(&key).chain(request.claims.iter().map(|op| &op.key));
        if flight.contains_key(&key) || names().any(|name| behind.contains(name)) {
            behind.extend(names().cloned());
            later.push(request);
            continue;
        }
        // Two that want one claim go one after the other: a batch names a key once.
        behind.extend(request.claims.iter().map(|op| op.key.clone()));
        let WriteRequest { kind, key: object, content, expect, claims, fence, answer } = request;
        let before = content.is_none().then(|| registry.get(kind, &object.namespace, &object.name)).flatten();
        let value = content.as_ref().map(|(json, _)| json.clone());
        let claimed = claims.iter().map(|op| op.key.clone()).collect();
        let mut ops = vec![Op { key: key.clone(), value, expect }];
        ops.extend(claims);
        batch.push(Write { ops, fence });
        keys.push(key.clone());
        let (committed, applied) = (None, Vec::new());
        flight.insert(key, Pending { kind, key: object, before, content, claims: claimed, answer, committed, applied });
    }
    *waiting = later;
    if batch.is_empty() {
        return None;
    }
    let store = store.clone();
    Some(async move { (keys, store.commit(batch).await) }.boxed())
}

/// Takes note of what became of a group, and answers those about whom there is nothing to wait for.
fn settle(registry: &Registry, flight: &mut Flight, keys: Vec<String>, outcomes: Vec<Outcome>) {
    let stats = registry.stats();
    stats.commits.fetch_add(1, Ordering::Relaxed);
    let mut failed = None;
    for (key, outcome) in keys.into_iter().zip(outcomes) {
        if let Outcome::Committed(version) = outcome {
            stats.writes.fetch_add(1, Ordering::Relaxed);
            if let Some(pending) = flight.get_mut(&key) {
                pending.committed = Some(version);
            }
            answer_done(registry, flight, &key);
            continue;
        }
        let Some(mut pending) = flight.remove(&key) else { continue };
        let answer = match outcome {
            Outcome::Conflict { op } => {
                stats.conflicts.fetch_add(1, Ordering::Relaxed);
                match op.checked_sub(1).filter(|i| *i < pending.claims.len()) {
                    Some(i) => Answer::Claimed { claim: pending.claims.swap_remove(i) },
                    None => Answer::Changed,
                }
            }
            Outcome::Fenced => Answer::Refused(deposed()),
            Outcome::Failed(error) => {
                stats.failures.fetch_add(1, Ordering::Relaxed);
                let refusal = refused(&error);
                failed = Some(error);
                Answer::Refused(refusal)
            }
            Outcome::Committed(_) => continue,
        };
        // Whoever asked may have gone.
        drop(pending.answer.send(answer));
    }
    if let Some(error) = failed {
        tracing::error!(%error, "the store refused writes");
    }
}

/// Applies and publishes what changed, then answers the writes that it shows.
fn absorb(registry: &Registry, flight: &mut Flight, update: Update) -> Result<(), StoreError> {
    let mut touched = Vec::new();
    match update {
        Update::Reset(loaded) => {
            registry.replace_all(super::entry::load(loaded.items)?, loaded.version);
            touched.extend(flight.keys().cloned());
        }
        Update::Changes(changes) => {
            let mut applier = Applier::new(registry);
            for change in changes {
                let pending = flight.get_mut(&change.key);
                let own = pending
                    .as_ref()
                    .and_then(|p| p.content.as_ref())
                    .filter(|(json, _)| change.value.as_ref().is_some_and(|value| value == json));
                let facts = own.map(|(_, facts)| facts.clone());
                let change = Change { facts, ..change.into() };
                let key = pending.is_some().then(|| change.key.clone());
                if let (Some(entry), Some(pending)) = (applier.apply(change), pending) {
                    pending.applied.push(entry);
                    touched.extend(key);
                }
            }
            applier.publish();
        }
    }
    touched.iter().for_each(|key| answer_done(registry, flight, key));
    Ok(())
}

fn answer_done(registry: &Registry, flight: &mut Flight, key: &str) {
    let reached = registry.version();
    if let Some(entry) = flight.get(key).and_then(|pending| pending.result(reached))
        && let Some(pending) = flight.remove(key)
    {
        drop(pending.answer.send(Answer::Done(entry)));
    }
}

fn deposed() -> ApiError {
    ApiError::unavailable("this master does not lead any more; its control loops leave the write to the new leader")
}

fn refused(error: &StoreError) -> ApiError {
    match error {
        StoreError::TooLarge { .. } => {
            ApiError::new(coracle_api::error::Reason::RequestEntityTooLarge, error.to_string())
        }
        StoreError::Unavailable { .. } => ApiError::unavailable(format!("{error}; read it back, or try again")),
        _ => ApiError::unavailable(format!("the write was not stored: {error}")),
    }
}
