//! The processes of the simulated minions.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use coracle_tests::{coracle, measure};
use futures_util::future::try_join_all;

use crate::api::subject::{THREADS, kill, spawn};

const JOIN_LIMIT: Duration = Duration::from_secs(300);

/// Of those that stay.
pub(super) const PREFIX: &str = "hollow";
/// Of those that are to die.
pub(super) const DOOMED: &str = "doomed";

/// So many stand in for hosts of their own, which would not wait for each other's tasks: as many as the machine of the
/// published figures has cores.
const PROCESSES: usize = 2;

/// Where minions are, and what they are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster<'a> {
    pub(super) master: SocketAddr,
    /// Pods that each takes.
    pub(super) pods_max: u32,
    /// Of each process, for its tasks.
    pub(super) threads: usize,
    /// For the log.
    pub(super) dir: &'a Path,
}

/// Running minions.
#[derive(Debug)]
pub(super) struct Minions(Vec<Process>);

#[derive(Debug)]
struct Process {
    child: Option<Child>,
    pid: u32,
    /// What the names of its minions begin with.
    prefix: String,
    count: usize,
    log: PathBuf,
}

impl Minions {
    /// So many, whose names begin so.
    pub(super) fn start(prefix: &str, count: usize, of: &Cluster<'_>) -> Result<Self> {
        let part = |n: usize| (count + PROCESSES - 1 - n) / PROCESSES;
        let started =
            (0..PROCESSES).filter(|n| part(*n) > 0).map(|n| Process::start(format!("{prefix}{n}"), part(n), of));
        started.collect::<Result<_>>().map(Self)
    }

    /// Returns when all have joined.
    pub(super) async fn joined(&self) -> Result<()> {
        try_join_all(self.0.iter().map(Process::joined)).await.map(drop)
    }

    /// The names of their nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|process| (0..process.count).map(|number| format!("{}-{number:05}", process.prefix)))
    }

    /// Processor time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let times = self.0.iter().map(|process| Ok(Duration::from_millis(measure::cpu_ticks(process.pid)? * 10)));
        times.sum()
    }

    /// Resident bytes.
    pub(super) fn resident(&self) -> Result<u64> {
        self.0.iter().map(|process| measure::resident_bytes(process.pid)).sum()
    }
}

impl Process {
    fn start(prefix: String, count: usize, of: &Cluster<'_>) -> Result<Self> {
        let Cluster { master, pods_max, threads, dir } = *of;
        let log = dir.join(format!("{prefix}.log"));
        // Thousands of hosts stand in each process, beside the master's: they give way to it, as hosts of their own would.
        let mut command = Command::new("nice");
        command.arg("-n").arg("10").arg(coracle()).args([
            "minion",
            "--master",
            &format!("http://{master}"),
            "--hollow",
            &count.to_string(),
        ]);
        command.args(["--name", &prefix]).env(THREADS, threads.to_string());
        command.args(["--hollow-pods", &pods_max.to_string(), "--hollow-cpus", "32", "--hollow-memory", "64"]);
        let child = spawn(&mut command, &log)?;
        Ok(Self { pid: child.id(), child: Some(child), prefix, count, log })
    }

    async fn joined(&self) -> Result<()> {
        let deadline = Instant::now() + JOIN_LIMIT;
        loop {
            let log = std::fs::read_to_string(&self.log)?;
            if log.lines().any(|line| line.starts_with("ready:")) {
                return Ok(());
            }
            if measure::cpu_ticks(self.pid).is_err() {
                bail!("the simulated minions ended:\n{log}");
            }
            ensure!(Instant::now() < deadline, "not joined within {JOIN_LIMIT:?}:\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill(self.child.take());
    }
}
