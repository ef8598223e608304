//! The `coracle` command: a cluster in one binary, and its client.
//!
//! Parse, run, exit. Which grammar a command line is written in is decided in [`dispatch`]; the
//! 2014 one lives in [`kubecfg`].

mod dispatch;
mod documents;
mod failure;
mod kubecfg;
mod output;
mod session;
mod template;

use std::process::ExitCode;

use dispatch::Grammar;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "coracle".to_owned());
    let args: Vec<String> = words.collect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("coracle: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let environment =
        kubecfg::Environment { master: std::env::var("KUBERNETES_MASTER").ok(), home: std::env::var("HOME").ok() };
    match dispatch::grammar(&program, &args) {
        Grammar::Kubecfg => ExitCode::from(runtime.block_on(kubecfg::run(&program, &args, environment))),
        Grammar::Modern => ExitCode::from(2),
    }
}
