//! Many simulated minions in one process, for measurements of the control plane: what
//! `coracle minion --hollow N` runs. Each is a [`Bare`] minion on a hollow engine, which speaks to the master
//! over the wire as any other does; its containers exist in memory only. Services are watched once for all.
//!
//! Their nodes say so: the container runtime is `hollow://VERSION`.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coracle_api::{
    client::{Change, Client, ListParams, Reflector},
    clock::Clock,
    core::{Node, NodeSystemInfo, Service},
    open_files,
};
use futures_util::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    bare::Bare,
    deadline::Deadline,
    feed,
    minion::StartError,
    node::{
        cluster::ClusterFacts,
        facts::{self, NodeFacts},
        registration::{Registration, pod_cidr_of},
    },
    parts::Parts,
    pods::{
        plan::plan_pod,
        services::{self, ServicesSeen},
    },
    runtime::hollow::{Delays, Hollow, Mishaps},
};

/// Minions joining at once: enough to keep the master busy, few enough to be answered in time.
const JOINING_MAX: usize = 256;

/// New pods begun at once by all of them where engines take no time: they share the caches of this process, and more
/// at once cost a fifth more each.
const TURNS: usize = 64;
/// The same where they take their time: pods that are half begun share this process's memory.
const TURNS_OF_SLOW: usize = 1024;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct HollowConfig {
    /// The master, or several with commas between.
    pub master: String,
    /// How many minions.
    pub count: usize,
    /// What their names begin with; a number follows.
    pub prefix: String,
    /// Processors of each, in thousandths.
    pub cpu_milli: u64,
    /// Memory of each, in bytes.
    pub memory_bytes: u64,
    /// Pods that each takes.
    pub pods_max: u32,
    /// How long the calls of their engines take.
    pub delays: Delays,
    /// What goes wrong on them.
    pub mishaps: Mishaps,
    /// How long to wait for the master and what it must allot.
    pub master_limit: Duration,
}

/// Running simulated minions.
#[derive(Debug)]
pub struct HollowMinions {
    parts: Parts,
    _ends: DropGuard,
}

impl HollowMinions {
    /// Starts them, and returns when all have joined. Dropping the future gives up and leaves nothing running.
    pub async fn start(config: HollowConfig) -> Result<Self, StartError> {
        open_files::raise_limit();
        let client = Client::new(&config.master).map_err(StartError::Master)?;
        let beats = Client::new(&config.master).map_err(StartError::Master)?;
        let deadline = Deadline::new(config.master_limit);
        let cluster = deadline.retry("waiting for the master", || ClusterFacts::fetch(&client)).await?;
        let parts = Parts::default();
        let ends = parts.token().drop_guard();

        let (allotting, networks) = (CancellationToken::new(), Arc::new(Networks::default()));
        let _allotted = allotting.clone().drop_guard();
        let nodes = Reflector::new(client.all::<Node>(), ListParams::default());
        parts.tasks.spawn(networks.clone().follow(nodes, allotting));
        let (changes, queue) = mpsc::channel(feed::QUEUE);
        let (seen, services) = watch::channel(None);
        let reflector = Reflector::new(client.all::<Service>(), ListParams::default());
        parts.run("service watch", feed::run(reflector, vec![changes], parts.token()));
        parts.run("services", services::follow(queue, seen));

        let turns = if config.delays == Delays::NONE { TURNS } else { TURNS_OF_SLOW };
        let turns = Arc::new(Semaphore::new(turns));
        let join = |number| {
            let (facts, shared) = (config.facts(number), (services.clone(), turns.clone()));
            join(&config, [&client, &beats], &cluster, &networks, deadline, facts, shared)
        };
        let joining = futures_util::stream::iter(0..config.count).map(join);
        let mut joined = joining.buffer_unordered(JOINING_MAX);
        while let Some(minion) = joined.try_next().await? {
            parts.run("minion", minion.run(parts.token().child_token()));
        }
        tracing::info!(minions = config.count, cluster = cluster.cluster_id, "the simulated minions run");
        Ok(Self { parts, _ends: ends })
    }

    /// Returns when one of them has ended by itself, with what it was: all end then.
    pub async fn failed(&self) -> &'static str {
        self.parts.failed().await
    }

    /// Stops them. Their containers are gone with them, as if their hosts had died.
    pub async fn shutdown(self) {
        self.parts.shutdown.cancel();
        self.parts.tasks.close();
        self.parts.tasks.wait().await;
    }
}

impl HollowConfig {
    fn facts(&self, number: usize) -> NodeFacts {
        let version = env!("CARGO_PKG_VERSION");
        NodeFacts {
            name: format!("{}-{number:05}", self.prefix),
            address: facts::default_address(),
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            pods_max: self.pods_max,
            system: NodeSystemInfo {
                architecture: match std::env::consts::ARCH {
                    "x86_64" => "amd64".into(),
                    "aarch64" => "arm64".into(),
                    other => other.into(),
                },
                container_runtime_version: format!("hollow://{version}"),
                kubelet_version: format!("coracle-{version}"),
                operating_system: "linux".into(),
                os_image: "simulated".into(),
                ..Default::default()
            },
        }
    }
}

async fn join(
    config: &HollowConfig,
    [client, beats]: [&Client; 2],
    cluster: &ClusterFacts,
    networks: &Networks,
    deadline: Deadline,
    facts: NodeFacts,
    (services, turns): (ServicesSeen, Arc<Semaphore>),
) -> Result<Bare<Hollow>, StartError> {
    let allotted = networks.expect(&facts.name);
    let registration = Registration::new(client, facts);
    deadline.retry("registering a simulated node", || registration.ensure(None)).await?;
    // The sender is kept until it has something to send.
    let pod_cidr = async { allotted.await.unwrap_or_default() };
    let pod_cidr = deadline.wait("waiting for a simulated node's pod network", pod_cidr).await?;
    let clock = Clock::system();
    let engine = Hollow::with_mishaps(clock.clone(), config.delays, config.mishaps);
    // The first address of a pod network is its gateway's.
    engine.set_first_address(Ipv4Addr::from(u32::from(pod_cidr.network()).saturating_add(2)));
    Ok(Bare {
        client: client.clone(),
        beats: beats.clone(),
        cluster: cluster.clone(),
        registration,
        pod_cidr,
        runtime: Arc::new(engine),
        services,
        turns: Some(turns),
        clock,
        plan: plan_pod,
    })
}

/// The pod networks that the master has allotted, for all of them from one watch.
#[derive(Debug, Default)]
struct Networks(Mutex<HashMap<String, Allotment>>);

#[derive(Debug)]
enum Allotment {
    Known(Ipv4Net),
    Awaited(oneshot::Sender<Ipv4Net>),
}

impl Networks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Allotment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, node: &str) -> oneshot::Receiver<Ipv4Net> {
        let (sender, receiver) = oneshot::channel();
        let mut all = self.lock();
        match all.get(node) {
            // The receiver is here.
            Some(Allotment::Known(network)) => drop(sender.send(*network)),
            _ => drop(all.insert(node.to_owned(), Allotment::Awaited(sender))),
        }
        receiver
    }

    fn hear(&self, node: &Node) {
        let (Some(name), Some(network)) = (&node.metadata.name, pod_cidr_of(node)) else { return };
        if let Some(Allotment::Awaited(waits)) = self.lock().insert(name.clone(), Allotment::Known(network)) {
            // One that gave up needs none.
            let _ = waits.send(network);
        }
    }

    async fn follow(self: Arc<Self>, mut nodes: Reflector<Node>, stop: CancellationToken) {
        // Cancel-safe: what is lost is not needed any more.
        while let Some(change) = stop.run_until_cancelled(nodes.next()).await {
            match change {
                Change::Replaced(nodes) => nodes.iter().for_each(|node| self.hear(node)),
                Change::Applied(node) => self.hear(&node),
                Change::Deleted(_) => {}
                Change::Interrupted(error) => tracing::debug!(%error, "waiting for the master"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_is_told_whether_it_is_heard_of_before_or_after() {
        let networks = Networks::default();
        let node = |name: &str, cidr: Option<&str>| -> Node {
            serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr}})).unwrap()
        };
        let [early, late] = ["10.1.0.0/24", "10.1.1.0/24"];
        let waits = networks.expect("late");
        networks.hear(&node("late", None));
        networks.hear(&node("early", Some(early)));
        networks.hear(&node("late", Some(late)));
        networks.hear(&node("late", Some(late)));
        assert_eq!(waits.await.unwrap().to_string(), late);
        assert_eq!(networks.expect("early").await.unwrap().to_string(), early);
    }
}
