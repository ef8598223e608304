//! A data plane in a process of its own: this program again, in the node's namespace.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use coracle_api::client::Client;
use coracle_minion::proxy::{Proxy, ProxyConfig, ProxyMode};

use super::{
    Mode,
    range::{CLUSTER, NODE, POD_CIDR, PODS_CIDR, Range, SERVICE_CIDR},
    services::{MASTER, Services},
};

/// `coracle-bench plane`
#[derive(Debug, Args)]
pub(crate) struct PlaneArgs {
    /// Which
    #[arg(long)]
    mode: Mode,
}

/// A running data plane.
#[derive(Debug)]
pub(super) struct Plane {
    process: Child,
    took: Duration,
}

impl Plane {
    /// Starts one and waits until it has loaded everything.
    pub(super) fn start(range: &Range, services: &Services<'_>, mode: Mode) -> Result<Self> {
        let begun = Instant::now();
        let mut command = range.command(std::env::current_exe()?);
        let name = if mode == Mode::Nftables { "nftables" } else { "userspace" };
        command.args(["plane", "--mode", name]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let out = process.stdout.take().context("no output of the data plane")?;
        let mut plane = Self { process, took: Duration::ZERO };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the data plane for {} portals ended early", services.portals());
        plane.took = begun.elapsed();
        Ok(plane)
    }

    /// From its start to the whole table in force.
    pub(super) fn took(&self) -> Duration {
        self.took
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status());
        drop(self.process.wait());
    }
}

/// Runs a data plane until it is terminated.
pub(crate) fn run(args: &PlaneArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let config = ProxyConfig {
            cluster_id: CLUSTER.into(),
            node: NODE.into(),
            service_cidr: SERVICE_CIDR.parse()?,
            pods_cidr: PODS_CIDR.parse()?,
            pod_cidr: POD_CIDR.parse()?,
            external: Vec::new(),
            mode: match args.mode {
                Mode::Nftables => ProxyMode::Nftables,
                Mode::Userspace => ProxyMode::Userspace,
            },
        };
        let proxy = Proxy::start(&Client::new(MASTER)?, config);
        proxy.ready().await;
        ensure!(*proxy.synced().borrow(), "the proxy ended before its table was loaded");
        println!("ready");
        terminate.recv().await;
        proxy.shutdown().await;
        Ok(())
    })
}
