//! Keeps etcd's history bounded.
//!
//! etcd keeps every value ever written until it is told to forget; its database would fill up.
//! Watches that were interrupted for less than what is kept go on without reading everything anew.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Shared, fault::Fault, members::Patience, pulse};

/// How much history stays by default: as much as etcd's other users keep, and enough for a master
/// that is started again or a member that is replaced.
pub(super) const KEPT: Duration = Duration::from_secs(5 * 60);
/// For the answer to one.
const PATIENCE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];

pub(super) async fn compact_history(shared: &Shared, keep: Duration, stop: CancellationToken) {
    let keep = keep.clamp(Duration::from_secs(1), pulse::MEMORY);
    let mut ticks = interval(keep / 5);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut compacted = 0;
    // A compaction that is not waited for happens or not: both is fine.
    stop.run_until_cancelled(async {
        loop {
            ticks.tick().await;
            let Some(then) = Instant::now().checked_sub(keep) else { continue };
            let Some(revision) = shared.pulse.current_at(then).filter(|revision| *revision > compacted) else {
                continue;
            };
            match compact(shared, revision).await {
                Ok(()) => compacted = revision,
                Err(fault) => {
                    tracing::warn!(%fault, revision, "etcd's history was not compacted; the next try is due soon")
                }
            }
        }
    })
    .await;
}

/// Has etcd forget what was overwritten or deleted before a revision.
pub(super) async fn compact(shared: &Shared, revision: i64) -> Result<(), Fault> {
    let request = |mut client: etcd_client::Client| async move { client.compact(revision, None).await };
    match shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await {
        // Another master did it already.
        Ok(_) | Err(Fault::Compacted) => Ok(()),
        Err(fault) => Err(fault),
    }
}
