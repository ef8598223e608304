//! The control loops: each compares desired with observed and writes the difference.
//!
//! A loop is a pure plan plus a few lines that gather its inputs and carry it out. [`drive`] is
//! the shell they share: changes wake keys, keys are reconciled one at a time from full state, a
//! failed key comes back with back-off. What changed is never passed on, only that something did.

pub(crate) mod endpoints;
pub(crate) mod events;
pub(crate) mod finished;
pub(crate) mod garbage;
pub(crate) mod master_services;
pub(crate) mod namespaces;
pub(crate) mod nodes;
pub(crate) mod relocation;
pub(crate) mod replication;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    panic::AssertUnwindSafe,
    time::Duration,
};

use coracle_api::{ApiError, Kind, error::Reason};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    events::Recorder,
    leadership::Loops,
    registry::{EventType, Key, Registry, Selection, WatchItem, Watcher},
    scheduler::Scheduler,
};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// All objects of a controller's first kind wake their keys again this often, in case a change
/// concerned more than it woke.
const RESYNC: Duration = Duration::from_secs(300);

/// The part of a core that one loop may spend looking in the long run: one in so many.
const SHARE: u32 = 20;
/// A round that looked no longer than this is followed by the next at once.
const LOOKS_FREE: Duration = Duration::from_micros(300);
/// A round that has looked for so long ends, though keys are left.
const LOOKS_MAX: Duration = Duration::from_millis(50);
/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Batches of changes that are taken in before the keys that they woke are looked at.
const BATCHES_MAX: usize = 16;

/// Starts the scheduler and every controller on `tasks`, until `stop`.
pub(crate) fn start(loops: &Loops, tasks: &TaskTracker, stop: &CancellationToken) {
    let spawn = |name, work| tasks.spawn(watched(name, work, stop.clone(), loops.failed.clone()));
    let events = Recorder::start(loops.registry.clone(), tasks, stop.clone());
    let (registry, plans) = (|| loops.registry.clone(), loops.plans);
    spawn(
        "scheduler",
        Scheduler::new(registry(), events.component("scheduler")).with_plan(plans.place).run(stop.clone()).boxed(),
    );
    let recorder = events.component("replication-controller");
    let replication = replication::ReplicationManager::new(registry(), recorder, plans.replicas);
    spawn("replication", drive(replication, registry(), stop.clone()).boxed());
    let endpoints = endpoints::EndpointsController { registry: registry(), plan: plans.subsets };
    spawn("endpoints", drive(endpoints, registry(), stop.clone()).boxed());
    let namespaces = namespaces::NamespaceController { registry: registry() };
    spawn("namespaces", drive(namespaces, registry(), stop.clone()).boxed());
    spawn(
        "garbage",
        drive(garbage::GarbageController::new(registry(), plans.garbage), registry(), stop.clone()).boxed(),
    );
    let nodes = nodes::NodeController {
        registry: registry(),
        liveness: loops.liveness.clone(),
        announcements: loops.coordinator.announcements(),
        events: events.component("node-controller"),
        pod_cidr: loops.pod_cidr,
        beat: loops.beat,
        fate: plans.fate,
        braked: plans.braked,
    };
    spawn("nodes", nodes.run(stop.clone()).boxed());
    let masters = master_services::MasterEndpoints {
        registry: registry(),
        announcements: loops.coordinator.announcements(),
        own: loops.advertised,
    };
    spawn("master endpoints", masters.run(stop.clone()).boxed());
    spawn("events", events::expire(registry(), stop.clone()).boxed());
    spawn("finished pods", finished::bound(registry(), stop.clone()).boxed());
}

/// Runs a loop. One that ends though nobody stopped it leaves its part of the cluster to itself,
/// which is worse than a master that ends and is started again.
async fn watched(name: &'static str, work: BoxFuture<'static, ()>, stop: CancellationToken, failed: CancellationToken) {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    if !stop.is_cancelled() {
        tracing::error!(name, panicked = ended.is_err(), "a control loop ended by itself");
        failed.cancel();
    }
}

/// A control loop over the objects of one kind.
pub(crate) trait Controller: Send + Sync + 'static {
    /// The kinds whose changes matter, the one that is kept right first.
    fn watches(&self) -> &'static [&'static Kind];

    /// The keys that a change may concern. Too many is slow, too few is wrong.
    fn wakes(&self, item: &WatchItem) -> Vec<Key>;

    /// Makes one key right, from full state. Returns when time alone would change the answer.
    fn reconcile(
        &self,
        key: &Key,
        looks: &mut Looks,
    ) -> impl Future<Output = Result<Option<Duration>, ApiError>> + Send;
}

/// How long a controller looked at objects to find out what to do, which for a key that has thousands may be
/// long. What it then does is work, and counts for nothing here.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    spent: Duration,
}

impl Looks {
    /// Counts the time of a look.
    pub(crate) fn time<T>(&mut self, look: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let seen = look();
        self.spent += begun.elapsed();
        seen
    }
}

/// When each woken key is due, and how often it failed in a row.
#[derive(Debug, Default)]
struct Queue {
    due: HashMap<Key, Instant>,
    /// The same by time.
    order: BTreeSet<(Instant, Key)>,
    failures: BTreeMap<Key, u32>,
    /// Nothing is due before.
    paused_until: Option<Instant>,
}

impl Queue {
    /// Of two wake-ups the earlier one counts.
    fn wake(&mut self, key: Key, at: Instant) {
        match self.due.get_mut(&key) {
            Some(due) if *due <= at => {}
            Some(due) => {
                self.order.remove(&(*due, key.clone()));
                *due = at;
                self.order.insert((at, key));
            }
            None => {
                self.due.insert(key.clone(), at);
                self.order.insert((at, key));
            }
        }
    }

    fn pop(&mut self, now: Instant) -> Option<Key> {
        if self.next_due()? > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }

    fn next_due(&self) -> Option<Instant> {
        let (first, _) = self.order.first()?;
        Some(self.paused_until.map_or(*first, |until| until.max(*first)))
    }

    /// A round has looked for so long. Where that is long, changes gather for a while: a key that many of them
    /// concern is looked at once for all, and the loop leaves room for others.
    fn pause(&mut self, looks: &Looks, now: Instant) {
        if looks.spent > LOOKS_FREE {
            self.paused_until = Some(now + looks.spent.saturating_mul(SHARE - 1).min(PAUSE_MAX));
        }
    }

    fn done(&mut self, key: Key, again: Option<Duration>, now: Instant) {
        self.failures.remove(&key);
        if let Some(after) = again {
            self.wake(key, now + after);
        }
    }

    fn failed(&mut self, key: Key, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = BACKOFF_MIN.saturating_mul(1 << (*failures).min(16)).min(BACKOFF_MAX);
        *failures += 1;
        self.wake(key, now + wait);
    }
}

/// Runs a controller until `stop`.
pub(crate) async fn drive<C: Controller>(controller: C, registry: Registry, stop: CancellationToken) {
    let watches = controller.watches().iter().map(|kind| changes(registry.clone(), kind).boxed());
    let mut changes = stream::select_all(watches);
    let mut queue = Queue::default();
    let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
    loop {
        // All arms are cancel-safe: `changes` keeps what it has not yielded, the rest are waits.
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(changed) = changes.next() => {
                // Coalesces: one reconcile for all changes that are already here, unless they never end.
                let mut next = Some(changed);
                for left in (0..BATCHES_MAX).rev() {
                    let Some(Changes { anew, items }) = next.take() else { break };
                    if anew {
                        // What went while nobody looked is told by nobody.
                        wake_all(&controller, &registry, &mut queue);
                    }
                    let now = Instant::now();
                    items.iter().flat_map(|item| controller.wakes(item)).for_each(|key| queue.wake(key, now));
                    if left > 0 {
                        next = changes.next().now_or_never().flatten();
                    }
                }
            }
            () = due(queue.next_due()) => {}
            _ = resync.tick() => wake_all(&controller, &registry, &mut queue),
        }
        let mut looks = Looks::default();
        while looks.spent < LOOKS_MAX
            && let Some(key) = queue.pop(Instant::now())
        {
            match controller.reconcile(&key, &mut looks).await {
                Ok(again) => queue.done(key, again, Instant::now()),
                Err(error) => {
                    let expected = matches!(error.reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists);
                    if !expected {
                        tracing::warn!(namespace = %key.namespace, name = %key.name, %error, "reconcile failed");
                    }
                    queue.failed(key, Instant::now());
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
        queue.pause(&looks, Instant::now());
    }
}

/// Wakes the keys of all objects of the kind that is kept right first.
fn wake_all<C: Controller>(controller: &C, registry: &Registry, queue: &mut Queue) {
    let (now, first) = (Instant::now(), controller.watches().first().map(|kind| registry.snapshot(kind).entries));
    for entry in first.unwrap_or_default().values().cloned() {
        let item = WatchItem::present(EventType::Modified, entry);
        controller.wakes(&item).into_iter().for_each(|key| queue.wake(key, now));
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What [`changes`] yields.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The present objects follow: what is not among them is gone.
    pub(crate) anew: bool,
    pub(crate) items: Vec<WatchItem>,
}

/// The present objects of a kind, then its changes, for ever. A watch that fell behind starts
/// again from the present and says so: deletions that it missed are not told one by one.
pub(crate) fn changes(registry: Registry, kind: &'static Kind) -> impl stream::Stream<Item = Changes> + Send {
    stream::unfold(None::<Watcher>, move |mut watcher| {
        let registry = registry.clone();
        async move {
            loop {
                let error = match watcher.take() {
                    Some(mut current) => match current.next().await {
                        Ok(items) => return Some((Changes { anew: false, items }, Some(current))),
                        Err(error) => error,
                    },
                    None => match registry.watch(kind, Selection::default(), None) {
                        Ok(fresh) => return Some((Changes { anew: true, items: Vec::new() }, Some(fresh))),
                        Err(error) => error,
                    },
                };
                if error.reason != Reason::Expired {
                    tracing::error!(kind = kind.kind, %error, "a control loop can't watch");
                    return None;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests;
