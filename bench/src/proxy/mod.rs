//! `coracle-bench proxy`: the paths to a container beside each other, in one run.
//!
//! ```text
//!   wrk, iperf3 (h) ──┬── direct, with and without rules ───┐
//!                     ├── portal, nftables or userspace ────┼── bridge ── nginx, iperf3 (p0, p1)
//!                     ├── HAProxy in TCP mode ──────────────┤
//!                     └── docker-proxy ─────────────────────┘
//!   wrk, iperf3 (p1) ─┬── direct ───────────────────────────┤
//!                     └── portal, nftables ─────────────────┘
//! ```
//!
//! Node and pods are network namespaces, once for each data plane, which runs as a process of its own on
//! a real master; a portal has one backend. The peers are Debian's. The two paths of a [`Stand`] are measured
//! there and back again (a, b, b, a) for each figure, so that a machine that gets slower meanwhile slows
//! both alike; those of different stands are as far apart as they come in a round. What is printed is
//! the median of rounds and of the ratios of rounds. Many short rounds, since a machine's mood changes
//! by the second.
//!
//! Direct is the way to a pod's own address where the kernel tracks connections, as it does on every
//! machine with Docker: from a node always, from a pod since bridges show their frames to netfilter. A
//! namespace without any rules tracks none; it is measured too, so that what tracking costs is seen
//! apart from what a portal costs.

mod load;
mod names;
mod plane;
mod range;
mod services;

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::machine;
use load::{Bulk, Client, Mean, Requests};
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
    /// Rounds, in each of which every figure is measured twice
    #[arg(long = "turns", default_value_t = 10)]
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
    /// To the pod.
    Direct(Client),
    /// Through the kernel.
    Portal(Client),
    /// Through the minion's process, from the node.
    Relay,
    HaProxy,
    DockerProxy,
}

impl Path {
    /// In the order of the table.
    const ALL: [Path; 8] = [
        Path::Bare,
        Path::Direct(Client::Node),
        Path::Portal(Client::Node),
        Path::Relay,
        Path::HaProxy,
        Path::DockerProxy,
        Path::Direct(Client::Pod),
        Path::Portal(Client::Pod),
    ];

    fn client(self) -> Client {
        match self {
            Path::Direct(client) | Path::Portal(client) => client,
            Path::Bare | Path::Relay | Path::HaProxy | Path::DockerProxy => Client::Node,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Path::Bare => "direct, no rules",
            Path::Direct(Client::Node) => "direct",
            Path::Direct(Client::Pod) => "direct, from a pod",
            Path::Portal(Client::Node) => "coracle, nftables",
            Path::Portal(Client::Pod) => "nftables, from a pod",
            Path::Relay => "coracle, userspace",
            Path::HaProxy => "HAProxy, TCP mode",
            Path::DockerProxy => "docker-proxy",
        }
    }

    /// Where nginx answers on this path.
    fn http(self) -> String {
        self.at(range::HTTP)
    }

    /// Where iperf3 listens on this path.
    fn bulk(self) -> String {
        self.at(range::BULK)
    }

    /// Where a port of the pod is found.
    fn at(self, port: u16) -> String {
        match self {
            Path::Bare | Path::Direct(_) => format!("{}:{port}", range::POD[0]),
            Path::Portal(_) | Path::Relay => format!("{}:{port}", services::WEB),
            Path::HaProxy => format!("127.0.0.1:{}", range::HAPROXY + port),
            Path::DockerProxy => format!("127.0.0.1:{}", range::DOCKER + port),
        }
    }
}

/// Two paths that are measured by turns.
struct Stand {
    /// The plane that runs meanwhile.
    plane: Option<Mode>,
    /// Where a plane runs: a peer, and ours, which is compared with it.
    paths: [Path; 2],
}

const STANDS: [Stand; 4] = [
    Stand { plane: None, paths: [Path::Bare, Path::DockerProxy] },
    Stand { plane: Some(Mode::Nftables), paths: [Path::Direct(Client::Node), Path::Portal(Client::Node)] },
    Stand { plane: Some(Mode::Nftables), paths: [Path::Direct(Client::Pod), Path::Portal(Client::Pod)] },
    Stand { plane: Some(Mode::Userspace), paths: [Path::HaProxy, Path::Relay] },
];

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
    let seconds = Duration::from_secs(args.seconds);
    // The userspace plane routes by a rule of its own. Where there ever was one, the kernel looks routes up the long
    // way until it boots (`fib_has_custom_rules`), which a node with nftables does not pay: there a portal had 0.88 of
    // direct instead of 0.97.
    let [kernel, userspace] = [Range::new('k')?, Range::new('u')?];
    let services = Services::start(&kernel)?;
    paths([(&kernel, &services), (&userspace, &Services::start(&userspace)?)], seconds, args.turns)?;
    sizes(&kernel, &services, seconds, args)
}

/// All paths; the userspace plane's on the second node.
fn paths(nodes: [(&Range, &Services); 2], seconds: Duration, turns: usize) -> Result<()> {
    nodes.iter().try_for_each(|(_, services)| services.fill(10))?;
    let mut all: Vec<(Path, Vec<Turn>)> = Path::ALL.iter().map(|path| (*path, Vec::new())).collect();
    for round in 0..turns {
        for Stand { plane, paths } in STANDS {
            let (range, services) = nodes[usize::from(plane == Some(Mode::Userspace))];
            let _plane = plane.map(|mode| Plane::start(range, services, mode)).transpose()?;
            if plane != Some(Mode::Nftables) {
                range.forget_rules()?;
            }
            let requests = |path: Path, kept| range.requests(path.client(), &path.http(), seconds, kept);
            let kept = there_and_back(paths, round, |path| requests(path, true))?;
            let new = there_and_back(paths, round, |path| requests(path, false))?;
            let bulk = there_and_back(paths, round, |path| range.bulk(path.client(), &path.bulk(), seconds))?;
            for (path, ((kept, new), bulk)) in paths.into_iter().zip(kept.into_iter().zip(new).zip(bulk)) {
                let taken = all.iter_mut().find(|(known, _)| *known == path);
                taken.context("a path is in no table")?.1.push(Turn { kept, new, bulk });
            }
        }
    }
    let of = |wanted: Path| {
        let found = all.iter().find(|(path, _)| *path == wanted);
        found.map(|(_, turns)| turns).context("a path was not measured")
    };
    println!(
        "\npath                 req/s kept   x direct   p50 ms   p99 ms   new conn/s   x direct   Gbit/s   x direct   CPU s/GB"
    );
    for (path, turns) in &all {
        let direct = of(Path::Direct(path.client()))?;
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
    for Stand { paths: [peer, ours], .. } in STANDS.iter().filter(|stand| stand.plane.is_some()) {
        let turns = (of(*ours)?, of(*peer)?);
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
                let paths = [Path::Direct(Client::Node), Path::Portal(Client::Node)];
                let [direct, portal] =
                    there_and_back(paths, round, |path| range.requests(path.client(), &path.http(), seconds, keep))?;
                figures.push((portal.per_second, portal.per_second / direct.per_second));
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

/// A figure of each path, the mean of one taken there and one on the way back; every other round
/// begins with the other path.
fn there_and_back<T: Mean>(paths: [Path; 2], round: usize, measure: impl Fn(Path) -> Result<T>) -> Result<[T; 2]> {
    let swapped = !round.is_multiple_of(2);
    let [a, b] = if swapped { [paths[1], paths[0]] } else { paths };
    let (first, second) = (measure(a)?, measure(b)?);
    let second = second.mean(measure(b)?);
    let first = first.mean(measure(a)?);
    Ok(if swapped { [second, first] } else { [first, second] })
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
        let value = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        // Between two values where it falls between them.
        let at = |quarters: usize| match (last * quarters / 4, last * quarters % 4) {
            (i, 0) => value(i),
            (i, rest) => value(i) + (value(i + 1) - value(i)) * rest as f64 / 4.0,
        };
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
        assert_eq!(spread, Spread { median: 4.0, quartiles: [2.5, 5.5] });
        assert_eq!(spread.to_string(), "4.00 (2.50 to 5.50)");
        let even = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!(even, Spread { median: 2.5, quartiles: [1.75, 3.25] });
        assert!(median(std::iter::empty()).is_nan(), "nothing was measured");
    }

    #[test]
    fn paths_are_measured_there_and_back_and_every_other_round_begins_with_the_other() {
        for (round, order) in ["abba", "baab"].iter().enumerate() {
            let clock = std::cell::Cell::new(0);
            let taken = std::cell::RefCell::new(String::new());
            let rates = there_and_back([Path::Bare, Path::HaProxy], round, |path| {
                taken.borrow_mut().push(if path == Path::Bare { 'a' } else { 'b' });
                clock.set(clock.get() + 1);
                // One is twice as fast as the other, on a machine that gets slower.
                let path = if path == Path::Bare { 1.0 } else { 2.0 };
                Ok(Requests { per_second: path * (10.0 - f64::from(clock.get())), p50_ms: 0.0, p99_ms: 0.0 })
            });
            let [a, b] = rates.unwrap().map(|rate| rate.per_second);
            assert_eq!((a, b, taken.into_inner()), (7.5, 15.0, (*order).to_owned()));
        }
    }
}
