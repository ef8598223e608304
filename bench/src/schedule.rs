//! `coracle-bench schedule`: pods placed in a second, in this process: decisions alone, and with the
//! bindings written through a registry on a memory store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use coracle_api::{
    TypedObject,
    core::{Node, Pod},
    objects::pod::Requests,
};
use coracle_master::{
    events::Recorder,
    registry::{Key, PodFacts, Registry, Snapshot},
    scheduler::{Cluster, Decision, Scheduler, Wanted, decide},
    store::MemoryStore,
};
use coracle_tests::measure;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::machine;

/// What `coracle-bench schedule` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScheduleArgs {
    /// Sizes of the cluster.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000, 15_000])]
    nodes: Vec<usize>,
    /// Pods that are placed already.
    #[arg(long, default_value_t = 30_000)]
    placed: usize,
    /// Pods to place.
    #[arg(long, default_value_t = 30_000)]
    pods: usize,
}

/// Pods of one controller.
const REPLICAS: usize = 500;
/// Objects created at once while a measurement is prepared.
const GROUP: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(600);

/// Takes the figures and prints them.
pub(crate) fn run(args: &ScheduleArgs) -> Result<()> {
    println!("machine: {}, load {}", machine::describe()?, machine::load()?);
    println!("{} pods placed before, {} to place, in controllers of {REPLICAS}\n", args.placed, args.pods);
    println!(
        "{:>7}  {:>12} {:>10}  {:>14} {:>10}  {:>10} {:>9}",
        "nodes", "decisions/s", "us CPU", "placed+bound/s", "us CPU", "refusal us", "spread"
    );
    for nodes in &args.nodes {
        let pure = decisions(*nodes, args)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let whole = runtime.block_on(whole_path(*nodes, args))?;
        runtime.shutdown_background();
        println!(
            "{nodes:>7}  {:>12.0} {:>10.2}  {:>14.0} {:>10.1}  {:>10.1} {:>9}",
            pure.rate, pure.cpu_us, whole.rate, whole.cpu_us, pure.refusal_us, pure.spread,
        );
    }
    println!(
        "\ndecisions: decide and keep the totals; refusal: CPU of one, with the reason of every node counted\n\
         placed+bound: watched, decided, bound in the registry, seen again, events included; CPU of the whole process\n\
         spread: most pods of one controller on one node, above the even share rounded up"
    );
    Ok(())
}

struct Pure {
    rate: f64,
    cpu_us: f64,
    refusal_us: f64,
    spread: usize,
}

struct Whole {
    rate: f64,
    cpu_us: f64,
}

fn node(i: usize) -> Result<Node> {
    // Three sizes, so that the emptiest are not all alike.
    let cpu = 16 << (i % 3);
    let node = json!({
        "metadata": {"name": format!("node-{i:05}"), "labels": {"zone": format!("z{}", i % 3)}},
        "status": {"allocatable": {"cpu": cpu.to_string(), "memory": format!("{}Gi", cpu * 4), "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    Ok(serde_json::from_value(node)?)
}

fn pod(i: usize, host: Option<usize>) -> Result<Pod> {
    let controller = i / REPLICAS;
    let pod = json!({
        "metadata": {
            "name": format!("web-{i:06}"), "namespace": "default", "uid": format!("00000000-0000-4000-8000-{i:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web", "tier": "front"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ReplicationController", "name": format!("web-{controller}"),
                "uid": format!("rc-{controller}"), "controller": true}],
        },
        "spec": {
            "nodeName": host.map(|host| format!("node-{host:05}")),
            "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}}],
        },
        "status": {"phase": "Pending"},
    });
    let mut pod: Pod = serde_json::from_value(pod)?;
    TypedObject::set_defaults(&mut pod);
    Ok(pod)
}

fn decisions(nodes: usize, args: &ScheduleArgs) -> Result<Pure> {
    let mut cluster = Cluster::default();
    for i in 0..nodes {
        cluster.set_node(&format!("node-{i:05}"), Some(&node(i)?));
    }
    for i in 0..args.placed {
        cluster.set_pod(&Key::new("default", &format!("web-{i:06}")), Some(&PodFacts::of(&pod(i, Some(i % nodes))?)));
    }
    let pods = (args.placed..args.placed + args.pods).map(|i| {
        let pod = pod(i, None)?;
        let facts = PodFacts::of(&pod);
        Ok((Key::new("default", &format!("web-{i:06}")), Wanted::of(&pod, &facts), facts))
    });
    let pods = pods.collect::<Result<Vec<_>>>()?;
    let mut chosen = Vec::with_capacity(pods.len());
    cluster.node_count();
    let (cpu, begin) = (thread_cpu()?, Instant::now());
    for (key, wanted, facts) in &pods {
        let Decision::Place { node } = decide(&cluster, wanted) else { bail!("the cluster is too small") };
        cluster.assume(key, facts, &node);
        chosen.push(node);
    }
    let rate = pods.len() as f64 / begin.elapsed().as_secs_f64();
    let cpu_us = (thread_cpu()? - cpu).as_secs_f64() * 1e6 / pods.len() as f64;
    let (key, wanted, _) = pods.first().context("no pods")?;
    let too_large = Wanted { requests: Requests { milli_cpu: 1 << 20, memory_bytes: 0 }, ..wanted.clone() };
    let (times, cpu) = (500, thread_cpu()?);
    for _ in 0..times {
        if let Decision::Place { node } = decide(&cluster, &too_large) {
            bail!("{key:?} fits on {node}");
        }
    }
    let refusal_us = (thread_cpu()? - cpu).as_secs_f64() * 1e6 / f64::from(times);
    let spread = chosen.chunks(REPLICAS).map(|of_one| {
        let mut on = std::collections::HashMap::new();
        of_one.iter().for_each(|node| *on.entry(node).or_insert(0) += 1);
        on.values().max().copied().unwrap_or(0_usize).saturating_sub(REPLICAS.div_ceil(nodes))
    });
    Ok(Pure { rate, cpu_us, refusal_us, spread: spread.max().unwrap_or_default() })
}

async fn whole_path(nodes: usize, args: &ScheduleArgs) -> Result<Whole> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let registry = Registry::open(Arc::new(MemoryStore::default()), &tasks, stop.clone()).await?;
    let _stop = stop.clone().drop_guard();
    for from in (0..nodes).step_by(GROUP) {
        let group = (from..nodes.min(from + GROUP)).map(|i| Ok(registry.create(Box::new(node(i)?))));
        try_join_all(group.collect::<Result<Vec<_>>>()?).await?;
    }
    let all = args.placed + args.pods;
    for from in (0..all).step_by(GROUP) {
        let host = |i: usize| (i < args.placed).then_some(i % nodes);
        let group = (from..all.min(from + GROUP)).map(|i| Ok(registry.create(Box::new(pod(i, host(i))?))));
        try_join_all(group.collect::<Result<Vec<_>>>()?).await?;
    }
    let waiting = |snapshot: Snapshot| snapshot.indexed("").count();
    let events = Recorder::start(registry.clone(), &tasks, stop.clone());
    tokio::spawn(Scheduler::new(registry.clone(), events).run(stop.clone()));
    let patience = Instant::now() + PATIENCE;
    // The first binding ends the scheduler's start, in which it reads all that is there.
    let left = async |most: usize| {
        loop {
            let left = waiting(registry.snapshot(Pod::row()));
            if left <= most {
                return Ok((left, Instant::now(), cpu()?));
            }
            if Instant::now() > patience {
                bail!("{left} pods still wait");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (first, begin, cpu_begin) = left(args.pods - 1).await?;
    let (_, end, cpu_end) = left(0).await?;
    let cpu_us = (cpu_end - cpu_begin).as_secs_f64() * 1e6 / first as f64;
    Ok(Whole { rate: first as f64 / (end - begin).as_secs_f64(), cpu_us })
}

/// Processor time of this process, in the kernel's ticks of 10 ms.
fn cpu() -> Result<Duration> {
    Ok(Duration::from_millis(measure::cpu_ticks(std::process::id())? * 10))
}

/// Processor time of this thread.
fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().and_then(|ns| ns.parse().ok());
    nanos.map(Duration::from_nanos).context("/proc/thread-self/schedstat")
}
