//! DNS for the node's pods: names of the cluster from memory, all others from the host's resolvers.
//!
//! * `zone`: services and endpoints as their watches showed them. Pure.
//! * `answer`: what a question is answered from the zone. Pure.
//! * `message`: bytes to questions, answers to bytes that fit. Pure.
//! * `server`: the sockets. `forward`, `cache`, `upstream`: the rest of the world.
//! * [`resolv_conf`]: what resolv.conf says, on the host and in pods.
//!
//! Invariant: a name of the cluster, or of one of its addresses, is never asked elsewhere. While the
//! master is away what is known stays the answer; before the first list the answer is that it failed,
//! never that there is no such name.

mod answer;
mod cache;
mod forward;
mod message;
pub mod resolv_conf;
mod server;
mod upstream;
mod zone;

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use coracle_api::{
    client::Change,
    core::{Endpoints, Service as ClusterService},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use forward::Forwarder;
pub use resolv_conf::HostFiles;
use server::{Clients, Service, Sockets};
use upstream::Upstreams;
pub use zone::Site;
use zone::{Update, Zone};

/// The domain of the cluster's names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Where resolvers ask.
pub const PORT: u16 = 53;
/// Between two tries to bind, doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// What is served, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// The node's address on its bridge, with [`PORT`].
    pub listen: SocketAddrV4,
    /// What of the cluster has names.
    pub site: Site,
    /// The node's own address, from which it may ask too.
    pub node_ip: IpAddr,
    /// Whom the host asks.
    pub host: HostFiles,
}

/// Changes of services and of endpoints, as reflectors report them.
#[derive(Debug)]
pub struct Feeds {
    /// Services of all namespaces.
    pub services: mpsc::Receiver<Change<ClusterService>>,
    /// Endpoints of all namespaces.
    pub endpoints: mpsc::Receiver<Change<Endpoints>>,
}

/// A server that is about to run.
#[derive(Debug)]
pub struct Server {
    listen: SocketAddrV4,
    service: Arc<Service>,
    sockets: Option<Sockets>,
    listening: watch::Sender<Option<SocketAddr>>,
    synced: watch::Sender<bool>,
}

impl Server {
    /// Binds at once if the address is free; otherwise [`Server::run`] tries on.
    pub fn new(config: DnsConfig) -> Self {
        let upstreams = Upstreams::of_host(config.host, (*config.listen.ip()).into());
        let clients = Clients { pods_cidr: config.site.pods_cidr, node_ip: config.node_ip };
        let zone = RwLock::new(Zone::new(config.site));
        let mut server = Self {
            listen: config.listen,
            service: Arc::new(Service { zone, forwarder: Forwarder::new(upstreams), clients }),
            sockets: None,
            listening: watch::Sender::new(None),
            synced: watch::Sender::new(false),
        };
        match server.bind() {
            Ok(sockets) => server.sockets = Some(sockets),
            Err(error) => warn(server.listen, &error),
        }
        server
    }

    /// Where it listens; `None` while the address is taken by others.
    pub fn listening(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.listening.subscribe()
    }

    /// Whether all services and endpoints have been listed.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn bind(&self) -> io::Result<Sockets> {
        let sockets = Sockets::bind(self.listen)?;
        let address = sockets.address()?;
        tracing::info!(%address, "DNS is served");
        self.listening.send_replace(Some(address));
        Ok(sockets)
    }

    /// Runs until `stop` or until a feed ends.
    pub async fn run(mut self, feeds: Feeds, stop: CancellationToken) {
        let stop = stop.child_token();
        let following = async {
            stop.run_until_cancelled(follow(&self.service, feeds, &self.synced)).await;
            stop.cancel();
        };
        let sockets = self.sockets.take();
        tokio::join!(following, self.serve(sockets, &stop));
    }

    /// Binds and serves until `stop`.
    async fn serve(&self, mut sockets: Option<Sockets>, stop: &CancellationToken) {
        let mut retry = RETRY_MIN;
        while !stop.is_cancelled() {
            let ended = match sockets.take().map_or_else(|| self.bind(), Ok) {
                Ok(sockets) => server::serve(Arc::clone(&self.service), sockets, stop).await,
                Err(error) => Err(error),
            };
            self.listening.send_replace(None);
            let Err(error) = ended else { return };
            tracing::debug!(listen = %self.listen, %error, "DNS is not served yet");
            stop.run_until_cancelled(tokio::time::sleep(retry)).await;
            retry = (retry * 2).min(RETRY_MAX);
        }
    }
}

fn warn(listen: SocketAddrV4, error: &io::Error) {
    tracing::warn!(
        %listen, %error,
        "DNS can't be served to pods yet; trying again. New pods ask the host's resolvers until then and know no \
         services by name. Another DNS server on this host may listen on all addresses (dnsmasq, named, unbound, \
         CoreDNS: see `ss -lnptu 'sport = :53'`); have it listen on its own addresses only, such as with dnsmasq's \
         bind-interfaces",
    );
}

/// Carries changes into the zone until a feed ends.
async fn follow(service: &Service, mut feeds: Feeds, synced: &watch::Sender<bool>) {
    loop {
        // Cancel-safe: receiving takes a change or nothing.
        let update = tokio::select! {
            change = feeds.services.recv() => match change {
                Some(change) => Update::of_services(change),
                None => return,
            },
            change = feeds.endpoints.recv() => match change {
                Some(change) => Update::of_endpoints(change),
                None => return,
            },
        };
        let Some(mut update) = update else { continue };
        let listed = {
            let mut zone = service.zone.write().unwrap_or_else(PoisonError::into_inner);
            zone.apply(&mut update);
            zone.listed()
        };
        synced.send_if_modified(|synced| std::mem::replace(synced, listed) != listed);
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Dns {
    listening: watch::Receiver<Option<SocketAddr>>,
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Dns {
    /// Starts a server. Needs a runtime; returns at once.
    pub fn start(config: DnsConfig, feeds: Feeds) -> Self {
        let (server, stop) = (Server::new(config), CancellationToken::new());
        let (listening, synced) = (server.listening(), server.synced());
        let task = tokio::spawn(server.run(feeds, stop.clone()));
        Self { listening, synced, stop, task: Some(task) }
    }

    /// Returns when it listens and knows the cluster, with the address; `None` when it has ended.
    pub async fn ready(&self) -> Option<SocketAddr> {
        self.synced.clone().wait_for(|synced| *synced).await.ok()?;
        *self.listening.clone().wait_for(Option::is_some).await.ok()?
    }

    /// Stops it.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "DNS failed");
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
