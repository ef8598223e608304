//! The process of the simulated minions.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use coracle_tests::{coracle, measure};

use crate::api::subject::{kill, spawn};

const JOIN_LIMIT: Duration = Duration::from_secs(300);

/// A minion's node.
pub(super) fn name_of(number: usize) -> String {
    format!("hollow-{number:05}")
}

/// A running process.
#[derive(Debug)]
pub(super) struct Minions {
    child: Option<Child>,
    pid: u32,
    log: PathBuf,
}

impl Minions {
    pub(super) fn start(master: SocketAddr, count: usize, pods_max: u32, dir: &Path) -> Result<Self> {
        let log = dir.join("minions.log");
        let mut command = Command::new(coracle());
        command.args(["minion", "--master", &format!("http://{master}"), "--hollow", &count.to_string()]);
        command.args(["--hollow-pods", &pods_max.to_string(), "--hollow-cpus", "32", "--hollow-memory", "64"]);
        let child = spawn(&mut command, &log)?;
        Ok(Self { pid: child.id(), child: Some(child), log })
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
