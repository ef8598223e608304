//! A reader that remembers everything it was handed.

use std::sync::{Mutex, MutexGuard};

use tokio::{sync::watch, task::JoinHandle};

use super::*;
use crate::contract::View;

/// What one reader has been told, from its load on.
pub(super) struct Record {
    state: Arc<Mutex<State>>,
    version: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct State {
    /// Each change since the load, or since the last reset.
    pub(super) changes: Vec<Change>,
    /// What is there now.
    pub(super) view: View,
    pub(super) resets: usize,
}

impl Record {
    pub(super) async fn of(store: &EtcdStore) -> Self {
        let (loaded, mut updates) = store.load().await.unwrap();
        let (sender, version) = watch::channel(loaded.version);
        let state = Arc::new(Mutex::new(State { view: View::of(loaded), ..State::default() }));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                let mut state = shared.lock().unwrap();
                match &update {
                    Update::Changes(changes) => state.changes.extend(changes.iter().cloned()),
                    Update::Reset(_) => {
                        state.resets += 1;
                        state.changes.clear();
                    }
                }
                // Asserts that versions rise.
                state.view.take(update);
                sender.send_replace(state.view.version);
            }
        });
        Self { state, version, task }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many resets, changes since the last one, and values there are.
    pub(super) fn told(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.resets, state.changes.len(), state.view.values.len())
    }

    /// Waits until it has been told of a version.
    pub(super) async fn reach(&self, version: u64) {
        let mut at = self.version.clone();
        let reached = timeout(PATIENCE, at.wait_for(|at| *at >= version)).await.is_ok_and(|reached| reached.is_ok());
        assert!(reached, "{version} is reached; it ended at {}", *self.version.borrow());
    }

    /// The version of a key, if it is there.
    pub(super) fn version_of(&self, key: &str) -> Option<u64> {
        self.state().view.values.get(key).map(|(version, _)| *version)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}
