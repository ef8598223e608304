//! The minion put together: what is built, in which order, and what happens when a part ends.
//!
//! ```text
//! engine ─> master's facts ─> Node, pod network ─> network, proxy, DNS ─> pods ─> heartbeat, tunnel
//! ```
//!
//! Invariant: heartbeats begin when everything else runs, so the scheduler sends no pod to a minion
//! that could not run it. Shutting down leaves every container running; the next start adopts them.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use coracle_api::{
    client::{Client, ClientError, ListParams, Reflector, Wire},
    core::{Endpoints, Node, Pod, Service},
};
use futures_util::FutureExt;
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, watch};

use crate::{
    deadline::Deadline,
    dns::{self, CLUSTER_DOMAIN, DnsConfig, HostFiles, Site},
    feed,
    network::{NetworkConfig, NetworkError, PodNetwork, PodRoutes, network_name},
    node::{
        cluster::ClusterFacts,
        facts::{self, NodeFacts},
        heartbeat,
        registration::Registration,
        server::NodeServer,
        tunnel,
    },
    parts::Parts,
    pods::{self, ApiReporter, Manager, PodDns, PodQuery, traffic::Serving},
    proxy::{self, ProxyConfig, ProxyMode},
    record::{DirLock, Record},
    runtime::{
        RuntimeError,
        docker::{DockerConfig, DockerRuntime, Engine},
    },
};

pub use crate::record::RecordError;

/// How long a minion waits for its master: a host may boot long before it.
const MASTER_LIMIT: Duration = Duration::from_secs(300);
/// What shutting down takes at most.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(900);

/// How to run a minion.
#[derive(Debug, Clone)]
pub struct MinionConfig {
    /// The master: `http://host:port`; or several with commas between, of which any will do.
    pub master: String,
    /// The node's name; the host's name by default.
    pub name: Option<String>,
    /// Where other nodes reach this one; by default the address that the route to the master uses, or
    /// the default route where the master is on this host.
    pub address: Option<IpAddr>,
    /// TCP listeners of this process, which pods' host ports must go around.
    pub own_listeners: Vec<SocketAddr>,
    /// How the pods of other nodes are reached.
    pub pod_routes: PodRoutes,
    /// Where services may have external addresses that this node answers for.
    pub external_ips: Vec<Ipv4Net>,
    /// Which data plane serves services.
    pub proxy_mode: ProxyMode,
    /// The engine's socket; by default `DOCKER_HOST`, then `/var/run/docker.sock`.
    pub docker: Option<String>,
    /// The minion's directory: its record and the pods' volumes.
    pub root_dir: PathBuf,
    /// How long to wait for the master and what it must allot.
    pub master_limit: Duration,
}

impl MinionConfig {
    /// A minion of `master` with its files in `root_dir`, everything else by default.
    pub fn new(master: impl Into<String>, root_dir: impl Into<PathBuf>) -> Self {
        Self {
            master: master.into(),
            name: None,
            address: None,
            own_listeners: Vec::new(),
            external_ips: Vec::new(),
            pod_routes: PodRoutes::default(),
            proxy_mode: ProxyMode::default(),
            docker: None,
            root_dir: root_dir.into(),
            master_limit: MASTER_LIMIT,
        }
    }
}

/// Why a minion did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine is not there or will not do.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
    /// The directory can't be used.
    #[error(transparent)]
    Directory(#[from] RecordError),
    /// The master refused, or its address is none.
    #[error(transparent)]
    Master(ClientError),
    /// The pod network can't be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The master did not come, or did not allot a pod network.
    #[error("{what} took longer than {seconds} s{cause}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
        /// `: ` and the last error, or empty.
        cause: String,
    },
}

/// A running minion.
#[derive(Debug)]
pub struct Minion {
    name: String,
    cluster_id: String,
    pod_cidr: Ipv4Net,
    parts: Parts,
    network: Option<PodNetwork>,
    synced: Vec<watch::Receiver<bool>>,
    _lock: DirLock,
}

impl Minion {
    /// Starts a minion. Waits for the master as long as `master_limit`; dropping the future gives
    /// up at once and leaves nothing running.
    pub async fn start(config: MinionConfig) -> Result<Self, StartError> {
        let client = Client::new(&config.master).map_err(StartError::Master)?;
        std::fs::create_dir_all(&config.root_dir)
            .map_err(|source| RecordError::Io { path: config.root_dir.clone(), source })?;
        let lock = DirLock::take(&config.root_dir)?;
        let engine = Engine::connect(config.docker.as_deref()).await?;
        let deadline = Deadline::new(config.master_limit);
        let masters = client.transport().each().map_err(StartError::Master)?;

        let cluster = deadline.retry("waiting for the master", || ClusterFacts::fetch(&client)).await?;
        let name = config.name.unwrap_or_else(facts::host_name);
        let address = match config.address {
            Some(address) => address,
            None => facts::address_towards(client.transport().authority()).await,
        };
        let record =
            Record { cluster_id: cluster.cluster_id.clone(), node: name.clone(), docker: engine.socket().to_owned() };
        record.write(&config.root_dir)?;

        let facts = NodeFacts::gather(&engine, &name, address).await?;
        let registration = Registration::new(&client, facts);
        deadline.retry("registering the node", || registration.ensure(None)).await?;
        let pod_cidr = deadline.wait("waiting for the node's pod network", registration.pod_cidr()).await?;

        let network_config = NetworkConfig {
            cluster_id: cluster.cluster_id.clone(),
            node: name.clone(),
            address,
            pod_cidr,
            pods_cidr: cluster.pod_cidr,
            service_cidr: cluster.service_cidr,
            routes: config.pod_routes,
        };
        let (node_changes, nodes) = mpsc::channel(feed::QUEUE);
        let network = PodNetwork::ensure(engine.docker(), network_config, nodes).await?;
        let docker = DockerConfig {
            cluster: cluster.cluster_id.clone(),
            node: name.clone(),
            network: network_name(&cluster.cluster_id),
        };
        let runtime = Arc::new(DockerRuntime::new(engine, docker).await?);

        let parts = Parts::default();
        let (pod_changes, pods) = mpsc::channel(feed::QUEUE);
        let (service_changes, told) = mpsc::channel(feed::QUEUE);
        let (portal_changes, portals) = mpsc::channel(feed::QUEUE);
        let (name_changes, names) = mpsc::channel(feed::QUEUE);
        let (backend_changes, backends) = mpsc::channel(feed::QUEUE);
        let (endpoints_changes, endpoints) = mpsc::channel(feed::QUEUE);
        let (traffic_changes, traffic) = mpsc::channel(feed::QUEUE);
        let (pods_listed, proxy_synced) = (watch::Sender::new(false), watch::Sender::new(false));
        let mut synced = vec![pods_listed.subscribe(), proxy_synced.subscribe()];

        let proxy = ProxyConfig {
            cluster_id: cluster.cluster_id.clone(),
            node: name.clone(),
            service_cidr: cluster.service_cidr,
            pods_cidr: cluster.pod_cidr,
            pod_cidr,
            external: config.external_ips,
            mode: config.proxy_mode,
        };
        let in_force = watch::Sender::new(0);
        let acted_on = in_force.subscribe();
        let feeds = proxy::Feeds { services: portals, endpoints: backends, in_force };
        parts.run("service proxy", proxy::run(proxy, feeds, proxy_synced, parts.token()));
        // Bound before the first pod is started, which is told of it.
        let dns = dns::Server::new(DnsConfig {
            listen: SocketAddrV4::new(network.gateway(), dns::PORT),
            site: Site {
                domain: CLUSTER_DOMAIN.to_owned(),
                service_cidr: cluster.service_cidr,
                pods_cidr: cluster.pod_cidr,
            },
            node_ip: address,
            host: HostFiles::default(),
        });
        synced.push(dns.synced());
        let pod_dns = PodDns { server: dns.listening(), domain: CLUSTER_DOMAIN.to_owned(), host: HostFiles::default() };
        parts.run("DNS", dns.run(dns::Feeds { services: names, endpoints }, parts.token()));
        let mut pods_config = pods::Config::new(&name, address, &cluster.cluster_id, config.root_dir);
        pods_config.own_listeners = config.own_listeners;
        pods_config.dns = Some(pod_dns);
        let serving = watch::Sender::new(Serving::default());
        pods_config.serving = Some(serving.subscribe());
        let clock = pods_config.clock.clone();
        parts.run("traffic", pods::traffic::follow(name.clone(), clock, traffic, acted_on, serving, parts.token()));
        let reporter = Arc::new(ApiReporter::new(client.clone(), &name));
        let (seen, services) = watch::channel(None);
        parts.run("services", pods::services::follow(told, seen));
        let inputs = pods::Inputs { pods, services };
        let (manager, managing) = Manager::start(pods_config, Arc::clone(&runtime), reporter, inputs, parts.token());
        parts.run("pod manager", managing.map(drop));

        let all = ListParams::default();
        let of_node = ListParams { fields: format!("spec.nodeName={name}"), ..Default::default() };
        let reflector = Reflector::new(client.all::<Wire<Pod>>(), of_node);
        parts.run("pod watch", feed::run_synced(reflector, vec![pod_changes], pods_listed, parts.token()));
        let reflector = Reflector::new(client.all::<Service>(), all.clone());
        let followers = vec![service_changes, portal_changes, name_changes];
        parts.run("service watch", feed::run(reflector, followers, parts.token()));
        let reflector = Reflector::new(client.all::<Node>(), all.clone());
        parts.run("node watch", feed::run(reflector, vec![node_changes], parts.token()));
        let reflector = Reflector::new(client.all::<Endpoints>(), all);
        let followers = vec![backend_changes, endpoints_changes, traffic_changes];
        parts.run("endpoints watch", feed::run(reflector, followers, parts.token()));

        let beating = heartbeat::run(
            client.clone(),
            registration,
            pod_cidr,
            Arc::clone(&runtime),
            cluster.heartbeat(),
            parts.token(),
        );
        parts.run("heartbeat", beating);
        let find = Arc::new(move |query: &PodQuery| manager.find(query));
        let server = Arc::new(NodeServer::new(runtime, find, parts.tasks.clone(), parts.token()));
        // Any master may be asked for logs, so each needs a way here.
        for master in masters {
            let tunnelling = tunnel::run(master, name.clone(), Arc::clone(&server), parts.tasks.clone(), parts.token());
            parts.run("tunnel", tunnelling);
        }
        tracing::info!(node = name, %address, %pod_cidr, cluster = cluster.cluster_id, "the minion runs");
        Ok(Self { name, cluster_id: cluster.cluster_id, pod_cidr, parts, network: Some(network), synced, _lock: lock })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it works for.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The network of its pods.
    pub fn pod_cidr(&self) -> Ipv4Net {
        self.pod_cidr
    }

    /// Returns when the first complete sync with the master is done, or the minion has ended.
    pub async fn ready(&self) {
        let synced = async {
            for part in &self.synced {
                // A part that is gone ends the minion, which the other arm sees.
                let _ = part.clone().wait_for(|synced| *synced).await;
            }
        };
        // Cancel-safe: both only watch.
        tokio::select! {
            () = synced => {}
            () = self.parts.shutdown.cancelled() => {}
        }
    }

    /// Returns when a part has ended by itself, with its name: the minion has ended then, and should
    /// be started again.
    pub async fn failed(&self) -> &'static str {
        self.parts.failed().await
    }

    /// Stops the minion; its pods keep running. Takes less than a second.
    pub async fn shutdown(mut self) {
        self.parts.shutdown.cancel();
        self.parts.tasks.close();
        let network = self.network.take();
        let ended = async {
            if let Some(network) = network {
                network.shutdown().await;
            }
            self.parts.tasks.wait().await;
        };
        if tokio::time::timeout(SHUTDOWN_LIMIT, ended).await.is_err() {
            tracing::warn!(tasks = self.parts.tasks.len(), "the minion ends without waiting for its last tasks");
        }
        tracing::info!(node = self.name, "the minion has stopped; its pods keep running");
    }
}

impl Drop for Minion {
    fn drop(&mut self) {
        self.parts.shutdown.cancel();
    }
}
