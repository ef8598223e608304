//! `coracle-bench api`: the master, or any Kubernetes API server, over real HTTP or HTTPS.
//!
//! The server is a process of its own with its data on a disk; this process is the load. It shares
//! the machine with the server, so it does as little as it can: one thread, requests as bytes,
//! answers counted but not decoded. [`suite`] says what is measured in which order.
//!
//! Invariant: a figure is printed only if every answer it counts was the expected one.

pub(crate) mod args;
pub(crate) mod connection;
pub(crate) mod deliveries;
pub(crate) mod histogram;
mod limits;
mod lists;
mod load;
mod memory;
mod minion;
mod objects;
mod pods;
mod raw_server;
mod report;
mod scan;
pub(crate) mod subject;
mod suite;
pub(crate) mod target;
mod tls;
pub(crate) mod usage;
mod watch;
pub(crate) mod wire;

use anyhow::{Result, bail};
use coracle_api::open_files;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use args::ApiArgs;

/// Runs the measurement, or the part of it that the arguments name.
pub(crate) fn run(args: ApiArgs) -> Result<()> {
    if let Some(args::Part::RawServer) = args.part {
        return raw_server::run();
    }
    // A thousand watchers are a thousand sockets here, and in the server, which inherits the limit.
    open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Dropping the measurement stops and removes what it started.
        tokio::select! {
            result = suite::run(&args) => result,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })
}
