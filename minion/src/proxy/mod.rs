//! The service proxy: connections to a portal reach one of the service's ready backends.
//!
//! * [`inputs`]: services and endpoints as their watches showed them. Pure.
//! * [`table`]: where each portal leads, and what differs between two tables. Pure.
//! * [`driver`]: follows the watches and carries tables over into a [`driver::DataPlane`].
//! * [`nftables`], [`nft`], [`conntrack`]: the data plane in the kernel.
//! * [`userspace`]: the data plane of hosts where that can't be used.
//! * [`mode`]: which of them.
//!
//! Owns either the nftables table `coracle-<cluster>`, or the network namespace of that name, its
//! links to the pod bridge and to the host, and the routes and the rule that lead there. A plain route of the service range onto the
//! bridge, and what the engine's filter lets through, are the pod network's.
//!
//! Invariant: what is addressed to the service range and answered by no portal is refused on this
//! host. What is set on the host outlives the process; in the kernel that means that pods keep their
//! services while a minion restarts.

mod conntrack;
mod driver;
mod error;
pub mod inputs;
pub mod mode;
pub mod nft;
mod nftables;
pub mod table;
mod userspace;

use coracle_api::{
    client::{Change, Client, ListParams, Reflector},
    core::{Endpoints, Service},
};
use ipnet::Ipv4Net;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::feed;

pub use error::ProxyError;
use inputs::Site;
use mode::Plane;
pub use mode::ProxyMode;
use nftables::Nftables;
use userspace::Userspace;

/// What the proxy serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The cluster's id: 8 hex digits.
    pub cluster_id: String,
    /// The node's name.
    pub node: String,
    /// The cluster's service range.
    pub service_cidr: Ipv4Net,
    /// The cluster's pod range.
    pub pods_cidr: Ipv4Net,
    /// The node's part of it.
    pub pod_cidr: Ipv4Net,
    /// Where services may have external addresses.
    pub external: Vec<Ipv4Net>,
    /// Which data plane serves them.
    pub mode: ProxyMode,
}

impl ProxyConfig {
    fn site(&self) -> Site {
        let external = self.external.iter().map(Ipv4Net::trunc).collect();
        Site { node: self.node.clone(), service_cidr: self.service_cidr.trunc(), external }
    }
}

/// Changes of services and of endpoints, as reflectors report them.
#[derive(Debug)]
pub struct Feeds {
    /// Services of all namespaces.
    pub services: mpsc::Receiver<Change<Service>>,
    /// Endpoints of all namespaces.
    pub endpoints: mpsc::Receiver<Change<Endpoints>>,
    /// How many of the changes of endpoints are in force.
    pub in_force: watch::Sender<u64>,
}

impl Feeds {
    /// Own watches at the master, until `stop`. Where a part of the process watches services
    /// already, its feed saves one of them.
    pub fn watch(client: &Client, stop: &CancellationToken) -> Self {
        let (to_services, services) = mpsc::channel(feed::QUEUE);
        let (to_endpoints, endpoints) = mpsc::channel(feed::QUEUE);
        let reflector = Reflector::new(client.all::<Service>(), ListParams::default());
        tokio::spawn(feed::run(reflector, vec![to_services], stop.clone()));
        let reflector = Reflector::new(client.all::<Endpoints>(), ListParams::default());
        tokio::spawn(feed::run(reflector, vec![to_endpoints], stop.clone()));
        Self { services, endpoints, in_force: watch::Sender::new(0) }
    }
}

/// Runs the proxy until `stop` or until a feed ends. `synced` becomes true when the first complete
/// table is loaded. What the other data plane left on the host goes: the kernel's rules when they are
/// replaced, so that services are served throughout; the userspace plane's links right before the
/// rules, since nobody serves behind them and their addresses would go with them.
pub async fn run(config: ProxyConfig, feeds: Feeds, synced: watch::Sender<bool>, stop: CancellationToken) {
    let choice = tokio::select! {
        // Cancel-safe: a probe that is cut off changes nothing.
        choice = mode::choose(&config) => choice,
        () = stop.cancelled() => return,
    };
    tracing::info!(plane = %choice.plane, reason = choice.reason, "service proxy");
    let site = config.site();
    match choice.plane {
        Plane::Nftables => driver::run(Nftables::new(&config), site, feeds, synced, stop).await,
        Plane::Userspace => {
            let mut loaded = synced.subscribe();
            let tidying = async {
                // An error means that the proxy has ended before.
                if loaded.wait_for(|loaded| *loaded).await.is_ok()
                    && let Err(error) = nftables::remove(&config.cluster_id).await
                {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "the kernel's rules of before are still there, and answer first");
                }
            };
            let running = driver::run(Userspace::new(&config), site, feeds, synced, stop);
            tokio::join!(running, tidying);
        }
    }
}

/// A running proxy. Dropping it stops it; what it set on the host stays.
#[derive(Debug)]
pub struct Proxy {
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy with its own watches. Needs a runtime; returns at once.
    pub fn start(client: &Client, config: ProxyConfig) -> Self {
        let stop = CancellationToken::new();
        let feeds = Feeds::watch(client, &stop);
        let (sender, synced) = watch::channel(false);
        let task = tokio::spawn(run(config, feeds, sender, stop.clone()));
        Self { synced, stop, task: Some(task) }
    }

    /// Whether the first complete table has been loaded.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.clone()
    }

    /// Returns when the first complete table has been loaded, or the proxy has ended.
    pub async fn ready(&self) {
        // An error means that the proxy has ended.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// Stops following the master. Rules in the kernel stay, so running pods keep their services; in
    /// userspace, connections end.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "the service proxy failed");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Removes what either data plane set on this host, for a reset. None there is success.
pub async fn remove(cluster_id: &str) -> Result<(), ProxyError> {
    userspace::remove(cluster_id).await?;
    match nftables::remove(cluster_id).await {
        // A kernel without nftables refuses everything, and has no table.
        Err(ProxyError::Refused { .. }) if !nftables::works().await => Ok(()),
        result => result,
    }
}
