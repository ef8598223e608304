//! The store of a master that stands alone: fjall in a directory.
//!
//! One thread owns the database. It answers one batch at a time with one fsync, so the size of
//! the batch, which the registry fills while the fsync before it runs, makes the throughput.
//!
//! Record: 8 bytes of version, big-endian, then the value. The last version given out is a record
//! of its own, written in the same batch, because a deletion leaves no other trace of it.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    thread,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    BoxFuture, CHANGES_MAX, Change, Expect, Health, Loaded, Outcome, Store, StoreError, Stored, Update, Updates, Write,
};

/// The key of the last version, in its own keyspace.
const VERSION_KEY: &str = "version";
const MEMTABLE_BYTES: u64 = 8 << 20;
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
const CACHE_BYTES: u64 = 8 << 20;
/// Batches that wait for the thread. The registry sends one at a time.
const QUEUE: usize = 4;

/// A store in a directory of this machine.
#[derive(Debug)]
pub struct EmbeddedStore {
    calls: mpsc::Sender<Call>,
    health: watch::Sender<Health>,
    path: String,
}

enum Call {
    Load(oneshot::Sender<Result<(Loaded, Updates), StoreError>>),
    Commit(Vec<Write>, oneshot::Sender<Vec<Outcome>>),
}

impl EmbeddedStore {
    /// Opens the store in `directory`, creating it if there is none. Takes an exclusive lock for
    /// as long as the store lives. Recovers by itself from a crash at any instant.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        let directory = directory.to_owned();
        let path = directory.display().to_string();
        let (calls, queue) = mpsc::channel(QUEUE);
        let (opened, result) = oneshot::channel();
        let unopenable = |cause: String| StoreError::Unopenable { store: path.clone(), cause };
        thread::Builder::new()
            .name("store".into())
            .spawn(move || match Disk::open(&directory) {
                Ok(disk) => {
                    if opened.send(Ok(())).is_ok() {
                        disk.serve(queue);
                    }
                }
                Err(e) => drop(opened.send(Err(e))),
            })
            .map_err(|e| unopenable(e.to_string()))?;
        result.await.map_err(|_| unopenable("the store thread ended".into()))??;
        Ok(Self { calls, path, health: watch::Sender::default() })
    }

    fn gone(&self) -> StoreError {
        StoreError::Unwritable { store: self.path.clone(), cause: "the store thread ended".into() }
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

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

/// The database, on its thread.
struct Disk {
    path: PathBuf,
    db: Database,
    objects: Keyspace,
    counters: Keyspace,
    version: u64,
    /// Set by the first failed write: what is on disk beyond `version` is then unknown, and
    /// nothing may be acknowledged on top of it.
    failed: Option<String>,
    readers: Vec<mpsc::Sender<Update>>,
    _lock: File,
}

impl Disk {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let unopenable = |cause: String| StoreError::Unopenable { store: path.display().to_string(), cause };
        std::fs::create_dir_all(path).map_err(|e| unopenable(e.to_string()))?;
        let lock = File::create(path.join("lock")).map_err(|e| unopenable(e.to_string()))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => StoreError::Locked { store: path.display().to_string() },
            TryLockError::Error(e) => unopenable(e.to_string()),
        })?;
        let db = Database::builder(path.join("data"))
            .worker_threads(2) // one can hang: fjall 257
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .map_err(|e| unopenable(e.to_string()))?;
        let keyspace = |name| {
            db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))
                .map_err(|e| unopenable(e.to_string()))
        };
        let (objects, counters) = (keyspace("objects")?, keyspace("counters")?);
        let version = match counters.get(VERSION_KEY).map_err(|e| unopenable(e.to_string()))? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| StoreError::Damaged {
                store: path.display().to_string(),
                place: VERSION_KEY.into(),
                cause: format!("{} bytes instead of 8", bytes.len()),
            })?),
        };
        Ok(Self {
            path: path.to_owned(),
            db,
            objects,
            counters,
            version,
            failed: None,
            readers: Vec::new(),
            _lock: lock,
        })
    }

    fn serve(mut self, mut queue: mpsc::Receiver<Call>) {
        while let Some(call) = queue.blocking_recv() {
            match call {
                Call::Load(answer) => {
                    let (reader, updates) = mpsc::channel(CHANGES_MAX);
                    self.readers.push(reader);
                    drop(answer.send(self.load().map(|loaded| (loaded, updates))));
                }
                Call::Commit(batch, answer) => drop(answer.send(self.commit(batch))),
            }
        }
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        let mut items = Vec::new();
        for guard in self.objects.iter() {
            let (key, record) = guard.into_inner().map_err(|e| self.damaged("?", e))?;
            let key = String::from_utf8(key.to_vec()).map_err(|e| self.damaged("?", e))?;
            let (version, value) =
                split_record(&record).ok_or_else(|| self.damaged(&key, "the record is too short"))?;
            items.push(Stored { value: Bytes::copy_from_slice(value), version, key });
        }
        Ok(Loaded { items, version: self.version })
    }

    fn commit(&mut self, batch: Vec<Write>) -> Vec<Outcome> {
        let count = batch.len();
        if let Some(cause) = &self.failed {
            return vec![Outcome::Failed(self.unwritable(cause)); count];
        }
        self.try_commit(batch).unwrap_or_else(|e| {
            self.failed = Some(e.to_string());
            vec![Outcome::Failed(self.unwritable(e)); count]
        })
    }

    fn try_commit(&mut self, batch: Vec<Write>) -> Result<Vec<Outcome>, fjall::Error> {
        let mut version = self.version;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut changes = Vec::new();
        let mut disk_batch = self.db.batch().durability(Some(PersistMode::SyncData));
        'writes: for write in batch {
            for (i, op) in write.ops.iter().enumerate() {
                let current = self.objects.get(&op.key)?;
                let at = current.as_ref().and_then(|record| split_record(record)).map(|(version, _)| version);
                let holds = match op.expect {
                    Expect::Absent => current.is_none(),
                    Expect::Version(v) => at == Some(v),
                    Expect::Any => true,
                };
                if !holds {
                    outcomes.push(Outcome::Conflict { op: i });
                    continue 'writes;
                }
            }
            outcomes.push(Outcome::Committed(version + 1));
            for op in write.ops {
                version += 1;
                match &op.value {
                    Some(value) => {
                        let mut record = Vec::with_capacity(8 + value.len());
                        record.extend_from_slice(&version.to_be_bytes());
                        record.extend_from_slice(value);
                        disk_batch.insert(&self.objects, op.key.clone(), record);
                    }
                    None => disk_batch.remove(&self.objects, op.key.clone()),
                }
                changes.push(Change { key: op.key, value: op.value, version });
            }
        }
        if version > self.version {
            disk_batch.insert(&self.counters, VERSION_KEY, version.to_be_bytes());
            disk_batch.commit()?;
            self.version = version;
            for reader in &self.readers {
                drop(reader.blocking_send(Update::Changes(changes.clone())));
            }
        }
        Ok(outcomes)
    }

    fn unwritable(&self, cause: impl std::fmt::Display) -> StoreError {
        StoreError::Unwritable { store: self.path.display().to_string(), cause: cause.to_string() }
    }

    fn damaged(&self, key: &str, cause: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged { store: self.path.display().to_string(), place: key.to_owned(), cause: cause.to_string() }
    }
}

fn split_record(record: &[u8]) -> Option<(u64, &[u8])> {
    let (version, value) = record.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*version), value))
}
