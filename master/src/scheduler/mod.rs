//! The scheduler: gives every pod without a node one.
//!
//! [`cluster`] keeps the totals of each node as pods come and go, [`mod@decide`] is the pure choice,
//! and this file is the shell: a queue of pods to place, decided in batches and bound through the
//! registry. A pod that fits nowhere waits for an event that can help, not for a timer.

mod cluster;
mod decide;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coracle_api::{
    ApiError, Kind, TypedObject,
    core::{Node, Pod, PodCondition},
    error::Reason,
    objects::pod::DEFAULT_SCHEDULER,
};
use futures_util::{FutureExt, StreamExt, future::join_all};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    controllers::{Changes, changes},
    events::Recorder,
    registry::{EventType, Key, PodFacts, Registry, WatchItem},
};
use cluster::Cluster;
use decide::{Decision, Explanation, Wanted, decide};

/// Pods decided before their bindings are written, together.
const BATCH: usize = 256;
/// A binding that failed for want of the store is tried again after this, and after twice that...
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Amounts in what a waiting pod is told are brought up to date this often at most: they change
/// with every pod that comes or goes.
const RETELL: Duration = Duration::from_secs(10);

/// Places pods.
#[derive(Debug)]
pub struct Scheduler {
    registry: Registry,
    events: Recorder,
    cluster: Cluster,
    /// To be decided now.
    queue: BTreeSet<Key>,
    /// Fit nowhere; what was said about them.
    waiting: BTreeMap<Key, Told>,
    retry_at: Option<Instant>,
    retry_wait: Duration,
}

/// What the user was told about a pod that waits.
#[derive(Debug, Clone)]
struct Told {
    why: Explanation,
    at: Instant,
}

impl Scheduler {
    /// A scheduler of the pods and nodes in the registry.
    pub fn new(registry: Registry, events: Recorder) -> Self {
        Self {
            registry,
            events,
            cluster: Cluster::default(),
            queue: BTreeSet::new(),
            waiting: BTreeMap::new(),
            retry_at: None,
            retry_wait: RETRY_MIN,
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let nodes = changes(self.registry.clone(), Node::row()).map(|c| (Node::row(), c)).boxed();
        let pods = changes(self.registry.clone(), Pod::row()).map(|c| (Pod::row(), c)).boxed();
        let mut changes = futures_util::stream::select(nodes, pods);
        loop {
            let retry = async {
                match self.retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe: the stream keeps what it has not yielded, the rest wait.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((kind, changes)) = changes.next() => self.take(kind, &changes),
                () = retry => self.retry_at = None,
            }
            while let Some(Some((kind, changes))) = changes.next().now_or_never() {
                self.take(kind, &changes);
            }
            while !self.queue.is_empty() && self.retry_at.is_none() && !stop.is_cancelled() {
                self.place_batch().await;
            }
        }
    }

    fn take(&mut self, kind: &Kind, changes: &Changes) {
        if changes.anew && kind == Node::row() {
            self.cluster.clear_nodes();
        } else if changes.anew {
            self.cluster.clear_pods();
            self.queue.clear();
            let registry = &self.registry;
            self.waiting.retain(|key, _| registry.get(kind, &key.namespace, &key.name).is_some());
            self.wake_waiting();
        }
        changes.items.iter().for_each(|item| self.observe(item));
    }

    fn observe(&mut self, item: &WatchItem) {
        let (key, gone) = (&item.entry.key, item.event == EventType::Deleted);
        let Some(facts) = item.entry.pod() else {
            let node = if gone { None } else { item.entry.typed::<Node>() };
            if self.cluster.set_node(&key.name, node.as_ref()) {
                self.wake_waiting();
            }
            return;
        };
        let over = gone || facts.phase.is_terminal();
        if self.cluster.set_pod(key, (!over).then_some(facts)) {
            self.wake_waiting();
        }
        // A pod that names another scheduler is that one's to bind.
        let other = item.entry.field("spec.schedulerName").is_some_and(|name| !matches!(name, "" | DEFAULT_SCHEDULER));
        if over || other || facts.node.is_some() || facts.terminating {
            self.queue.remove(key);
            self.waiting.remove(key);
        } else if !self.waiting.contains_key(key) {
            self.queue.insert(key.clone());
        }
    }

    /// Something became free: whoever waits may fit now.
    fn wake_waiting(&mut self) {
        self.queue.extend(self.waiting.keys().cloned());
    }

    async fn place_batch(&mut self) {
        let (mut bindings, mut misfits) = (Vec::new(), Vec::new());
        while bindings.len() + misfits.len() < BATCH
            && let Some(key) = self.queue.pop_first()
        {
            let Some(entry) = self.registry.get(Pod::row(), &key.namespace, &key.name) else { continue };
            let (Some(facts), Some(pod)) = (entry.pod(), entry.typed::<Pod>()) else { continue };
            if facts.node.is_some() || facts.terminating || facts.phase.is_terminal() {
                continue;
            }
            match decide(&self.cluster, &Wanted::of(&pod, facts)) {
                Decision::Place { node } => {
                    // Assumed placed, so that the next decision of the batch counts it.
                    let placed = PodFacts { node: Some(node.clone()), ..facts.clone() };
                    self.cluster.set_pod(&key, Some(&placed));
                    self.waiting.remove(&key);
                    bindings.push((key, pod, node));
                }
                Decision::Wait(why) => misfits.push((key, pod, why)),
            }
        }
        self.report(misfits).await;
        let results = join_all(bindings.iter().map(|(key, pod, node)| bind(&self.registry, key, pod, node))).await;
        let mut failed = None;
        for ((key, pod, node), result) in bindings.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    let name = format!("{}/{}", key.namespace, key.name);
                    self.events.normal(&pod, "Scheduled", &format!("Successfully assigned {name} to {node}"));
                }
                Err(error) => {
                    self.cluster.set_pod(&key, None);
                    if !matches!(error.reason, Reason::NotFound | Reason::Conflict) {
                        failed.get_or_insert(error);
                        self.queue.insert(key);
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
    async fn report(&mut self, misfits: Vec<(Key, Pod, Explanation)>) {
        let now = Instant::now();
        let mut writes = Vec::new();
        for (key, pod, why) in misfits {
            let told = self.waiting.get(&key);
            let same = told.is_some_and(|told| told.why.same_reasons(&why));
            if same && told.is_some_and(|told| told.why == why || now.duration_since(told.at) < RETELL) {
                continue;
            }
            let text = why.to_string();
            if !same {
                self.events.warning(&pod, "FailedScheduling", &text);
            }
            self.waiting.insert(key.clone(), Told { why, at: now });
            writes.push((key, text));
        }
        let write = async |key: &Key, why: &str| {
            let set = |pod: &mut Pod| {
                let condition = condition("False", Some("Unschedulable"), Some(why), Timestamp::now());
                Ok(unbound(pod) && set_condition(pod, condition))
            };
            self.registry.modify(&key.namespace, &key.name, set).await
        };
        for result in join_all(writes.iter().map(|(key, why)| write(key, why))).await {
            if let Err(error) = result {
                tracing::debug!(%error, "the reason for waiting was not written");
            }
        }
    }
}

fn unbound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_none_or(|s| s.node_name.as_deref().is_none_or(str::is_empty))
}

async fn bind(registry: &Registry, key: &Key, decided: &Pod, node: &str) -> Result<(), ApiError> {
    bind_pod(registry, key, decided.metadata.uid.as_deref(), node, Timestamp::now()).await
}

/// Assigns a pod to a node, once: `Conflict` if it is assigned, being deleted, or another pod of
/// that name than the one with `uid`.
pub async fn bind_pod(
    registry: &Registry,
    key: &Key,
    uid: Option<&str>,
    node: &str,
    now: Timestamp,
) -> Result<(), ApiError> {
    let refuse = |why: String| Err(ApiError::conflict("pod", &key.name, why));
    let assign = |pod: &mut Pod| {
        if uid.is_some() && pod.metadata.uid.as_deref() != uid {
            return refuse("it was replaced by another pod of the same name".into());
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return refuse("it is being deleted".into());
        }
        if !unbound(pod) {
            let host = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
            return refuse(format!("it is already assigned to host {host}"));
        }
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        set_condition(pod, condition("True", None, None, now));
        Ok(true)
    };
    registry.modify(&key.namespace, &key.name, assign).await.map(drop)
}

fn condition(status: &str, reason: Option<&str>, message: Option<&str>, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".into(),
        status: status.into(),
        reason: reason.map(Into::into),
        message: message.map(Into::into),
        last_transition_time: Some(now.into()),
        ..Default::default()
    }
}

/// Whether the condition said something else before.
fn set_condition(pod: &mut Pod, mut condition: PodCondition) -> bool {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    if let Some(old) = conditions.iter().find(|c| c.type_ == condition.type_) {
        if (&old.status, &old.reason, &old.message) == (&condition.status, &condition.reason, &condition.message) {
            return false;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != condition.type_);
    conditions.push(condition);
    true
}
