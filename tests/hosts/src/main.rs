//! `coracle-hosts`: hosts on this machine to try things on.

use std::{process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use clap::{Args, Parser};
use coracle_test_hosts::{Lab, Options, footprint::Footprint};
use ipnet::Ipv4Net;

/// Hosts on this machine, each with an address, a Docker engine and a minion of its own
#[derive(Debug, Parser)]
#[command(name = "coracle-hosts")]
enum Command {
    /// Start a master and minions, and return when all are ready; they stay until `down`
    Up(Up),
    /// Remove them with everything that belongs to them
    Down {
        #[command(flatten)]
        lab: Name,
    },
}

#[derive(Debug, Args)]
struct Name {
    /// Part of the names of everything, to have several such groups of hosts
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    lab: Name,
    /// Number of minions
    #[arg(long, short = 'n', default_value_t = 3)]
    hosts: u8,
    /// Addresses of the hosts: a /24
    #[arg(long, default_value = "192.0.2.0/24")]
    network: Ipv4Net,
    /// 1, or 2 with a router between; even hosts are on the second one
    #[arg(long, default_value_t = 1)]
    segments: u8,
}

#[expect(clippy::print_stderr, reason = "this is what a command line says")]
fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-hosts: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(args) => up(args),
        Command::Down { lab } => {
            let existed = Lab::remove(&lab.name)?;
            say(if existed { "the hosts are gone" } else { "there were no hosts" });
            Ok(())
        }
    }
}

fn up(args: Up) -> Result<()> {
    let begun = Instant::now();
    let footprint = Footprint::of(&args.lab.name)?;
    if footprint.is_kept() {
        let there = footprint.hosts();
        let wanted = usize::from(args.hosts);
        ensure!(there == wanted, "there are {there} hosts already, not {wanted}; to take them down: make hosts-down");
        say(&format!("the {there} hosts are up already; to take them down: make hosts-down"));
        return Ok(());
    }
    let options = Options {
        name: Some(args.lab.name),
        network: args.network,
        segments: args.segments,
        from_machine: true,
        ..Options::new(args.hosts)
    };
    let lab = Lab::ready(&options)?;
    say(&format!("{} minions and their master are ready after {:.1} s:", args.hosts, begun.elapsed().as_secs_f32()));
    say(&format!("    export KUBERNETES_MASTER={}", lab.url()));
    say("    coracle get nodes");
    if let Some(host) = lab.hosts().first() {
        let (socket, netns) = (host.site().socket, footprint.netns(host.name()));
        say(&format!("the engine of {}:    docker -H unix://{} ps", host.name(), socket.display()));
        say(&format!("a program on {}:     nsenter --net=/run/netns/{netns} PROGRAM", host.name()));
    }
    say(&format!("logs and sockets:     {}", footprint.run_dir().display()));
    lab.keep()
}

#[expect(clippy::print_stdout, reason = "this is what a command line says")]
fn say(line: &str) {
    println!("{line}");
}
