//! A store without a disk, for tests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::{BoxFuture, Expect, Loaded, Outcome, Store, StoreError, Stored, Write};

/// Keeps everything in a map and forgets it when dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    values: BTreeMap<String, (u64, Bytes)>,
    version: u64,
}

impl State {
    fn apply(&mut self, write: Write) -> Outcome {
        let holds = match write.expect {
            Expect::Absent => !self.values.contains_key(&write.key),
            Expect::Version(v) => self.values.get(&write.key).is_some_and(|(at, _)| *at == v),
        };
        if !holds {
            return Outcome::Conflict;
        }
        self.version += 1;
        match write.value {
            Some(value) => self.values.insert(write.key, (self.version, value)),
            None => self.values.remove(&write.key),
        };
        Outcome::Committed(self.version)
    }
}

impl Store for MemoryStore {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, StoreError>> {
        Box::pin(async {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let items = state
                .values
                .iter()
                .map(|(key, (version, value))| Stored { key: key.clone(), value: value.clone(), version: *version })
                .collect();
            Ok(Loaded { items, version: state.version })
        })
    }

    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(batch.into_iter().map(|write| state.apply(write)).collect())
        })
    }
}
