use tokio::sync::{Semaphore, watch};

use super::*;
use crate::{
    pods::{Clock, Config, PodEvent, ReportError, StatusText},
    runtime::{ContainerId, hollow::Hollow},
    volumes::Volumes,
};

struct Silent;

impl Report for Silent {
    async fn status(&self, _: &Pod, _: &StatusText) -> Result<(), ReportError> {
        Ok(())
    }

    async fn delete(&self, _: &Pod) -> Result<(), ReportError> {
        Ok(())
    }

    fn event(&self, _: &Pod, _: PodEvent, _: jiff::Timestamp) {}
}

fn supervisor(root: &std::path::Path) -> Supervisor<Hollow, Silent> {
    let config = Config::new("n1", [192, 0, 2, 1].into(), "0badcafe", root.to_owned());
    let shared = Shared {
        volumes: Volumes::new(root),
        leaving: watch::Sender::new(0),
        stopping: Default::default(),
        starts: Semaphore::new(1),
        restarts: Semaphore::new(1),
        pulls: Semaphore::new(1),
        config,
        runtime: Arc::new(Hollow::new(Clock::system())),
        report: Arc::new(Silent),
        services: watch::Sender::new(None).subscribe(),
        directory: Default::default(),
    };
    Supervisor::new(Arc::new(shared), CancellationToken::new())
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

fn pod(uid: &str) -> Wire<Pod> {
    let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}});
    Wire::receive(pod.to_string().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_left_alone_until_it_can_or_goes() {
    let root = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(root.path());
    supervisor.active = true;
    let pod = |version: &str, containers: &str| {
        let json = format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u1","resourceVersion":"{version}"}},"spec":{{"containers":{containers}}}}}"#
        );
        Arc::new(Wire::receive(json.as_bytes()).unwrap())
    };
    let is_unread = |supervisor: &Supervisor<_, _>| matches!(supervisor.entries["u1"].stage, Stage::Unread);
    supervisor.apply(pod("1", "7"));
    assert!(supervisor.begin("u1", None).is_none() && is_unread(&supervisor));
    supervisor.apply(pod("1", "7"));
    let died = RuntimeEvent::Changed { pod_uid: "u1".into(), id: ContainerId("c1".into()) };
    supervisor.hear(died).await;
    assert!(supervisor.workers.is_empty() && is_unread(&supervisor), "what runs of it stays");
    supervisor.apply(pod("2", "[]"));
    assert!(supervisor.begin("u1", None).is_some() && !is_unread(&supervisor));
    supervisor.work("u1".into(), Some(pod("3", "7")), None);
    assert!(is_unread(&supervisor));
    supervisor.forget("u1");
    assert!(matches!(supervisor.entries["u1"], Entry { pod: None, stage: Stage::Work(_), .. }), "its rest is stopped");
}

#[tokio::test]
async fn a_pod_that_comes_back_is_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(root.path());
    supervisor.active = true;
    supervisor.apply(Arc::new(pod("u1")));
    supervisor.begin("u1", None).unwrap();
    supervisor.change_pods(Change::replaced(vec![]));
    assert_eq!(*supervisor.shared.leaving.borrow(), 1);
    supervisor.change_pods(Change::replaced(vec![pod("u1")]));
    assert_eq!(*supervisor.shared.leaving.borrow(), 0);
    supervisor.forget("u1");
    assert_eq!(*supervisor.shared.leaving.borrow(), 0, "its deletion is of the usual kind");
}
