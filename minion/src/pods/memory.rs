//! What a worker knows of its pod beyond what the engine shows now: the history of runs, the
//! failures, the probes' verdicts, the operations under way.
//!
//! It may be lost at any time: [`PodMemory::adopt`] rebuilds what matters from the status that the
//! master holds. [`PodMemory::observe`] folds an observation in and is idempotent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_api::core::{ContainerStatus, Pod, PodStatus};
use jiff::Timestamp;

use super::{backoff, naming::spec_hash, observation::PodObservation};
use crate::runtime::{Container, ContainerId, State, labels};

/// What an operation works on; at most one operation a slot is under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The pod's volumes.
    Volumes,
    /// An image.
    Image(String),
    /// The start of the infra container.
    Infra,
    /// The start of a container.
    Start(String),
    /// The end of a container.
    Stop(ContainerId),
    /// The postStart hook of a container.
    Hook(ContainerId),
    /// The removal of a container.
    Remove(ContainerId),
    /// The final delete of the pod object.
    Delete,
}

/// A series of failures of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word for the status.
    pub reason: &'static str,
    /// A sentence with subject and remedy.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// The last one.
    pub at: Timestamp,
}

impl Failure {
    /// When to try again.
    pub fn retry_at(&self, max: Duration) -> Timestamp {
        backoff::after(self.at, backoff::delay(self.count, max))
    }
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageMemory {
    /// The engine has it.
    Present,
    /// It could not be had.
    Missing {
        /// Counts attempts to pull, not looks.
        failure: Failure,
        /// The last look at the engine.
        checked_at: Timestamp,
    },
}

/// Why the minion stops a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The pod is deleted.
    Deleted,
    /// The pod reached its end while this container still ran.
    PodEnded,
    /// Its spec changed.
    Replaced,
    /// The infra container that it belonged to is gone.
    NetworkLost,
    /// A newer container of the same name runs.
    Surplus,
    /// The liveness or startup probe failed; the text says how.
    Unhealthy(String),
    /// The postStart hook failed; the text says how.
    HookFailed(String),
}

impl StopReason {
    /// For the event, the log and the status.
    pub fn sentence(&self) -> String {
        match self {
            StopReason::Deleted => "the pod is being deleted".into(),
            StopReason::PodEnded => "the pod has ended".into(),
            StopReason::Replaced => "its definition changed".into(),
            StopReason::NetworkLost => "the pod's network was lost and is set up again".into(),
            StopReason::Surplus => "a newer one runs".into(),
            StopReason::Unhealthy(why) | StopReason::HookFailed(why) => why.clone(),
        }
    }

    /// Whether the end counts as a crash of the container.
    fn is_crash(&self) -> bool {
        matches!(self, StopReason::Unhealthy(_) | StopReason::HookFailed(_))
    }
}

/// The state of a postStart hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookState {
    /// To be run.
    Pending,
    /// It failed; the text says how.
    Failed(String),
}

/// The probes' verdicts on one run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeMemory {
    /// The run.
    pub id: ContainerId,
    /// The startup probe succeeded.
    pub started: bool,
    /// The readiness probe's verdict.
    pub ready: bool,
    /// Set when the liveness or startup probe gave up.
    pub dead: Option<String>,
}

/// What is known of one container of the pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerMemory {
    /// Hash of its spec, once observed.
    hash: String,
    /// Its newest run, also when the engine no longer has it.
    pub last: Option<Arc<Container>>,
    /// Length of the current series of crashes.
    pub crashes: u32,
    counted: Option<ContainerId>,
    /// Set while a postStart hook is due or failed.
    pub hook: Option<(ContainerId, HookState)>,
    /// The minion stopped this run.
    pub stopped: Option<(ContainerId, StopReason)>,
    /// The probes' verdicts.
    pub probes: Option<ProbeMemory>,
}

/// An operation under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InFlight {
    /// For a stop: how long it lets the container live.
    pub grace: Option<Duration>,
    /// It was told to give up.
    pub cancelled: bool,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodMemory {
    /// The volumes are set up.
    pub volumes_ready: bool,
    /// The volumes are removed.
    pub volumes_removed: bool,
    /// By image reference.
    pub images: BTreeMap<String, ImageMemory>,
    /// By name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// The generation of the spec that the containers' hashes are of. A spec without one is hashed each time.
    pub(super) hashed: Option<i64>,
    /// The infra container's attempts so far.
    pub infra_attempts: u32,
    /// Operations under way.
    pub in_flight: BTreeMap<Slot, InFlight>,
    /// Operations that failed, until they succeed.
    pub failures: BTreeMap<Slot, Failure>,
    /// The last status, planned here or found at the master.
    pub status: Option<Arc<PodStatus>>,
    /// The pod object is deleted.
    pub deleted: bool,
    /// When it was first seen that the pod is to go, as long as its object is there.
    pub deleted_since: Option<Timestamp>,
    /// When it was found that the pod, which is to go, need not serve on: once, whatever is heard later.
    pub released_at: Option<Timestamp>,
    /// How long containers may take to end when the pod object is gone.
    pub orphan_grace: Duration,
}

impl PodMemory {
    /// What can be known of a pod from the status that the master holds.
    pub fn adopt(pod: &Pod) -> Self {
        let mut memory = Self { status: pod.status.clone().map(Arc::new), ..Self::default() };
        let Some(status) = &pod.status else { return memory };
        let lists = [&status.container_statuses, &status.init_container_statuses];
        for known in lists.into_iter().flatten().flatten() {
            let Some(last) = run_of(pod, known) else { continue };
            let probes = known.state.as_ref().and_then(|s| s.running.as_ref()).map(|_| ProbeMemory {
                id: last.id.clone(),
                started: known.started.unwrap_or(false),
                ready: known.ready,
                dead: None,
            });
            let counted = matches!(last.state, State::Exited { .. }).then(|| last.id.clone());
            let entry = ContainerMemory { last: Some(Arc::new(last)), probes, counted, ..Default::default() };
            memory.containers.insert(known.name.clone(), entry);
        }
        memory
    }

    /// The newest run of a container.
    pub fn last(&self, name: &str) -> Option<&Container> {
        self.containers.get(name)?.last.as_deref()
    }

    /// Remembers what a plan decided for good: whether a pod that is to go serves on.
    pub fn planned(&mut self, held: bool, now: Timestamp) {
        if self.deleted_since.is_some() && !held {
            self.released_at.get_or_insert(now);
        }
    }

    /// Folds in what the engine shows. Returns the names of containers that ended since.
    pub fn observe(&mut self, desired: Option<&Pod>, observed: &PodObservation, now: Timestamp) -> Vec<String> {
        for infra in observed.all(labels::INFRA) {
            self.infra_attempts = self.infra_attempts.max(infra.attempt.saturating_add(1));
        }
        let deleted = desired.is_some_and(|p| p.metadata.deletion_timestamp.is_some());
        self.deleted_since = deleted.then(|| self.deleted_since.unwrap_or(now));
        self.released_at = self.released_at.filter(|_| deleted);
        if let Some((pod, spec)) = desired.and_then(|pod| Some((pod, pod.spec.as_ref()?))) {
            let generation = pod.metadata.generation;
            if generation.is_none() || generation != self.hashed {
                for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
                    self.renew(&container.name, spec_hash(container));
                }
                self.hashed = generation;
            }
        }
        for name in observed.names() {
            if !self.containers.contains_key(name) {
                self.containers.insert(name.to_owned(), ContainerMemory::default());
            }
        }
        let mut ended = Vec::new();
        for (name, memory) in &mut self.containers {
            if memory.observe(observed.newest(name), now) {
                ended.push(name.clone());
            }
        }
        if let Some(spec) = desired.and_then(|p| p.spec.as_ref()) {
            for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
                if let Some(memory) = self.containers.get_mut(&container.name) {
                    memory.expect_probes(container);
                }
            }
        }
        ended
    }

    /// Whether a container runs and has passed its startup probe and its postStart hook.
    pub fn is_up(&self, name: &str) -> bool {
        let Some((memory, last)) = self.containers.get(name).and_then(|m| Some((m, m.last.as_ref()?))) else {
            return false;
        };
        let hooked = memory.hook.as_ref().is_some_and(|(id, _)| *id == last.id);
        let starting = self.in_flight.contains_key(&Slot::Start(name.to_owned()));
        matches!(last.state, State::Running { .. })
            && !hooked
            && !starting
            && memory.probes.as_ref().is_some_and(|p| p.id == last.id && p.started)
    }

    /// Whether a container is up and its readiness probe agrees.
    pub fn is_ready(&self, name: &str) -> bool {
        self.is_up(name) && self.containers.get(name).and_then(|m| m.probes.as_ref()).is_some_and(|p| p.ready)
    }

    /// Another spec starts with a clean sheet.
    fn renew(&mut self, name: &str, hash: String) {
        let memory = self.containers.entry(name.to_owned()).or_default();
        if memory.hash != hash {
            if !memory.hash.is_empty() {
                memory.crashes = 0;
                self.failures.remove(&Slot::Start(name.to_owned()));
            }
            memory.hash = hash;
        }
    }
}

impl ContainerMemory {
    /// Whether a run is one of the container as it is specified now.
    pub(super) fn is_current(&self, run: &Container, spec: &coracle_api::core::Container) -> bool {
        if self.hash.is_empty() { run.hash == spec_hash(spec) } else { run.hash == self.hash }
    }

    /// Whether it is no more than what [`PodMemory::adopt`] and an observation make of a status.
    pub(super) fn is_plain(&self, observed: &PodObservation, now: Timestamp) -> bool {
        let steady = match self.last.as_deref().map(|last| &last.state) {
            Some(State::Running { started_at }) => backoff::is_steady(*started_at, now),
            // Where nothing is planned it has ended for good.
            Some(State::Exited { .. }) => true,
            _ => false,
        };
        let shown = self.last.as_ref().is_none_or(|last| observed.by_id(&last.id).is_some());
        let is_current = |id: &ContainerId| self.last.as_ref().is_some_and(|last| last.id == *id);
        let hooked = self.hook.as_ref().is_some_and(|(id, _)| is_current(id));
        let stopped = self.stopped.as_ref().is_some_and(|(id, _)| is_current(id));
        shown && (self.crashes == 0 || steady) && !hooked && !stopped
    }

    /// What no probe asks for is so, also where a status written during the postStart hook, which is
    /// all that a restarted minion knows, said otherwise.
    fn expect_probes(&mut self, spec: &coracle_api::core::Container) {
        let Some(Container { id, state: State::Running { .. }, .. }) = self.last.as_deref() else { return };
        let known = self.probes.take().filter(|p| p.id == *id);
        let mut known = known.unwrap_or(ProbeMemory { id: id.clone(), started: false, ready: false, dead: None });
        known.started |= spec.startup_probe.is_none();
        known.ready |= spec.readiness_probe.is_none();
        self.probes = Some(known);
    }

    /// True when a run was seen to end.
    fn observe(&mut self, newest: Option<&Arc<Container>>, now: Timestamp) -> bool {
        match (newest, &mut self.last) {
            (Some(newest), last) if last.as_ref().is_none_or(|l| newest.attempt >= l.attempt) => {
                *last = Some(Arc::clone(newest));
            }
            (_, Some(last)) => lose(last, now),
            _ => {}
        }
        let Some(Container { id, state: State::Exited { started_at, finished_at, .. }, .. }) = self.last.as_deref()
        else {
            return false;
        };
        if self.counted.as_ref() == Some(id) {
            return false;
        }
        let stopped = self.stopped.as_ref().filter(|(stopped, _)| stopped == id).map(|(_, reason)| reason);
        if stopped.is_none_or(StopReason::is_crash) {
            self.crashes = backoff::crashes_after_run(self.crashes, *started_at, *finished_at);
        }
        self.counted = Some(id.clone());
        true
    }
}

/// A run that the engine no longer knows has ended, one can't say how.
fn lose(last: &mut Arc<Container>, now: Timestamp) {
    if let State::Running { started_at } = last.state {
        Arc::make_mut(last).state = State::Exited {
            code: 137,
            oom_killed: false,
            started_at,
            finished_at: now.max(started_at),
            error: "the container was removed from the engine by someone else".into(),
        };
    }
}

/// The run that a status tells of.
fn run_of(pod: &Pod, known: &ContainerStatus) -> Option<Container> {
    let (state, before) = (known.state.as_ref(), known.last_state.as_ref());
    let ended = state.and_then(|s| s.terminated.as_ref());
    let ended = ended.or_else(|| before.filter(|_| state.is_none_or(|s| s.running.is_none()))?.terminated.as_ref());
    let state = match (state.and_then(|s| s.running.as_ref()), ended) {
        (Some(running), _) => State::Running { started_at: running.started_at.as_ref()?.0 },
        (None, Some(ended)) => State::Exited {
            code: ended.exit_code,
            oom_killed: ended.reason.as_deref() == Some("OOMKilled"),
            started_at: ended.started_at.as_ref().or(ended.finished_at.as_ref())?.0,
            finished_at: ended.finished_at.as_ref()?.0,
            error: String::new(),
        },
        (None, None) => return None,
    };
    let spec = pod.spec.as_ref()?;
    let container =
        spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == known.name)?;
    let id = known.container_id.as_deref().or(ended.and_then(|e| e.container_id.as_deref()))?;
    let (State::Running { started_at } | State::Exited { started_at, .. }) = state else { return None };
    let (namespace, pod_name) = super::report::name_of(pod);
    Some(Container {
        id: ContainerId(id.strip_prefix("docker://").unwrap_or(id).to_owned()),
        pod_uid: super::naming::uid_of(pod).to_owned(),
        pod_name: pod_name.to_owned(),
        pod_namespace: namespace.to_owned(),
        name: known.name.clone(),
        hash: spec_hash(container),
        attempt: u32::try_from(known.restart_count).unwrap_or(0),
        image: known.image.clone(),
        image_id: known.image_id.clone(),
        created_at: started_at,
        state,
        ip: None,
    })
}
