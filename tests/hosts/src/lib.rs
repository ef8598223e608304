//! Hosts with their own addresses, engines and failures, on one machine.
//!
//! A [`Lab`] is a number of [`Host`]s, each with a network namespace, a process tree, a Docker
//! engine and a minion of its own, on a [`switch`] that can lose, delay and count what passes; and
//! one more host with the master. [`engine::Engine`] is a single host without a network.
//!
//! Invariant: everything that a lab makes is found by its name alone ([`footprint`]), so that it can
//! be removed by another process, whatever became of the one that made it.

pub mod delay;
pub mod docker;
pub mod engine;
pub mod footprint;
mod host;
mod lab;
pub mod machine;
pub mod process;
pub mod switch;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

pub use host::Host;
pub use lab::{Lab, Options};

/// How long anything that must happen may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The binary under test: the one that `CORACLE` names, else the release build, which is what
/// users run.
pub fn coracle() -> PathBuf {
    let named = std::env::var_os("CORACLE").map(PathBuf::from);
    // Hosts have another working directory.
    named.and_then(|path| path.canonicalize().ok()).unwrap_or_else(|| root().join("target/release/coracle"))
}

/// Waits until `check` gives a value, polling; fails with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs a command to its end; what it printed, or an error with what it complained about.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Runs `ip`.
pub(crate) fn ip(args: &[&str]) -> Result<String> {
    output(Command::new("ip").args(args))
}
