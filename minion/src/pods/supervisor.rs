//! Feeds the workers: one worker a pod, woken by the master's changes and the engine's events.
//!
//! Order at start: the engine's containers are listed, and the master's first lists of pods and
//! services awaited, before anything is planned. So running containers are adopted, none is taken
//! for an orphan, and no container starts without its services. When the master is out of reach
//! later, the workers go on with the pods as last known.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use coracle_api::{
    client::{Change, Received, Wire},
    core::Pod,
};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::{self, RETRY_DELAY_MAX},
    execute::Shared,
    mailbox::Mailbox,
    report::Report,
    rest::{Keepsake, Opened},
    worker::{Ended, Worker},
};
use crate::runtime::{Container, Runtime, RuntimeEvent};

/// How long to wait before an engine that did not answer is asked again.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Workers are quick to stop: what they wait for is dropped.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Pods at rest are looked at again this often, in case an event was lost after all.
const RESYNC: Duration = Duration::from_secs(300);

/// A pod that is wanted, or of which something is left here.
struct Entry {
    pod: Option<Arc<Wire<Pod>>>,
    stage: Stage,
    /// A list no longer named it: it stops before others start.
    leaving: bool,
}

/// Who looks after a pod.
enum Stage {
    /// Nobody yet: the minion or the pod's turn is to come.
    Early,
    /// A worker.
    Work(Arc<Mailbox>),
    /// Nobody: it needs nothing.
    Rest(Box<Keepsake>),
    /// Nobody: this minion can't read it.
    Unread,
    /// Nobody any more; the master's word that the pod is gone is still to come.
    Finished,
}

impl Entry {
    fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished)
    }
}

/// See the module.
pub(super) struct Supervisor<R, P> {
    shared: Arc<Shared<R, P>>,
    shutdown: CancellationToken,
    entries: BTreeMap<String, Entry>,
    /// New pods whose turn is to come; some may be gone again.
    queue: VecDeque<String>,
    /// The next turn, as long as it is waited for: turns are had in the order in which they are asked for.
    turn: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    workers: JoinSet<Ended>,
    uids: HashMap<Id, String>,
    /// How often in a row the workers of a pod failed.
    failures: HashMap<String, u32>,
    /// The containers at a look that began then; taken when the workers start.
    listed: Option<(Instant, Vec<Arc<Container>>)>,
    /// Pods of which a container changed before the workers started.
    touched: BTreeSet<String>,
    list_at: Option<Instant>,
    pods_known: bool,
    active: bool,
}

impl<R: Runtime, P: Report> Supervisor<R, P> {
    pub(super) fn new(shared: Arc<Shared<R, P>>, shutdown: CancellationToken) -> Self {
        Self {
            shared,
            shutdown,
            entries: BTreeMap::new(),
            queue: VecDeque::new(),
            turn: None,
            workers: JoinSet::new(),
            uids: HashMap::new(),
            failures: HashMap::new(),
            listed: None,
            touched: BTreeSet::new(),
            list_at: None,
            pods_known: false,
            active: false,
        }
    }

    pub(super) async fn run(mut self, mut pods: mpsc::Receiver<Change<Wire<Pod>>>) {
        let (shutdown, mut services) = (self.shutdown.clone(), self.shared.services.clone());
        let mut events = self.shared.runtime.events();
        let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let list_at = self.list_at;
            if self.turn.is_none() && !self.queue.is_empty() {
                let turn = Arc::clone(&self.shared.config.turns).acquire_owned();
                self.turn = Some(turn.map(Result::ok).boxed());
            }
            // All cancel-safe: a message or worker that is not taken stays where it is, a turn is waited for on.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                event = events.recv() => match event {
                    Some(event) => self.hear(event).await,
                    None => {
                        // The contract forbids it; without events nothing would heal.
                        events = self.shared.runtime.events();
                        self.list_at = Some(Instant::now() + LIST_AGAIN);
                    }
                },
                change = pods.recv() => match change {
                    Some(change) => self.change_pods(change),
                    None => break,
                },
                // Who starts containers asks for them; here it matters only that they are known.
                Ok(()) = services.changed(), if !self.active => {}
                Some(ended) = self.workers.join_next_with_id() => self.worker_ended(ended),
                turn = granted(self.turn.as_mut()) => {
                    self.turn = None;
                    self.next_begins(turn);
                }
                () = tokio::time::sleep_until(list_at.unwrap_or_else(Instant::now)), if list_at.is_some() => {
                    self.list().await;
                }
                _ = resync.tick() => if self.entries.values().any(|e| matches!(e.stage, Stage::Rest(_))) {
                    self.list().await;
                },
            }
            self.activate();
        }
        shutdown.cancel();
        let stopped = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, stopped).await.is_err() {
            tracing::warn!(kind = "pod", "some workers did not stop in time");
        }
    }

    async fn hear(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Gap => self.list().await,
            RuntimeEvent::Unreachable(why) => tracing::warn!(error = %why, "the container engine can't be reached"),
            RuntimeEvent::Changed { pod_uid, .. } if !self.active => {
                self.touched.insert(pod_uid);
            }
            RuntimeEvent::Changed { pod_uid, id } => match self.mailbox(&pod_uid) {
                Some(mailbox) => mailbox.changed(id),
                None => self.clear_up(pod_uid),
            },
        }
    }

    /// Something is left of a pod that should be gone, unless it is one that can't be read.
    fn clear_up(&mut self, uid: String) {
        if !matches!(self.entries.get(&uid), Some(Entry { stage: Stage::Unread, .. })) {
            self.work(uid, None, None);
        }
    }

    async fn list(&mut self) {
        let since = Instant::now();
        match self.shared.runtime.list().await {
            Ok(containers) => {
                self.list_at = None;
                if self.active {
                    self.distribute(since, containers);
                } else {
                    self.touched.clear();
                    self.listed = Some((since, containers));
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "the containers can't be listed");
                self.list_at = Some(Instant::now() + LIST_AGAIN);
            }
        }
    }

    /// Gives each pod its part of a list of all containers.
    fn distribute(&mut self, since: Instant, containers: Vec<Arc<Container>>) {
        let mut parts: BTreeMap<String, Vec<Arc<Container>>> = BTreeMap::new();
        for container in containers {
            parts.entry(container.pod_uid.clone()).or_default().push(container);
        }
        let mut awake = Vec::new();
        for (uid, entry) in &self.entries {
            match &entry.stage {
                Stage::Finished => {}
                Stage::Unread => drop(parts.remove(uid)),
                Stage::Rest(kept) => {
                    let part = parts.remove(uid).unwrap_or_default();
                    if !kept.observed.is_same(&part) {
                        awake.push((uid.clone(), part));
                    }
                }
                Stage::Work(mailbox) => mailbox.containers(since, parts.remove(uid).unwrap_or_default()),
                // It has some although it was not begun: it was here before, under this uid.
                Stage::Early => awake.extend(parts.remove(uid).map(|part| (uid.clone(), part))),
            }
        }
        for (uid, part) in awake {
            if let Some(mailbox) = self.mailbox(&uid) {
                mailbox.containers(since, part);
            }
        }
        for (uid, part) in parts {
            self.work(uid.clone(), None, Some((since, part)));
            self.leave(&uid);
        }
    }

    /// Counts a pod among those that stop before others start.
    fn leave(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.leaving = true;
        }
        self.count_leaving();
    }

    fn count_leaving(&self) {
        let leaving = self.entries.values().filter(|e| e.leaving && e.pod.is_none() && !e.is_finished()).count();
        self.shared.leaving.send_if_modified(|count| std::mem::replace(count, leaving) != leaving);
    }

    /// Starts the workers once everything that they need is known.
    fn activate(&mut self) {
        if self.active || !self.pods_known || self.shared.services.borrow().is_none() {
            return;
        }
        let Some((since, containers)) = self.listed.take() else { return };
        self.active = true;
        let pods: Vec<_> = self.entries.iter().map(|(uid, e)| (uid.clone(), e.pod.clone())).collect();
        tracing::info!(pods = pods.len(), containers = containers.len(), "adopting what runs");
        for (uid, pod) in pods {
            self.work(uid, pod, None);
        }
        self.distribute(since, containers);
        for uid in std::mem::take(&mut self.touched) {
            match self.mailbox(&uid) {
                Some(mailbox) => mailbox.changed_any(),
                None => self.clear_up(uid),
            }
        }
        self.sweep_volumes();
    }

    /// Removes volumes of pods that vanished while no minion ran. They are listed here and not in the
    /// task, which may run late: what a pod that is bound meanwhile has made is none of them.
    fn sweep_volumes(&self) {
        let volumes = self.shared.volumes.clone();
        if !volumes.can_keep() {
            return;
        }
        let mut vanished = volumes.kept();
        vanished.retain(|uid| !self.entries.contains_key(uid));
        tokio::task::spawn_blocking(move || {
            for uid in vanished {
                if let Err(e) = volumes.remove(&uid) {
                    tracing::warn!(kind = "pod", uid, error = %e, "the volumes of a pod that is gone can't be removed");
                }
            }
        });
    }

    /// Starts a worker for a pod, or for what is left of one.
    fn work(&mut self, uid: String, pod: Option<Arc<Wire<Pod>>>, containers: Option<(Instant, Vec<Arc<Container>>)>) {
        if uid.is_empty() {
            return;
        }
        let opened = pod.as_ref().map(Opened::of);
        if let Some(None) = opened {
            self.entries.insert(uid, Entry { pod, stage: Stage::Unread, leaving: false });
            return;
        }
        let mailbox = Arc::new(Mailbox::default());
        if let Some((since, containers)) = containers {
            mailbox.containers(since, containers);
        }
        let worker = Worker::new(Arc::clone(&self.shared), uid.clone(), opened.flatten(), Arc::clone(&mailbox));
        self.set_to_work(&uid, worker);
        self.entries.insert(uid, Entry { pod, stage: Stage::Work(mailbox), leaving: false });
    }

    /// Begins with the new pod that waits longest.
    fn next_begins(&mut self, turn: Option<OwnedSemaphorePermit>) {
        while let Some(uid) = self.queue.pop_front() {
            if matches!(self.entries.get(&uid), Some(Entry { stage: Stage::Early, .. })) {
                self.begin(&uid, turn);
                return;
            }
        }
    }

    /// Sets the first worker of a new pod to work.
    fn begin(&mut self, uid: &str, turn: Option<OwnedSemaphorePermit>) -> Option<Arc<Mailbox>> {
        let entry = self.entries.get_mut(uid)?;
        let Some(pod) = Opened::of(entry.pod.as_ref()?) else {
            entry.stage = Stage::Unread;
            return None;
        };
        let mailbox = Arc::new(Mailbox::default());
        entry.stage = Stage::Work(Arc::clone(&mailbox));
        let worker = Worker::new(Arc::clone(&self.shared), uid.to_owned(), Some(pod), Arc::clone(&mailbox));
        self.set_to_work(uid, worker.with_turn(turn));
        Some(mailbox)
    }

    fn set_to_work(&mut self, uid: &str, worker: Worker<R, P>) {
        let task = self.workers.spawn(worker.run(self.shutdown.clone()));
        self.uids.insert(task.id(), uid.to_owned());
    }

    /// Where a pod's worker reads its news. Sets one to work if the pod is at rest; `None` if nobody is to look
    /// after it.
    fn mailbox(&mut self, uid: &str) -> Option<Arc<Mailbox>> {
        let entry = self.entries.get_mut(uid)?;
        match &entry.stage {
            Stage::Work(mailbox) => Some(Arc::clone(mailbox)),
            Stage::Rest(kept) => {
                let (kept, mailbox) = (kept.clone(), Arc::default());
                self.awake(uid, &kept, Arc::clone(&mailbox));
                Some(mailbox)
            }
            Stage::Early if self.active => self.begin(uid, None),
            Stage::Early | Stage::Unread | Stage::Finished => None,
        }
    }

    /// Sets a worker to work where another one, which could read the pod, went to rest.
    fn awake(&mut self, uid: &str, kept: &Keepsake, mailbox: Arc<Mailbox>) {
        let Some(pod) = Opened::of(&kept.pod) else { return };
        let (shared, news) = (Arc::clone(&self.shared), Arc::clone(&mailbox));
        self.set_to_work(uid, Worker::awake(shared, uid.to_owned(), pod, kept, news));
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.stage = Stage::Work(mailbox);
        }
    }

    fn worker_ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Some(ended)),
            Err(e) => (e.id(), None),
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        self.take_back(uid, ended);
        self.count_leaving();
    }

    fn take_back(&mut self, uid: String, ended: Option<Ended>) {
        if matches!(ended, Some(Ended::Deleted | Ended::Cleared | Ended::AtRest(_))) {
            self.failures.remove(&uid);
        }
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        let Some(ended) = ended else { return self.pause(uid) };
        match (ended, entry.pod.clone()) {
            (Ended::AtRest(kept), _) => match &entry.stage {
                // What came meanwhile lies where the next worker finds it.
                Stage::Work(mailbox) if mailbox.has_news() => {
                    let mailbox = Arc::clone(mailbox);
                    self.awake(&uid, &kept, mailbox);
                }
                _ => entry.stage = Stage::Rest(kept),
            },
            (Ended::Failed, pod) => self.work(uid, pod, None),
            (Ended::Deleted, Some(_)) => entry.stage = Stage::Finished,
            // The pod came (back) while the worker cleared up.
            (Ended::Cleared, pod @ Some(_)) => self.work(uid, pod, None),
            (Ended::Deleted | Ended::Cleared, None) => {
                self.entries.remove(&uid);
            }
        }
    }

    /// Takes the place of a worker that failed until another may be started. Its mailbox is not read: the
    /// next worker looks at everything anew.
    fn pause(&mut self, uid: String) {
        let failures = self.failures.entry(uid.clone()).or_default();
        *failures = failures.saturating_add(1);
        let (wait, shutdown) = (backoff::delay(*failures, RETRY_DELAY_MAX), self.shutdown.clone());
        tracing::error!(kind = "pod", uid, seconds = wait.as_secs(), "the worker of a pod failed; starting it again");
        let task = self.workers.spawn(async move {
            // Cancel-safe: both only wait.
            tokio::select! {
                () = shutdown.cancelled() => Ended::Cleared,
                () = tokio::time::sleep(wait) => Ended::Failed,
            }
        });
        self.uids.insert(task.id(), uid);
    }

    fn change_pods(&mut self, change: Change<Wire<Pod>>) {
        match change {
            Change::Replaced(pods) => {
                let listed: BTreeSet<_> = pods.iter().map(|pod| pod.uid()).collect();
                let gone: Vec<_> = self.entries.keys().filter(|uid| !listed.contains(uid.as_str())).cloned().collect();
                for uid in gone {
                    self.forget(&uid);
                    self.leave(&uid);
                }
                for pod in pods {
                    self.apply(pod);
                }
                self.pods_known = true;
            }
            Change::Applied(pod) => self.apply(pod),
            Change::Deleted(pod) => self.forget(pod.uid()),
            Change::Interrupted(why) => {
                tracing::debug!(kind = "pod", error = %why, "going on with the pods as last known")
            }
        }
    }

    fn apply(&mut self, pod: Arc<Wire<Pod>>) {
        let uid = pod.uid().to_owned();
        if uid.is_empty() {
            tracing::warn!(kind = "pod", "ignored: it has no uid");
            return;
        }
        let Some(entry) = self.entries.get_mut(&uid) else { return self.welcome(uid, pod) };
        // A list names all pods again.
        let known =
            entry.pod.as_ref().is_some_and(|known| !pod.version().is_empty() && known.version() == pod.version());
        match entry.stage {
            Stage::Early => entry.pod = Some(pod),
            Stage::Unread if known => {}
            Stage::Unread => self.welcome(uid, pod),
            _ => {
                let left = std::mem::take(&mut entry.leaving);
                if !known || !matches!(entry.stage, Stage::Rest(_)) {
                    entry.pod = Some(Arc::clone(&pod));
                    if let Some(mailbox) = self.mailbox(&uid) {
                        mailbox.pod(Some(pod));
                    }
                }
                if left {
                    self.count_leaving();
                }
            }
        }
    }

    /// Takes in a pod that nobody has looked after.
    fn welcome(&mut self, uid: String, pod: Arc<Wire<Pod>>) {
        self.entries.insert(uid.clone(), Entry { pod: Some(pod), stage: Stage::Early, leaving: false });
        if self.active {
            self.queue.push_back(uid);
        }
    }

    fn forget(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        match entry.stage {
            Stage::Finished | Stage::Early => drop(self.entries.remove(uid)),
            // What runs of it is stopped.
            Stage::Unread => self.work(uid.to_owned(), None, None),
            Stage::Work(_) | Stage::Rest(_) => {
                entry.pod = None;
                if let Some(mailbox) = self.mailbox(uid) {
                    mailbox.pod(None);
                }
            }
        }
    }
}

async fn granted<T>(turn: Option<&mut BoxFuture<'static, T>>) -> T {
    match turn {
        Some(turn) => turn.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
