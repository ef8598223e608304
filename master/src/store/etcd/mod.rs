//! A store that several masters share: an etcd cluster.
//!
//! - [`config`]: where it is; [`members`]: connections and failover; [`fault`]: what failures mean
//! - [`codec`]: keys, values and the numbering of changes
//! - [`commit`]: writes; [`follow`]: reads and watches; [`pulse`]: health; [`compact`]: history
//! - [`coordinator`]: who leads; [`session`]: the lease behind it; [`roster`]: who else is there
//!
//! Invariant: every master sees the same changes under the same versions in the same order, which
//! is the order of etcd's revisions.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BoxFuture, CHANGES_MAX, Health, Loaded, Outcome, Store, StoreError, Updates, Write};

mod codec;
mod commit;
mod compact;
mod config;
mod coordinator;
mod fault;
mod follow;
mod members;
mod pulse;
mod roster;
mod session;

pub use config::{EtcdAccess, EtcdConfig, EtcdConfigError, EtcdLogin, EtcdTls};
pub use coordinator::EtcdCoordinator;

use codec::Layout;
use members::Members;
use pulse::Pulse;

/// What the parts of a store have in common.
#[derive(Debug)]
struct Shared {
    members: Members,
    layout: Layout,
    pulse: Pulse,
    /// For errors.
    address: String,
    readers: AtomicU64,
}

/// Keeps everything in an etcd cluster. Dropping it ends its readers' updates.
#[derive(Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    /// Ends the tasks.
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl EtcdStore {
    /// Opens a store: reads the files that the configuration names and waits, for some seconds,
    /// until etcd answers.
    pub async fn open(config: EtcdConfig) -> Result<Self, StoreError> {
        let address = config.address();
        let unopenable = |cause: String| StoreError::Unopenable { store: config.address(), cause };
        let members = Members::new(&config).await.map_err(unopenable)?;
        let pulse = Pulse::new(&config.endpoints);
        let layout = Layout::new(&config.prefix);
        let shared = Arc::new(Shared { members, layout, pulse, address, readers: AtomicU64::new(0) });
        pulse::current_revision(&shared).await.map_err(|fault| unopenable(fault.to_string()))?;
        let stop = CancellationToken::new();
        let (task, until) = (shared.clone(), stop.clone());
        tokio::spawn(async move { pulse::feel(&task, until).await });
        Ok(Self { shared, stop: stop.clone(), _stop_on_drop: stop.drop_guard() })
    }

    async fn load(&self) -> Result<(Loaded, Updates), StoreError> {
        let shared = self.shared.clone();
        let (loaded, revision) = follow::load(&shared).await.map_err(|f| f.into_store_error(&shared.address))?;
        let (reader, updates) = mpsc::channel(CHANGES_MAX);
        let number = shared.readers.fetch_add(1, Ordering::Relaxed);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(follow::follow(&shared, number, revision, reader)).await;
        });
        Ok((loaded, updates))
    }

    /// A coordinator for the master of this name. Two masters must not have the same one.
    pub fn coordinator(&self, name: impl Into<String>) -> EtcdCoordinator {
        EtcdCoordinator::start(self.shared.clone(), name.into())
    }
}

impl Store for EtcdStore {
    fn load(&self) -> BoxFuture<'_, Result<(Loaded, Updates), StoreError>> {
        Box::pin(self.load())
    }

    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(commit::commit(&self.shared, batch))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.pulse.health()
    }
}
