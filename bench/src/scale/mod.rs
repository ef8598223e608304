//! `coracle-bench scale`: a real master under thousands of simulated minions.
//!
//! ```text
//!   load ── replication controllers ──> master <── watch, status, beats ── hollow minions (two processes)
//!   prober ── reads and writes ───────────┤
//!   follower <── watch of all pods ───────┘
//! ```
//!
//! Master and minions are processes of their own and talk HTTP over loopback; the store is durable.
//! What is simulated is the containers: the minions' engines exist in memory and take no time, so that
//! what is left is the control plane. All of it shares this machine's cores with the measurement.
//!
//! Invariant: figures are printed only of a run at whose end every controller has exactly the pods it asks
//! for, all of them Running.

mod after;
mod follower;
mod minions;
mod plot;
mod prober;
mod samples;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use coracle_api::{
    client::{Client, ListParams},
    core::{Endpoints, Namespace, Node, ReplicationController, Service},
    open_files,
};

use crate::{
    api::{args::StoreKind, subject::Subject, usage::Usage},
    machine,
    table::Row,
};
use follower::{Follower, Stage};
use minions::{Cluster, Minions};
use plot::Point;
use prober::Prober;
use samples::Samples;

/// Pods of one controller at most.
const REPLICAS_MAX: usize = 1000;
/// Where minions get pod networks from, and services their addresses: room for 32,768 minions.
const RANGES: [&str; 4] = ["--pod-cidr", "10.0.0.0/9", "--service-cidr", "10.128.0.0/16"];
/// How long nothing may happen in a run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Controllers of a namespace.
const CONTROLLERS_MAX: usize = 10;
/// What the names of the load's namespaces begin with.
const NAMESPACES: &str = "scale-";

/// `coracle-bench scale`
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Simulated minions; without, the whole series
    #[arg(long, requires = "pods")]
    nodes: Option<usize>,
    /// Pods on them
    #[arg(long, requires = "nodes")]
    pods: Option<usize>,
    /// The master's store
    #[arg(long, value_enum, default_value_t = StoreKind::Embedded)]
    store: StoreKind,
    /// Directory of the store; a disk, not memory
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Takes samples of the master's processor with perf while pods are made, into this file
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Then deletes 500 pods a second for so many seconds, kills a tenth of the minions, and resizes all to zero
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    churn: u64,
    /// Threads for the tasks of the master, and as many for those of each of the minions' two processes. Both want both cores, and tasks that change
    /// threads all the time cost a fifth more
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Draws what a pod costs at each size into this file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Seconds of the look at the cluster at rest
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
}

/// The sizes of the series.
const SERIES: [(usize, usize); 4] = [(100, 3_000), (1_000, 30_000), (5_000, 150_000), (5_000, 1_000_000)];

/// One small size with all that follows, in about a minute.
pub(crate) fn rows_of_short() -> Result<Vec<Row>> {
    let (store, dir) = (StoreKind::Embedded, PathBuf::from("target"));
    let (samples, plot) = (None, None);
    let (nodes, pods, threads) = (100, 3_000, 1);
    let (churn, idle_seconds) = (10, 10);
    open_files::raise_limit();
    let args =
        ScaleArgs { nodes: Some(nodes), pods: Some(pods), store, dir, samples, threads, plot, churn, idle_seconds };
    Ok(runtime()?.block_on(one(&args, nodes, pods))?.rows())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Takes the figures and prints them.
pub(crate) fn run(args: &ScaleArgs) -> Result<()> {
    open_files::raise_limit();
    println!("machine: {}, load {}", machine::describe()?, machine::load()?);
    let sizes = match (args.nodes, args.pods) {
        (Some(nodes), Some(pods)) => vec![(nodes, pods)],
        _ => SERIES.to_vec(),
    };
    let runtime = runtime()?;
    let mut points = Vec::new();
    for (nodes, pods) in sizes {
        let figures = runtime.block_on(one(args, nodes, pods))?;
        println!();
        figures.rows().iter().for_each(|row| println!("{row}"));
        points.push(figures.point());
    }
    if points.len() > 1 {
        println!("\n| pods | pods/s | master, us a pod | minions, us a pod |\n|---|---|---|---|");
    }
    for Point { pods, rate, master_us, minions_us } in points.iter().filter(|_| points.len() > 1) {
        println!("| {pods} | {rate:.0} | {master_us:.0} | {minions_us:.0} |");
    }
    args.plot.as_deref().map_or(Ok(()), |file| plot::write(&points, file))
}

/// What one size came to.
#[derive(Debug)]
struct Figures {
    nodes: usize,
    pods: usize,
    /// From the start of the minions' processes until all were Ready.
    joined: Duration,
    /// From the first controller's creation to the last pod Running, as seen by the follower.
    took: Duration,
    /// From there until all were addresses of their services.
    served: Duration,
    /// Pods a second between the first and the last of each stage.
    rates: [(Stage, f64); 3],
    /// 50 and 99 of a hundred, reads and writes.
    prober: [Duration; 4],
    /// Processor seconds in that time.
    master_cpu: Duration,
    minions_cpu: Duration,
    own_cpu: Duration,
    master_resident: u64,
    minions_resident: u64,
    disk: u64,
    /// Shares of a core at rest, and writes a second.
    idle: [f64; 2],
    idle_writes: f64,
    after: Option<After>,
}

/// What came of pods that ran.
#[derive(Debug)]
struct After {
    churn: after::Churn,
    /// Pods on the minions that died, and how long it took until as many ran elsewhere.
    lost: usize,
    replaced: Duration,
    /// From the order until no pod was there.
    emptied: Duration,
}

async fn one(args: &ScaleArgs, nodes: usize, pods: usize) -> Result<Figures> {
    let subject = Subject::start_with(args.store, &args.dir, &RANGES, Some(args.threads))?;
    let client = Client::new(&format!("http://{}", subject.target.address))?;
    let per_node = u32::try_from(pods.div_ceil(nodes) * 5 / 4 + 10)?;
    let begun = Instant::now();
    let dir = subject.dir().context("our own")?;
    let mortal = if args.churn > 0 { nodes / 10 } else { 0 };
    let cluster = Cluster { master: subject.target.address, pods_max: per_node, threads: args.threads, dir };
    let minions = Minions::start(minions::PREFIX, nodes - mortal, &cluster)?;
    let doomed = (mortal > 0).then(|| Minions::start(minions::DOOMED, mortal, &cluster)).transpose()?;
    for minions in [Some(&minions), doomed.as_ref()].into_iter().flatten() {
        minions.joined().await?;
    }
    ready(&client, nodes).await?;
    let joined = begun.elapsed();

    let follower = Follower::start(subject.target.address)?;
    let probed = minions.names().next().context("a minion")?;
    let prober = Prober::start(subject.target.address, probed)?;
    let (usage, minions_before) = (Usage::now(&subject)?, minions.cpu()?);
    let samples = args.samples.as_deref().map(|file| Samples::start(&subject, file)).transpose()?;
    let begun = Instant::now();
    create_controllers(&client, pods).await?;
    follower.wait_for(Stage::Running, pods, PATIENCE)?;
    let took = begun.elapsed();
    let rates = Stage::ALL.map(|stage| (stage, follower.rate(stage)));
    in_endpoints(&client, pods).await?;
    let served = begun.elapsed();
    samples.map(Samples::stop).transpose()?;
    let cost = usage.until(&subject)?;
    let minions_cpu = minions.cpu()?.saturating_sub(minions_before);
    let prober = prober.stop()?;
    exactly(&client, pods).await?;
    let (master_resident, disk) = (cost.resident, bytes_in(dir)?);
    let minions_resident = minions.resident()?;

    let (idle, idle_writes) = idle(&subject, &minions, &client, Duration::from_secs(args.idle_seconds)).await?;
    let time = Duration::from_secs(args.churn);
    let after = match doomed {
        None => None,
        Some(doomed) => {
            let churn = after::churn(subject.target.address, &client, &follower, pods, time).await?;
            let (lost, replaced) = after::mass_death(&client, &follower, doomed, pods).await?;
            Some(After { churn, lost, replaced, emptied: after::resize_to_zero(&client, &follower).await? })
        }
    };
    follower.stop()?;
    Ok(Figures {
        nodes,
        pods,
        joined,
        took,
        served,
        rates,
        prober,
        master_cpu: cost.server(),
        minions_cpu,
        own_cpu: cost.client,
        master_resident,
        minions_resident,
        disk,
        idle,
        idle_writes,
        after,
    })
}

/// Waits until all nodes are Ready.
async fn ready(client: &Client, nodes: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // A list of thousands of nodes is work for the master, which has them to register.
    let pause = Duration::from_millis(100 + u64::try_from(nodes / 20)?);
    loop {
        let list = client.all::<Node>().list(&ListParams::default()).await?.items;
        let is_ready = |n: &&Node| {
            let conditions = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let count = list.iter().filter(is_ready).count();
        if count == nodes {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{count} of {nodes} minions are Ready after {PATIENCE:?}");
        tokio::time::sleep(pause).await;
    }
}

/// Controllers by namespaces, each with a service of its own.
async fn create_controllers(client: &Client, pods: usize) -> Result<()> {
    for (number, first) in (0..pods).step_by(REPLICAS_MAX).enumerate() {
        let (name, namespace) = (format!("load-{number:04}"), namespace_of(number));
        let replicas = REPLICAS_MAX.min(pods - first);
        if number % CONTROLLERS_MAX == 0 {
            let made = serde_json::from_value(serde_json::json!({"metadata": {"name": namespace}}))?;
            client.all::<Namespace>().create(&made).await?;
        }
        let service = serde_json::json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        client.namespaced::<Service>(&namespace).create(&serde_json::from_value(service)?).await?;
        let rc = serde_json::json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": replicas, "selector": {"app": name}, "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "server", "image": "registry.example/server:1",
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    "ports": [{"containerPort": 8080}]}]}}},
        });
        client.namespaced::<ReplicationController>(&namespace).create(&serde_json::from_value(rc)?).await?;
    }
    Ok(())
}

fn namespace_of(controller: usize) -> String {
    format!("{NAMESPACES}{:03}", controller / CONTROLLERS_MAX)
}

/// Waits until every pod is an address of its service.
async fn in_endpoints(client: &Client, pods: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = client.all::<Endpoints>().list(&ListParams::default()).await?.items;
        let ours = |e: &&Endpoints| e.metadata.namespace.as_deref().is_some_and(|ns| ns.starts_with(NAMESPACES));
        let subsets = list.iter().filter(ours).flat_map(|e| e.subsets.iter().flatten());
        let addresses: usize = subsets.map(|s| s.addresses.iter().flatten().count()).sum();
        if addresses == pods {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{addresses} of {pods} pods are in endpoints after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every controller has what it asks for.
async fn exactly(client: &Client, pods: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = client.all::<ReplicationController>().list(&ListParams::default()).await?.items;
        let wanted = |rc: &ReplicationController| rc.spec.as_ref().and_then(|s| s.replicas);
        let status = |rc: &ReplicationController| rc.status.as_ref().map(|s| (s.replicas, s.ready_replicas));
        let met = |rc: &&ReplicationController| wanted(rc).is_some_and(|n| status(rc) == Some((n, Some(n))));
        let sum: i64 = list.iter().filter_map(wanted).map(i64::from).sum();
        if sum == i64::try_from(pods)? && list.iter().all(|rc| met(&rc)) {
            return Ok(());
        }
        let late = list.iter().filter(|rc| !met(rc)).count();
        ensure!(
            Instant::now() < deadline,
            "{late} of {} controllers do not have exactly what they ask for",
            list.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the cluster costs at rest: shares of a core of master and minions, and writes a second.
async fn idle(subject: &Subject, minions: &Minions, client: &Client, time: Duration) -> Result<([f64; 2], f64)> {
    let version = async || -> Result<u64> {
        let list = client.all::<Namespace>().list(&ListParams::default()).await?;
        list.resource_version.parse().context("the version of a list")
    };
    settled(&version).await?;
    let (usage, before, first) = (Usage::now(subject)?, minions.cpu()?, version().await?);
    tokio::time::sleep(time).await;
    let (cost, after, last) = (usage.until(subject)?, minions.cpu()?, version().await?);
    let share = |spent: Duration| spent.as_secs_f64() / time.as_secs_f64();
    let writes = last.saturating_sub(first) as f64 / time.as_secs_f64();
    Ok(([share(cost.server()), share(after.saturating_sub(before))], writes))
}

/// Waits until nothing was written for a second: events follow what they tell of.
async fn settled(version: &impl AsyncFn() -> Result<u64>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = version().await?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = version().await?;
        if now == last || Instant::now() > deadline {
            return Ok(());
        }
        last = now;
    }
}

fn bytes_in(dir: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

impl Figures {
    /// Processor time of one pod, in microseconds.
    fn each(&self, spent: Duration) -> f64 {
        spent.as_secs_f64() * 1e6 / self.pods as f64
    }

    fn point(&self) -> Point {
        let rate = self.pods as f64 / self.took.as_secs_f64();
        let (master_us, minions_us) = (self.each(self.master_cpu), self.each(self.minions_cpu));
        Point { pods: self.pods, master_us, minions_us, rate }
    }

    fn rows(&self) -> Vec<Row> {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
        let per_pod = |spent| format!("{:.0} us", self.each(spent));
        let share = |share: f64| format!("{:.1} % of a core", share * 100.0);
        let rate = |count: usize, time: Duration| format!("{:.0}/s", count as f64 / time.as_secs_f64());
        let mut rows = vec![Row::new(format!("{} simulated minions Ready", self.nodes), seconds(self.joined))];
        let mut row = |what: &str, value| rows.push(Row::new(what, value));
        row(&format!("{} pods Running", self.pods), seconds(self.took));
        row("  pods", rate(self.pods, self.took));
        for (stage, rate) in self.rates {
            row(&format!("  {}, first to last", stage.name()), format!("{rate:.0}/s"));
        }
        row("  all in endpoints after", seconds(self.served));
        for (what, time) in ["reads, 50", "reads, 99", "writes, 50", "writes, 99"].iter().zip(self.prober) {
            row(&format!("  prober, {what} of 100"), milliseconds(time));
        }
        let processes = [("master", self.master_cpu), ("minions", self.minions_cpu), ("client", self.own_cpu)];
        for (what, spent) in processes {
            row(&format!("  processor for a pod, {what}"), per_pod(spent));
        }
        row("  resident, master", megabytes(self.master_resident));
        row("  resident, minions", megabytes(self.minions_resident));
        row("  on disk", megabytes(self.disk));
        let [master, minions] = self.idle;
        row("  at rest, master", share(master));
        row("  at rest, minions", share(minions));
        row("  at rest, writes", format!("{:.1}/s", self.idle_writes));
        let Some(After { churn, lost, replaced, emptied }) = &self.after else { return rows };
        row(&format!("{} pods deleted", churn.deaths), rate(churn.deaths, churn.lasted));
        row("  99 of 100 answered within", milliseconds(churn.answered_99));
        row("  all as asked for again after", seconds(churn.settled));
        row(&format!("a tenth of the minions dead: {lost} pods elsewhere after"), seconds(*replaced));
        row("resized to zero, all gone after", seconds(*emptied));
        rows
    }
}
