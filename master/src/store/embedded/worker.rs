//! The thread that owns the log: answers calls, tells the readers, and uses quiet moments.

use std::time::Duration;

use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
};

use super::{CHANGES_MAX, Change, Health, Loaded, Outcome, StoreError, Update, Updates, Write, log::Log};

/// How long nobody calls before compaction takes its turn.
const QUIET: Duration = Duration::from_millis(50);
/// How often it is tried whether a disk that refused a write takes one again.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Call {
    /// See [`super::Store::load`].
    Load(oneshot::Sender<Result<(Loaded, Updates), StoreError>>),
    /// See [`super::Store::commit`].
    Commit(Vec<Write>, oneshot::Sender<Vec<Outcome>>),
    /// See [`super::Store::number_beyond`].
    NumberBeyond(u64, oneshot::Sender<Result<(), StoreError>>),
}

pub(super) struct Worker {
    log: Log,
    health: watch::Sender<Health>,
    readers: Vec<mpsc::Sender<Update>>,
    /// Waits with a limit.
    timer: Runtime,
}

impl Worker {
    pub(super) fn new(log: Log, health: watch::Sender<Health>) -> Result<Self, StoreError> {
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let timer = timer.map_err(|e| StoreError::Unopenable { store: log.store.clone(), cause: e.to_string() })?;
        Ok(Self { log, health, readers: Vec::new(), timer })
    }

    /// Works until nobody can call any more.
    pub(super) fn serve(mut self, mut queue: mpsc::Receiver<Call>) {
        let mut quiet = false;
        loop {
            let wait = if self.log.writes_fail() {
                Some(RETRY)
            } else if self.log.wants_compaction() {
                Some(if quiet { Duration::ZERO } else { QUIET })
            } else {
                None
            };
            let next = match wait {
                None => Ok(queue.blocking_recv()),
                Some(wait) => self.timer.block_on(async { tokio::time::timeout(wait, queue.recv()).await }),
            };
            quiet = next.is_err();
            match next {
                Ok(None) => return,
                Ok(Some(Call::Load(answer))) => self.load(answer),
                Ok(Some(Call::Commit(batch, answer))) => self.commit(batch, answer),
                Ok(Some(Call::NumberBeyond(version, answer))) => drop(answer.send(self.log.number_beyond(version))),
                Err(_) if self.log.writes_fail() => self.log.probe(),
                Err(_) => drop(self.log.compact()),
            }
            self.tell_health();
        }
    }

    fn load(&mut self, answer: oneshot::Sender<Result<(Loaded, Updates), StoreError>>) {
        let loaded = self.log.load().map(|loaded| {
            let (reader, updates) = mpsc::channel(CHANGES_MAX);
            self.readers.push(reader);
            (loaded, updates)
        });
        drop(answer.send(loaded));
    }

    fn commit(&mut self, batch: Vec<Write>, answer: oneshot::Sender<Vec<Outcome>>) {
        let (version, bytes) = (self.log.version, self.log.bytes());
        let readers = &mut self.readers;
        let outcomes = self.log.commit(batch, &mut |changes| publish(readers, changes));
        let written = self.log.bytes().saturating_sub(bytes);
        self.tell_health();
        // Whoever asked may have gone.
        drop(answer.send(outcomes));
        if self.log.version > version {
            self.log.keep_pace(written);
        }
    }

    fn tell_health(&self) {
        let health = match self.log.trouble() {
            None => Health::Good,
            Some(cause) => Health::Degraded { cause: cause.to_owned() },
        };
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            if changed {
                match &health {
                    Health::Good => tracing::info!(store = self.log.store, "the store takes writes again"),
                    Health::Degraded { cause } => {
                        tracing::error!(store = self.log.store, cause, "the store is degraded")
                    }
                }
                *known = health;
            }
            changed
        });
    }
}

/// Hands changes to all readers, and forgets those that are gone. Waits for one that is slow.
fn publish(readers: &mut Vec<mpsc::Sender<Update>>, changes: Vec<Change>) {
    readers.retain(|reader| !reader.is_closed());
    let Some((last, others)) = readers.split_last() else { return };
    for reader in others {
        drop(reader.blocking_send(Update::Changes(changes.clone())));
    }
    drop(last.blocking_send(Update::Changes(changes)));
}
