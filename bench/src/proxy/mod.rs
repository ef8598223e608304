//! `coracle-bench proxy`: the paths to a container beside each other, in one run.
//!
//! ```text
//!   wrk, iperf3 (h) ──┬── direct, with and without rules ───┐
//!                     ├── portal, nftables or userspace ────┼── bridge ── nginx, iperf3 (p1, p2)
//!                     ├── HAProxy in TCP mode ──────────────┤
//!                     └── docker-proxy ─────────────────────┘
//! ```
//!
//! Node and pods are network namespaces, the data planes run as processes of their own on a real
//! master. The peers are Debian's. Paths take turns within each round, in every other one from the last
//! to the first, and what is printed is the median of rounds and of each round's ratio to direct: the
//! machine's mood changes slower than that. Many short rounds, since it changes by the second.
//!
//! Direct is the way to a pod's own address on a node, where the kernel tracks connections, as it does
//! on every machine with Docker. A namespace without any rules does not; it is measured too, so that
//! what tracking costs is seen apart from what a portal costs.

mod load;
mod names;
mod plane;
mod range;
mod services;

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::machine;
use load::{Bulk, Requests};
pub(crate) use names::serve as serve_names;
use plane::Plane;
pub(crate) use plane::{PlaneArgs, run as run_plane};
use range::Range;
use services::Services;

/// `coracle-bench proxy`
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// Rounds in which all paths take turns
    #[arg(long = "turns", default_value_t = 11)]
    turns: usize,
    /// Numbers of services for the tables after the first
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 30_000])]
    services: Vec<usize>,
}

/// Which data plane forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// In the kernel.
    Nftables,
    /// In the minion's process.
    Userspace,
}

/// A way to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// To the pod, from a namespace whose kernel has no rules and tracks nothing.
    Bare,
    /// To the pod, from a node.
    Direct,
    Portal(Mode),
    HaProxy,
    DockerProxy,
}

impl Path {
    /// In the order of a round.
    const ALL: [Path; 6] = [
        Path::Bare,
        Path::Direct,
        Path::Portal(Mode::Nftables),
        Path::Portal(Mode::Userspace),
        Path::HaProxy,
        Path::DockerProxy,
    ];

    /// The plane that runs meanwhile.
    fn plane(self) -> Option<Mode> {
        match self {
            Path::Direct => Some(Mode::Nftables),
            Path::Portal(mode) => Some(mode),
            Path::Bare | Path::HaProxy | Path::DockerProxy => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Path::Bare => "direct, no rules",
            Path::Direct => "direct",
            Path::Portal(Mode::Nftables) => "coracle, nftables",
            Path::Portal(Mode::Userspace) => "coracle, userspace",
            Path::HaProxy => "HAProxy, TCP mode",
            Path::DockerProxy => "docker-proxy",
        }
    }

    /// Where nginx answers on this path.
    fn http(self) -> String {
        match self {
            Path::Bare | Path::Direct => format!("{}:{}", range::POD[0], range::HTTP),
            Path::Portal(_) => format!("{}:{}", services::WEB, range::HTTP),
            Path::HaProxy => format!("127.0.0.1:{}", range::HAPROXY + range::HTTP),
            Path::DockerProxy => format!("127.0.0.1:{}", range::DOCKER + range::HTTP),
        }
    }

    /// Where iperf3 listens on this path.
    fn bulk(self) -> (String, u16) {
        match self {
            Path::Bare | Path::Direct => (range::POD[0].into(), range::BULK),
            Path::Portal(_) => (services::WEB.into(), range::BULK),
            Path::HaProxy => ("127.0.0.1".into(), range::HAPROXY + range::BULK),
            Path::DockerProxy => ("127.0.0.1".into(), range::DOCKER + range::BULK),
        }
    }
}

/// What one path did in one round.
#[derive(Debug, Clone, Copy)]
struct Turn {
    kept: Requests,
    new: Requests,
    bulk: Bulk,
}

/// Takes the figures and prints them.
pub(crate) fn run(args: &ProxyArgs) -> Result<()> {
    println!("machine: {}, load {}", machine::describe()?, machine::load()?);
    let range = Range::new()?;
    let services = Services::start(&range)?;
    let seconds = Duration::from_secs(args.seconds);
    paths(&range, &services, seconds, args.turns)?;
    sizes(&range, &services, seconds, args)
}

fn paths(range: &Range, services: &Services, seconds: Duration, turns: usize) -> Result<()> {
    services.fill(10)?;
    let mut all: Vec<(Path, Vec<Turn>)> = Path::ALL.iter().map(|path| (*path, Vec::new())).collect();
    for round in 0..turns {
        for (path, taken) in in_turn(&mut all, round) {
            let _plane = path.plane().map(|mode| Plane::start(range, services, mode)).transpose()?;
            if path.plane() != Some(Mode::Nftables) {
                range.forget_rules()?;
            }
            let http = path.http();
            range.forget_flows()?;
            let kept = range.requests(&http, seconds, true)?;
            let new = range.requests(&http, seconds, false)?;
            range.forget_flows()?;
            let (address, port) = path.bulk();
            taken.push(Turn { kept, new, bulk: range.bulk(&address, port, seconds)? });
        }
    }
    let of = |wanted: Path| all.iter().find(|(path, _)| *path == wanted).map(|(_, turns)| turns);
    let direct = of(Path::Direct).context("direct")?;
    println!(
        "\npath                 req/s kept   x direct   p50 ms   p99 ms   new conn/s   x direct   Gbit/s   x direct   CPU s/GB"
    );
    for (path, turns) in &all {
        let value = |of: fn(&Turn) -> f64| median(turns.iter().map(of));
        let ratio = |of: fn(&Turn) -> f64| median(turns.iter().zip(direct).map(|(turn, direct)| of(turn) / of(direct)));
        println!(
            "{:<20} {:>10.0} {:>10.2} {:>8.2} {:>8.2} {:>12.0} {:>10.2} {:>8.1} {:>10.2} {:>10.2}",
            path.name(),
            value(|t| t.kept.per_second),
            ratio(|t| t.kept.per_second),
            value(|t| t.kept.p50_ms),
            value(|t| t.kept.p99_ms),
            value(|t| t.new.per_second),
            ratio(|t| t.new.per_second),
            value(|t| t.bulk.gbit_per_second),
            ratio(|t| t.bulk.gbit_per_second),
            value(|t| t.bulk.cpu_seconds_per_gb),
        );
    }
    println!("\nratios of rounds: median (quartiles)");
    let pairs = [(Mode::Nftables, Path::Direct), (Mode::Userspace, Path::HaProxy)];
    for (ours, peer) in pairs.map(|(mode, peer)| (Path::Portal(mode), peer)) {
        let turns = of(ours).zip(of(peer)).context("a path was not measured")?;
        let beside = |of: fn(&Turn) -> f64| Spread::of(turns.0.iter().zip(turns.1).map(|(o, p)| of(o) / of(p)));
        println!(
            "{} beside {}: requests/s {}, new connections/s {}, Gbit/s {}, Gbit per CPU second {}",
            ours.name(),
            peer.name(),
            beside(|t| t.kept.per_second),
            beside(|t| t.new.per_second),
            beside(|t| t.bulk.gbit_per_second),
            beside(|t| 1.0 / t.bulk.cpu_seconds_per_gb),
        );
    }
    Ok(())
}

/// nftables, and names, with more and more services.
fn sizes(range: &Range, services: &Services, seconds: Duration, args: &ProxyArgs) -> Result<()> {
    println!(
        "\nservices   req/s kept   x direct   new conn/s   x direct   full load s   change to effect ms: median, max"
    );
    let mut names = Vec::new();
    for count in &args.services {
        services.fill(*count)?;
        let plane = Plane::start(range, services, Mode::Nftables)?;
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for round in 0..args.turns {
            for (figures, keep) in [(&mut kept, true), (&mut new, false)] {
                let mut both = [(Path::Direct, 0.0), (Path::Portal(Mode::Nftables), 0.0)];
                for (path, rate) in in_turn(&mut both, round) {
                    range.forget_flows()?;
                    *rate = range.requests(&path.http(), seconds, keep)?.per_second;
                }
                let [(_, direct), (_, portal)] = both;
                figures.push((portal, portal / direct));
            }
        }
        let changes = services.changes(args.turns * 4)?;
        println!(
            "{count:>8} {:>12.0} {:>10.2} {:>12.0} {:>10.2} {:>13.2} {:>18.1} {:>8.1}",
            median(kept.iter().map(|k| k.0)),
            median(kept.iter().map(|k| k.1)),
            median(new.iter().map(|n| n.0)),
            median(new.iter().map(|n| n.1)),
            plane.took().as_secs_f64(),
            median(changes.iter().map(|c| c.as_secs_f64() * 1e3)),
            changes.iter().max().map_or(0.0, |c| c.as_secs_f64() * 1e3),
        );
        drop(plane);
        names.push(names::row(range, *count, seconds, args.turns)?);
    }
    println!("\n{}\n{}", names::HEADER, names.join("\n"));
    Ok(())
}

/// All of them, in every other round from the last to the first.
fn in_turn<T>(all: &mut [T], round: usize) -> impl Iterator<Item = &mut T> {
    let (forth, back) = if round.is_multiple_of(2) { (all, [].as_mut_slice()) } else { ([].as_mut_slice(), all) };
    forth.iter_mut().chain(back.iter_mut().rev())
}

/// The middle of some figures, and how far apart they are.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    /// A quarter is below the first, a quarter above the second.
    quartiles: [f64; 2],
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |quarters: usize| sorted.get(sorted.len() * quarters / 4).copied().unwrap_or(f64::NAN);
        Self { median: at(2), quartiles: [at(1), at(3)] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, third] = self.quartiles;
        write!(f, "{:.2} ({first:.2} to {third:.2})", self.median)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Spread::of(values).median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_rounds_is_their_median_and_quartiles() {
        let spread = Spread::of([7.0, 1.0, 5.0, 3.0, 2.0, 6.0, 4.0].into_iter());
        assert_eq!(spread, Spread { median: 4.0, quartiles: [2.0, 6.0] });
        assert_eq!(spread.to_string(), "4.00 (2.00 to 6.00)");
        assert!(median(std::iter::empty()).is_nan(), "nothing was measured");
    }

    #[test]
    fn every_other_round_goes_backwards() {
        let order = |round| in_turn(&mut [1, 2, 3], round).map(|path| *path).collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(2)], [[1, 2, 3], [3, 2, 1], [1, 2, 3]]);
    }
}
