//! The process of the simulated minions.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use coracle_tests::{coracle, measure};

use crate::api::subject::{THREADS, kill, spawn};

const JOIN_LIMIT: Duration = Duration::from_secs(300);

/// Of those that stay.
pub(super) const PREFIX: &str = "hollow";
/// Of those that are to die.
pub(super) const DOOMED: &str = "doomed";

/// A minion's node.
pub(super) fn name_of(number: usize) -> String {
    format!("{PREFIX}-{number:05}")
}

/// The node of one that is to die.
pub(super) fn doomed(number: usize) -> String {
    format!("{DOOMED}-{number:05}")
}

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

/// A running process.
#[derive(Debug)]
pub(super) struct Minions {
    child: Option<Child>,
    pid: u32,
    count: usize,
    log: PathBuf,
}

impl Minions {
    /// A process of so many, whose names begin so.
    pub(super) fn start(prefix: &str, count: usize, of: &Cluster<'_>) -> Result<Self> {
        let Cluster { master, pods_max, threads, dir } = *of;
        let log = dir.join(format!("{prefix}.log"));
        // Thousands of hosts stand in one process beside the master's: they give way to it, as hosts of their own would.
        let mut command = Command::new("nice");
        command.arg("-n").arg("10").arg(coracle()).args([
            "minion",
            "--master",
            &format!("http://{master}"),
            "--hollow",
            &count.to_string(),
        ]);
        command.args(["--name", prefix]).env(THREADS, threads.to_string());
        command.args(["--hollow-pods", &pods_max.to_string(), "--hollow-cpus", "32", "--hollow-memory", "64"]);
        let child = spawn(&mut command, &log)?;
        Ok(Self { pid: child.id(), child: Some(child), count, log })
    }

    /// Returns when all have joined.
    pub(super) async fn joined(&self) -> Result<()> {
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

    /// How many they are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Processor time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        Ok(Duration::from_millis(measure::cpu_ticks(self.pid)? * 10))
    }

    /// Resident bytes.
    pub(super) fn resident(&self) -> Result<u64> {
        measure::resident_bytes(self.pid)
    }
}

impl Drop for Minions {
    fn drop(&mut self) {
        kill(self.child.take());
    }
}
