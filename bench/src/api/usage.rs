//! What a measurement costs: processor time of the client and of each server process.

use std::time::Duration;

use anyhow::Result;
use coracle_tests::measure;

use super::subject::Subject;

/// Processor time so far.
#[derive(Debug)]
pub(crate) struct Usage {
    client: Duration,
    servers: Vec<Duration>,
}

/// Processor time between two points.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost {
    /// Of this process.
    pub(crate) client: Duration,
    /// Of each server process, by name.
    pub(crate) servers: Vec<(String, Duration)>,
    /// Resident bytes of all server processes at the end.
    pub(crate) resident: u64,
}

impl Usage {
    /// The state now.
    pub(crate) fn now(subject: &Subject) -> Result<Self> {
        let servers = subject.processes.iter().map(|p| cpu_time(p.pid)).collect::<Result<_>>()?;
        Ok(Self { client: cpu_time(std::process::id())?, servers })
    }

    /// What was used since.
    pub(crate) fn until(&self, subject: &Subject) -> Result<Cost> {
        let now = Self::now(subject)?;
        let names = subject.processes.iter().map(|p| p.name.clone());
        let spent = now.servers.iter().zip(&self.servers).map(|(now, then)| now.saturating_sub(*then));
        let resident = subject.resident()?;
        Ok(Cost { client: now.client.saturating_sub(self.client), servers: names.zip(spent).collect(), resident })
    }
}

impl Cost {
    /// Of all server processes together.
    pub(crate) fn server(&self) -> Duration {
        self.servers.iter().map(|(_, time)| *time).sum()
    }
}

/// `/proc/PID/stat` counts in ticks of 10 ms: measure for seconds.
fn cpu_time(pid: u32) -> Result<Duration> {
    Ok(Duration::from_millis(measure::cpu_ticks(pid)? * 10))
}
