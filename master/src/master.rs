//! One master: opens the store, loads the registry, starts the loops and the server, and stops
//! them in the order in which they depend on each other.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::{self, ClusterError, ClusterFacts, Ranges},
    coordination::{Alone, Coordinator},
    leadership::{self, Loops},
    liveness::{self, Liveness},
    plans::Plans,
    registry::Registry,
    server::{self, Limits, Listen, Server, ServerConfig},
    source::Source,
    store::{EmbeddedStore, EtcdConfig, EtcdStore, Store, StoreError},
};

/// How often minions say that they live.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long the loops get to end. They wait for nothing but the store.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// In this directory, for one master.
    Embedded(PathBuf),
    /// In an etcd cluster, for any number of masters.
    Etcd(EtcdConfig),
}

impl StoreConfig {
    /// Opens the store alone, for work on it without a master.
    pub async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Self::Embedded(directory) => Arc::new(EmbeddedStore::open(directory).await?),
            Self::Etcd(config) => Arc::new(EtcdStore::open(config.clone()).await?),
        })
    }

    /// Opens the store, and the way to the other masters that use it.
    async fn open_for(&self, master: String) -> Result<(Arc<dyn Store>, Arc<dyn Coordinator>), StoreError> {
        Ok(match self {
            Self::Embedded(_) => (self.open().await?, Arc::new(Alone::new(master))),
            Self::Etcd(config) => {
                let store = EtcdStore::open(config.clone()).await?;
                let coordinator = store.coordinator(master);
                (Arc::new(store), Arc::new(coordinator))
            }
        })
    }
}

/// What a master needs to know.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// Where objects are kept.
    pub store: StoreConfig,
    /// Where the API is served; port 0 takes any.
    pub listen: SocketAddr,
    /// Who may call besides this host; an address that others reach needs it.
    pub allow_from: Vec<IpNet>,
    /// Where other hosts reach this master; `None` when none do.
    pub advertise: Option<IpAddr>,
    /// The range of portal addresses.
    pub services: Ranges,
    /// The range that minions get their pod networks from.
    pub pods: Ranges,
    /// What callers may cost.
    pub limits: Limits,
}

/// What a master stands on.
pub struct Base {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// The way to the other masters that use it.
    pub coordinator: Arc<dyn Coordinator>,
    /// The time and ids.
    pub source: Source,
    /// How the control loops decide.
    pub plans: Plans,
}

/// Why a master did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster's facts.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The server.
    #[error(transparent)]
    Server(#[from] server::StartError),
}

/// A running master.
#[derive(Debug)]
pub struct Master {
    server: Server,
    facts: ClusterFacts,
    loops: TaskTracker,
    stop_loops: CancellationToken,
    writer: TaskTracker,
    stop_writer: CancellationToken,
    failed: CancellationToken,
}

impl Master {
    /// Starts a master. When it returns the API answers.
    pub async fn start(config: MasterConfig) -> Result<Self, StartError> {
        // A name of its own for each life: what an earlier one announced is not this one's.
        let source = Source::default();
        let (store, coordinator) = config.store.open_for(source.id().to_string()).await?;
        let base = Base { store, coordinator, source, plans: Plans::default() };
        Self::build(config, base, None::<TcpListener>).await
    }

    /// Starts a master on a base that was made for it, with the connections of `listener`, which stands
    /// for the configured address. The configured store is not opened.
    pub async fn start_on(config: MasterConfig, base: Base, listener: impl Listen) -> Result<Self, StartError> {
        Self::build(config, base, Some(listener)).await
    }

    async fn build(config: MasterConfig, base: Base, listener: Option<impl Listen>) -> Result<Self, StartError> {
        let Base { store, coordinator, source, plans } = base;
        let (loaded, updates) = store.load().await?;
        let new_id = source.id().as_fields().0;
        let facts = cluster::establish(&*store, &loaded, config.services, config.pods, new_id).await?;

        let (writer, stop_writer) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::start(store, loaded, updates, &writer, stop_writer.clone())?.with_source(source);
        let failed = CancellationToken::new();
        tokio::spawn(watch_writer(writer.clone(), stop_writer.clone(), failed.clone()));

        let liveness = Arc::new(Liveness::default());
        let MasterConfig { listen, allow_from, limits, .. } = config;
        let server_config = ServerConfig { listen, allow_from, limits };
        let unstopped = CancellationToken::new();
        let of_server = (registry.clone(), liveness.clone(), facts.clone());
        let server = match (listener, of_server) {
            (None, (registry, liveness, facts)) => {
                Server::start(server_config, registry, liveness, facts, &unstopped).await?
            }
            (Some(listener), (registry, liveness, facts)) => {
                Server::start_on(listener, listen, server_config, registry, liveness, facts, &unstopped).await?
            }
        };
        let advertised = config.advertise.map(|ip| SocketAddr::new(ip, server.address.port()));
        let (loops, stop_loops) = (TaskTracker::new(), CancellationToken::new());
        if !coordinator.is_alone() {
            let (liveness, coordinator) = (liveness.clone(), coordinator.clone());
            loops.spawn(liveness::announce(liveness, coordinator, advertised, HEARTBEAT, stop_loops.clone()));
        }
        let (pod_cidr, beat, failing) = (facts.pod_cidr, HEARTBEAT, failed.clone());
        let leading = Loops { registry, liveness, coordinator, advertised, pod_cidr, beat, plans, failed: failing };
        loops.spawn(leadership::run(leading, stop_loops.clone()));
        Ok(Self { server, facts, loops, stop_loops, writer, stop_writer, failed })
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The cluster's facts.
    pub fn facts(&self) -> &ClusterFacts {
        &self.facts
    }

    /// Ends when a part of the master ended by itself, which is a bug: start it again.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Stops taking requests, then the loops, then the writer: what was acknowledged is stored.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        for (stop, tasks, what) in
            [(self.stop_loops, self.loops, "control loops"), (self.stop_writer, self.writer, "writer")]
        {
            stop.cancel();
            tasks.close();
            if tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
                tracing::warn!("the {what} did not end within {STOP_TIMEOUT:?}");
            }
        }
    }
}

/// The registry's writer is the tracker's only task.
async fn watch_writer(writer: TaskTracker, stop: CancellationToken, failed: CancellationToken) {
    writer.close();
    writer.wait().await;
    if !stop.is_cancelled() {
        tracing::error!("the registry's writer ended by itself");
        failed.cancel();
    }
}
