//! Measures Coracle beside its peers and the bare limits of the machine, in one run, and prints
//! tables.
#![expect(clippy::print_stdout, reason = "printing figures is what this program does")]

mod api;
mod cluster;
mod machine;
mod peers;
mod proxy;
mod scale;
mod schedule;
mod store;
mod table;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// That of the binary that is measured, for what is measured in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds beside a peer when everything is measured.
const PEERS_ROUNDS: usize = 5;

/// Measures Coracle on this machine.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: Option<What>,
    /// Rounds of each repeated measurement of a whole cluster.
    #[arg(long, global = true, default_value_t = 20)]
    rounds: usize,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A short form of everything about a whole cluster; needs root, Docker and the example images.
    All,
    /// Process start to ready, and to the first pod.
    Start,
    /// Memory, processor and disk of an idle cluster.
    Idle,
    /// Kill to running, beside Docker's own restart policy.
    Heal,
    /// The master over HTTP: requests, watches, memory; needs nothing but the binary.
    Api(Box<api::ApiArgs>),
    /// The paths to a container: direct, through each data plane, through its peers; needs root.
    Proxy(proxy::ProxyArgs),
    /// One data plane, for the measurement above.
    #[command(hide = true)]
    Plane(proxy::PlaneArgs),
    /// The names of services, for the same.
    #[command(hide = true)]
    Names,
    /// Docker Swarm on the same engine, for what both can do; needs root, Docker and the example images.
    Peers,
    /// A master under thousands of simulated minions; needs nothing but the binary.
    Scale(scale::ScaleArgs),
    /// Pods placed in a second, in clusters of several sizes; needs nothing.
    Schedule(schedule::ScheduleArgs),
    /// The embedded store beside the bare disk; needs nothing.
    Store(store::StoreArgs),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.what.unwrap_or(What::All) {
        What::Api(args) => api::run(*args),
        What::Proxy(args) => proxy::run(&args),
        What::Plane(args) => proxy::run_plane(&args),
        What::Names => proxy::serve_names(),
        What::Peers => run(&[&|| peers::rows(cli.rounds)]),
        What::Scale(args) => scale::run(&args),
        What::Schedule(args) => schedule::run(&args),
        What::Store(args) => store::run(&args),
        What::All => run(&[
            &|| cluster::rows(cluster::Figures::ALL, cli.rounds),
            &|| peers::rows(cli.rounds.min(PEERS_ROUNDS)),
            &scale::rows_of_short,
        ]),
        What::Start => run(&[&|| cluster::rows(cluster::Figures::START, cli.rounds)]),
        What::Idle => run(&[&|| cluster::rows(cluster::Figures::IDLE, cli.rounds)]),
        What::Heal => run(&[&|| cluster::rows(cluster::Figures::HEAL, cli.rounds)]),
    }
}

/// Prints one table of what the parts measure.
fn run(parts: &[&dyn Fn() -> Result<Vec<table::Row>>]) -> Result<()> {
    println!("machine: {}, load {}\n", machine::describe()?, machine::load()?);
    table::print(parts)
}
