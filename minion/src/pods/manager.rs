//! The way in: configuration, inputs, and a handle that finds containers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use coracle_api::{
    client::{Change, Wire},
    core::Pod,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Clock, Report,
    directory::Directory,
    execute::{RESTARTS_MAX, Shared},
    memory::PodMemory,
    observation::PodObservation,
    plan::{Context, PodPlan, plan_pod},
    services::ServicesSeen,
    stopping::Stopping,
    supervisor::Supervisor,
    traffic::Serving,
};
use crate::{
    dns::HostFiles,
    runtime::{ContainerId, Runtime},
    volumes::Volumes,
};

/// New pods that are begun at once: twice what the engine starts at once.
const TURNS: usize = 8;

/// What a manager must know about its node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The minion's name.
    pub node: String,
    /// The node's address.
    pub node_ip: IpAddr,
    /// Eight hex digits.
    pub cluster_id: String,
    /// Where volumes live: `<root>/pods/<uid>/volumes/...`. `None` on a hollow node, whose pods have no files.
    pub root: Option<PathBuf>,
    /// TCP listeners of this process. A host port of theirs is published on the node's address only,
    /// since the engine could not have it on all.
    pub own_listeners: Vec<SocketAddr>,
    /// What pods' resolv.conf is made of; `None` leaves it to the engine.
    pub dns: Option<PodDns>,
    /// Which pods take traffic of services; `None` where nobody follows the endpoints.
    pub serving: Option<watch::Receiver<Serving>>,
    /// Containers starting at once. The engine gains nothing beyond 4.
    pub starts_max: usize,
    /// Images pulled at once.
    pub pulls_max: usize,
    /// What a new pod holds from its beginning until the master has heard that it runs, or for a second.
    /// Hundreds that are bound to a node together would otherwise all be half begun for long.
    pub turns: Arc<Semaphore>,
    /// The time.
    pub clock: Clock,
    /// How a worker decides.
    pub plan: PlanPod,
}

/// [`plan_pod`], or what a simulation puts in its place to show that it would notice.
pub type PlanPod = fn(Option<&Pod>, &PodObservation, &PodMemory, Context) -> PodPlan;

impl Config {
    /// The usual limits.
    pub fn new(node: &str, node_ip: IpAddr, cluster_id: &str, root: PathBuf) -> Self {
        Self {
            node: node.to_owned(),
            node_ip,
            cluster_id: cluster_id.to_owned(),
            root: Some(root),
            own_listeners: Vec::new(),
            dns: None,
            serving: None,
            starts_max: 4,
            pulls_max: 3,
            turns: Arc::new(Semaphore::new(TURNS)),
            clock: Clock::system(),
            plan: plan_pod,
        }
    }
}

/// Whom pods ask for names.
#[derive(Debug, Clone)]
pub struct PodDns {
    /// Where the node's DNS server listens, while it does.
    pub server: watch::Receiver<Option<SocketAddr>>,
    /// `cluster.local`
    pub domain: String,
    /// Whom the host asks.
    pub host: HostFiles,
}

/// What the manager follows. Feed them from reflectors; when the pods' sender is dropped the manager ends.
#[derive(Debug)]
pub struct Inputs {
    /// The pods bound to this node (`spec.nodeName=NAME`).
    pub pods: mpsc::Receiver<Change<Wire<Pod>>>,
    /// All services; see [`super::services::follow`].
    pub services: ServicesSeen,
}

/// Which container of which pod, for logs and exec.
#[derive(Debug, Clone, Default)]
pub struct PodQuery {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Only the pod with this UID.
    pub uid: Option<String>,
    /// The container; may be empty when the pod has one container.
    pub container: String,
    /// The run before the current one.
    pub previous: bool,
}

/// Why a container was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 400: the query must name a container, or the container has no such run.
    #[error("{0}")]
    BadRequest(String),
}

/// A handle on the running manager. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Manager {
    directory: Directory,
}

impl Manager {
    /// Starts the manager. The task ends after `shutdown`, or when an input ends, with containers
    /// left running.
    pub fn start<R: Runtime, P: Report>(
        config: Config,
        runtime: Arc<R>,
        report: Arc<P>,
        inputs: Inputs,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let directory = Directory::default();
        let shared = Shared {
            volumes: config.root.as_deref().map_or_else(Volumes::none, Volumes::new),
            leaving: watch::Sender::new(0),
            stopping: Stopping::default(),
            starts: Semaphore::new(config.starts_max.max(1)),
            restarts: Semaphore::new(RESTARTS_MAX),
            pulls: Semaphore::new(config.pulls_max.max(1)),
            config,
            runtime,
            report,
            services: inputs.services,
            directory: directory.clone(),
        };
        let supervisor = Supervisor::new(Arc::new(shared), shutdown.child_token());
        (Self { directory }, tokio::spawn(supervisor.run(inputs.pods)))
    }

    /// The engine's id of a container of a pod on this node.
    pub fn find(&self, query: &PodQuery) -> Result<ContainerId, FindError> {
        self.directory.find(query)
    }
}
