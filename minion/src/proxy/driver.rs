//! Follows the feeds and keeps a data plane equal to them.
//!
//! Invariant: `in_force` is what the data plane holds, as long as that is `known`; otherwise it is what it
//! last held, whose flows there may be, and the next run loads everything. One run at a time; what arrives
//! meanwhile goes into the next. Flows are cut beside the runs: with hundreds of thousands of connections on
//! the host, the kernel takes its time to find them.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{Fuse, FusedFuture, FutureExt};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Feeds, ProxyError,
    inputs::{Inputs, Site},
    table::{Delta, Portal, Stale, Table, diff},
};
use crate::feed;

/// A run is followed by a pause of [`PAUSE_FACTOR`] times its length, so that endless change costs
/// at most a quarter of a core; but no pause is longer than [`PAUSE_MAX`], so that a change takes
/// effect within 0.1 s.
const PAUSE_FACTOR: u32 = 3;
const PAUSE_MAX: Duration = Duration::from_millis(30);
/// After a failed run, doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between repairs of what others break, so that two who insist do not keep the host busy.
const REPAIR_INTERVAL: Duration = Duration::from_millis(500);

/// Something that forwards connections as a [`Table`] says.
pub(super) trait DataPlane: Send {
    /// Replaces everything by this table. Established connections go on.
    fn load(&mut self, table: &Table) -> impl Future<Output = Result<(), ProxyError>> + Send;

    /// Carries the loaded table over into the next.
    fn update(&mut self, delta: &Delta) -> impl Future<Output = Result<(), ProxyError>> + Send;

    /// Ends flows, so that what their clients send next goes where the table says, which is in force. Best
    /// effort; the plane may be changed meanwhile, at the portals that are `spared`.
    fn cut(&self, flows: Vec<Stale>, table: &Table, spared: Spared) -> impl Future<Output = ()> + Send + 'static;

    /// Returns, with the reason, when a full load is needed because of something outside. Must be
    /// cancel-safe.
    fn disturbed(&mut self) -> impl Future<Output = &'static str> + Send;
}

/// Portals that were changed since a cut began: what it was told of their backends is old.
pub(super) type Spared = Arc<Mutex<BTreeSet<Portal>>>;

/// What a data plane is told next.
enum Run {
    Change(Delta),
    Load(Table),
}

/// Runs until `stop` or the end of a feed.
pub(super) async fn run<P: DataPlane>(
    mut plane: P,
    site: Site,
    mut feeds: Feeds,
    synced: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut inputs = Inputs::new(site);
    let mut in_force = Table::default();
    let mut known = false;
    let mut dirty = true;
    let mut next = Instant::now();
    let mut repair_from = next;
    let mut retry = RETRY_MIN;
    let mut stale: BTreeSet<Stale> = BTreeSet::new();
    let mut spared = Spared::default();
    let mut cutting = pin!(Fuse::terminated());
    loop {
        if cutting.is_terminated() && !stale.is_empty() {
            spared = Spared::default();
            let flows = std::mem::take(&mut stale).into_iter().collect();
            cutting.set(plane.cut(flows, &in_force, Arc::clone(&spared)).fuse());
        }
        // Cancel-safe: receiving takes a message or nothing, `cutting` is kept, the others only wait.
        tokio::select! {
            () = stop.cancelled() => return,
            () = &mut cutting, if !cutting.is_terminated() => continue,
            received = feeds.receive(&mut inputs) => {
                if !received {
                    return;
                }
                dirty = true;
                continue;
            }
            reason = plane.disturbed(), if known => {
                tracing::warn!(reason, "what the service proxy set on the host was changed by others; setting it again");
                (known, dirty) = (false, true);
                next = next.max(repair_from);
                continue;
            }
            () = tokio::time::sleep_until(next), if dirty && inputs.listed() => {}
        }
        feeds.drain(&mut inputs);
        dirty = false;
        let changes = inputs.endpoints_changes();
        let touched = inputs.take_touched();
        let run = match known {
            true => Run::Change(in_force.changes(&inputs, &touched)),
            false => Run::Load(Table::build(&inputs)),
        };
        if matches!(&run, Run::Change(delta) if delta.is_empty()) {
            feeds.in_force.send_replace(changes);
            continue;
        }
        if !cutting.is_terminated() {
            let changed = match &run {
                Run::Change(delta) => delta.portals.keys().copied().collect(),
                Run::Load(table) => diff(&in_force, table).portals.into_keys().collect::<Vec<_>>(),
            };
            spared.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
        }
        let started = Instant::now();
        let work = async {
            match &run {
                Run::Change(delta) => plane.update(delta).await,
                Run::Load(table) => plane.load(table).await,
            }
        };
        let result = {
            let mut work = pin!(work);
            loop {
                // Cancel-safe: `work` and `cutting` go on in the next turn; a cut-off nft leaves its
                // transaction whole or undone.
                tokio::select! {
                    result = &mut work => break result,
                    () = &mut cutting, if !cutting.is_terminated() => {}
                    () = stop.cancelled() => return,
                    received = feeds.receive(&mut inputs) => {
                        if !received {
                            return;
                        }
                        dirty = true;
                    }
                }
            }
        };
        let took = started.elapsed();
        match result {
            Ok(()) => {
                next = Instant::now() + (took * PAUSE_FACTOR).min(PAUSE_MAX);
                retry = RETRY_MIN;
                match run {
                    Run::Change(delta) => {
                        tracing::debug!(?took, portals = delta.portals.len(), "service table changed");
                        stale.extend(delta.stale());
                        in_force.apply(delta);
                    }
                    Run::Load(table) => {
                        let (portals, refusing) = (table.portals().len(), table.refusing());
                        tracing::debug!(?took, portals, refusing, "service table loaded");
                        repair_from = Instant::now() + REPAIR_INTERVAL;
                        stale.extend(diff(&in_force, &table).stale().chain(table.early()));
                        (in_force, known) = (table, true);
                    }
                }
                feeds.in_force.send_replace(changes);
                synced.send_replace(true);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                if retry == RETRY_MIN || retry == RETRY_MAX {
                    tracing::warn!(%error, cause, "the service table was not applied; trying again in full");
                }
                (known, dirty) = (false, true);
                next = Instant::now() + retry;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

impl Feeds {
    /// Takes in one change; false when a feed has ended. Cancel-safe.
    async fn receive(&mut self, inputs: &mut Inputs) -> bool {
        tokio::select! {
            change = self.services.recv() => change.map(|c| inputs.apply_service(c)).is_some(),
            change = self.endpoints.recv() => change.map(|c| inputs.apply_endpoints(c)).is_some(),
        }
    }

    /// Takes in what waits, so that it is in the coming run and not in one of its own.
    fn drain(&mut self, inputs: &mut Inputs) {
        for _ in 0..feed::QUEUE {
            let service = self.services.try_recv().map(|c| inputs.apply_service(c));
            let endpoints = self.endpoints.try_recv().map(|c| inputs.apply_endpoints(c));
            if service.is_err() && endpoints.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
