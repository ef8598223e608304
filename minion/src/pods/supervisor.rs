//! Feeds the workers: one worker a pod, woken by the master's changes and the engine's events.
//!
//! Order at start: the engine's containers are listed, and the master's first lists of pods and
//! services awaited, before anything is planned. So running containers are adopted, none is taken
//! for an orphan, and no container starts without its services. When the master is out of reach
//! later, the workers go on with the pods as last known.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use coracle_api::{
    client::Change,
    core::{Pod, Service},
};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::{self, RETRY_DELAY_MAX},
    execute::Shared,
    manager::Inputs,
    naming::uid_of,
    report::{Report, name_of},
    worker::{Ended, Mailbox, Worker},
};
use crate::runtime::{Container, Runtime, RuntimeEvent};

/// How long to wait before an engine that did not answer is asked again.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// Workers are quick to stop: what they wait for is dropped.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A pod that is wanted, or of which something is left here.
struct Entry {
    pod: Option<Arc<Pod>>,
    mailbox: Arc<Mailbox>,
    /// The worker has done its work; the master's word that the pod is gone is still to come.
    finished: bool,
    /// A list no longer named it: it stops before others start.
    leaving: bool,
}

/// See the module.
pub(super) struct Supervisor<R, P> {
    shared: Arc<Shared<R, P>>,
    shutdown: CancellationToken,
    services: watch::Sender<Arc<[Arc<Service>]>>,
    service_map: BTreeMap<(String, String), Arc<Service>>,
    entries: BTreeMap<String, Entry>,
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
    services_known: bool,
    active: bool,
}

impl<R: Runtime, P: Report> Supervisor<R, P> {
    pub(super) fn new(
        shared: Arc<Shared<R, P>>,
        services: watch::Sender<Arc<[Arc<Service>]>>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            shared,
            shutdown,
            services,
            service_map: BTreeMap::new(),
            entries: BTreeMap::new(),
            workers: JoinSet::new(),
            uids: HashMap::new(),
            failures: HashMap::new(),
            listed: None,
            touched: BTreeSet::new(),
            list_at: None,
            pods_known: false,
            services_known: false,
            active: false,
        }
    }

    pub(super) async fn run(mut self, mut inputs: Inputs) {
        let shutdown = self.shutdown.clone();
        let mut events = self.shared.runtime.events();
        loop {
            let list_at = self.list_at;
            // All cancel-safe: a message or worker that is not taken stays where it is.
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
                change = inputs.pods.recv() => match change {
                    Some(change) => self.change_pods(change),
                    None => break,
                },
                change = inputs.services.recv() => match change {
                    Some(change) => self.change_services(change),
                    None => break,
                },
                Some(ended) = self.workers.join_next_with_id() => self.worker_ended(ended),
                () = tokio::time::sleep_until(list_at.unwrap_or_else(Instant::now)), if list_at.is_some() => {
                    self.list().await;
                }
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
            RuntimeEvent::Changed { pod_uid, .. } => match self.entries.get(&pod_uid) {
                Some(entry) if !entry.finished => entry.mailbox.changed(),
                // Something is left of a pod that should be gone.
                _ => self.work(pod_uid, None, None),
            },
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
        for (uid, entry) in &self.entries {
            if !entry.finished {
                entry.mailbox.containers(since, parts.remove(uid).unwrap_or_default());
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
        let leaving = self.entries.values().filter(|e| e.leaving && e.pod.is_none() && !e.finished).count();
        self.shared.leaving.send_if_modified(|count| std::mem::replace(count, leaving) != leaving);
    }

    /// Starts the workers once everything that they need is known.
    fn activate(&mut self) {
        if self.active || !self.pods_known || !self.services_known {
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
            match self.entries.get(&uid) {
                Some(entry) => entry.mailbox.changed(),
                None => self.work(uid, None, None),
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
    fn work(&mut self, uid: String, pod: Option<Arc<Pod>>, containers: Option<(Instant, Vec<Arc<Container>>)>) {
        if uid.is_empty() {
            return;
        }
        let mailbox = Arc::new(Mailbox::default());
        if let Some((since, containers)) = containers {
            mailbox.containers(since, containers);
        }
        let worker = Worker::new(Arc::clone(&self.shared), uid.clone(), pod.clone(), Arc::clone(&mailbox));
        let task = self.workers.spawn(worker.run(self.shutdown.clone()));
        self.uids.insert(task.id(), uid.clone());
        self.entries.insert(uid, Entry { pod, mailbox, finished: false, leaving: false });
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
        if matches!(ended, Some(Ended::Deleted | Ended::Cleared)) {
            self.failures.remove(&uid);
        }
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        let Some(ended) = ended else { return self.rest(uid) };
        match (ended, entry.pod.take()) {
            (Ended::Failed, pod) => self.work(uid, pod, None),
            (Ended::Deleted, pod @ Some(_)) => (entry.pod, entry.finished) = (pod, true),
            // The pod came (back) while the worker cleared up.
            (Ended::Cleared, pod @ Some(_)) => self.work(uid, pod, None),
            (Ended::Deleted | Ended::Cleared, None) => {
                self.entries.remove(&uid);
            }
        }
    }

    /// Takes the place of a worker that failed until another may be started. Its mailbox is not read: the
    /// next worker looks at everything anew.
    fn rest(&mut self, uid: String) {
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

    fn change_pods(&mut self, change: Change<Pod>) {
        match change {
            Change::Replaced(pods) => {
                let listed: BTreeSet<_> = pods.iter().map(|p| uid_of(p).to_owned()).collect();
                let gone: Vec<_> = self.entries.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
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
            Change::Deleted(pod) => self.forget(uid_of(&pod)),
            Change::Interrupted(why) => {
                tracing::debug!(kind = "pod", error = %why, "going on with the pods as last known")
            }
        }
    }

    fn apply(&mut self, pod: Arc<Pod>) {
        let uid = uid_of(&pod).to_owned();
        if uid.is_empty() {
            tracing::warn!(kind = "pod", name = name_of(&pod).1, "ignored: it has no uid");
            return;
        }
        match self.entries.get_mut(&uid) {
            Some(entry) => {
                entry.pod = Some(Arc::clone(&pod));
                entry.mailbox.pod(Some(pod));
                if std::mem::take(&mut entry.leaving) {
                    self.count_leaving();
                }
            }
            None if self.active => self.work(uid, Some(pod), None),
            None => {
                let entry = Entry { pod: Some(pod), mailbox: Arc::default(), finished: false, leaving: false };
                self.entries.insert(uid, entry);
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.finished || !self.active {
            self.entries.remove(uid);
        } else {
            entry.pod = None;
            entry.mailbox.pod(None);
        }
    }

    fn change_services(&mut self, change: Change<Service>) {
        let key = |s: &Service| {
            (s.metadata.namespace.clone().unwrap_or_default(), s.metadata.name.clone().unwrap_or_default())
        };
        match change {
            Change::Replaced(services) => {
                self.service_map = services.into_iter().map(|s| (key(&s), s)).collect();
                self.services_known = true;
            }
            Change::Applied(service) => {
                self.service_map.insert(key(&service), service);
            }
            Change::Deleted(service) => {
                self.service_map.remove(&key(&service));
            }
            Change::Interrupted(_) => return,
        }
        self.services.send_replace(self.service_map.values().cloned().collect());
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::core::PodStatus;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        pods::{Clock, Config, PodEvent, ReportError},
        runtime::hollow::Hollow,
        volumes::Volumes,
    };

    struct Silent;

    impl Report for Silent {
        async fn status(&self, _: &Pod, _: &PodStatus) -> Result<(), ReportError> {
            Ok(())
        }

        async fn delete(&self, _: &Pod) -> Result<(), ReportError> {
            Ok(())
        }

        fn event(&self, _: &Pod, _: PodEvent, _: jiff::Timestamp) {}
    }

    fn supervisor(root: &std::path::Path) -> Supervisor<Hollow, Silent> {
        let (services, services_seen) = watch::channel(Arc::default());
        let config = Config::new("n1", [192, 0, 2, 1].into(), "0badcafe", root.to_owned());
        let shared = Shared {
            volumes: Volumes::new(root),
            leaving: watch::Sender::new(0),
            starts: Semaphore::new(1),
            restarts: Semaphore::new(1),
            pulls: Semaphore::new(1),
            config,
            runtime: Arc::new(Hollow::new(Clock::system())),
            report: Arc::new(Silent),
            services: services_seen,
            directory: Default::default(),
        };
        Supervisor::new(Arc::new(shared), services, CancellationToken::new())
    }

    #[test]
    fn volumes_that_are_made_during_a_sweep_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = |uid: &str| root.path().join("pods").join(uid);
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            std::fs::create_dir_all(dir("old")).unwrap();
            supervisor(root.path()).sweep_volumes();
            std::fs::create_dir_all(dir("new")).unwrap();
            drop(go);
            let _ = busy.await.unwrap();
            // The sweep has ended when what was queued behind it has.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
        assert!(!dir("old").exists() && dir("new").exists());
    }

    fn pod(uid: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}})).unwrap()
    }

    #[tokio::test]
    async fn a_pod_that_comes_back_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let mut supervisor = supervisor(root.path());
        supervisor.active = true;
        supervisor.apply(Arc::new(pod("u1")));
        supervisor.change_pods(Change::replaced(vec![]));
        assert_eq!(*supervisor.shared.leaving.borrow(), 1);
        supervisor.change_pods(Change::replaced(vec![pod("u1")]));
        assert_eq!(*supervisor.shared.leaving.borrow(), 0);
        supervisor.forget("u1");
        assert_eq!(*supervisor.shared.leaving.borrow(), 0, "its deletion is of the usual kind");
    }
}
