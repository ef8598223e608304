//! Several masters on one store: who leads, and what each says of itself.
//!
//! Scheduler and controllers run on the leader alone, under a [`Fence`] that the store checks with
//! every write: a leader that was replaced without noticing writes nothing more. Everything else,
//! reads, writes and watches, every master does at any time.
//!
//! A [`Coordinator`] comes with the store: [`Alone`] with one that a single master has, the etcd
//! session with a shared one. What a master announces lives as long as its process and costs no
//! write while it does not change.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{BoxFuture, Fence, StoreError};

/// What the masters say of themselves, by their names; the own announcement included.
pub type Announcements = BTreeMap<String, Bytes>;

/// The right to run the control loops.
#[derive(Debug)]
pub struct Leadership {
    /// For the writes of the loops; `None` where there can be no other leader.
    pub fence: Option<Fence>,
    /// Cancelled when the right is lost, or can't be shown to be held any more.
    pub lost: CancellationToken,
}

/// How masters of one store find each other.
pub trait Coordinator: Send + Sync + 'static {
    /// Whether there can be no other master.
    fn is_alone(&self) -> bool {
        false
    }

    /// Waits until this master leads. Called again after a leadership was lost. Dropping the
    /// future gives up waiting. Errors are told by the store's health; this retries for ever.
    fn campaign(&self) -> BoxFuture<'_, Leadership>;

    /// What the leader does for the store itself, such as bounding its history, until `stop`.
    fn upkeep(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        drop(stop);
        Box::pin(async {})
    }

    /// Gives up the leadership, if held, so that another master leads at once, and withdraws what
    /// was announced. For an orderly stop.
    fn resign(&self) -> BoxFuture<'_, ()>;

    /// Says something about this master to the others, instead of what it said before. Kept for as
    /// long as this process lives and reaches the store; set again by itself after an interruption.
    fn announce(&self, what: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What all masters that are alive say. A master that dies or can't reach the store vanishes
    /// from it within seconds. Kept as last known while this one can't reach the store.
    fn announcements(&self) -> watch::Receiver<Announcements>;
}

/// A master that shares its store with no other: it leads, always.
#[derive(Debug)]
pub struct Alone {
    name: String,
    announced: watch::Sender<Announcements>,
}

impl Alone {
    /// A coordinator for the master of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), announced: watch::Sender::default() }
    }
}

impl Coordinator for Alone {
    fn is_alone(&self) -> bool {
        true
    }

    fn campaign(&self) -> BoxFuture<'_, Leadership> {
        Box::pin(async { Leadership { fence: None, lost: CancellationToken::new() } })
    }

    fn resign(&self) -> BoxFuture<'_, ()> {
        self.announced.send_modify(|all| drop(all.remove(&self.name)));
        Box::pin(async {})
    }

    fn announce(&self, what: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        self.announced.send_modify(|all| drop(all.insert(self.name.clone(), what)));
        Box::pin(async { Ok(()) })
    }

    fn announcements(&self) -> watch::Receiver<Announcements> {
        self.announced.subscribe()
    }
}
