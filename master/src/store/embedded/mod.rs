//! The store of a master that stands alone: a log in a directory.
//!
//! The registry keeps everything in memory and reads the store once, at the start. So the store is
//! what a disk does best: it appends each batch as one frame with one sync, keeps no values in
//! memory, and answers one batch at a time, so that the size of the batch, which the registry fills
//! while the sync before it runs, makes the throughput.
//!
//! - [`frame`], [`segment`]: the bytes and the files. Changing them is changing the format.
//! - [`recover`]: what a log holds, and how a write torn by a crash is told from damage.
//! - [`log`]: appending, and what happens when the disk does not. [`commit`]: batches. [`load`]:
//!   reading all of it.
//! - [`compact`]: giving back the room of garbage. [`index`]: what is garbage.
//! - [`worker`]: the thread that owns all this. [`mod@check`]: looking at a store from outside.
//! - [`disk`]: the file operations under it, which tests replace.
//!
//! Invariant: nothing is acknowledged or shown before the sync of the frame that holds it, and no
//! frame is put behind one whose sync failed.

use std::{path::Path, thread};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    BoxFuture, CHANGES_MAX, Change, Expect, Health, Loaded, Outcome, Store, StoreError, Stored, Update, Updates, Write,
};

mod check;
mod commit;
mod compact;
mod disk;
mod frame;
mod index;
mod load;
mod log;
mod recover;
mod segment;
mod worker;

#[cfg(test)]
mod tests;

pub use check::{CheckReport, check};

use disk::{Directory, DiskDirectory};
use log::Log;
use worker::{Call, Worker};

/// Batches that wait for the thread. The registry sends one at a time.
const QUEUE: usize = 4;

/// The sizes that an embedded store works in. The defaults are meant to be kept; tests take less.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size at which a file of the log is full.
    pub segment_bytes: u64,
    /// Garbage that is allowed beyond as much as there is live.
    pub garbage_bytes: u64,
    /// What one step of compaction reads or writes, between two commits.
    pub step_bytes: usize,
    /// Size at which a frame is full: a larger batch is made durable piece by piece.
    pub frame_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, garbage_bytes: 64 << 20, step_bytes: 1 << 20, frame_bytes: 8 << 20 }
    }
}

/// A store in a directory of this machine.
#[derive(Debug)]
pub struct EmbeddedStore {
    calls: mpsc::Sender<Call>,
    health: watch::Receiver<Health>,
    path: String,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, creating it if there is none. Takes an exclusive lock for
    /// as long as the store lives. Recovers by itself from a crash at any instant; refuses what is
    /// damaged, naming the place.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with(directory, Options::default()).await
    }

    /// Opens it with other sizes than the usual ones. They may differ from those it was opened
    /// with before.
    pub async fn open_with(directory: &Path, options: Options) -> Result<Self, StoreError> {
        let path = directory.to_owned();
        let make = move || Ok(Box::new(DiskDirectory::make(&path)?) as Box<dyn Directory>);
        Self::start(directory.display().to_string(), options, make).await
    }

    async fn start(
        path: String,
        options: Options,
        make: impl FnOnce() -> Result<Box<dyn Directory>, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let (opened, result) = oneshot::channel();
        let (health, healthy) = watch::channel(Health::Good);
        let unopenable = |cause: String| StoreError::Unopenable { store: path.clone(), cause };
        let store = path.clone();
        thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let worker =
                    make().and_then(|disk| Log::open(disk, store, options)).and_then(|log| Worker::new(log, health));
                match worker {
                    Ok(worker) => {
                        if opened.send(Ok(())).is_ok() {
                            worker.serve(queue);
                        }
                    }
                    Err(e) => drop(opened.send(Err(e))),
                }
            })
            .map_err(|e| unopenable(e.to_string()))?;
        result.await.map_err(|_| unopenable("the store thread ended".into()))??;
        Ok(Self { calls, health: healthy, path })
    }

    fn gone(&self) -> StoreError {
        let cause = "the store thread ended; restart the master".into();
        StoreError::Unavailable { store: self.path.clone(), cause }
    }
}

impl Store for EmbeddedStore {
    fn load(&self) -> BoxFuture<'_, Result<(Loaded, Updates), StoreError>> {
        Box::pin(async {
            let (send, answer) = oneshot::channel();
            self.calls.send(Call::Load(send)).await.map_err(|_| self.gone())?;
            answer.await.map_err(|_| self.gone())?
        })
    }

    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(async {
            let (count, (send, answer)) = (batch.len(), oneshot::channel());
            let sent = self.calls.send(Call::Commit(batch, send)).await.is_ok();
            let outcomes = if sent { answer.await.ok() } else { None };
            outcomes.unwrap_or_else(|| vec![Outcome::Failed(self.gone()); count])
        })
    }

    fn number_beyond(&self, version: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let (send, answer) = oneshot::channel();
            self.calls.send(Call::NumberBeyond(version, send)).await.map_err(|_| self.gone())?;
            answer.await.map_err(|_| self.gone())?
        })
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}
