//! The one writer: takes the waiting writes as a group, commits them together, applies and
//! publishes them, and answers.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use coracle_api::{ApiError, Kind};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Entry, EventType, Facts, Key, Registry, Shelf,
    log::{Event, TRIM_EVERY},
};
use crate::store::{Expect, Outcome, Store, StoreError, Write};

/// Writes committed together at most.
const GROUP_MAX: usize = 1024;

/// A write on its way. `content` of `None` deletes.
#[derive(Debug)]
pub(super) struct WriteRequest {
    pub(super) kind: &'static Kind,
    pub(super) key: Key,
    pub(super) content: Option<(Vec<u8>, Facts)>,
    pub(super) expect: Expect,
    pub(super) answer: oneshot::Sender<Result<Option<Arc<Entry>>, ApiError>>,
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
    /// Commits that the store refused.
    pub failures: AtomicU64,
}

pub(super) async fn run(
    registry: Registry,
    store: Arc<dyn Store>,
    mut queue: mpsc::Receiver<WriteRequest>,
    stop: CancellationToken,
) {
    let mut waiting = Vec::new();
    let mut trim = tokio::time::interval(TRIM_EVERY);
    trim.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if waiting.is_empty() {
            // Cancel-safe: recv_many takes nothing when it loses, a tick is none to miss.
            let received = tokio::select! {
                biased;
                n = queue.recv_many(&mut waiting, GROUP_MAX) => n,
                () = stop.cancelled() => 0,
                now = trim.tick() => {
                    registry.inner.shelves.iter().for_each(|shelf| shelf.trim(now));
                    continue;
                }
            };
            if received == 0 {
                return;
            }
        } else if waiting.len() < GROUP_MAX {
            while waiting.len() < GROUP_MAX
                && let Ok(request) = queue.try_recv()
            {
                waiting.push(request);
            }
        }
        let (group, rest) = split_group(std::mem::take(&mut waiting));
        waiting = rest;
        commit(&registry, &*store, group).await;
    }
}

/// A group names a key once; a second write to it waits for the next, where it finds the outcome
/// of the first. Order per key is kept.
fn split_group(waiting: Vec<WriteRequest>) -> (Vec<WriteRequest>, Vec<WriteRequest>) {
    let mut keys = HashSet::new();
    waiting.into_iter().partition(|request| keys.insert((request.kind.plural, request.key.clone())))
}

async fn commit(registry: &Registry, store: &dyn Store, mut group: Vec<WriteRequest>) {
    let stats = registry.stats();
    let batch = group.iter_mut().map(to_write).collect::<Vec<_>>();
    let values: Vec<_> = batch.iter().map(|write| write.value.clone()).collect();
    let outcomes = match store.commit(batch).await {
        Ok(outcomes) => outcomes,
        Err(e) => {
            stats.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(error = %e, writes = group.len(), "the store refused a commit");
            for request in group {
                drop(request.answer.send(Err(refused(&e))));
            }
            return;
        }
    };
    stats.commits.fetch_add(1, Ordering::Relaxed);
    stats.writes.fetch_add(group.len() as u64, Ordering::Relaxed);
    let mut answers = Vec::with_capacity(group.len());
    let mut applied = Applied::default();
    for ((request, value), outcome) in group.into_iter().zip(values).zip(outcomes) {
        let WriteRequest { kind, key, content, answer, .. } = request;
        let entry = match outcome {
            Outcome::Conflict => {
                stats.conflicts.fetch_add(1, Ordering::Relaxed);
                None
            }
            Outcome::Committed(version) => {
                let change = value.zip(content).map(|(json, (_, facts))| (json, facts));
                applied.apply(registry.shelf(kind), key, version, change)
            }
        };
        answers.push((answer, entry));
    }
    applied.publish(registry);
    for (answer, entry) in answers {
        drop(answer.send(Ok(entry)));
    }
}

fn to_write(request: &mut WriteRequest) -> Write {
    let value = request.content.as_mut().map(|(json, _)| Bytes::from(std::mem::take(json)));
    Write { key: request.key.stored(request.kind), value, expect: request.expect }
}

fn refused(error: &StoreError) -> ApiError {
    ApiError::unavailable(format!("the write was not stored: {error}"))
}

/// The changes of one group, applied to copies and published together.
#[derive(Default)]
struct Applied<'a> {
    shelves: Vec<(&'a Shelf, super::Snapshot, Vec<Event>)>,
    version: u64,
}

impl<'a> Applied<'a> {
    fn apply(
        &mut self,
        shelf: &'a Shelf,
        key: Key,
        version: u64,
        change: Option<(Bytes, Facts)>,
    ) -> Option<Arc<Entry>> {
        self.version = version;
        let at = self.shelves.iter().position(|(s, ..)| std::ptr::eq(*s, shelf)).unwrap_or_else(|| {
            self.shelves.push((shelf, super::Snapshot::clone(&shelf.snapshot.load()), Vec::new()));
            self.shelves.len() - 1
        });
        let (_, snapshot, events) = &mut self.shelves[at];
        snapshot.version = version;
        let before = snapshot.entries.get(&key).cloned();
        let (event, entry) = match change {
            Some((json, facts)) => {
                let event = if before.is_some() { EventType::Modified } else { EventType::Added };
                let entry = Arc::new(Entry::new(shelf.kind, key.clone(), version, &json, facts, event));
                snapshot.entries.insert(key, entry.clone());
                (event, entry)
            }
            None => {
                snapshot.entries.remove(&key);
                (EventType::Deleted, Arc::new(before.as_ref()?.deleted(version)))
            }
        };
        events.push(Event { event, entry: entry.clone(), before });
        Some(entry)
    }

    /// Log first, then snapshot, then the version: a reader of the snapshot finds its watch start
    /// in the log, and nobody sees a version whose changes are not there.
    fn publish(self, registry: &Registry) {
        if self.version == 0 {
            return;
        }
        let now = Instant::now();
        for (shelf, snapshot, events) in self.shelves {
            let version = snapshot.version;
            {
                let mut log = shelf.log.write().unwrap_or_else(PoisonError::into_inner);
                events.into_iter().for_each(|event| log.push(event, now));
            }
            shelf.snapshot.store(Arc::new(snapshot));
            shelf.published.send_replace(version);
        }
        registry.inner.applied.send_replace(self.version);
    }
}
