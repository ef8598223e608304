//! Changes become snapshots and ring entries here, a set at a time.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Entry, EventType, Facts, Key, Registry, Shelf, Snapshot, entry, log::Event};
use crate::store;

/// A change with what is known of it already.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: String,
    pub(super) value: Option<Bytes>,
    pub(super) version: u64,
    /// Of the value, when it was written here.
    pub(super) facts: Option<Facts>,
}

impl From<store::Change> for Change {
    fn from(change: store::Change) -> Self {
        let store::Change { key, value, version } = change;
        Self { key, value, version, facts: None }
    }
}

/// Applies one set of changes to copies, to be published together.
pub(super) struct Applier<'a> {
    registry: &'a Registry,
    shelves: Vec<(&'a Shelf, Snapshot, Vec<Arc<Event>>)>,
    version: u64,
}

impl<'a> Applier<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { registry, shelves: Vec::new(), version: 0 }
    }

    /// Takes a change in. `None` when it is none of an object that this version of Coracle knows,
    /// or the deletion of one that was not there.
    pub(super) fn apply(&mut self, change: Change) -> Option<Arc<Entry>> {
        let Change { key, value, version, facts } = change;
        self.version = self.version.max(version);
        let (plural, key) = Key::of_stored(&key)?;
        let shelf = self.registry.inner.shelves.iter().find(|s| s.kind.plural == plural)?;
        let facts = match (&value, facts) {
            (Some(json), None) => match (shelf.kind.decode)(json) {
                Ok(object) => Some(Facts::of(&*object)),
                Err(error) => {
                    // Another hand than a master's wrote it. The last good state stays.
                    tracing::error!(kind = shelf.kind.kind, namespace = %key.namespace, name = %key.name, %error,
                        "a stored object does not decode and is not served");
                    return None;
                }
            },
            (_, facts) => facts,
        };
        let at = self.shelves.iter().position(|(s, ..)| std::ptr::eq(*s, shelf)).unwrap_or_else(|| {
            self.shelves.push((shelf, Snapshot::clone(&shelf.snapshot.load()), Vec::new()));
            self.shelves.len() - 1
        });
        let (_, snapshot, events) = &mut self.shelves[at];
        snapshot.version = version;
        let (event, entry, before) = match value.zip(facts) {
            Some((json, facts)) => {
                let known = snapshot.entries.contains_key(&key);
                let event = if known { EventType::Modified } else { EventType::Added };
                let entry = Arc::new(Entry::new(shelf.kind, key, version, &json, facts, event));
                let before = snapshot.insert(&entry);
                (event, entry, before)
            }
            None => {
                let before = snapshot.remove(&key)?;
                (EventType::Deleted, Arc::new(before.deleted(version)), Some(before))
            }
        };
        let had = before.as_ref().map_or(&[][..], |before| before.claims());
        let has = if event == EventType::Deleted { &[][..] } else { entry.claims() };
        if had != has {
            let mut claims = self.registry.inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
            for claim in had {
                claims.remove(claim);
            }
            claims.extend(has.iter().cloned());
        }
        events.push(Arc::new(Event { event, entry: entry.clone(), before }));
        Some(entry)
    }

    /// Rings first, then snapshots, then the version: a reader of a snapshot finds its watch start
    /// in the ring, and nobody sees a version whose changes are not there.
    pub(super) fn publish(self) {
        if self.version == 0 {
            return;
        }
        let now = Instant::now();
        let inner = &self.registry.inner;
        let _cut = inner.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bells = Vec::new();
        let mut lanes = Vec::new();
        for (shelf, snapshot, events) in self.shelves {
            bells.push((shelf, snapshot.version));
            lanes.extend(shelf.log.write().unwrap_or_else(PoisonError::into_inner).push_all(events, now));
            shelf.snapshot.store(Arc::new(snapshot));
        }
        inner.applied.send_replace(self.version);
        lanes.iter().for_each(|lane| lane.wake(self.version));
        for (shelf, version) in bells {
            shelf.published.send_replace(version);
        }
    }
}

impl Registry {
    /// Puts everything anew in the place of what was known. What happened in between is not known,
    /// so every watch is told to list again.
    pub(super) fn replace_all(&self, shelves: Vec<(&'static coracle_api::Kind, entry::Entries)>, version: u64) {
        let _cut = self.inner.cut.lock().unwrap_or_else(PoisonError::into_inner);
        *self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner) = super::claims_of(&shelves);
        for (kind, entries) in shelves {
            let shelf = self.shelf(kind);
            shelf.log.write().unwrap_or_else(PoisonError::into_inner).restart(version);
            shelf.snapshot.store(Arc::new(Snapshot::new(version, entries)));
        }
        self.inner.applied.send_replace(version);
        for shelf in &self.inner.shelves {
            shelf.published.send_replace(version);
            let log = shelf.log.read().unwrap_or_else(PoisonError::into_inner);
            log.lanes().for_each(|lane| lane.wake(version));
        }
    }
}
