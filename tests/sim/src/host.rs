//! A host: an engine with its containers, and the minion that runs on it ([`coracle_minion::bare`]).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coracle_api::{
    client::{Client, ClientError, ListParams, Reflector},
    clock::Clock,
    core::{NodeSystemInfo, Service},
};
use coracle_minion::{
    bare::Bare,
    feed,
    node::{cluster::ClusterFacts, facts::NodeFacts, registration::Registration},
    pods::{PlanPod, services},
    runtime::{
        Runtime, RuntimeEvent, State,
        hollow::{Delays, Hollow},
        labels,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::Engine,
    gate::Gate,
    network::{MASTER, Network},
    note,
    world::World,
};

/// What a host has, in thousandths of a core.
pub const CAPACITY_MILLI: u64 = 1000;
const RETRY: Duration = Duration::from_millis(500);

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its place in the network.
    pub number: usize,
    /// Its name as a node.
    pub name: String,
    engine: Mutex<(Hollow, Gate)>,
    life: Mutex<Option<Life>>,
    starts: Mutex<u32>,
    world: World,
    network: Network,
    clock: Clock,
    plan: PlanPod,
}

#[derive(Debug)]
struct Life {
    gate: Gate,
    stop: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// A host whose minion does not run yet.
    pub fn new(number: usize, world: World, network: Network, clock: Clock, plan: PlanPod) -> Arc<Self> {
        let host = Self {
            number,
            name: format!("h{number}"),
            engine: Mutex::new((Hollow::new(clock.clone()), Gate::default())),
            life: Mutex::default(),
            starts: Mutex::new(0),
            world,
            network,
            clock,
            plan,
        };
        host.renew_engine();
        Arc::new(host)
    }

    /// The engine.
    pub fn engine(&self) -> Hollow {
        lock(&self.engine).0.clone()
    }

    /// An engine without containers: the host was lost and set up anew.
    fn renew_engine(&self) {
        let hollow = Hollow::with_delays(self.clock.clone(), Delays::DOCKER);
        let starts = {
            let mut starts = lock(&self.starts);
            *starts += 1;
            *starts
        };
        let third = u8::try_from(starts % 256).unwrap_or_default();
        hollow.set_first_address(Ipv4Addr::new(10, 100 + u8::try_from(self.number).unwrap_or_default(), third, 2));
        let power = Gate::default();
        let (watched, life) = (watch(self.name.clone(), hollow.clone(), self.world.clone()), power.clone());
        tokio::spawn(async move { life.pass(watched).await });
        let (_, before) = std::mem::replace(&mut *lock(&self.engine), (hollow, power));
        before.close();
    }

    /// Whether its minion runs.
    pub fn is_up(&self) -> bool {
        lock(&self.life).is_some()
    }

    /// Starts the minion, if it does not run.
    pub fn start(self: &Arc<Self>) {
        let mut life = lock(&self.life);
        if life.is_some() {
            return;
        }
        note!(self.world.trace, "fault  {} minion starts", self.name);
        let (gate, stop) = (Gate::default(), CancellationToken::new());
        tokio::spawn(run(self.clone(), gate.clone(), stop.clone()));
        *life = Some(Life { gate, stop });
    }

    /// The minion's process ends at once; its containers stay.
    pub fn crash(&self) {
        let Some(Life { gate, stop }) = lock(&self.life).take() else { return };
        note!(self.world.trace, "fault  {} minion crashes", self.name);
        gate.close();
        self.network.shatter(self.number);
        stop.cancel();
    }

    /// The host is gone with all that runs on it.
    pub fn die(&self) {
        note!(self.world.trace, "fault  {} dies", self.name);
        self.crash();
        self.renew_engine();
    }
}

/// The minion.
async fn run(host: Arc<Host>, gate: Gate, stop: CancellationToken) {
    let dial = host.network.dialer(host.number, gate.clone());
    let Ok(client) = Client::with_dial(&format!("http://{MASTER}"), dial) else { return };
    let Some(cluster) = insist(&stop, || ClusterFacts::fetch(&client)).await else { return };
    let address = IpAddr::from([192, 0, 2, u8::try_from(10 + host.number).unwrap_or_default()]);
    let facts = NodeFacts {
        name: host.name.clone(),
        address,
        cpu_milli: CAPACITY_MILLI,
        memory_bytes: 8 << 30,
        pods_max: 110,
        system: NodeSystemInfo::default(),
    };
    let registration = Registration::new(&client, facts);
    if insist(&stop, || registration.ensure(None)).await.is_none() {
        return;
    }
    let Some(pod_cidr) = stop.run_until_cancelled(registration.pod_cidr()).await else { return };
    let runtime = Arc::new(Engine { hollow: host.engine(), life: gate });
    let (service_changes, told) = mpsc::channel(feed::QUEUE);
    let (seen, services) = watch::channel(None);
    let followed = Reflector::new(client.all::<Service>(), ListParams::default());
    tokio::spawn(feed::run(followed, vec![service_changes], stop.clone()));
    tokio::spawn(services::follow(told, seen));
    let (clock, plan) = (host.clock.clone(), host.plan);
    let (beats, turns) = (client.clone(), None);
    Bare { client, beats, cluster, registration, pod_cidr, runtime, services, turns, clock, plan }.run(stop).await;
}

async fn insist<T, F>(stop: &CancellationToken, mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let asking = async {
        loop {
            if let Ok(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    stop.run_until_cancelled(asking).await
}

/// Looks at an engine at each of its events.
async fn watch(name: String, hollow: Hollow, world: World) {
    let mut events = hollow.events();
    while let Some(event) = events.recv().await {
        let RuntimeEvent::Changed { pod_uid, id } = event else { continue };
        let containers = hollow.containers();
        let mut running: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for container in containers.iter().filter(|c| c.pod_uid == pod_uid) {
            if matches!(container.state, State::Running { .. }) && container.name != labels::INFRA {
                *running.entry((&container.pod_uid, &container.name)).or_default() += 1;
            }
        }
        let changed = containers.iter().find(|c| c.id == id);
        let state = changed.map(|c| match &c.state {
            State::Created => "created".to_owned(),
            State::Running { .. } => "runs".to_owned(),
            State::Exited { code, .. } => format!("ended with {code}"),
        });
        note!(
            world.trace,
            "engine {name} {} {} {}",
            changed.map_or("-", |c| &c.pod_name),
            changed.map_or_else(|| id.0[id.0.len() - 4..].to_owned(), |c| format!("{}#{}", c.name, c.attempt)),
            state.as_deref().unwrap_or("removed")
        );
        if let Some(((_, container), times)) = running.into_iter().find(|(_, times)| *times > 1) {
            world.trace.violate(format!("{times} containers {container} of pod {pod_uid} run on {name}"));
        }
        if changed.is_some() && world.home_of(&pod_uid).is_none_or(|home| home != name) {
            world.trace.violate(format!("pod {pod_uid} has a container on {name}, and was never bound there"));
        }
    }
}
