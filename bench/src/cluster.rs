//! A whole cluster: how fast it starts and heals, what it costs when idle.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_tests::{Cluster, coracle, measure};

use crate::machine;

/// Which figures to take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    start: bool,
    heal: bool,
    idle: bool,
}

impl Figures {
    const NONE: Self = Self { start: false, heal: false, idle: false };
    /// All of them.
    pub(crate) const ALL: Self = Self { start: true, heal: true, idle: true };
    /// Process start to ready, and to the first pod.
    pub(crate) const START: Self = Self { start: true, ..Self::NONE };
    /// Kill to running.
    pub(crate) const HEAL: Self = Self { heal: true, ..Self::NONE };
    /// The cost of doing nothing.
    pub(crate) const IDLE: Self = Self { idle: true, ..Self::NONE };
}

/// Takes the figures and prints them.
pub(crate) fn run(figures: Figures, rounds: usize) -> Result<()> {
    let engine = coracle_tests::docker::docker(&["version", "--format", "{{.Server.Version}}"])?;
    println!("machine: {}, Docker {engine}", machine::describe()?);
    println!("binary:  {} ({:.1} MB)\n", coracle().display(), std::fs::metadata(coracle())?.len() as f64 / 1e6);
    if figures.start {
        start(rounds)?;
    }
    if figures.heal {
        heal(rounds)?;
    }
    if figures.idle {
        idle()?;
    }
    Ok(())
}

/// The median of some times, with their range.
pub(crate) fn row(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |t: Option<&Duration>| t.map_or(0.0, |t| t.as_secs_f64() * 1e3);
    let (low, high) = (ms(sorted.first()), ms(sorted.last()));
    println!("{what:<64} {:>8.0} ms  ({low:.0}-{high:.0}, n={})", ms(Some(&measure::median(times))), times.len());
}

fn start(rounds: usize) -> Result<()> {
    let times = (0..rounds.min(10)).map(|_| measure::start_times()).collect::<Result<Vec<_>>>()?;
    let (ready, pod): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    row("process start to /readyz", &ready);
    row("process start to the first pod Running", &pod);
    Ok(())
}

fn heal(rounds: usize) -> Result<()> {
    let (ours, dockers) = measure::healing(rounds)?;
    row("kill to the new container running", &ours);
    row("kill to running again, docker run --restart=always", &dockers);
    let ratio = measure::median(&ours).as_secs_f64() / measure::median(&dockers).as_secs_f64();
    println!("{:<64} {ratio:>8.2}", "ratio");
    Ok(())
}

fn idle() -> Result<()> {
    let cluster = Cluster::start()?;
    let (bytes, share) = measure::idle_cost(cluster.pid().context("not running")?, Duration::from_secs(60))?;
    println!("{:<64} {:>8.1} MB", "resident, idle for 60 s", bytes as f64 / 1e6);
    println!("{:<64} {:>8.2} % of a core", "processor, idle", share * 100.0);
    Ok(())
}
