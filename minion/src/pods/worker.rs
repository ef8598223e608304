//! One pod: observe, plan from full state, start what the plan says, report; again on every change.
//!
//! The worker is the only writer of its pod's memory and status. Operations run beside it, one a
//! slot, so that a container that dies is restarted while another one's image is still pulled. It
//! never plans on an observation that is older than the end of one of its own operations.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use coracle_api::{
    client::Wire,
    core::{Pod, PodStatus},
};
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    backoff::{self, CRASH_DELAY_MAX},
    conditions,
    execute::{self, Job, Shared},
    mailbox::{Changed, Mailbox, News},
    memory::{PodMemory, Slot},
    naming::uid_of,
    observation::{PodObservation, is_running},
    operations::{Action, Outcome},
    plan::Context,
    report::{PodEvent, Report, ReportError, name_of},
    rest::{Keepsake, Opened},
    restart,
    status_writer::{StatusWriter, is_starting},
    traffic::{self, Serving, Traffic},
};
use crate::{
    probes::{self, ProbeKind, Subject, Verdict},
    runtime::{Container, ContainerId, Runtime, State},
};

/// How long containers of a pod that nobody knows may take to end.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// How long to wait before an engine that did not answer is asked again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Everything is looked at again this often, in case an event was lost after all.
const RESYNC: Duration = Duration::from_secs(300);
const VERDICTS_WAITING_MAX: usize = 16;
/// Who takes longer to start waits for something, and others begin meanwhile.
const TURN_MAX: Duration = Duration::from_secs(1);

/// How a worker came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// The pod is as it should be: nothing is to be done until there is news.
    AtRest(Box<Keepsake>),
    /// The pod object is deleted, by this worker.
    Deleted,
    /// Nothing of the pod is left here, or the minion stops.
    Cleared,
    /// It failed, and has waited until it may be tried again.
    Failed,
}

enum Done {
    Operation(Outcome),
    Status(Result<(), ReportError>),
}

struct Operation {
    task: AbortHandle,
    cancel: CancellationToken,
}

/// See the module.
pub(super) struct Worker<R, P> {
    shared: Arc<Shared<R, P>>,
    uid: String,
    mailbox: Arc<Mailbox>,
    /// As the master has it, but for its status.
    pod: Option<Arc<Pod>>,
    /// As the master last had it; decoded, its status may be older.
    known: Option<Opened>,
    /// The status that it last had at the master.
    stored: Option<Arc<PodStatus>>,
    memory: PodMemory,
    observed: PodObservation,
    /// The observation tells of everything before this, and of nothing that happened since.
    fresh: bool,
    /// A look that began earlier tells too little.
    looked: Option<Instant>,
    tasks: JoinSet<Done>,
    /// Which slot a task works on; none for a status write.
    slots: HashMap<Id, Option<Slot>>,
    operations: BTreeMap<Slot, Operation>,
    probes: BTreeMap<(ContainerId, ProbeKind), AbortOnDropHandle<()>>,
    /// Of the probes; made with the first of them, since most pods have none.
    verdicts: Option<(mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>)>,
    writer: StatusWriter,
    serving: Option<watch::Receiver<Serving>>,
    /// What a plan is made of has changed since the last one.
    due: bool,
    /// The last plan asked for nothing.
    idle: bool,
    /// When time alone changes the last plan.
    recheck_at: Option<Timestamp>,
    /// Held while the pod is new and the master has not heard that it runs, for a second at most.
    turn: Option<(OwnedSemaphorePermit, Instant)>,
    /// The pod waits until nobody is sent to it.
    held: bool,
    /// When it last got ready.
    ready_since: Option<Timestamp>,
}

/// Whether what a plan looks at is the same in both.
fn is_same_but_status(before: &Pod, after: &Pod) -> bool {
    let (old, new) = (&before.metadata, &after.metadata);
    before.spec == after.spec
        && (old.deletion_timestamp == new.deletion_timestamp)
        && (old.deletion_grace_period_seconds == new.deletion_grace_period_seconds)
        && (&old.annotations, &old.labels, old.generation) == (&new.annotations, &new.labels, new.generation)
}

async fn changed(serving: Option<&mut watch::Receiver<Serving>>) -> Result<(), watch::error::RecvError> {
    match serving {
        Some(serving) => serving.changed().await,
        None => std::future::pending().await,
    }
}

async fn received<T>(channel: Option<&mut (mpsc::Sender<T>, mpsc::Receiver<T>)>) -> Option<T> {
    match channel {
        Some((_, receiver)) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

impl<R: Runtime, P: Report> Worker<R, P> {
    pub(super) fn new(shared: Arc<Shared<R, P>>, uid: String, known: Option<Opened>, mailbox: Arc<Mailbox>) -> Self {
        let pod = known.as_ref().map(|known| Arc::clone(&known.pod));
        let mut memory = pod.as_deref().map(PodMemory::adopt).unwrap_or_default();
        memory.orphan_grace = ORPHAN_GRACE;
        let mut writer = StatusWriter::default();
        if let Some(pod) = &pod {
            writer.see(pod.status.as_ref(), shared.config.clock.now());
        }
        Self {
            serving: shared.config.serving.clone(),
            due: true,
            idle: false,
            recheck_at: None,
            turn: None,
            held: false,
            ready_since: None,
            shared,
            uid,
            mailbox,
            stored: memory.status.clone(),
            known,
            pod,
            memory,
            observed: PodObservation::default(),
            fresh: false,
            looked: None,
            tasks: JoinSet::new(),
            slots: HashMap::new(),
            operations: BTreeMap::new(),
            probes: BTreeMap::new(),
            verdicts: None,
            writer,
        }
    }

    /// One that goes on where another one went to rest.
    pub(super) fn awake(
        shared: Arc<Shared<R, P>>,
        uid: String,
        pod: Opened,
        kept: &Keepsake,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let mut memory = kept.memory(&pod.pod);
        let mut worker = Self::new(shared, uid, Some(pod), mailbox);
        memory.orphan_grace = ORPHAN_GRACE;
        worker.memory = memory;
        worker
    }

    /// One of which only so many are to begin at once.
    pub(super) fn with_turn(mut self, turn: Option<OwnedSemaphorePermit>) -> Self {
        self.turn = turn.map(|turn| (turn, Instant::now() + TURN_MAX));
        self
    }

    /// Runs until nothing of the pod is left or to be done, or until `shutdown`, which leaves its containers
    /// as they are.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Ended {
        loop {
            self.read_news();
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.finish(done);
            }
            // Cancel-safe: an observation that is dropped is made again.
            let looked = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ended::Cleared,
                looked = self.look() => looked,
            };
            let wake_at = if looked {
                if self.due || self.recheck_at.is_some_and(|at| at <= self.now()) {
                    if self.step() {
                        break;
                    }
                } else {
                    let now = self.now();
                    self.write_status(now);
                }
                if let Some(keepsake) = self.rest() {
                    return Ended::AtRest(Box::new(keepsake));
                }
                self.recheck_at
            } else {
                // The last plan is old, but its status was true, and one that stayed due would end the wait
                // below at once.
                let now = self.now();
                self.write_status(now);
                Some(backoff::after(now, LOOK_AGAIN))
            };
            let turn_ends = self.turn.as_ref().map(|(_, until)| *until);
            let wait = wake_at.into_iter().chain(self.writer.retry_at()).min();
            let wait = wait.map_or(RESYNC, |at| Duration::try_from(at.duration_since(self.now())).unwrap_or_default());
            // All cancel-safe: a notification, a finished task or a verdict that is not taken stays.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ended::Cleared,
                () = self.mailbox.notified() => {}
                Some(done) = self.tasks.join_next_with_id() => self.finish(done),
                Some(verdict) = received(self.verdicts.as_mut()) => self.judge(&verdict),
                Ok(()) = changed(self.serving.as_mut()), if self.held => self.due = true,
                () = tokio::time::sleep_until(turn_ends.unwrap_or_else(Instant::now)), if turn_ends.is_some() => self.turn = None,
                () = tokio::time::sleep(wait.min(RESYNC)) => if wait >= RESYNC { self.invalidate() },
            }
        }
        self.shared.directory.forget(&self.uid);
        if self.memory.deleted { Ended::Deleted } else { Ended::Cleared }
    }

    fn now(&self) -> Timestamp {
        self.shared.config.clock.now()
    }

    fn read_news(&mut self) {
        let News { pod, containers, changed } = self.mailbox.take();
        match pod {
            Some(Some(wire)) => self.hear(&wire),
            Some(None) => {
                self.due = true;
                self.pod = None;
                // Nobody wants to know any more: a report that is due would be due for ever.
                self.writer = StatusWriter::default();
            }
            None => {}
        }
        let tells = match changed {
            Changed::None => false,
            Changed::Some(ids) => ids.iter().any(|id| !self.is_expected(id)),
            Changed::Any => true,
        };
        if tells {
            self.invalidate();
        }
        if let Some((since, containers)) = containers
            && self.looked.is_none_or(|needed| since >= needed)
        {
            self.observe(since, containers);
        }
    }

    /// Takes in the pod as the master has it now.
    fn hear(&mut self, wire: &Arc<Wire<Pod>>) {
        let now = self.now();
        if let (Some(known), Some(_)) = (&mut self.known, &self.pod)
            && known.wire.differs_in_status_only(wire)
            && let Some(status) = self.writer.wrote(wire.status())
        {
            // The echo of a status is no reason to plan, nor to decode it.
            known.wire = Arc::clone(wire);
            self.writer.see(Some(&status), now);
            // Or someone put back what was written before.
            if let Some(own) = &mut self.memory.status {
                self.due |= conditions::take_foreign(own, &status);
            }
            self.stored = Some(status);
            self.shared.directory.renew(wire);
            return;
        }
        let Some(opened) = Opened::of(wire) else { return };
        let pod = &opened.pod;
        self.writer.see(pod.status.as_ref(), now);
        self.stored = pod.status.clone().map(Arc::new);
        self.due |= self.pod.as_deref().is_none_or(|before| !is_same_but_status(before, pod));
        if let (Some(own), Some(stored)) = (&mut self.memory.status, &pod.status) {
            self.due |= conditions::take_foreign(own, stored);
        }
        self.pod = Some(Arc::clone(pod));
        self.shared.directory.renew(wire);
        self.known = Some(opened);
    }

    /// Whether a change of this container is what a start that is under way does: its end is followed by a look.
    fn is_expected(&self, id: &ContainerId) -> bool {
        let starts = |slot: &Slot| matches!(slot, Slot::Infra | Slot::Start(_));
        self.observed.by_id(id).is_none() && self.operations.keys().any(starts)
    }

    fn invalidate(&mut self) {
        (self.fresh, self.looked) = (false, Some(Instant::now()));
    }

    /// Makes the observation fresh. False when the engine does not answer.
    async fn look(&mut self) -> bool {
        if self.fresh {
            return true;
        }
        let since = Instant::now();
        match self.shared.runtime.list_pod(&self.uid).await {
            Ok(containers) => {
                self.observe(since, containers);
                true
            }
            Err(e) => {
                tracing::debug!(kind = "pod", uid = self.uid, error = %e, "the pod's containers can't be listed");
                false
            }
        }
    }

    fn observe(&mut self, since: Instant, containers: Vec<Arc<Container>>) {
        self.due |= !self.observed.is_same(&containers);
        self.observed = PodObservation { containers };
        (self.fresh, self.looked) = (true, Some(since));
        if let Some(pod) = &self.known {
            self.shared.directory.list(pod, &self.observed);
        }
    }

    /// Plans once and sets the plan going. True when nothing of the pod is left.
    fn step(&mut self) -> bool {
        let now = self.now();
        let ended = self.memory.observe(self.pod.as_deref(), &self.observed, now);
        for name in ended {
            self.note_end(&name);
        }
        self.ready_since = self.memory.status.as_deref().and_then(conditions::ready_since).or(self.ready_since);
        let traffic = self.memory.deleted_since.and_then(|since| self.traffic(since));
        let context = Context { node_ip: self.shared.config.node_ip, now, traffic };
        let plan = (self.shared.config.plan)(self.pod.as_deref(), &self.observed, &self.memory, context);
        (self.due, self.idle, self.recheck_at) = (false, plan.actions.is_empty(), plan.recheck_at);
        self.held = plan.held;
        self.memory.planned(plan.held, now);
        if let Some(status) = &plan.status {
            self.writer.want(status, now);
            self.memory.status = Some(Arc::clone(status));
        }
        // The report of an end leaves before the restart that follows it.
        self.write_status(now);
        for action in &plan.actions {
            self.begin(action.clone());
        }
        self.probe();
        if !plan.actions.is_empty() {
            tracing::debug!(kind = "pod", uid = self.uid, actions = plan.actions.len(), "planned");
        }
        plan.done
    }

    /// The part in the traffic of services, of a pod that was deleted.
    fn traffic(&mut self, deleted_since: Timestamp) -> Option<Traffic> {
        let named = self.serving.as_mut()?.borrow_and_update().of(&self.uid);
        named.or_else(|| self.unnamed(deleted_since))
    }

    /// That of one that no endpoints name.
    fn unnamed(&self, deleted_since: Timestamp) -> Option<Traffic> {
        let traffic = traffic::unnamed(self.ready_since, deleted_since)?;
        let services = self.shared.services.borrow();
        let wanted = services
            .as_ref()
            .zip(self.pod.as_deref())
            .is_none_or(|(services, pod)| services.select(name_of(pod).0, pod.metadata.labels.as_ref()));
        wanted.then_some(traffic)
    }

    /// What is left of this worker if there is nothing more to do: no plan, no probe, nothing under way, and the
    /// master has heard everything.
    fn rest(&self) -> Option<Keepsake> {
        let idle = self.idle && self.recheck_at.is_none() && self.tasks.is_empty();
        if !idle || self.held || !self.probes.is_empty() || !self.writer.is_quiet() {
            return None;
        }
        let (pod, stored) = (self.known.as_ref().filter(|_| self.pod.is_some())?, self.stored.as_deref());
        Keepsake::of(&pod.wire, stored, &self.memory, &self.observed, self.now())
    }

    fn write_status(&mut self, now: Timestamp) {
        let Some(pod) = self.pod.clone() else { return };
        let Some(status) = self.writer.next(now) else { return };
        let shared = Arc::clone(&self.shared);
        let task = self.tasks.spawn(async move { Done::Status(shared.report.status(&pod, &status).await) });
        self.slots.insert(task.id(), None);
    }

    fn begin(&mut self, action: Action) {
        self.memory.begin(&action);
        let slot = match (&action, action.slot()) {
            (Action::Cancel(slot), _) => {
                if let Some(operation) = self.operations.get(slot) {
                    operation.cancel.cancel();
                }
                return;
            }
            (_, Some(slot)) => slot,
            (_, None) => return,
        };
        if let Some(replaced) = self.operations.remove(&slot) {
            self.slots.remove(&replaced.task.id());
            replaced.task.abort();
        }
        let ends_network = |infra: &&Container| matches!(&action, Action::Remove { id } if *id == infra.id);
        let gives_back = self.observed.infra().filter(ends_network).and_then(|infra| infra.ip);
        let cancel = CancellationToken::new();
        let job = Job {
            pod: self.known.as_ref().map(|known| Arc::clone(&known.pod)),
            uid: self.uid.clone(),
            action,
            pod_ip: self.pod_ip(),
            leaves: self.pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()),
            gives_back,
            cancel: cancel.clone(),
        };
        let run = execute::run(Arc::clone(&self.shared), job);
        let task = self.tasks.spawn(async move { Done::Operation(run.await) });
        self.slots.insert(task.id(), Some(slot.clone()));
        self.operations.insert(slot, Operation { task, cancel });
    }

    fn pod_ip(&self) -> Option<IpAddr> {
        self.observed.infra().and_then(|infra| infra.ip)
    }

    fn finish(&mut self, done: Result<(Id, Done), JoinError>) {
        let now = self.now();
        let (id, done) = match done {
            Ok((id, done)) => (id, Some(done)),
            Err(e) => (e.id(), None),
        };
        // A task that was replaced has no entry any more.
        let Some(slot) = self.slots.remove(&id) else { return };
        match (slot, done) {
            (None, Some(Done::Status(result))) => {
                self.writer.sent(&result, now);
                let starts = self.memory.status.as_deref().is_none_or(is_starting);
                self.turn = self.turn.take().filter(|_| starts || result.is_err());
            }
            (None, _) => self.writer.sent(&Err(ReportError::Retry("the report was interrupted".into())), now),
            (Some(slot), done) => {
                self.operations.remove(&slot);
                self.invalidate();
                self.due = true;
                let outcome = match done {
                    Some(Done::Operation(outcome)) => outcome,
                    _ => Outcome::Failed { reason: "InternalError", message: "the operation was interrupted".into() },
                };
                self.note_failure(&slot, &outcome);
                self.memory.finish(&slot, outcome, now);
            }
        }
    }

    fn judge(&mut self, verdict: &Verdict) {
        let Some(memory) = self.memory.containers.get_mut(&verdict.container) else { return };
        let Some(known) = memory.probes.as_mut().filter(|p| p.id == verdict.id) else { return };
        self.due = true;
        match (verdict.kind, verdict.healthy) {
            (ProbeKind::Startup, true) => known.started = true,
            (ProbeKind::Readiness, ready) => known.ready = ready,
            (ProbeKind::Startup | ProbeKind::Liveness, false) => known.dead = Some(verdict.message.clone()),
            (ProbeKind::Liveness, true) => {}
        }
        if !verdict.healthy {
            self.event(PodEvent::warning("Unhealthy", Some(&verdict.container), verdict.message.clone()));
        }
    }

    /// Makes the running probes the wanted ones.
    fn probe(&mut self) {
        let mut wanted = BTreeMap::new();
        let live = self.pod.as_ref().filter(|p| p.metadata.deletion_timestamp.is_none());
        let ip = match live.and_then(|p| p.spec.as_ref()) {
            Some(spec) if spec.host_network == Some(true) => Some(self.shared.config.node_ip),
            _ => self.pod_ip(),
        };
        if let (Some(spec), Some(ip)) = (live.and_then(|p| p.spec.as_ref()), ip) {
            for (_, container) in restart::containers(spec) {
                for kind in self.wanted_probes(container) {
                    if let Some(subject) = self.subject(container, kind, ip) {
                        wanted.insert((subject.id.clone(), kind), subject);
                    }
                }
            }
        }
        self.probes.retain(|key, _| wanted.contains_key(key));
        for (key, subject) in wanted {
            let (shared, kind) = (&self.shared, key.1);
            let (verdicts, _) = self.verdicts.get_or_insert_with(|| mpsc::channel(VERDICTS_WAITING_MAX));
            self.probes.entry(key).or_insert_with(|| {
                let (runtime, clock) = (Arc::clone(&shared.runtime), shared.config.clock.clone());
                AbortOnDropHandle::new(tokio::spawn(probes::watch(runtime, clock, subject, kind, verdicts.clone())))
            });
        }
    }

    fn wanted_probes(&self, container: &coracle_api::core::Container) -> Vec<ProbeKind> {
        let name = &container.name;
        let Some(memory) = self.memory.containers.get(name) else { return Vec::new() };
        let known = memory.probes.as_ref().filter(|p| memory.last.as_ref().is_some_and(|l| l.id == p.id));
        let Some(known) = known.filter(|p| p.dead.is_none()) else { return Vec::new() };
        let hooked = memory.hook.as_ref().is_some_and(|(id, _)| *id == known.id);
        if hooked || self.memory.in_flight.contains_key(&Slot::Start(name.clone())) {
            return Vec::new();
        }
        let kinds: &[_] =
            if known.started { &[ProbeKind::Liveness, ProbeKind::Readiness] } else { &[ProbeKind::Startup] };
        kinds.iter().copied().filter(|kind| probes::probe_of(container, *kind).is_some()).collect()
    }

    fn subject(&self, container: &coracle_api::core::Container, kind: ProbeKind, ip: IpAddr) -> Option<Subject> {
        let memory = self.memory.containers.get(&container.name)?;
        let last = memory.last.as_ref().filter(|last| is_running(last))?;
        let State::Running { started_at } = last.state else { return None };
        let ready = memory.probes.as_ref().is_some_and(|p| p.ready);
        let healthy = kind == ProbeKind::Liveness || kind == ProbeKind::Readiness && ready;
        Some(Subject { container: container.clone(), id: last.id.clone(), started_at, ip, healthy })
    }

    fn event(&self, event: PodEvent) {
        if let Some(pod) = &self.pod {
            self.shared.report.event(pod, event, self.now());
        }
    }

    fn note_end(&self, name: &str) {
        let Some(memory) = self.memory.containers.get(name) else { return };
        let Some(State::Exited { code, .. }) = memory.last.as_ref().map(|l| &l.state) else { return };
        tracing::info!(kind = "container", name, pod = self.uid, code, "ended");
        let delay = backoff::delay(memory.crashes, CRASH_DELAY_MAX).as_secs();
        let policy = self.pod.as_ref().and_then(|p| p.spec.as_ref()?.restart_policy.as_deref());
        if delay > 0 && policy != Some("Never") {
            let text =
                format!("Back-off of {delay} s before restarting container {name}, which ended with code {code}");
            self.event(PodEvent::warning("BackOff", Some(name), text));
        }
    }

    /// An event for a failure that is new, or was repeated 2, 4, 8, ... times.
    fn note_failure(&self, slot: &Slot, outcome: &Outcome) {
        let (reason, message, count) = match outcome {
            Outcome::Failed { reason, message } => {
                (*reason, message, self.memory.failures.get(slot).map_or(0, |f| f.count))
            }
            Outcome::ImageMissing { message, looked: false, .. } => {
                let before = match slot {
                    Slot::Image(image) => self.memory.images.get(image),
                    _ => None,
                };
                let count = match before {
                    Some(super::memory::ImageMemory::Missing { failure, .. }) => failure.count,
                    _ => 0,
                };
                ("Failed", message, count)
            }
            _ => return,
        };
        if (count + 1).is_power_of_two() {
            let container = match slot {
                Slot::Start(name) => Some(name.as_str()),
                _ => None,
            };
            self.event(PodEvent::warning(reason, container, message.clone()));
        }
        tracing::debug!(kind = "pod", name = self.name(), reason, error = %message, "an operation failed");
    }

    fn name(&self) -> &str {
        self.known.as_ref().map_or(&self.uid, |k| k.pod.metadata.name.as_deref().unwrap_or(uid_of(&k.pod)))
    }
}
