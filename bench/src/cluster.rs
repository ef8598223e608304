//! A whole cluster: how fast it starts and heals, what it costs when idle.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_tests::{Cluster, coracle, docker::docker, measure};

use crate::table::Row;

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

/// Takes the figures.
pub(crate) fn rows(figures: Figures, rounds: usize) -> Result<Vec<Row>> {
    let engine = docker(&["version", "--format", "{{.Server.Version}}"])?;
    let mut rows = vec![Row::new("Docker Engine", engine)];
    rows.push(Row::new("binary", format!("{:.1} MB", std::fs::metadata(coracle())?.len() as f64 / 1e6)));
    if figures.start {
        rows.extend(start(rounds)?);
    }
    if figures.heal {
        rows.push(heal(rounds)?);
    }
    if figures.idle {
        rows.extend(idle()?);
    }
    Ok(rows)
}

fn start(rounds: usize) -> Result<[Row; 2]> {
    let times = (0..rounds.min(10)).map(|_| measure::start_times()).collect::<Result<Vec<_>>>()?;
    let (ready, pod): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    Ok([Row::times("process start to /readyz", &ready), Row::times("process start to the first pod Running", &pod)])
}

fn heal(rounds: usize) -> Result<Row> {
    let (ours, dockers) = measure::healing(rounds)?;
    Ok(Row::beside("container killed, to the new one running", &ours, "docker run --restart=always", &dockers))
}

fn idle() -> Result<[Row; 2]> {
    let cluster = Cluster::start()?;
    let idle = measure::idle_cost(cluster.pid().context("not running")?, Duration::from_secs(60))?;
    Ok([
        Row::new("resident, idle for 60 s", format!("{:.1} MB", idle.resident_bytes as f64 / 1e6)),
        Row::new("processor, idle", format!("{:.2} % of a core", idle.share * 100.0)),
    ])
}
