//! The data plane of hosts where the kernel's can't be used: takes connections and datagrams in and
//! makes others to the backends.
//!
//! ```text
//! client ──> pod bridge, or ──> namespace coracle-CLUSTER: a socket for each portal that has backends
//!            the node's own link
//! client ──> host: a socket for each node port and external address
//!               └── worker thread ──> backend, from the host's namespace
//! ```
//!
//! * [`namespace`], [`links`]: where portals are, and how packets get there.
//! * [`sockets`], [`portal`], [`balance`]: a portal's socket, and whom its clients meet.
//! * [`worker`], [`tcp`], [`udp`]: the threads and what they do. The bytes of connections go through
//!   [`coracle_relay`], which also has the budget of open files.
//!
//! A namespace of their own, since listeners of the host on all addresses (Docker's, a web server's)
//! would have the portals' ports. In it, the kernel refuses what no socket answers: portals without
//! backends, and addresses of no service.
//!
//! Backends see this node as their client. Node ports and external addresses share the host's ports
//! with its other listeners: where one is taken, the log says so, and it is tried again.
//!
//! Invariant: `served` are the portals that have backends, but for those in `unserved`, which have
//! their reasons there. A change of backends touches no socket.

mod balance;
mod links;
mod namespace;
mod portal;
mod sockets;
mod tcp;
mod udp;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use coracle_relay::Budget;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    ProxyConfig, ProxyError,
    driver::{DataPlane, Spared},
    table::{Delta, Forward, Frontend, Portal, Stale, Table},
};
use links::{Desired, Links};
use namespace::Namespace;
use portal::Service;
use sockets::Place;
use worker::{Listening, Workers};

/// Between looks whether the namespace still has its name, of which nobody is told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// From a change of links or routes to a look at ours, so that a storm of them costs little.
const SETTLE: Duration = Duration::from_millis(200);
/// Between looks at links and routes, below events that were lost.
const VERIFY_INTERVAL: Duration = Duration::from_secs(60);
/// Between tries to open sockets that others had, or that there were too many of.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Sockets opened by one job of the thread in the namespace.
const BATCH: usize = 512;
/// Portals that a warning names.
const NAMED: usize = 5;

/// The portals of one cluster.
#[derive(Debug)]
pub(super) struct Userspace {
    cluster_id: String,
    budget: Budget,
    desired: Desired,
    running: Option<Running>,
    /// Portals at external addresses, with backends or without.
    external: BTreeSet<Portal>,
    served: BTreeMap<Portal, Served>,
    unserved: BTreeMap<Portal, (Forward, String)>,
    next_look: Instant,
    next_verify: Instant,
    next_retry: Instant,
}

/// What is made once.
#[derive(Debug)]
struct Running {
    namespace: Namespace,
    links: Links,
    workers: Workers,
}

#[derive(Debug)]
struct Served {
    service: Arc<Service>,
    listening: Listening,
    _file: OwnedSemaphorePermit,
}

impl Userspace {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        let now = Instant::now();
        Self {
            cluster_id: config.cluster_id.clone(),
            budget: Budget::of_process(),
            desired: Desired::new(config),
            running: None,
            external: BTreeSet::new(),
            served: BTreeMap::new(),
            unserved: BTreeMap::new(),
            next_look: now + LOOK_INTERVAL,
            next_verify: now + VERIFY_INTERVAL,
            next_retry: now + RETRY_INTERVAL,
        }
    }

    async fn ensure_running(&mut self) -> Result<&mut Running, ProxyError> {
        let running = match self.running.take() {
            Some(running) => running,
            None => {
                let namespace = Namespace::open(&self.cluster_id).await?;
                let links = Links::open(&namespace).await?;
                let failed = |source| ProxyError::Open { what: "threads for the portals", source };
                let workers = Workers::start(&self.budget).map_err(failed)?;
                Running { namespace, links, workers }
            }
        };
        Ok(self.running.insert(running))
    }

    /// Makes the way to the portals as it must be.
    async fn restore(&mut self) -> Result<(), ProxyError> {
        self.desired.external = self.external.iter().filter_map(|portal| portal.at.address()).collect();
        let desired = self.desired.clone();
        let running = self.ensure_running().await?;
        running.namespace.keep_name().await?;
        running.links.restore(&desired).await
    }

    /// Carries portals over into new states. `None`, or no backends: nothing listens.
    async fn carry_over(&mut self, changes: Vec<(Portal, Option<Forward>)>) -> Result<(), ProxyError> {
        let external = self.external.clone();
        let (mut closing, mut opening) = (Vec::new(), Vec::new());
        for (portal, state) in changes {
            if matches!(portal.at, Frontend::External(_)) {
                if state.is_some() {
                    self.external.insert(portal)
                } else {
                    self.external.remove(&portal)
                };
            }
            self.unserved.remove(&portal);
            match (self.served.get(&portal), state.filter(|forward| !forward.refuses())) {
                (Some(served), Some(forward)) => served.service.set(forward),
                (Some(_), None) => closing.extend(self.served.remove(&portal)),
                (None, Some(forward)) => opening.push((portal, forward)),
                (None, None) => {}
            }
        }
        for served in closing {
            served.listening.end().await;
        }
        if external != self.external {
            self.restore().await?;
        }
        let before: BTreeSet<Portal> = self.unserved.keys().copied().collect();
        self.open(opening).await?;
        self.complain(&before);
        Ok(())
    }

    /// Opens portals; what can't be opened is noted with its reason.
    async fn open(&mut self, portals: Vec<(Portal, Forward)>) -> Result<(), ProxyError> {
        let max = self.budget.portals_max();
        for batch in portals.chunks(BATCH) {
            let (mut admitted, mut files) = (Vec::new(), Vec::new());
            for (portal, forward) in batch {
                let room = self.served.len() + admitted.len() < max;
                match self.budget.try_take(1).filter(|_| room) {
                    Some(file) => {
                        admitted.push((*portal, forward.clone()));
                        files.push(file);
                    }
                    None => self.note(*portal, forward.clone(), "too many portals for the limit of open files"),
                }
            }
            let running = self.ensure_running().await?;
            let addresses: Vec<Portal> = admitted.iter().map(|(portal, _)| *portal).collect();
            let opened = open_sockets(&running.namespace, addresses).await?;
            for (((portal, forward), socket), file) in admitted.into_iter().zip(opened).zip(files) {
                let service = Arc::new(Service::new(portal, forward.clone()));
                let running = self.ensure_running().await?;
                let listening = match socket {
                    Ok(socket) => running.workers.listen(socket, Arc::clone(&service)).await,
                    Err(e) => Err(e),
                };
                match listening {
                    Ok(listening) => {
                        self.unserved.remove(&portal);
                        self.served.insert(portal, Served { service, listening, _file: file });
                    }
                    Err(error) => self.note(portal, forward, &error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, portal: Portal, forward: Forward, reason: &str) {
        self.unserved.insert(portal, (forward, reason.to_owned()));
    }

    /// Warns of portals that are not served, when others are than `before`.
    fn complain(&self, before: &BTreeSet<Portal>) {
        if self.unserved.keys().all(|portal| before.contains(portal)) {
            return;
        }
        let named: Vec<_> =
            self.unserved.iter().take(NAMED).map(|(portal, (_, reason))| format!("{portal}: {reason}")).collect();
        let more = self.unserved.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        tracing::warn!(portals = self.unserved.len(), "not served: {}{more}", named.join("; "));
    }

    /// Tries again what could not be opened. Cancel-safe: what is not recorded yet is closed.
    async fn retry(&mut self) {
        let waiting = self.unserved.iter().map(|(portal, (forward, _))| (*portal, forward.clone())).collect();
        if let Err(error) = self.open(waiting).await {
            tracing::debug!(%error, "portals are not served yet");
        }
    }

    /// Why a load is needed, if it is.
    async fn fault(&mut self, verify: bool) -> Option<&'static str> {
        let running = self.running.as_ref()?;
        if !running.namespace.is_named() {
            return Some("the namespace of the portals has lost its name");
        }
        if !verify {
            return None;
        }
        match running.links.observe(&self.desired).await {
            Ok(observed) if links::plan(&self.desired, &observed).is_none_or(|steps| !steps.is_empty()) => {
                Some("the way to the portals is not as it was made")
            }
            Ok(_) => None,
            Err(error) => {
                // Not known; the next look tells.
                tracing::debug!(%error, "looking at the way to the portals");
                None
            }
        }
    }
}

impl DataPlane for Userspace {
    async fn load(&mut self, table: &Table) -> Result<(), ProxyError> {
        let is_external = |portal: &&Portal| matches!(portal.at, Frontend::External(_));
        let gone = self.served.keys().chain(self.unserved.keys()).chain(&self.external);
        let gone: BTreeSet<Portal> = gone.filter(|portal| !table.portals().contains_key(portal)).copied().collect();
        self.external = table.portals().keys().filter(is_external).copied().collect();
        self.restore().await?;
        let now = table.portals().iter().map(|(portal, forward)| (*portal, Some(forward.clone())));
        self.carry_over(gone.into_iter().map(|portal| (portal, None)).chain(now).collect()).await
    }

    async fn update(&mut self, delta: &Delta) -> Result<(), ProxyError> {
        self.carry_over(delta.portals.iter().map(|(portal, (_, new))| (*portal, new.clone())).collect()).await
    }

    fn cut(&self, flows: Vec<Stale>, _: &Table, _: Spared) -> impl Future<Output = ()> + Send + 'static {
        // The others never came here.
        let lost = flows.into_iter().filter_map(|flow| match flow {
            Stale::Lost(portal, backend) => Some((portal, backend)),
            Stale::Unserved(_) | Stale::Unruled => None,
        });
        let cutting = self.running.as_ref().map(|running| running.workers.cut(lost.collect()));
        async move {
            if let Some(cutting) = cutting {
                cutting.await;
            }
        }
    }

    async fn disturbed(&mut self) -> &'static str {
        loop {
            let wake = self.next_look.min(self.next_verify).min(self.next_retry);
            let changed = async {
                match &self.running {
                    Some(running) => running.links.changed().await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: a notification and a sleep keep nothing; the times are kept.
            tokio::select! {
                () = changed => self.next_verify = self.next_verify.min(Instant::now() + SETTLE),
                () = tokio::time::sleep_until(wake) => {}
            }
            let now = Instant::now();
            if now >= self.next_look.min(self.next_verify) {
                // Moved only when done: a look that is cancelled is taken again.
                let verify = now >= self.next_verify;
                if let Some(reason) = self.fault(verify).await {
                    return reason;
                }
                self.next_look = Instant::now() + LOOK_INTERVAL;
                if verify {
                    self.next_verify = Instant::now() + VERIFY_INTERVAL;
                }
            }
            if now >= self.next_retry {
                self.retry().await;
                self.next_retry = Instant::now() + RETRY_INTERVAL;
            }
        }
    }
}

/// Opens sockets where they must be. The outer error means that the namespace is not there.
async fn open_sockets(namespace: &Namespace, portals: Vec<Portal>) -> Result<Vec<io::Result<OwnedFd>>, ProxyError> {
    let open = |place: Place, portals: Arc<[Portal]>| {
        move || {
            let here = portals.iter().map(|portal| (Place::of(portal) == place).then(|| sockets::open(portal)));
            here.collect::<Vec<_>>()
        }
    };
    let portals: Arc<[Portal]> = portals.into();
    let inside = namespace.within(open(Place::Namespace, Arc::clone(&portals))).await?;
    let host = open(Place::Host, Arc::clone(&portals));
    let outside = tokio::task::spawn_blocking(host).await.unwrap_or_default();
    let lost = || Err(io::Error::other("opening sockets failed"));
    let mut outside = outside.into_iter();
    Ok(inside
        .into_iter()
        .map(|socket| {
            let other = outside.next().flatten();
            socket.or(other).unwrap_or_else(lost)
        })
        .collect())
}

/// Removes what this set on the host. None there is success.
pub(super) async fn remove(cluster_id: &str) -> Result<(), ProxyError> {
    links::remove(cluster_id).await?;
    namespace::remove(cluster_id)
}
