//! Where the cluster's objects survive: a map from key to bytes with versions.
//!
//! A store knows nothing of kinds. It commits batches of compare-and-set writes durably, numbers
//! every change with one strictly increasing version, and loads everything back. The registry is
//! its only user and holds all that is read; a store is read once, at start.
//!
//! Back ends: [`EmbeddedStore`] (one file tree, one master) and [`MemoryStore`] (tests); both pass
//! `contract`. A shared back end for several masters joins them as a third implementation, with
//! the stream of foreign changes that it needs.

use std::{future::Future, pin::Pin};

use bytes::Bytes;

mod embedded;
mod memory;

#[cfg(test)]
mod contract;

pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;

/// What must be true of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No value.
    Absent,
    /// The value written at this version.
    Version(u64),
}

/// One compare-and-set write. `value` of `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key. One batch names a key at most once.
    pub key: String,
    /// The new value.
    pub value: Option<Bytes>,
    /// The condition.
    pub expect: Expect,
}

/// What became of one write of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, at this version. Versions of a batch rise in its order.
    Committed(u64),
    /// Not done: the condition was false. The others of the batch are not affected.
    Conflict,
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
    /// The last version given out.
    pub version: u64,
}

/// Why a store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Nothing was acknowledged; the data on disk is whole. Writes are refused until a restart.
    #[error("the store in {path} can't write: {cause}. Free space or repair the disk, then restart the master")]
    Unwritable {
        /// The directory.
        path: String,
        /// The system's words.
        cause: String,
    },
    /// The store can't be opened.
    #[error("the store in {path} can't be opened: {cause}")]
    Unopenable {
        /// The directory.
        path: String,
        /// Why.
        cause: String,
    },
    /// Another process has it open.
    #[error("the store in {path} is in use by another master")]
    Locked {
        /// The directory.
        path: String,
    },
    /// A record does not make sense: the file was damaged.
    #[error("the store in {path} is damaged at key {key}: {cause}")]
    Damaged {
        /// The directory.
        path: String,
        /// The record.
        key: String,
        /// Why.
        cause: String,
    },
}

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A durable map with versions. All methods may be called at any time from any task.
pub trait Store: Send + Sync + 'static {
    /// Reads everything.
    fn load(&self) -> BoxFuture<'_, Result<Loaded, StoreError>>;

    /// Commits a batch: checks each write's condition, makes those that hold durable together,
    /// and only then answers, one [`Outcome`] a write, in order.
    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>>;
}
