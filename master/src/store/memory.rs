//! A store without a disk, for tests. Several registries may share one, as masters share an etcd.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    BoxFuture, CHANGES_MAX, Change, Expect, Fence, Health, Loaded, Op, Outcome, Store, StoreError, Stored, Update,
    Updates, Write,
};

/// Keeps everything in a map and forgets it when dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    health: watch::Sender<Health>,
}

#[derive(Debug, Default)]
struct State {
    values: BTreeMap<String, (u64, Bytes)>,
    version: u64,
    /// Writes under earlier terms are refused.
    term: u64,
    readers: Vec<mpsc::Sender<Update>>,
}

impl State {
    fn holds(&self, op: &Op) -> bool {
        match op.expect {
            Expect::Absent => !self.values.contains_key(&op.key),
            Expect::Version(v) => self.values.get(&op.key).is_some_and(|(at, _)| *at == v),
            Expect::Any => true,
        }
    }

    fn apply(&mut self, write: Write, changes: &mut Vec<Change>) -> Outcome {
        if write.fence.is_some_and(|Fence(term)| term < self.term) {
            return Outcome::Fenced;
        }
        if let Some(op) = write.ops.iter().position(|op| !self.holds(op)) {
            return Outcome::Conflict { op };
        }
        let first = self.version + 1;
        for Op { key, value, .. } in write.ops {
            self.version += 1;
            match &value {
                Some(value) => self.values.insert(key.clone(), (self.version, value.clone())),
                None => self.values.remove(&key),
            };
            changes.push(Change { key, value, version: self.version });
        }
        Outcome::Committed(first)
    }

    fn loaded(&self) -> Loaded {
        let items = self
            .values
            .iter()
            .map(|(key, (version, value))| Stored { key: key.clone(), value: value.clone(), version: *version })
            .collect();
        Loaded { items, version: self.version }
    }
}

impl MemoryStore {
    /// Starts a term: writes under earlier fences are refused from now on.
    pub async fn elect(&self) -> Fence {
        let mut state = self.state.lock().await;
        state.term += 1;
        Fence(state.term)
    }

    /// Says how it is doing from now on; with anything but [`Health::Good`] it takes no writes.
    pub fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// Commits without telling the readers; [`MemoryStore::reset_readers`] does it in its own way.
    #[cfg(test)]
    pub(crate) async fn commit_untold(&self, batch: Vec<Write>) -> Vec<Outcome> {
        let mut state = self.state.lock().await;
        batch.into_iter().map(|write| state.apply(write, &mut Vec::new())).collect()
    }

    /// Hands all readers everything anew, as a store does whose history is gone.
    pub async fn reset_readers(&self) {
        let state = self.state.lock().await;
        for reader in &state.readers {
            // A reader that is gone misses nothing.
            drop(reader.send(Update::Reset(state.loaded())).await);
        }
    }
}

impl Store for MemoryStore {
    fn load(&self) -> BoxFuture<'_, Result<(Loaded, Updates), StoreError>> {
        Box::pin(async {
            let mut state = self.state.lock().await;
            let (reader, updates) = mpsc::channel(CHANGES_MAX);
            state.readers.push(reader);
            Ok((state.loaded(), updates))
        })
    }

    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(async {
            // Held until the readers have the changes: they get them in order.
            let mut state = self.state.lock().await;
            if let Health::Degraded { cause } = &*self.health.borrow() {
                let error = StoreError::Unwritable { store: "memory".into(), cause: cause.clone() };
                return vec![Outcome::Failed(error); batch.len()];
            }
            // Places first: from the change to its delivery nothing waits, so a caller that gives up
            // leaves no reader without it.
            let mut places = Vec::new();
            for reader in state.readers.clone() {
                places.extend(reader.reserve_owned().await);
            }
            state.readers.retain(|reader| !reader.is_closed());
            let mut changes = Vec::new();
            let outcomes = batch.into_iter().map(|write| state.apply(write, &mut changes)).collect();
            if !changes.is_empty() {
                for place in places {
                    drop(place.send(Update::Changes(changes.clone())));
                }
            }
            outcomes
        })
    }

    fn number_beyond(&self, version: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            state.version = state.version.max(version);
            Ok(())
        })
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}
