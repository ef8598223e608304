//! One run: a cluster starts, a user and faults do their worst for a while, then the faults end, and the cluster
//! must come to rest as it was asked to be.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coracle_api::clock::Clock;
use coracle_master::{
    cluster::Ranges,
    coordination::Alone,
    master::{Base, Master, MasterConfig, StoreConfig},
    plans::Plans,
    server::Limits,
    source::Source,
};
use coracle_minion::pods::{PlanPod, plan::plan_pod};
use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use crate::{
    check,
    disk::Disk,
    faults,
    gate::Gate,
    host::Host,
    network::{MASTER, Network},
    note,
    random::Random,
    trace::Trace,
    user::User,
    world::World,
};

/// How long the cluster may take to come to rest once the faults are over. A connection that a cut left
/// hanging is given up after 75 s, an answer after 60 s, and pods are moved after that.
pub const REST: Duration = Duration::from_secs(300);
/// How long it is left alone then.
const QUIET: Duration = Duration::from_secs(20);
/// Changes that may be stored meanwhile: for containers that end by themselves, and no loop that runs hot.
const QUIET_CHANGES_MAX: u64 = 200;
/// How long it may take to come back to rest: a container that ended by itself is started again after that.
const AGAIN: Duration = Duration::from_secs(60);
/// After a crash of the master, at most, in milliseconds.
const MASTER_AWAY_MAX: usize = 6000;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything that is left to chance.
    pub seed: u64,
    /// Whether to keep the whole trace.
    pub whole_trace: bool,
    /// How the master's loops decide.
    pub plans: Plans,
    /// How the minions' workers decide.
    pub plan_pod: PlanPod,
}

impl Options {
    /// A run of the real plans.
    pub fn new(seed: u64) -> Self {
        Self { seed, whole_trace: false, plans: Plans::default(), plan_pod }
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of the whole trace.
    pub hash: u64,
    /// Of the trace.
    pub lines: u64,
    /// The end of the trace, or all of it.
    pub trace: Vec<String>,
    /// What went wrong.
    pub violation: Option<String>,
    /// How long the faults lasted.
    pub faulty: Duration,
    /// How long the cluster took to come to rest.
    pub rest: Duration,
}

/// All that lives in a run.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts, dead ones as well.
    pub hosts: Vec<Arc<Host>>,
    /// The network.
    pub network: Network,
    /// The store.
    pub disk: Arc<Disk>,
    /// The truth.
    pub world: World,
    /// Hosts that do not come back.
    lost: Mutex<BTreeSet<usize>>,
    clock: Clock,
    options: Options,
    lives: AtomicU64,
    master: Mutex<Option<(Master, Gate)>>,
    crash: Notify,
}

impl Cluster {
    /// Loses a host for good, if most are left then.
    pub fn lose(&self, host: usize) -> bool {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.contains(&host) || 2 * (lost.len() + 1) >= self.hosts.len() {
            return false;
        }
        lost.insert(host)
    }

    /// Starts a host's minion, unless it is lost.
    pub fn start_host(&self, host: &Arc<Host>) {
        if !self.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(&host.number) {
            host.start();
        }
    }

    /// The master's process ends at once.
    pub fn crash_master(&self) {
        self.crash.notify_one();
    }

    /// Runs one master after the other, until dropped.
    async fn run_masters(&self, seed: u64) {
        let mut random = Random::new(seed, "master");
        loop {
            self.start_master(seed).await;
            tokio::select! {
                biased;
                () = self.disk.crashed.notified() => {}
                () = self.crash.notified() => {}
            }
            let master = self.master.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((master, life)) = master {
                life.close();
                self.network.lose_master();
                note!(self.world.trace, "fault  the master crashes");
                tokio::spawn(master.shutdown());
            }
            tokio::time::sleep(random.millis(50, MASTER_AWAY_MAX)).await;
        }
    }

    async fn start_master(&self, seed: u64) {
        loop {
            let life = Gate::default();
            let number = self.lives.fetch_add(1, Ordering::Relaxed);
            let mut ids = Random::new(seed, "ids");
            let first = (0..=number).map(|_| ids.draw()).last().unwrap_or_default();
            let network = self.network.clone();
            let base = Base {
                store: self.disk.of_life(life.clone(), move || network.lose_master()),
                coordinator: Arc::new(Alone::new("m")),
                source: Source::simulated(self.clock.clone(), first),
                plans: self.options.plans,
            };
            match Master::start_on(config(), base, self.network.listen()).await {
                Ok(master) => {
                    note!(self.world.trace, "fault  the master starts");
                    *self.master.lock().unwrap_or_else(PoisonError::into_inner) = Some((master, life));
                    return;
                }
                Err(error) => {
                    note!(self.world.trace, "fault  the master does not start: {error}");
                    life.close();
                    self.network.lose_master();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }
}

fn config() -> MasterConfig {
    let range = |text: &str| Ranges { wanted: None, default: text.parse().unwrap_or_default() };
    MasterConfig {
        // Not opened: the base has another.
        store: StoreConfig::Embedded("/nonexistent".into()),
        listen: MASTER,
        allow_from: "192.0.2.0/24".parse().into_iter().collect(),
        advertise: None,
        services: range("10.0.0.0/16"),
        pods: range("10.244.0.0/16"),
        limits: Limits::default(),
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of tasks end those tasks only: they are noted, and are violations.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|panic| panic.get_or_insert_with(|| info.to_string()).truncate(400));
            others(info);
        }));
    });
    PANIC.with_borrow_mut(|panic| *panic = None);
}

/// Runs a seed. The runtime must be of one thread, with its clock paused; drop it afterwards.
pub async fn run(options: Options) -> Outcome {
    note_panics();
    let seed = options.seed;
    let mut random = Random::new(seed, "course");
    let trace = Trace::new(options.whole_trace);
    let world = World::new(trace.clone());
    let clock = Clock::simulated(Timestamp::from_second(1_764_000_000).unwrap_or_default());
    let network = Network::new(seed);
    let count = random.range(2, 4);
    let hosts = (1..=count)
        .map(|number| Host::new(number, world.clone(), network.clone(), clock.clone(), options.plan_pod))
        .collect();
    let cluster = Arc::new(Cluster {
        hosts,
        disk: Disk::new(seed, world.clone()),
        network,
        world,
        lost: Mutex::default(),
        clock,
        options,
        lives: AtomicU64::new(0),
        master: Mutex::default(),
        crash: Notify::new(),
    });
    let faulty = random.millis(8_000, 40_000);
    let mut rest = Duration::ZERO;
    let course = async {
        suffer(&cluster, seed, faulty).await;
        match come_to_rest(&cluster).await {
            Ok(took) => rest = took,
            Err(why) => trace.violate(why),
        }
    };
    tokio::select! {
        biased;
        () = trace.violated() => {}
        () = cluster.run_masters(seed) => {}
        () = course => {}
    }
    if let Some(panic) = PANIC.with_borrow_mut(Option::take) {
        trace.violate(format!("a panic: {panic}"));
    }
    Outcome {
        hash: trace.hash(),
        lines: trace.lines(),
        trace: trace.tail(),
        violation: trace.violation(),
        faulty,
        rest,
    }
}

async fn suffer(cluster: &Arc<Cluster>, seed: u64, time: Duration) {
    for host in &cluster.hosts {
        host.start();
    }
    let user = match User::new(seed, cluster.world.clone(), &cluster.network) {
        Ok(user) => user,
        Err(error) => return cluster.world.trace.violate(format!("no user: {error}")),
    };
    let misery = async {
        tokio::join!(user.run(), faults::run(cluster.clone(), seed));
    };
    drop(tokio::time::timeout(time, misery).await);
}

async fn come_to_rest(cluster: &Arc<Cluster>) -> Result<Duration, String> {
    note!(cluster.world.trace, "fault  all faults end");
    faults::end(cluster);
    cluster.hosts.iter().for_each(|host| cluster.start_host(host));
    let rest = settle(cluster, REST).await?;
    note!(cluster.world.trace, "check  at rest");
    // Some containers end by themselves now and then, so it is not always at rest; but never far from it.
    let before = cluster.world.state().changes;
    tokio::time::sleep(QUIET).await;
    let changes = cluster.world.state().changes - before;
    if changes > QUIET_CHANGES_MAX {
        return Err(format!("{changes} changes were stored in {QUIET:?} of rest"));
    }
    settle(cluster, AGAIN).await.map_err(|why| format!("it was at rest, and now {why}"))?;
    Ok(rest)
}

/// Waits until everything is as it was asked for.
async fn settle(cluster: &Cluster, limit: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let settled = check::settled(&cluster.world.state(), &cluster.hosts);
        match settled {
            Ok(()) => return Ok(start.elapsed()),
            Err(why) if start.elapsed() > limit => return Err(format!("after {limit:?} without faults, {why}")),
            Err(_) => {}
        }
    }
}
