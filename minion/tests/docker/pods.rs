//! The pod manager on a real engine: start, heal, adopt, delete, and how long that takes.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use coracle_api::{
    client::{Change, Wire},
    core::{Pod, PodStatus},
};
use coracle_minion::{
    pods::{Config, Inputs, Manager, PodEvent, Report, ReportError, StatusText, services::Services},
    runtime::{Container, ContainerId, Runtime, State, labels},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, NODE, eventually, with_engine};

/// A master that keeps the statuses it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<PodStatus>>>, Arc<Mutex<bool>>);

impl Report for Told {
    async fn status(&self, _: &Pod, text: &StatusText) -> Result<(), ReportError> {
        self.0.lock().unwrap().push(PodStatus::clone(text.status()));
        Ok(())
    }

    async fn delete(&self, _: &Pod) -> Result<(), ReportError> {
        *self.1.lock().unwrap() = true;
        Ok(())
    }

    fn event(&self, _: &Pod, _: PodEvent, _: jiff::Timestamp) {}
}

struct Minion {
    told: Told,
    pods: mpsc::Sender<Change<Wire<Pod>>>,
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Minion {
    async fn start(b: &Bench, root: &Path, pods: Vec<Pod>) -> Self {
        let (pods_in, pods_out) = mpsc::channel(16);
        let services = watch::Sender::new(Some(Services::default())).subscribe();
        pods_in.send(Change::replaced(pods.iter().map(|pod| Wire::of(pod).unwrap()).collect())).await.unwrap();
        let config = Config::new(NODE, [127, 0, 0, 1].into(), &b.cluster, root.to_owned());
        let (told, shutdown) = (Told::default(), CancellationToken::new());
        let inputs = Inputs { pods: pods_out, services };
        let (_, task) =
            Manager::start(config, Arc::clone(&b.runtime), Arc::new(told.clone()), inputs, shutdown.clone());
        Self { told, pods: pods_in, task, shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    fn last(&self) -> Option<PodStatus> {
        self.told.0.lock().unwrap().last().cloned()
    }

    /// Waits until the pod's container is reported ready, in this attempt.
    async fn ready(&self, attempt: i32) {
        eventually("the container is ready", async || {
            let container = self.last()?.container_statuses?.pop()?;
            (container.ready && container.restart_count == attempt).then_some(())
        })
        .await;
    }
}

async fn running(b: &Bench, uid: &str, name: &str) -> Option<Arc<Container>> {
    let all = b.runtime.list_pod(uid).await.unwrap();
    all.into_iter().find(|c| c.name == name && matches!(c.state, State::Running { .. }))
}

async fn replaced(b: &Bench, uid: &str, name: &str, old: &ContainerId) -> Arc<Container> {
    eventually("a new container", async || running(b, uid, name).await.filter(|c| c.id != *old)).await
}

fn pod(b: &Bench, uid: &str) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "default", "uid": uid},
        "spec": {"restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "web", "image": b.image, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "echo up >> /data/log; sleep 100000"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]},
        "status": {"phase": "Pending"},
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_starts_heals_is_adopted_and_goes() {
    with_engine(async |b| {
        let (root, uid) = (tempfile::tempdir().unwrap(), "heals");
        let begun = Instant::now();
        let minion = Minion::start(b, root.path(), vec![pod(b, uid)]).await;
        minion.ready(0).await;
        let started = begun.elapsed();

        let old = running(b, uid, "web").await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        b.kill(&old.id).await;
        let new = replaced(b, uid, "web", &old.id).await;
        let healed = begun.elapsed();
        assert_eq!(new.attempt, 1);
        minion.ready(1).await;
        let told = minion.told.0.lock().unwrap().clone();
        let died = |s: &PodStatus| s.container_statuses.as_ref()?.first()?.state.as_ref()?.terminated.clone();
        assert!(told.iter().any(|s| died(s).is_some_and(|t| t.exit_code == 137)), "the end was reported");

        let mut adopted = pod(b, uid);
        adopted.status = minion.last();
        minion.stop().await;
        let minion = Minion::start(b, root.path(), vec![adopted.clone()]).await;
        // A second change of the engine shows that the first was handled.
        let infra = running(b, uid, labels::INFRA).await.unwrap();
        assert_eq!(running(b, uid, "web").await.unwrap().id, new.id, "adopted");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        b.kill(&infra.id).await;
        let last = replaced(b, uid, "web", &new.id).await;
        let rebuilt = begun.elapsed();
        assert_eq!((last.attempt, replaced(b, uid, labels::INFRA, &infra.id).await.attempt), (2, 1));
        minion.ready(2).await;
        let log = root.path().join(format!("pods/{uid}/volumes/empty-dir/data/log"));
        eventually("one volume for all runs", async || {
            (std::fs::read_to_string(&log).ok()?.lines().count() == 3).then_some(())
        })
        .await;

        adopted.metadata.deletion_timestamp = Some(coracle_api::meta::Time(jiff::Timestamp::now()));
        adopted.metadata.deletion_grace_period_seconds = Some(1);
        minion.pods.send(Change::applied(Wire::of(&adopted).unwrap())).await.unwrap();
        eventually("the object is deleted", async || minion.told.1.lock().unwrap().then_some(())).await;
        assert!(b.runtime.list_pod(uid).await.unwrap().is_empty() && !root.path().join("pods").join(uid).exists());
        minion.stop().await;
        println!("start {started:?}, healed {healed:?}, network rebuilt {rebuilt:?}");
    })
    .await;
}
