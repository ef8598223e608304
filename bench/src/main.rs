//! Measures Coracle beside Docker's own means, in one run, and prints one table.
#![expect(clippy::print_stdout, reason = "printing figures is what this program does")]

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use coracle_tests::{Cluster, coracle, measure};

/// Measures Coracle on this machine. Needs root, Docker and the example images.
#[derive(Parser)]
struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Rounds of each repeated measurement.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Everything.
    All,
    /// Process start to ready, and to the first pod.
    Start,
    /// Memory, processor and disk of an idle cluster.
    Idle,
    /// Kill to running, beside Docker's own restart policy.
    Heal,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wants = |what| args.what == What::All || args.what == what;
    println!("machine: {}", machine()?);
    println!("binary:  {} ({:.1} MB)\n", coracle().display(), std::fs::metadata(coracle())?.len() as f64 / 1e6);
    if wants(What::Start) {
        start(args.rounds)?;
    }
    if wants(What::Heal) {
        heal(args.rounds)?;
    }
    if wants(What::Idle) {
        idle()?;
    }
    Ok(())
}

fn machine() -> Result<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown processor");
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
    let gib = kib.trim().trim_end_matches(" kB").parse::<u64>().context("MemTotal")? >> 20;
    let engine = coracle_tests::docker::docker(&["version", "--format", "{{.Server.Version}}"])?;
    Ok(format!("{cores} cores, {} {gib} GiB, Docker {engine}", model.trim_start_matches([' ', '\t', ':'])))
}

fn row(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |t: Option<&Duration>| t.map_or(0.0, |t| t.as_secs_f64() * 1e3);
    let (low, high) = (ms(sorted.first()), ms(sorted.last()));
    println!("{what:<52} {:>8.0} ms  ({low:.0}-{high:.0}, n={})", ms(Some(&measure::median(times))), times.len());
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
    println!("{:<52} {ratio:>8.2}", "ratio");
    Ok(())
}

fn idle() -> Result<()> {
    let cluster = Cluster::start()?;
    let (bytes, share) = measure::idle_cost(cluster.pid().context("not running")?, Duration::from_secs(60))?;
    println!("{:<52} {:>8.1} MB", "resident, idle for 60 s", bytes as f64 / 1e6);
    println!("{:<52} {:>8.2} % of a core", "processor, idle", share * 100.0);
    Ok(())
}
