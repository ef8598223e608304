//! `coracle minion --hollow N`: simulated minions.

use std::time::Duration;

use anyhow::{Result, bail};
use coracle_minion::{
    hollow::{HollowConfig, HollowMinions},
    runtime::hollow::{Delays, Mishaps},
};

use super::{
    process::{StopSignals, log_to_stderr},
    say,
};
use crate::args::HollowArgs;

/// How long the minions wait for their master, and to join.
const MASTER_LIMIT: Duration = Duration::from_secs(300);

/// Runs `count` simulated minions until a signal comes.
pub(crate) async fn minions(count: usize, name: Option<String>, args: HollowArgs, masters: &str) -> Result<()> {
    log_to_stderr();
    let mut signals = StopSignals::new()?;
    say(&format!("master: {masters}"));
    let crash_after = (args.hollow_crash_after > 0).then(|| Duration::from_secs(args.hollow_crash_after.into()));
    let config = HollowConfig {
        master: masters.to_owned(),
        count,
        prefix: name.unwrap_or_else(|| "hollow".into()),
        cpu_milli: u64::from(args.hollow_cpus) * 1000,
        memory_bytes: u64::from(args.hollow_memory) << 30,
        pods_max: args.hollow_pods,
        delays: Delays { start: Duration::from_millis(args.hollow_start_ms.into()), ..Delays::NONE },
        mishaps: Mishaps { failed_starts: args.hollow_failed_starts, crash_after },
        master_limit: MASTER_LIMIT,
    };
    let minions = tokio::select! {
        // Dropping the start gives up and leaves nothing running.
        minions = HollowMinions::start(config) => minions?,
        () = signals.next() => return Ok(()),
    };
    say(&format!("ready: {count} simulated minions; their containers exist in memory only"));
    let failed = tokio::select! {
        part = minions.failed() => Some(part),
        () = signals.next() => None,
    };
    say("stopping; the containers are gone with the simulated minions");
    minions.shutdown().await;
    match failed {
        Some(part) => bail!("a {part} ended by itself; see the log"),
        None => Ok(()),
    }
}
