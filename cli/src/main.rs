//! The `coracle` command: a cluster in one binary, and its client.
//!
//! Parse, run, exit. Which grammar a command line is written in is decided in [`dispatch`]; the
//! 2014 one lives in [`mod@kubecfg`], the modern one in [`args`] and [`commands`].

mod args;
mod channel;
mod commands;
mod describe;
mod diagnose;
mod dispatch;
mod documents;
mod eviction;
mod failure;
mod follow;
mod kubecfg;
mod manifest;
mod merge;
mod output;
mod rolling;
mod serve;
mod session;
mod target;
mod template;
mod terminal;
mod watch;

use std::{future::Future, process::ExitCode};

use clap::Parser;
use coracle_api::columns::json;
use tokio::runtime::Builder;

use serve::Veto;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let veto = Veto::set();
    let mut words = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "coracle".to_owned());
    let args: Vec<String> = words.collect();
    match dispatch::grammar(&program, &args) {
        dispatch::Grammar::Kubecfg => kubecfg(&program, &args),
        dispatch::Grammar::Modern => modern(args, veto),
    }
}

fn kubecfg(program: &str, args: &[String]) -> ExitCode {
    let variable = |name| std::env::var(name).ok();
    let environment = kubecfg::Environment { master: variable("KUBERNETES_MASTER"), home: variable("HOME") };
    block_on(Builder::new_current_thread(), kubecfg::run(program, args, environment))
}

fn modern(args: Vec<String>, veto: Option<Veto>) -> ExitCode {
    let cli = args::Cli::try_parse_from(std::iter::once("coracle".to_owned()).chain(args));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            // Help is printed here as well; nobody is left to tell when that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let is_server = commands::is_server(&cli.command);
    let builder = if is_server { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    block_on(builder, async {
        if let Some(veto) = veto.filter(|_| is_server) {
            tokio::spawn(veto.until_grown());
        }
        match commands::run(cli).await {
            Ok(()) => 0,
            Err(failure) => {
                if failure.has_text() {
                    output::note(&format!("coracle: {failure}"));
                }
                failure.exit_status()
            }
        }
    })
}

fn block_on(mut builder: Builder, command: impl Future<Output = u8>) -> ExitCode {
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("coracle: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(command);
    // A read of stdin that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    ExitCode::from(status)
}
