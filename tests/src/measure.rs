//! Figures of a running cluster, for the tests that hold them to a bound and for the benchmarks
//! that print them.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use bollard::{Docker, models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures_util::{Stream, StreamExt};

use crate::{
    Cluster, PATIENCE, docker, eventually,
    http::{get, get_status, post},
};

/// The image that a healing measurement runs.
pub const IMAGE: &str = "csanchez/jenkins-swarm:1.565.3.3";

/// From the start of the process until `/readyz` answers 200, and until a pod whose image is here
/// is Running.
pub fn start_times() -> Result<(Duration, Duration)> {
    let mut cluster = Cluster::prepare()?;
    let started = Instant::now();
    cluster.launch()?;
    eventually("/readyz answers", || (get_status(cluster.address, "/readyz")? == 200).then_some(()))?;
    let ready = started.elapsed();
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"first"},"spec":{"containers":[
        {"name":"c","image":"coracle/busybox:1","command":["sleep","3600"]}],"terminationGracePeriodSeconds":0}}"#;
    post(cluster.address, "/api/v1/namespaces/default/pods", pod)?;
    eventually("the first pod runs", || {
        let body = get(cluster.address, "/api/v1/namespaces/default/pods/first")?;
        body.contains("\"phase\":\"Running\"").then_some(())
    })?;
    Ok((ready, started.elapsed()))
}

/// What a process costs that nobody asks for anything.
#[derive(Debug)]
pub struct Idle {
    /// Held in memory at the end.
    pub resident_bytes: u64,
    /// Of one core.
    pub share: f64,
    /// Ticks of 10 ms, second by second: a cost that comes again and again, or a single one.
    pub seconds: Vec<u64>,
    /// Ticks of 10 ms of each thread that took any, by its id and name.
    pub threads: Vec<(String, u64)>,
}

/// Watches a process for `period`.
pub fn idle_cost(pid: u32, period: Duration) -> Result<Idle> {
    let (first, threads) = (cpu_ticks(pid)?, thread_ticks(pid)?);
    let (mut before, mut seconds) = (first, Vec::new());
    let until = Instant::now() + period;
    while Instant::now() < until {
        let next = until.min(Instant::now() + Duration::from_secs(1));
        while Instant::now() < next {
            std::thread::park_timeout(next - Instant::now());
        }
        let ticks = cpu_ticks(pid)?;
        seconds.push(ticks - before);
        before = ticks;
    }
    let took = |(name, ticks): (String, u64)| {
        let earlier = threads.get(&name).copied().unwrap_or(0);
        (ticks > earlier).then_some((name, ticks - earlier))
    };
    Ok(Idle {
        resident_bytes: resident_bytes(pid)?,
        // USER_HZ is 100 on every Linux that matters.
        share: (before - first) as f64 / 100.0 / period.as_secs_f64(),
        seconds,
        threads: thread_ticks(pid)?.into_iter().filter_map(took).collect(),
    })
}

/// Processor time of a process so far, in ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    stat_ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

/// That of each of its threads.
fn thread_ticks(pid: u32) -> Result<BTreeMap<String, u64>> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        // It may have ended meanwhile.
        if let (Ok(stat), Ok(name)) =
            (std::fs::read_to_string(path.join("stat")), std::fs::read_to_string(path.join("comm")))
        {
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            threads.insert(format!("{id} {}", name.trim()), stat_ticks(&stat)?);
        }
    }
    Ok(threads)
}

/// User and system time in a `stat` file of proc(5).
fn stat_ticks(stat: &str) -> Result<u64> {
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).context("/proc/PID/stat");
    Ok(field(11)? + field(12)?)
}

/// Resident bytes of a process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// From the SIGKILL of a container's process to the new container running, for Coracle and for
/// Docker's own `--restart=always`, turn by turn. (After `docker kill` Docker would not restart it.)
pub fn healing(rounds: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let cluster = Cluster::start()?;
    let id = cluster.id()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut ours, mut dockers) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        ours.push(runtime.block_on(heal_pod(&cluster, &id, round))?);
        dockers.push(runtime.block_on(heal_container(round))?);
    }
    Ok((ours, dockers))
}

async fn heal_pod(cluster: &Cluster, id: &str, round: usize) -> Result<Duration> {
    let name = format!("heal-{round}");
    let pod = format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}"}},"spec":{{"containers":[
        {{"name":"c","image":"{IMAGE}"}}],"terminationGracePeriodSeconds":0}}}}"#
    );
    post(cluster.address, "/api/v1/namespaces/default/pods", &pod)?;
    let labels = [("io.coracle.cluster", id), ("io.coracle.pod.name", &name), ("io.coracle.container", "c")];
    let container = eventually("the pod runs", || docker::running(&labels).ok()?.pop())?;
    let time = kill_to_start(&container, &labels).await?;
    cluster.coracle(&["delete", "pod", &name, "--now"])?;
    Ok(time)
}

async fn heal_container(round: usize) -> Result<Duration> {
    let name = format!("coracle-bench-{}-{round}", std::process::id());
    let label = format!("io.coracle.test={name}");
    let container = docker::docker(&["run", "-d", "--restart=always", "--name", &name, "--label", &label, IMAGE])?;
    let time = kill_to_start(&container, &[("io.coracle.test", &name)]).await;
    docker::docker(&["rm", "-f", &container])?;
    time
}

/// Kills a container and waits for the next start of one with the same labels.
async fn kill_to_start(container: &str, labels: &[(&str, &str)]) -> Result<Duration> {
    let engine = Docker::connect_with_local_defaults()?;
    let filters: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let filters = [("label".to_owned(), filters), ("event".to_owned(), vec!["start".into()])];
    let options = EventsOptionsBuilder::default().filters(&filters.into_iter().collect()).build();
    let mut events = engine.events(Some(options));
    // The first poll opens the stream; the kill must come after it.
    let first = tokio::time::timeout(Duration::from_millis(200), events.next()).await;
    drop(first);
    let pid = docker::docker(&["inspect", "-f", "{{.State.Pid}}", container])?;
    let killed = SystemTime::now().duration_since(UNIX_EPOCH)?;
    anyhow::ensure!(Command::new("kill").args(["-9", &pid]).status()?.success(), "kill -9 {pid}");
    let started = next_start(&mut events).await?;
    Ok(started.saturating_sub(killed))
}

/// When the engine started the next container, since 1970.
async fn next_start(
    events: &mut (impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin),
) -> Result<Duration> {
    let wait = async {
        let event = events.next().await.context("the event stream ended")??;
        let nanos = event.time_nano.context("an event without a time")?;
        anyhow::Ok(Duration::from_nanos(u64::try_from(nanos)?))
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("nothing started within {PATIENCE:?}"))?
}

/// The middle value.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
