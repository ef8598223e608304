//! The scheduler: gives every pod without a node one.
//!
//! * [`cluster`] keeps the totals of each node as pods come and go; `index` lets a look at them
//!   skip most nodes.
//! * [`wanted`] is what a pod asks for, [`predicates`] say where it can go and why not elsewhere,
//!   [`priorities`] where best, [`mod@decide`] chooses. All of it is pure.
//! * [`waiting`] holds the pods that fit nowhere, `binding` writes what was decided, [`explain`]
//!   answers what would be decided.
//! * This file is the shell: a queue of pods to place, decided in batches and bound through the
//!   registry, one batch being decided while the one before is written.
//!
//! # Cost
//! A decision compares a bounded number of nodes, whatever the size of the cluster (`index`). A
//! full cluster is passed over by blocks. Only a refusal looks at every node, once for all pods that
//! ask for the same: those that come later are told what the first one was.
//!
//! # Waiting
//! A pod that fits nowhere is tried again when an event can help it, never because time went by: a
//! node joined, became ready, was opened, got other labels, taints or more room; a pod left a node;
//! the pod itself changed. All changes that are there are taken in before anything is tried, and
//! then each class of equal pods is tried against the nodes that became better, 32 of them at most,
//! or with one question to the index if there are more. A round every minute is a safety net, and
//! keeps what pods are told up to date; it looks at 256 classes at most.
//!
//! # What fits in later
//! Affinity between pods and topology spread are predicates and priorities over counts by group and
//! domain, which [`cluster::Siblings`] is the simplest case of: another table kept by `put` and
//! read by `compare`. Preemption is a third answer of [`decide()`], asked when no node fits: the
//! predicates run on a [`cluster::NodeState`] from which pods of lower priority were taken.

mod binding;
mod cluster;
mod decide;
pub mod explain;
mod index;
mod predicates;
mod priorities;
#[cfg(test)]
mod tests;
mod waiting;
mod wanted;

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use coracle_api::{
    ApiError, Kind, TypedObject,
    core::{Node, Pod},
    error::Reason,
    meta::ObjectMeta,
    objects::pod::DEFAULT_SCHEDULER,
};
use futures_util::{
    FutureExt, StreamExt,
    future::{JoinAll, MaybeDone, join_all, maybe_done},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    controllers::{Changes, changes},
    events::Recorder,
    registry::{Entry, EventType, Key, PodFacts, Registry, WatchItem},
};
use waiting::{Telling, Waiting};

pub use cluster::Cluster;
pub use decide::{Decision, Explanation, decide};
pub use predicates::Misfit;
pub use priorities::{PRIORITIES, Scores};
pub use wanted::Wanted;

/// Pods decided before their bindings are written, together.
const BATCH: usize = 256;
/// Batches before changes are taken in again: what they write stays far from filling the history
/// that watches read.
const BATCHES: usize = 16;
/// A binding that failed for want of the store is tried again after this, and after twice that...
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Waiting pods are looked at again this often, whatever happened.
const ROUND: Duration = Duration::from_secs(60);
/// And this often if anything changed: the amounts that they were told may be others.
const RETELL: Duration = Duration::from_secs(10);

/// Places pods.
#[derive(Debug)]
pub struct Scheduler {
    registry: Registry,
    events: Recorder,
    decide: fn(&Cluster, &Wanted) -> Decision,
    cluster: Cluster,
    /// To be decided now, in the order in which they came. May hold what has gone meanwhile.
    queue: VecDeque<Key>,
    queued: foldhash::HashSet<Key>,
    /// Fit nowhere.
    waiting: Waiting,
    /// Decided pods, and the version at which they were bound: what the watch says of them up to then
    /// is older than what is assumed.
    assumed: foldhash::HashMap<Key, u64>,
    retry_at: Option<Instant>,
    retry_wait: Duration,
    last_round: Instant,
    /// Whether anything changed since the last round.
    stirred: bool,
    /// Whether there may be changes that were not told one by one.
    round_now: bool,
}

/// A decided pod, and where it goes.
struct Bound {
    key: Key,
    /// Enough of the pod for an event to be about it.
    regarding: Pod,
    node: String,
}

type Writes = JoinAll<Pin<Box<dyn Future<Output = Result<u64, ApiError>> + Send>>>;

/// Bindings on their way into the store.
struct Flight {
    bound: Vec<Bound>,
    writes: Pin<Box<MaybeDone<tokio::task::Unconstrained<Writes>>>>,
}

impl Scheduler {
    /// A scheduler of the pods and nodes in the registry.
    pub fn new(registry: Registry, events: Recorder) -> Self {
        Self {
            registry,
            events,
            decide,
            cluster: Cluster::default(),
            queue: VecDeque::new(),
            queued: Default::default(),
            waiting: Waiting::default(),
            assumed: Default::default(),
            retry_at: None,
            retry_wait: RETRY_MIN,
            last_round: Instant::now(),
            stirred: false,
            round_now: false,
        }
    }

    /// The same scheduler with another way to decide.
    pub fn with_plan(self, decide: fn(&Cluster, &Wanted) -> Decision) -> Self {
        Self { decide, ..self }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let nodes = changes(self.registry.clone(), Node::row()).map(|c| (Node::row(), c)).boxed();
        let pods = changes(self.registry.clone(), Pod::row()).map(|c| (Pod::row(), c)).boxed();
        let mut changes = futures_util::stream::select(nodes, pods);
        loop {
            let (retry, round) = (self.retry_at, self.round_at());
            // All arms are cancel-safe: the stream keeps what it has not yielded, the rest wait.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((kind, changes)) = changes.next() => self.take(kind, &changes),
                () = at(retry) => self.retry_at = None,
                () = at(round) => self.round().await,
            }
            loop {
                while let Some(Some((kind, changes))) = changes.next().now_or_never() {
                    self.take(kind, &changes);
                }
                let improved = self.cluster.take_improved();
                self.waiting.wake(&self.cluster, &improved);
                if !self.has_work() || stop.is_cancelled() {
                    break;
                }
                self.place_batches().await;
            }
        }
    }

    fn has_work(&self) -> bool {
        self.retry_at.is_none() && (!self.queue.is_empty() || self.waiting.next_open().is_some())
    }

    fn round_at(&self) -> Option<Instant> {
        let pause = match (self.round_now, self.stirred) {
            (true, _) => Duration::ZERO,
            (false, true) => RETELL,
            (false, false) => ROUND,
        };
        (!self.waiting.is_empty()).then(|| self.last_round + pause)
    }

    async fn round(&mut self) {
        (self.last_round, self.stirred, self.round_now) = (Instant::now(), false, false);
        let tellings = self.waiting.round(&self.cluster);
        self.tell(tellings).await;
    }

    fn take(&mut self, kind: &Kind, changes: &Changes) {
        self.stirred = true;
        if changes.anew && kind == Node::row() {
            self.cluster.clear_nodes();
        } else if changes.anew {
            self.cluster.clear_pods();
            self.assumed.clear();
            self.queue.clear();
            self.queued.clear();
            let registry = &self.registry;
            let gone = |key: &&Key| registry.get(kind, &key.namespace, &key.name).is_none();
            let gone: Vec<Key> = self.waiting.pods().filter(gone).cloned().collect();
            gone.iter().for_each(|key| self.waiting.remove(key));
            // What was freed meanwhile is not told one by one: the round finds it.
            self.round_now = true;
        }
        changes.items.iter().for_each(|item| self.observe(item));
    }

    fn observe(&mut self, item: &WatchItem) {
        let (entry, gone) = (&item.entry, item.event == EventType::Deleted);
        let Some(facts) = entry.pod() else {
            let node = if gone { None } else { entry.typed::<Node>() };
            return self.cluster.set_node(&entry.key.name, node.as_ref());
        };
        let (key, over) = (&entry.key, gone || facts.phase.is_terminal());
        match self.assumed.get(key) {
            Some(bound_at) if entry.version < *bound_at => return,
            Some(_) => drop(self.assumed.remove(key)),
            None => {}
        }
        self.cluster.set_pod(key, (!over).then_some(facts));
        if over || !is_ours(entry, facts) {
            // In the queue it is passed over when its turn comes.
            self.waiting.remove(key);
        } else if !self.waiting.holds(key) {
            self.enqueue(key.clone());
        } else if let Some(pod) = entry.typed::<Pod>()
            && !self.waiting.is_unchanged(key, &Wanted::of(&pod, facts))
        {
            self.waiting.remove(key);
            self.enqueue(key.clone());
        }
    }

    fn enqueue(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    /// Those that waited longest first.
    fn next_pod(&mut self) -> Option<Key> {
        if let Some(key) = self.waiting.next_open() {
            return Some(key);
        }
        let key = self.queue.pop_front()?;
        self.queued.remove(&key);
        Some(key)
    }

    async fn place_batches(&mut self) {
        let mut flight: Option<Flight> = None;
        for _ in 0..BATCHES {
            let (decided, tellings) = self.decide_batch();
            let idle = decided.is_none() && tellings.is_empty();
            self.tell(tellings).await;
            if let Some(before) = std::mem::replace(&mut flight, decided) {
                self.land(before).await;
            }
            if idle || self.retry_at.is_some() {
                break;
            }
        }
        if let Some(last) = flight {
            self.land(last).await;
        }
    }

    /// Decides on pods until a batch is full. Their bindings are on their way when this returns.
    fn decide_batch(&mut self) -> (Option<Flight>, Vec<Telling>) {
        let (mut bound, mut writes, mut tellings) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.registry.now();
        while bound.len() + tellings.len() < BATCH
            && let Some(key) = self.next_pod()
        {
            let entry = self.registry.get(Pod::row(), &key.namespace, &key.name);
            let open = entry.as_ref().filter(|_| !self.assumed.contains_key(&key));
            let open = open.and_then(|e| Some((e, e.pod().filter(|facts| is_ours(e, facts))?, e.typed::<Pod>()?)));
            let Some((entry, facts, pod)) = open else {
                self.waiting.remove(&key);
                continue;
            };
            let wanted = Wanted::of(&pod, facts);
            if self.waiting.is_refused(&wanted) {
                tellings.push(self.waiting.refuse(&key, wanted, None));
                continue;
            }
            match (self.decide)(&self.cluster, &wanted) {
                Decision::Place { node } => {
                    // Assumed placed, so that the next decision counts it.
                    self.cluster.assume(&key, facts, &node);
                    self.assumed.insert(key.clone(), u64::MAX);
                    self.waiting.remove(&key);
                    let regarding = regarding(&pod);
                    let (registry, version, node) = (self.registry.clone(), entry.version, node.to_string());
                    bound.push(Bound { key: key.clone(), regarding, node: node.clone() });
                    let write: Pin<Box<dyn Future<Output = _> + Send>> =
                        Box::pin(async move { binding::bind_decided(&registry, &key, pod, version, &node, now).await });
                    writes.push(write);
                }
                Decision::Wait(why) => tellings.push(self.waiting.refuse(&key, wanted, Some(why))),
            }
        }
        if bound.is_empty() {
            return (None, tellings);
        }
        // All of them in one go, however many: they are to share commits.
        let mut writes = Box::pin(maybe_done(tokio::task::unconstrained(join_all(writes))));
        // Sends them off: the store writes them while the next batch is decided.
        let _sent = writes.as_mut().now_or_never();
        (Some(Flight { bound, writes }), tellings)
    }

    /// Waits for bindings to be written. One that was not leaves its room to others.
    async fn land(&mut self, mut flight: Flight) {
        flight.writes.as_mut().await;
        let results = flight.writes.as_mut().take_output().unwrap_or_default();
        let mut failed = None;
        for (Bound { key, regarding, node }, result) in flight.bound.into_iter().zip(results) {
            match result {
                Ok(version) => {
                    self.assumed.insert(key.clone(), version);
                    let name = format!("{}/{}", key.namespace, key.name);
                    self.events.normal(&regarding, "Scheduled", &format!("Successfully assigned {name} to {node}"));
                }
                Err(error) => {
                    self.assumed.remove(&key);
                    self.cluster.set_pod(&key, None);
                    if !matches!(error.reason, Reason::NotFound | Reason::Conflict) {
                        failed.get_or_insert(error);
                        self.enqueue(key);
                    }
                }
            }
        }
        match failed {
            None => self.retry_wait = RETRY_MIN,
            Some(error) => {
                tracing::warn!(%error, "pods could not be bound");
                self.retry_at = Some(Instant::now() + self.retry_wait);
                self.retry_wait = (self.retry_wait * 2).min(RETRY_MAX);
            }
        }
    }

    /// Tells the user why pods wait: an event for each new set of reasons, a condition that holds
    /// the present amounts.
    async fn tell(&self, tellings: Vec<Telling>) {
        let told = |t: &Telling| {
            let (why, is_news): (Arc<str>, bool) = (t.why.as_str().into(), t.is_news);
            t.pods.iter().map(|key| (key.clone(), why.clone(), is_news)).collect::<Vec<_>>()
        };
        let told: Vec<_> = tellings.iter().flat_map(told).collect();
        for part in told.chunks(BATCH) {
            for (key, why, _) in part.iter().filter(|(.., is_news)| *is_news) {
                if let Some(pod) = self.registry.get_typed::<Pod>(&key.namespace, &key.name) {
                    self.events.warning(&regarding(&pod), "FailedScheduling", why);
                }
            }
            let now = self.registry.now();
            let writes = part.iter().map(|(key, why, _)| binding::tell_unschedulable(&self.registry, key, why, now));
            for result in join_all(writes).await {
                if let Err(error) = result {
                    tracing::debug!(%error, "the reason for waiting was not written");
                }
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Whether a pod waits for this scheduler to give it a node. One that names another scheduler is that
/// one's to bind.
fn is_ours(entry: &Entry, facts: &PodFacts) -> bool {
    let other = entry.field("spec.schedulerName").is_some_and(|name| !matches!(name, "" | DEFAULT_SCHEDULER));
    facts.node.is_none() && facts.is_active() && !other
}

/// What an event says of the pod that it is about.
fn regarding(pod: &Pod) -> Pod {
    let ObjectMeta { name, namespace, uid, resource_version, .. } = pod.metadata.clone();
    let metadata = ObjectMeta { name, namespace, uid, resource_version, ..Default::default() };
    Pod { metadata, ..Default::default() }
}
