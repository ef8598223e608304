//! A minion of the parts that need no host: pods and heartbeat. It has no pod network, no proxy, no DNS,
//! no files and no tunnel, and is otherwise a minion: the same watch, plans, statuses and beats.
//! Simulated minions are made of it, thousands in a process.

use std::sync::Arc;

use coracle_api::{
    client::{Client, ListParams, Reflector, Wire},
    clock::Clock,
    core::Pod,
};
use ipnet::Ipv4Net;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    feed,
    node::{cluster::ClusterFacts, heartbeat, registration::Registration},
    pods::{self, ApiReporter, Inputs, Manager, PlanPod, services::ServicesSeen},
    runtime::Runtime,
};

/// What such a minion is made of.
#[derive(Debug)]
pub struct Bare<R> {
    /// The way to its master.
    pub client: Client,
    /// The way for its beats, which must not wait behind others' requests.
    pub beats: Client,
    /// The facts of its cluster.
    pub cluster: ClusterFacts,
    /// Its Node, which is registered already.
    pub registration: Registration,
    /// The pod network that it was allotted.
    pub pod_cidr: Ipv4Net,
    /// Its engine.
    pub runtime: Arc<R>,
    /// All services.
    pub services: ServicesSeen,
    /// What its new pods take their turns from, if it shares them with others.
    pub turns: Option<Arc<Semaphore>>,
    /// The time.
    pub clock: Clock,
    /// How it decides.
    pub plan: PlanPod,
}

impl<R: Runtime> Bare<R> {
    /// Runs it until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { client, beats, cluster, registration, pod_cidr, runtime, services, turns, clock, plan } = self;
        let name = &registration.facts().name;
        let mut config = pods::Config::new(name, registration.facts().address, &cluster.cluster_id, "/".into());
        (config.root, config.clock, config.plan) = (None, clock, plan);
        config.turns = turns.unwrap_or(config.turns);
        let reporter = Arc::new(ApiReporter::new(client.clone(), name));
        let (pod_changes, pods) = mpsc::channel(feed::QUEUE);
        let of_node = ListParams { fields: format!("spec.nodeName={name}"), ..Default::default() };
        let inputs = Inputs { pods, services };
        let (_manager, managing) = Manager::start(config, Arc::clone(&runtime), reporter, inputs, stop.clone());
        let watching = feed::run(Reflector::new(client.all::<Wire<Pod>>(), of_node), vec![pod_changes], stop.clone());
        let beating = heartbeat::run(beats, registration, pod_cidr, runtime, cluster.heartbeat(), stop.clone());
        // A part that ends takes the others with it: a minion that does not look after its pods must not
        // say that it does. Cancel-safe: all of them end with `stop`.
        tokio::select! {
            _ = managing => {}
            () = watching => {}
            () = beating => {}
        }
        stop.cancel();
    }
}
