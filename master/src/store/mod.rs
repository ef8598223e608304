//! Where the cluster's objects survive: a map from key to bytes with versions.
//!
//! A store knows nothing of kinds. It commits batches of compare-and-set writes durably, numbers
//! every change with one strictly increasing version, and hands every change, whoever made it, to
//! each of its readers in that order. The registry is its only user and holds all that is read: a
//! store is read once, at start, and followed from there.
//!
//! Back ends: [`EmbeddedStore`] (a log in a directory, one master), [`EtcdStore`] (shared by several
//! masters) and [`MemoryStore`] (tests). All pass the same `contract`.
//!
//! Invariant: what was answered with [`Outcome::Committed`] survives any crash, and no reader is
//! ever shown what might not.

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

mod embedded;
mod etcd;
mod memory;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod tests;

pub use embedded::{CheckReport, EmbeddedStore, Options, check};
pub use etcd::{EtcdAccess, EtcdConfig, EtcdConfigError, EtcdCoordinator, EtcdLogin, EtcdStore, EtcdTls};
pub use memory::MemoryStore;

/// Sets of changes that wait for a reader; a store whose reader does not keep up waits.
pub const CHANGES_MAX: usize = 16;

/// What must be true of a key for an operation to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No value.
    Absent,
    /// The value written at this version.
    Version(u64),
    /// Whatever is there.
    Any,
}

/// One change of one key. `value` of `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: String,
    /// The new value.
    pub value: Option<Bytes>,
    /// The condition.
    pub expect: Expect,
}

/// Operations that happen all or not at all. The first is the write's own, the others reserve or
/// release names that belong to it. One batch names a key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// At least one, at most [`OPS_MAX`].
    pub ops: Vec<Op>,
    /// Set by the loops of a leader: the write happens only while this master leads.
    pub fence: Option<Fence>,
}

/// Operations of one write.
pub const OPS_MAX: usize = 64;

/// Proof of leadership: the term under which its holder was elected. Later terms are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

impl Write {
    /// A write of one operation.
    pub fn one(key: impl Into<String>, value: Option<Bytes>, expect: Expect) -> Self {
        Self { ops: vec![Op { key: key.into(), value, expect }], fence: None }
    }
}

/// What became of one write of a batch. None affects the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Durable; the version of the first operation. Writes of one batch are independent, so
    /// their versions need not rise in its order, and the operations of one write may be numbered
    /// in any order too. What counts is the order in which readers get the changes: by version.
    Committed(u64),
    /// Not done: the condition of the operation at this index was false.
    Conflict {
        /// Index into `ops`; the first one of several.
        op: usize,
    },
    /// Not done: the fence's term is over.
    Fenced,
    /// Not acknowledged. With [`StoreError::Unavailable`] it may yet turn out to be done, in which
    /// case readers are handed the change; with any other error it is not.
    Failed(StoreError),
}

/// One value as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub value: Bytes,
    /// The version that wrote it.
    pub version: u64,
}

/// Everything in the store, and the version it is complete to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// All values, in key order.
    pub items: Vec<Stored>,
    /// Every change up to this version is in `items`, none after it.
    pub version: u64,
}

/// One change that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The new value; `None` for a deletion.
    pub value: Option<Bytes>,
    /// Larger than that of every change before it.
    pub version: u64,
}

/// What a reader is handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The next changes, in order. A write's operations are never split over two updates.
    Changes(Vec<Change>),
    /// The reader missed changes that the store no longer has: this is everything, anew.
    Reset(Loaded),
}

/// The changes after a [`Loaded`], for ever. It ends when the store can't go on.
pub type Updates = mpsc::Receiver<Update>;

/// Whether a store does its work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It does.
    #[default]
    Good,
    /// Writes fail for now, and what readers know may be old. Mends by itself.
    Degraded {
        /// A sentence for the operator: cause and remedy.
        cause: String,
    },
}

/// Why a store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written; what was acknowledged is whole. Later writes are tried again.
    #[error("the store {store} can't write: {cause}")]
    Unwritable {
        /// Directory or endpoints.
        store: String,
        /// Cause and remedy.
        cause: String,
    },
    /// No answer in time: the write may have been done or not.
    #[error("the store {store} does not answer: {cause}; whether the write was stored is not known yet")]
    Unavailable {
        /// Directory or endpoints.
        store: String,
        /// Cause and remedy.
        cause: String,
    },
    /// The value is larger than the store takes.
    #[error("{key} has {bytes} bytes, and the store takes {limit} at most: make the object smaller")]
    TooLarge {
        /// Its key.
        key: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// The store can't be opened.
    #[error("the store {store} can't be opened: {cause}")]
    Unopenable {
        /// Directory or endpoints.
        store: String,
        /// Cause and remedy.
        cause: String,
    },
    /// Another process has it open.
    #[error("the store {store} is in use by another master")]
    Locked {
        /// The directory.
        store: String,
    },
    /// What is stored does not make sense: it was damaged. Nothing of it is served.
    #[error("the store {store} is damaged at {place}: {cause}")]
    Damaged {
        /// Directory or endpoints.
        store: String,
        /// The file and offset, or the key.
        place: String,
        /// What is wrong.
        cause: String,
    },
}

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A durable map with versions. All methods may be called at any time from any task.
pub trait Store: Send + Sync + 'static {
    /// Reads everything, and the changes from there on.
    fn load(&self) -> BoxFuture<'_, Result<(Loaded, Updates), StoreError>>;

    /// Commits a batch: checks each write's conditions, makes those that hold durable, and only
    /// then answers, one [`Outcome`] a write, in order. A committed write's changes reach the
    /// readers whether or not anyone waits for the answer.
    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Vec<Outcome>>;

    /// Numbers all further changes beyond `version`, for a restored cluster: its clients may have
    /// seen that one. A store whose numbers are not its own to choose does nothing.
    fn number_beyond(&self, version: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = version;
        Box::pin(async { Ok(()) })
    }

    /// How it is doing.
    fn health(&self) -> watch::Receiver<Health>;
}
