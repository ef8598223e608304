//! Samples of what the master's processors do, taken by `perf`.

use std::{
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::api::subject::{Subject, kill, spawn};

/// A second, of each thread; not a divisor of anything that happens at round times.
const SAMPLES: &str = "499";

/// `perf record` under way.
#[derive(Debug)]
pub(super) struct Samples(Option<Child>);

impl Samples {
    /// Begins; the file is complete after [`Samples::stop`].
    pub(super) fn start(subject: &Subject, file: &Path) -> Result<Self> {
        let master = subject.processes.iter().find(|p| p.name == "master").context("a master of our own")?;
        let mut command = Command::new("perf");
        command.args(["record", "--event", "cpu-clock", "--freq", SAMPLES, "--call-graph", "fp"]);
        command.arg("--output").arg(file).args(["--pid", &master.pid.to_string()]);
        Ok(Self(Some(spawn(&mut command, &file.with_extension("log"))?)))
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<()> {
        let mut child = self.0.take().context("it was started")?;
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::INT)?;
        let status = child.wait()?;
        // It ends with the signal that it was asked to end with.
        ensure!(status.success() || status.code().is_none(), "perf ended with {status}");
        Ok(())
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        kill(self.0.take());
    }
}
