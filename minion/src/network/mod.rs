//! The pod network of one node: a Docker bridge network on the node's pod range, the paths to the
//! pods of other nodes, and the route that makes the service range reachable (and unable to leave
//! the host).
//!
//! * [`bridge`]: the engine's network. [`link`]: the bridge in the kernel.
//! * [`neighbours`]: how soon a dead pod's address is given up.
//! * [`paths`]: routes and tunnel to other nodes.
//! * [`forward`]: what the engine's packet filter must let through.
//!
//! Owns the Docker network `coracle-<cluster>`, its bridge `cor-<cluster>` and what is set on that
//! bridge, routes with a protocol number of our own, the tunnel `cox-<cluster>`, and rules in the
//! engine's chain for the user's rules. All other packet filter rules are the proxy's and Docker's.
//!
//! Invariant: the service range is routed onto the bridge, never off the host. A connection from
//! the host to a portal therefore has a route and the bridge's address as its source even on a
//! machine without a default route.

mod bridge;
mod cidr;
mod error;
mod forward;
mod link;
pub(crate) mod neighbours;
mod paths;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use bollard::Docker;
use coracle_api::{client::Change, core::Node};
use futures_util::{StreamExt, stream};
use ipnet::Ipv4Net;
use rtnetlink::MulticastGroup;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub use cidr::{UsedCidr, free_cidr, overlap, pod_candidates, service_candidates, used_cidrs};
pub use error::NetworkError;
use forward::Exceptions;
use link::{Desired, Links};

pub use paths::PodRoutes;
use paths::{Peers, Place};

use crate::rulesets::Monitor;

/// Least time between two checks, so that a storm of link events costs little.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Time to the next check when no event comes: the net below lost events.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// From a change of a node to the change of its path, so that those of many go together.
const NODE_DELAY: Duration = Duration::from_millis(10);
/// Time to the next try after a failed one.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Tries to put a container back, a second apart, while the engine answers that it can't.
const RECONNECTS_MAX: u32 = 5;
/// The largest prefix that leaves room for a gateway and pods.
const POD_PREFIX_MAX: u8 = 29;

/// Name of the cluster's Docker network.
pub fn network_name(cluster_id: &str) -> String {
    format!("coracle-{cluster_id}")
}

/// Name of the cluster's bridge; with an id of 8 digits it fits the kernel's 15 characters.
pub fn bridge_name(cluster_id: &str) -> String {
    format!("cor-{cluster_id}")
}

/// Whether a link is this cluster's: its bridge, its tunnel, or one of the ways to the userspace proxy.
fn is_own_link(name: &str, cluster_id: &str) -> bool {
    name.strip_suffix(cluster_id).is_some_and(|kind| matches!(kind, "cor-" | "cox-" | "corp-" | "corn-"))
}

/// What the node's pod network must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The cluster's id: 8 hex digits.
    pub cluster_id: String,
    /// The node's name.
    pub node: String,
    /// Where other nodes reach this one.
    pub address: IpAddr,
    /// The node's part of the cluster's pod range.
    pub pod_cidr: Ipv4Net,
    /// The cluster's pod range.
    pub pods_cidr: Ipv4Net,
    /// The cluster's service range.
    pub service_cidr: Ipv4Net,
    /// How other nodes' pods are reached.
    pub routes: PodRoutes,
}

/// The address of a node on its bridge: the first of its pod range, with its prefix.
pub fn gateway(pod_cidr: Ipv4Net) -> Ipv4Net {
    let first = Ipv4Addr::from(u32::from(pod_cidr.network()).saturating_add(1));
    Ipv4Net::new(first, pod_cidr.prefix_len()).unwrap_or(pod_cidr)
}

impl NetworkConfig {
    /// See [`gateway`].
    pub fn gateway(&self) -> Ipv4Net {
        gateway(self.pod_cidr)
    }

    fn desired(&self) -> Desired {
        Desired {
            bridge: bridge_name(&self.cluster_id),
            gateway: self.gateway(),
            service_cidr: self.service_cidr.trunc(),
        }
    }

    fn place(&self) -> Place {
        Place {
            cluster_id: self.cluster_id.clone(),
            mode: self.routes,
            address: paths::place_address(self.address),
            gateway: self.gateway().addr(),
            pod_cidr: self.pod_cidr,
            pods_cidr: self.pods_cidr,
        }
    }

    fn exceptions(&self) -> Exceptions {
        Exceptions { bridge: bridge_name(&self.cluster_id), pods_cidr: self.pods_cidr }
    }

    fn check(&self) -> Result<(), NetworkError> {
        if self.pod_cidr.prefix_len() > POD_PREFIX_MAX {
            return Err(NetworkError::TooSmall(self.pod_cidr));
        }
        let services = UsedCidr { cidr: self.service_cidr, by: "the services (--service-cidr)".into() };
        check_free("--pod-cidr", self.pod_cidr, &[services])
    }
}

fn check_free(flag: &'static str, cidr: Ipv4Net, used: &[UsedCidr]) -> Result<(), NetworkError> {
    match used.iter().find(|u| overlap(&u.cidr, &cidr)) {
        Some(u) => Err(NetworkError::Overlap { flag, cidr, other: u.cidr, by: u.by.clone() }),
        None => Ok(()),
    }
}

/// The node's pod network, kept as configured until this is shut down or dropped. The network
/// itself stays, so that running pods keep theirs.
#[derive(Debug)]
pub struct PodNetwork {
    config: NetworkConfig,
    stop: CancellationToken,
    keeper: Option<JoinHandle<()>>,
}

impl PodNetwork {
    /// Makes the network exist and starts to keep it so: adopts it if it is right, replaces it if
    /// it is wrong and unused, and restores within a second what someone (or a restart of the
    /// engine) takes away. Paths to other nodes follow `nodes`; those of a minion that ran before
    /// stay until the first list.
    ///
    /// # Errors
    ///
    /// Ranges that overlap something, a network that is not ours or in use with other addresses,
    /// an engine or kernel that refuses.
    pub async fn ensure(
        docker: &Docker,
        config: NetworkConfig,
        nodes: mpsc::Receiver<Change<Node>>,
    ) -> Result<Self, NetworkError> {
        let config = NetworkConfig {
            pod_cidr: config.pod_cidr.trunc(),
            pods_cidr: config.pods_cidr.trunc(),
            service_cidr: config.service_cidr.trunc(),
            ..config
        };
        config.check()?;
        let links = Links::open()?;
        // Subscribed first, so that nothing is missed between the first check and the watch.
        let (connection, _, events) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
        ])
        .map_err(NetworkError::Socket)?;
        let connection = tokio::spawn(connection);
        let mut keeper = Keeper {
            docker: docker.clone(),
            config: config.clone(),
            links,
            peers: Peers::default(),
            cut_off: Vec::new(),
            reunited: false,
        };
        keeper.restore_network().await?;
        match keeper.check().await {
            // Pods of this node have all they need; the checks that follow try again.
            Err(error @ NetworkError::Filter { .. }) => {
                tracing::warn!(%error, "the engine's packet filter may keep other hosts from this node's pods");
            }
            checked => checked?,
        }
        tracing::info!(network = network_name(&config.cluster_id), cidr = %config.pod_cidr, "pod network ready");

        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            keeper.run(stream::select(events.map(drop), filter_changes()), nodes, stopped).await;
            connection.abort();
        });
        Ok(Self { config, stop, keeper: Some(task) })
    }

    /// Name of the Docker network, for containers.
    pub fn name(&self) -> String {
        network_name(&self.config.cluster_id)
    }

    /// Name of the bridge.
    pub fn bridge(&self) -> String {
        bridge_name(&self.config.cluster_id)
    }

    /// The node's address on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.config.gateway().addr()
    }

    /// Stops keeping the network; it stays as it is.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.take()
            && let Err(error) = keeper.await
        {
            tracing::warn!(%error, "the keeper of the pod network failed");
        }
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Removes the cluster's network, with its bridge and routes, for a reset. Its containers must
/// have been removed before. Gone already is success.
pub async fn remove(docker: &Docker, cluster_id: &str) -> Result<(), NetworkError> {
    forward::remove(&bridge_name(cluster_id)).await?;
    Links::open()?.remove_tunnel(cluster_id).await?;
    // The kernel takes the other paths away with the bridge's address, which is their source.
    bridge::remove(docker, cluster_id).await
}

/// Tells of changes of the engine's packet filter, where the kernel announces them.
fn filter_changes() -> impl futures_util::Stream<Item = ()> {
    let monitor = Monitor::open("filter").inspect_err(|error| tracing::debug!(%error, "looking by time")).ok();
    // Boxed, so that it can be polled where it stands.
    Box::pin(stream::unfold(monitor, |monitor| async {
        let mut monitor = monitor?;
        monitor.next().await.ok().map(|_| ((), Some(monitor)))
    }))
}

/// The task that compares and restores.
#[derive(Debug)]
struct Keeper {
    docker: Docker,
    config: NetworkConfig,
    links: Links,
    peers: Peers,
    /// Containers that a repair has taken off the network and not put back yet, and how often that was tried.
    cut_off: Vec<(bridge::Member, u32)>,
    /// Whether all containers are on the network, as far as repairs go: the last one may have ended
    /// halfway, with its process.
    reunited: bool,
}

impl Keeper {
    /// Makes the engine have the network.
    async fn restore_network(&self) -> Result<(), NetworkError> {
        let used = used_cidrs(Some(&self.config.cluster_id)).await?;
        bridge::ensure(&self.docker, &self.config, &used).await?;
        self.check_services_free(&used)
    }

    /// An adopted network is not compared with the host again, but the service route may be new.
    fn check_services_free(&self, used: &[UsedCidr]) -> Result<(), NetworkError> {
        check_free("--service-cidr", self.config.service_cidr, used)
    }

    /// Compares once and restores what is missing.
    async fn check(&mut self) -> Result<(), NetworkError> {
        let desired = self.config.desired();
        let observed = match self.links.observe(&desired).await? {
            Some(observed) => observed,
            None => {
                self.restore_bridge().await?;
                let lost = || NetworkError::NotOurs(network_name(&self.config.cluster_id));
                self.links.observe(&desired).await?.ok_or_else(lost)?
            }
        };
        for step in link::plan(&desired, &observed) {
            tracing::debug!(bridge = desired.bridge, step = ?step, "setting the pod network right");
            self.links.apply(&desired, observed.index, &step).await?;
        }
        // Each has its own reasons to fail; what is told is the worst.
        let reunited = if self.reunited { Ok(()) } else { self.reunite().await };
        let paths = self.check_paths().await;
        let exceptions = self.config.exceptions().ensure().await;
        reunited.and(paths).and(exceptions)
    }

    async fn check_paths(&self) -> Result<(), NetworkError> {
        let Some(peers) = self.peers.others(&self.config.node) else { return Ok(()) };
        let place = self.config.place();
        let (observed, segments) = self.links.observe_paths(&place).await?;
        let desired = paths::desired(&place, &segments, &peers);
        let steps = paths::plan(&desired, &observed);
        let applied = self.links.apply_paths(&place, &steps).await;
        if !desired.unreached.is_empty() && !steps.is_empty() {
            let nodes = &desired.unreached;
            tracing::warn!(?nodes, "not on a segment of this host, so not reached with direct routes only");
        }
        applied
    }

    /// The bridge is not there. Docker makes it only with the network, so the network is made anew
    /// and the containers on it, which keep running, are given back their addresses.
    async fn restore_bridge(&mut self) -> Result<(), NetworkError> {
        let id = &self.config.cluster_id.clone();
        tracing::warn!(bridge = bridge_name(id), "the bridge of the pod network is gone, restoring it");
        self.reunited = false;
        for member in bridge::members(&self.docker, id).await? {
            // Noted first: whatever fails from here on, the next check puts it back.
            self.cut_off.retain(|(known, _)| known.id != member.id);
            self.cut_off.push((member.clone(), 0));
            bridge::disconnect(&self.docker, id, &member).await?;
        }
        bridge::remove(&self.docker, id).await?;
        self.restore_network().await
    }

    /// Puts back what a repair has taken off the network. What can't be put back starts anew.
    async fn reunite(&mut self) -> Result<(), NetworkError> {
        let mut result = Ok(());
        for (member, tries) in std::mem::take(&mut self.cut_off) {
            let Err(error) = bridge::connect(&self.docker, &self.config.cluster_id, &member).await else { continue };
            if bridge::is_answer(&error) && tries >= RECONNECTS_MAX {
                tracing::warn!(container = member.id, %error, "a container can't be put back onto the pod network");
                continue;
            }
            self.cut_off.push((member, tries + 1));
            result = result.and(Err(error));
        }
        result?;
        bridge::kill_strays(&self.docker, &self.config.cluster_id).await?;
        self.reunited = true;
        Ok(())
    }

    async fn run(
        mut self,
        events: impl futures_util::Stream<Item = ()>,
        mut nodes: mpsc::Receiver<Change<Node>>,
        stop: CancellationToken,
    ) {
        let mut events = std::pin::pin!(events);
        let mut next = Instant::now() + CHECK_INTERVAL_MAX;
        let mut failing = false;
        let mut listening = true;
        let mut following = true;
        loop {
            // All arms are cancel-safe: a token, a stream's `next`, a queue and a sleep keep no progress.
            tokio::select! {
                () = stop.cancelled() => return,
                change = nodes.recv(), if following => {
                    following = change.is_some();
                    change.into_iter().for_each(|change| self.peers.apply(change));
                    next = next.min(Instant::now() + if failing { RETRY_INTERVAL } else { NODE_DELAY });
                    continue;
                }
                event = events.next(), if listening => {
                    listening = event.is_some();
                    next = next.min(Instant::now() + if failing { RETRY_INTERVAL } else { CHECK_INTERVAL_MIN });
                    continue;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let result = self.check().await;
            next = Instant::now() + if result.is_ok() { CHECK_INTERVAL_MAX } else { RETRY_INTERVAL };
            match result {
                Ok(()) => failing = false,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = %error, cause, "the pod network is not as it must be; retrying");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pod: &str, service: &str) -> NetworkConfig {
        NetworkConfig {
            cluster_id: "0a1b2c3d".into(),
            node: "n".into(),
            address: Ipv4Addr::new(192, 0, 2, 11).into(),
            pods_cidr: pod.parse().unwrap(),
            routes: PodRoutes::Auto,
            pod_cidr: pod.parse().unwrap(),
            service_cidr: service.parse().unwrap(),
        }
    }

    #[test]
    fn names_fit_the_kernel() {
        assert_eq!(bridge_name("0a1b2c3d"), "cor-0a1b2c3d");
        assert!(bridge_name("0a1b2c3d").len() <= 15);
        assert_eq!(config("10.244.3.0/24", "10.0.0.0/16").gateway(), "10.244.3.1/24".parse().unwrap());
    }

    #[test]
    fn ranges_that_cannot_work_are_refused_before_anything_is_made() {
        let check = |pod: &str, service: &str, expected: Option<&str>| {
            let error = config(pod, service).check().err().map(|e| e.to_string());
            assert_eq!(error.is_some(), expected.is_some(), "{error:?}");
            assert!(error.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check("10.244.3.0/24", "10.0.0.0/16", None);
        check("10.244.3.0/30", "10.0.0.0/16", Some("/29 or larger"));
        check("10.0.3.0/24", "10.0.0.0/16", Some("overlaps 10.0.0.0/16 of the services"));
    }
}
