//! The HTTP API of the master.
//!
//! A request comes in through [`listener`] (connections, limits), is read by [`request`]
//! (identity, route, time limit) and answered by [`objects`] or [`legacy`] (any kind, through its
//! row), or by one of the pages. Handlers are thin: decode, admit, registry, encode.
//!
//! Invariant: every request is bounded in size and time and gets an answer with a reason; what is
//! acknowledged is durable.

mod absent;
mod answer;
mod backup;
mod decode;
mod delete;
mod discovery;
mod eviction;
mod fields;
mod identity;
mod legacy;
mod limits;
mod list;
mod listener;
mod metrics;
mod nodes;
mod objects;
mod patch;
mod pod_streams;
mod query;
mod request;
mod router;
mod scale;
mod schedule;
mod slices;
mod strategic;
mod table;
mod tunnel;
mod upgrade;
mod watch;
mod write;

use std::{net::SocketAddr, sync::Arc};

use coracle_api::ApiError;
use ipnet::IpNet;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use identity::Ends;
pub use limits::Limits;
pub use listener::Listen;

use crate::{
    admission::{self, Admission},
    cluster::ClusterFacts,
    controllers::master_services,
    liveness::Liveness,
    registry::Registry,
};

/// The namespace that always exists.
const DEFAULT_NAMESPACE: &str = "default";

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may call besides this host, as long as there is no authentication. An address that is
    /// not loopback needs it.
    pub allow_from: Vec<IpNet>,
    /// What one caller may cost.
    pub limits: Limits,
}

impl ServerConfig {
    /// The defaults on an address, for this host alone.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, allow_from: Vec::new(), limits: Limits::default() }
    }
}

/// Why the server did not start. None of them goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Anyone who reaches the address could do anything.
    #[error(
        "--listen {0} is open to other hosts, and callers are not authenticated yet: name those that may call with \
         --allow-from CIDR. Whoever can send from there controls the cluster and, through it, is root on every \
         minion. For this host alone listen on a loopback address such as 127.0.0.1:8080"
    )]
    OpenToAll(SocketAddr),
    /// The address can't be had.
    #[error("cannot listen on {address}: is another master running there?")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The store does not take writes.
    #[error("cannot create the objects that every cluster has")]
    Prepare(#[source] ApiError),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    registry: Registry,
    liveness: Arc<Liveness>,
    facts: ClusterFacts,
    admission: Admission,
    pages: list::Pages,
    tunnels: tunnel::Tunnels,
    limits: Limits,
    in_flight: limits::InFlight,
    metrics: metrics::Metrics,
    access: identity::Access,
    /// Ends watches and other streams, and the accepting of connections.
    stop: CancellationToken,
    /// Watches and other streams.
    tasks: TaskTracker,
}

fn access_of(config: &ServerConfig) -> Result<identity::Access, StartError> {
    let access = identity::Access::new(config.listen.ip(), &config.allow_from);
    access.ok_or(StartError::OpenToAll(config.listen))
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts to serve. Stops when `stop` is cancelled or by [`Server::shutdown`].
    pub async fn start(
        config: ServerConfig,
        registry: Registry,
        liveness: Arc<Liveness>,
        facts: ClusterFacts,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let listen = config.listen;
        access_of(&config)?;
        let bind = |source| StartError::Bind { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Self::start_on(listener, address, config, registry, liveness, facts, stop).await
    }

    /// [`Server::start`] with the connections of `listener`, which stands for `address`.
    pub(crate) async fn start_on(
        listener: impl Listen,
        address: SocketAddr,
        config: ServerConfig,
        registry: Registry,
        liveness: Arc<Liveness>,
        facts: ClusterFacts,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let access = access_of(&config)?;
        let admission = Admission::new(facts.service_cidr);
        let (now, uid) = (registry.now_s(), registry.new_id().to_string());
        admission::ensure_namespace(&registry, DEFAULT_NAMESPACE, now, uid).await.map_err(StartError::Prepare)?;
        master_services::ensure(&registry, &admission, now).await.map_err(StartError::Prepare)?;
        let stop = stop.child_token();
        let shared = Arc::new(Shared {
            registry,
            liveness,
            admission,
            facts,
            pages: list::Pages::default(),
            tunnels: tunnel::Tunnels::default(),
            in_flight: limits::InFlight::new(&config.limits),
            limits: config.limits,
            metrics: metrics::Metrics::default(),
            access,
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        let accepting = tokio::spawn(listener::serve(listener, shared));
        tracing::info!(%address, "serving the API");
        Ok(Self { address, stop, accepting })
    }

    /// Stops: watches and streams end first, then connections, within the drain time.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "the API server's task failed");
        }
    }

    /// Ends when the server has stopped, for whatever reason.
    pub async fn stopped(&mut self) {
        // A task that panicked has stopped too.
        drop((&mut self.accepting).await);
    }
}
