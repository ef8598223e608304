//! The manager on the hollow engine, in paused time: what a user sees when containers die, minions
//! restart, images are missing, the engine or the master is out of reach.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coracle_api::{
    client::{Change, Wire},
    core::{Pod, PodStatus, Service},
};
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::runtime::{
    Container, State,
    hollow::{Call, Delays, Hollow},
    labels,
};

fn wire(pod: &Pod) -> Wire<Pod> {
    Wire::of(pod).unwrap()
}

/// A master that holds pods, echoes status writes to the watch, and can be out of reach.
#[derive(Clone)]
struct Master {
    state: Arc<Mutex<MasterState>>,
    watch: mpsc::Sender<Change<Wire<Pod>>>,
}

#[derive(Default)]
struct MasterState {
    pods: BTreeMap<String, Pod>,
    /// Every status written, as one word a container.
    history: Vec<String>,
    events: Vec<String>,
    down: bool,
}

fn digest(status: &PodStatus) -> String {
    let words = status.container_statuses.iter().flatten().map(|c| {
        let state = c.state.clone().unwrap_or_default();
        let word = match (state.running, state.terminated, state.waiting) {
            (Some(_), ..) if c.ready => "ready".to_owned(),
            (Some(_), ..) => "running".to_owned(),
            (_, Some(t), _) => format!("exit-{}", t.exit_code),
            (.., waiting) => waiting.and_then(|w| w.reason).unwrap_or_default(),
        };
        format!("{}:{word}", c.name)
    });
    let phase = status.phase.clone().unwrap_or_default();
    std::iter::once(phase).chain(words).collect::<Vec<_>>().join(" ")
}

impl Report for Master {
    async fn status(&self, pod: &Pod, text: &StatusText) -> Result<(), ReportError> {
        let status = text.status();
        tokio::time::sleep(Duration::from_millis(3)).await;
        let changed = {
            let mut state = self.state.lock().unwrap();
            if state.down {
                return Err(ReportError::Retry("the master is down".into()));
            }
            state.history.push(digest(status));
            let Some(stored) = state.pods.get_mut(pod.metadata.uid.as_ref().unwrap()) else {
                return Err(ReportError::Gone);
            };
            stored.status = Some((**status).clone());
            stored.clone()
        };
        let _ = self.watch.send(Change::applied(wire(&changed))).await;
        Ok(())
    }

    async fn delete(&self, pod: &Pod) -> Result<(), ReportError> {
        let removed = {
            let mut state = self.state.lock().unwrap();
            if state.down {
                return Err(ReportError::Retry("the master is down".into()));
            }
            state.pods.remove(pod.metadata.uid.as_ref().unwrap())
        };
        if let Some(pod) = removed {
            let _ = self.watch.send(Change::deleted(wire(&pod))).await;
        }
        Ok(())
    }

    fn event(&self, _pod: &Pod, event: PodEvent, _now: Timestamp) {
        self.state.lock().unwrap().events.push(format!("{} {}", event.reason, event.message));
    }
}

type Minion = (Manager, JoinHandle<()>, CancellationToken, mpsc::Sender<Change<Service>>);

/// A node: an engine and a master that outlive minions.
struct Node {
    hollow: Hollow,
    clock: Clock,
    master: Option<Master>,
    pods: BTreeMap<String, Pod>,
    root: tempfile::TempDir,
    services: Vec<Service>,
    /// Which pods take traffic, as far as the endpoints say.
    serving: Option<tokio::sync::watch::Receiver<traffic::Serving>>,
    plan: PlanPod,
    minion: Option<Minion>,
}

impl Node {
    fn new() -> Self {
        let clock = Clock::simulated("2026-11-23T10:00:00Z".parse().unwrap());
        Self {
            hollow: Hollow::with_delays(clock.clone(), Delays::DOCKER),
            clock,
            master: None,
            pods: BTreeMap::new(),
            root: tempfile::tempdir().unwrap(),
            services: Vec::new(),
            serving: None,
            plan: plan::plan_pod,
            minion: None,
        }
    }

    async fn start(&mut self) {
        let (watch, pods) = mpsc::channel(64);
        let (services_in, told) = mpsc::channel(4);
        let (seen, services) = tokio::sync::watch::channel(None);
        tokio::spawn(services::follow(told, seen));
        let state = MasterState { pods: self.pods.clone(), ..MasterState::default() };
        let master = Master { state: Arc::new(Mutex::new(state)), watch: watch.clone() };
        let mut config = Config::new("n1", [192, 0, 2, 1].into(), "0badcafe", self.root.path().to_owned());
        (config.clock, config.plan, config.serving) = (self.clock.clone(), self.plan, self.serving.clone());
        let shutdown = CancellationToken::new();
        let (manager, task) = Manager::start(
            config,
            Arc::new(self.hollow.clone()),
            Arc::new(master.clone()),
            Inputs { pods, services },
            shutdown.clone(),
        );
        services_in.send(Change::replaced(self.services.clone())).await.unwrap();
        watch.send(Change::replaced(self.pods.values().map(wire).collect())).await.unwrap();
        self.master = Some(master);
        self.minion = Some((manager, task, shutdown, services_in));
    }

    async fn stop(&mut self) {
        self.pods = self.state(|s| s.pods.clone());
        let (_, task, shutdown, _services) = self.minion.take().unwrap();
        shutdown.cancel();
        task.await.unwrap();
    }

    fn state<T>(&self, read: impl FnOnce(&mut MasterState) -> T) -> T {
        read(&mut self.master.as_ref().unwrap().state.lock().unwrap())
    }

    async fn apply(&self, pod: Pod) {
        self.state(|s| s.pods.insert(pod.metadata.uid.clone().unwrap(), pod.clone()));
        self.master.as_ref().unwrap().watch.send(Change::applied(wire(&pod))).await.unwrap();
    }

    async fn delete(&self, uid: &str, grace_s: i64) {
        let mut pod = self.pod(uid).unwrap();
        pod.metadata.deletion_timestamp = Some(coracle_api::meta::Time(self.clock.now()));
        pod.metadata.deletion_grace_period_seconds = Some(grace_s);
        self.apply(pod).await;
    }

    fn pod(&self, uid: &str) -> Option<Pod> {
        self.state(|s| s.pods.get(uid).cloned())
    }

    fn digest(&self, uid: &str) -> String {
        self.pod(uid).and_then(|p| p.status).as_ref().map(digest).unwrap_or_default()
    }

    fn history(&self) -> Vec<String> {
        self.state(|s| std::mem::take(&mut s.history))
    }

    fn running(&self, name: &str) -> Vec<Arc<Container>> {
        let all = self.hollow.containers().into_iter();
        all.filter(|c| c.name == name && matches!(c.state, State::Running { .. })).collect()
    }

    /// Waits until something holds; paused time makes that cheap.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..60_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let events = self.state(|s| s.events.clone());
        panic!("never: {what}\n{:?}\n{events:#?}\n{:#?}", self.history(), self.hollow.containers());
    }

    async fn until_status(&self, uid: &str, expected: &str) {
        self.until(expected, |node| node.digest(uid) == expected).await;
    }
}

fn pod(uid: &str, containers: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": format!("pod-{uid}"), "namespace": "default", "uid": uid, "generation": 1},
        "spec": {"nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 5, "containers": containers,
            "volumes": [{"name": "data", "emptyDir": {}}]},
        "status": {"phase": "Pending"},
    }))
    .unwrap()
}

fn shell(name: &str, script: &str) -> serde_json::Value {
    serde_json::json!({"name": name, "image": "busybox", "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
}

fn server(name: &str) -> serde_json::Value {
    serde_json::json!({"name": name, "image": "nginx"})
}

/// Plans that the test below has seen.
static PLANNED: AtomicUsize = AtomicUsize::new(0);

// In real time: the paused clock stands still while a worker never waits.
#[tokio::test]
async fn a_report_that_nobody_waits_for_any_more_keeps_no_worker_busy() {
    let mut node = Node::new();
    node.plan = |desired, observed, memory, context| {
        PLANNED.fetch_add(1, Ordering::Relaxed);
        plan::plan_pod(desired, observed, memory, context)
    };
    node.start().await;
    node.apply(pod("u1", serde_json::json!([shell("a", "trap '' TERM; sleep 600")]))).await;
    node.until_status("u1", "Running a:ready").await;
    // A report is due and fails, and then the pod is gone, but for its container that takes its time.
    node.state(|s| s.down = true);
    node.hollow.kill(&node.running("a")[0].id);
    node.until("the restart", |n| n.running("a").first().is_some_and(|c| c.attempt == 1)).await;
    let gone = node.state(|s| s.pods.remove("u1")).unwrap();
    node.master.as_ref().unwrap().watch.send(Change::deleted(wire(&gone))).await.unwrap();
    let before = PLANNED.load(Ordering::Relaxed);
    let end = tokio::time::Instant::now() + Duration::from_millis(700);
    node.until("the end of the look", |_| tokio::time::Instant::now() > end).await;
    let planned = PLANNED.load(Ordering::Relaxed) - before;
    assert!(planned < 20, "planned {planned} times");
    assert_eq!(node.running("a").len(), 1, "it is being stopped still");
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_in_the_time_of_its_two_engine_starts() {
    let mut node = Node::new();
    node.start().await;
    let begun = node.clock.now();
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    let took = node.clock.now().duration_since(begun).as_millis();
    assert!(took < 520, "{took} ms");
    let status = node.pod("u1").unwrap().status.unwrap();
    assert!(status.pod_ip.is_some() && status.host_ip.as_deref() == Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(status.conditions.unwrap().iter().all(|c| c.status == "True"));
    let (manager, ..) = node.minion.as_ref().unwrap();
    let query = |container: &str, previous| PodQuery {
        namespace: "default".into(),
        pod: "pod-u1".into(),
        container: container.into(),
        previous,
        uid: None,
    };
    assert_eq!(manager.find(&query("a", false)).unwrap(), node.running("a")[0].id);
    assert_eq!(manager.find(&query("", false)).unwrap(), node.running("a")[0].id);
    assert!(matches!(manager.find(&query("b", false)), Err(FindError::BadRequest(_))));
    assert!(matches!(manager.find(&query("a", true)), Err(FindError::BadRequest(_))));
    let other = PodQuery { pod: "other".into(), ..query("a", false) };
    assert!(matches!(manager.find(&other), Err(FindError::NotFound(_))));
}

/// How many milliseconds the container of a pod runs on that is deleted when it just got ready, where no endpoints
/// name it and a service selects `selected`.
async fn outlasts_its_deletion_ms(selected: &str, container: serde_json::Value, grace_s: i64) -> i128 {
    let mut node = Node::new();
    let spec = serde_json::json!({"selector": {"app": selected}});
    let service = serde_json::json!({"metadata": {"name": "s", "namespace": "default"}, "spec": spec});
    node.services = vec![serde_json::from_value(service).unwrap()];
    let (changes, received) = mpsc::channel(1);
    let (_in_force, acted_on) = tokio::sync::watch::channel(0);
    let serving = tokio::sync::watch::Sender::new(traffic::Serving::default());
    node.serving = Some(serving.subscribe());
    let following =
        traffic::follow("n1".into(), node.clock.clone(), received, acted_on, serving, CancellationToken::new());
    tokio::spawn(following);
    changes.send(Change::replaced(Vec::new())).await.unwrap();
    node.start().await;
    let mut web = pod("u1", serde_json::json!([container]));
    web.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    node.apply(web).await;
    node.until_status("u1", "Running a:ready").await;
    let begun = node.clock.now();
    node.delete("u1", grace_s).await;
    node.until("the end of a", |n| n.running("a").is_empty()).await;
    node.clock.now().duration_since(begun).as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_just_got_ready_waits_for_clients_only_if_a_service_selects_it() {
    // The time of getting ready is told in whole seconds.
    for (selected, at_least, at_most) in [("web", 1_000, 3_000), ("other", 0, 500)] {
        let took = outlasts_its_deletion_ms(selected, server("a"), 30).await;
        assert!((at_least..at_most).contains(&took), "{selected}: {took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_held_for_clients_gets_what_is_left_of_its_grace() {
    for selected in ["web", "other"] {
        let took = outlasts_its_deletion_ms(selected, shell("a", "trap '' TERM; sleep 100000"), 6).await;
        assert!((6_000..6_500).contains(&took), "{selected}: {took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_container_is_reported_and_runs_again_at_once() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a"), server("b")]))).await;
    node.until_status("u1", "Running a:ready b:ready").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    node.history();
    let (begun, looks) = (node.clock.now(), node.hollow.calls(Call::Image));
    node.hollow.kill(&node.running("a")[0].id);
    node.until("a new a", |n| n.running("a").len() == 1).await;
    let took = node.clock.now().duration_since(begun).as_millis();
    assert!(took <= 230, "create and start only: {took} ms");
    assert_eq!(node.hollow.calls(Call::Image), looks, "a known image is not looked at again");
    node.until_status("u1", "Running a:ready b:ready").await;
    assert_eq!(node.history(), ["Running a:exit-137 b:ready", "Running a:ready b:ready"]);
    let status = node.pod("u1").unwrap().status.unwrap().container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_minion_adopts_what_runs() {
    let mut node = Node::new();
    node.start().await;
    for uid in ["u1", "u2"] {
        node.apply(pod(uid, serde_json::json!([server("a")]))).await;
        node.until_status(uid, "Running a:ready").await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = node.hollow.containers();
    node.stop().await;
    assert_eq!(node.hollow.containers(), before, "a minion that stops leaves its containers");
    let dead = node.running("a").into_iter().find(|c| c.pod_uid == "u2").unwrap();
    node.hollow.kill(&dead.id);
    node.start().await;
    node.until("u2 healed", |n| n.running("a").len() == 2).await;
    node.until_status("u2", "Running a:ready").await;
    let kept: Vec<_> = node.hollow.containers().into_iter().filter(|c| c.pod_uid == "u1").collect();
    assert_eq!(kept, before.iter().filter(|c| c.pod_uid == "u1").cloned().collect::<Vec<_>>());
    assert!(!node.history().iter().any(|h| h.starts_with("Pending")));
}

#[tokio::test(start_paused = true)]
async fn containers_of_unknown_pods_are_removed_only_after_the_masters_first_list() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    node.stop().await;
    node.pods.clear();
    assert!(node.root.path().join("pods/u1").exists());
    node.start().await;
    node.until("removed", |n| n.hollow.containers().is_empty() && !n.root.path().join("pods/u1").exists()).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([shell("a", "sleep 0.5; exit 3")]))).await;
    node.until_status("u1", "Running a:CrashLoopBackOff").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let starts = node.hollow.calls(Call::Start);
    assert!((6..=8).contains(&starts), "0, 1, 2, 4, 8, 16, 32 s apart: {starts}");
    let history = node.history();
    assert!(history.contains(&"Running a:exit-3".into()), "{history:?}");
    assert!(node.state(|s| s.events.iter().any(|e| e.starts_with("BackOff"))));
    let status = node.pod("u1").unwrap().status.unwrap().container_statuses.unwrap().remove(0);
    assert!(status.last_state.is_some());
    let all = node.hollow.containers();
    assert!(all.iter().filter(|c| c.name == "a").count() <= 2, "old dead containers are removed");
}

#[tokio::test(start_paused = true)]
async fn a_lost_infra_container_is_replaced_and_the_volume_kept() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([shell("a", "sleep 100000")]))).await;
    node.until_status("u1", "Running a:ready").await;
    let data = node.root.path().join("pods/u1/volumes/empty-dir/data");
    std::fs::write(data.join("kept"), "x").unwrap();
    node.hollow.kill(&node.running(labels::INFRA)[0].id);
    node.until("restarted", |n| n.running("a").first().is_some_and(|c| c.attempt == 1)).await;
    node.until_status("u1", "Running a:ready").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(data.join("kept").exists());
    let infras = node.hollow.containers().into_iter().filter(|c| c.name == labels::INFRA).count();
    assert_eq!(infras, 1, "the old one is removed");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_gets_its_grace_and_leaves_nothing() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([shell("a", "trap '' TERM; sleep 100000"), server("b")]))).await;
    node.until_status("u1", "Running a:ready b:ready").await;
    let begun = node.clock.now();
    node.delete("u1", 5).await;
    node.until("b stopped", |n| n.running("b").is_empty()).await;
    assert_eq!(node.running("a").len(), 1, "it ignores the signal and has time left");
    let ready = node.pod("u1").unwrap().status.unwrap().conditions.unwrap();
    assert!(ready.iter().any(|c| c.type_ == "Ready" && c.status == "False"));
    node.until("gone", |n| n.pod("u1").is_none()).await;
    let took = node.clock.now().duration_since(begun).as_secs();
    assert!((5..=6).contains(&took), "{took} s");
    assert!(node.hollow.containers().is_empty() && !node.root.path().join("pods/u1").exists());
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_leaves_is_cleared_away_when_the_programs_of_others_have_ended() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("quick")]))).await;
    node.apply(pod("u2", serde_json::json!([shell("slow", "trap '' TERM; sleep 100000")]))).await;
    node.apply(pod("u3", serde_json::json!([server("stays")]))).await;
    for (uid, name) in [("u1", "quick"), ("u2", "slow"), ("u3", "stays")] {
        node.until_status(uid, &format!("Running {name}:ready")).await;
    }
    let infra = |node: &Node, uid: &str| {
        node.hollow.containers().into_iter().find(|c| c.pod_uid == uid && c.name == labels::INFRA)
    };
    let lost = infra(&node, "u3").unwrap();
    let begun = node.clock.now();
    node.delete("u1", 1).await;
    node.delete("u2", 1).await;
    node.until("one has ended", |n| n.running("quick").is_empty()).await;
    assert!(infra(&node, "u1").is_some());
    node.hollow.kill(&lost.id);
    node.until("a pod that stays has its network again", |n| infra(n, "u3").is_some_and(|c| c.id != lost.id)).await;
    assert_eq!(node.running("slow").len(), 1, "it did not wait for the stops");
    node.until("cleared away", |n| infra(n, "u1").is_none()).await;
    let took = node.clock.now().duration_since(begun).as_millis();
    assert!((1000..1300).contains(&took), "{took} ms: a second for the other one's stop");
    node.until("both gone", |n| n.pod("u1").is_none() && n.pod("u2").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn the_flows_to_a_pod_are_forgotten_when_its_network_ends_and_not_before() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    for attempt in 1..=2 {
        node.hollow.kill(&node.running("a")[0].id);
        node.until("the restart", |n| n.running("a").first().is_some_and(|c| c.attempt == attempt)).await;
    }
    node.until("a dead container is removed", |n| n.hollow.calls(Call::Remove) > 0).await;
    assert_eq!(node.hollow.calls(Call::Settle), 0, "the pod serves on");
    node.delete("u1", 5).await;
    node.until("removed", |n| n.hollow.containers().is_empty()).await;
    assert_eq!(node.hollow.calls(Call::Settle), 1);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_someone_puts_back_is_no_echo() {
    let condition = |node: &Node, type_: &str| {
        let conditions = node.pod("u1")?.status?.conditions?;
        Some(conditions.into_iter().find(|c| c.type_ == type_)?.status)
    };
    let mut node = Node::new();
    node.start().await;
    // A pod with a probe is never at rest.
    let mut container = shell("a", "sleep 600");
    container["livenessProbe"] = serde_json::json!({"exec": {"command": ["sh", "-c", "exit 0"]}});
    let mut gated = pod("u1", serde_json::json!([container]));
    let gate = coracle_api::core::PodReadinessGate { condition_type: "open".into() };
    gated.spec.as_mut().unwrap().readiness_gates = Some(vec![gate]);
    node.apply(gated).await;
    node.until_status("u1", "Running a:ready").await;
    let shut = node.pod("u1").unwrap();
    let mut open = shut.clone();
    let passed = serde_json::from_value(serde_json::json!({"type": "open", "status": "True"})).unwrap();
    open.status.as_mut().unwrap().conditions.as_mut().unwrap().push(passed);
    node.apply(open).await;
    node.until("the gate lets it be ready", |node| condition(node, "Ready").as_deref() == Some("True")).await;
    node.apply(shut).await;
    node.hollow.kill(&node.running("a")[0].id);
    let restarted = |node: &Node| node.running("a").first().is_some_and(|c| c.attempt == 1);
    node.until("its restart is told", |node| {
        let told = node.pod("u1").and_then(|p| Some(p.status?.container_statuses?.first()?.restart_count));
        restarted(node) && told == Some(1)
    })
    .await;
    assert_eq!((condition(&node, "open"), condition(&node, "Ready").as_deref()), (None, Some("False")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_vanished_is_cleaned_up_too() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    let gone = node.state(|s| s.pods.remove("u1")).unwrap();
    node.master.as_ref().unwrap().watch.send(Change::deleted(wire(&gone))).await.unwrap();
    node.until("removed", |n| n.hollow.containers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_moved_away_while_the_minion_was_cut_off_stops_before_anything_starts() {
    let mut node = Node::new();
    node.start().await;
    let slow = serde_json::json!({"name": "old", "image": "nginx", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}}});
    node.apply(pod("u1", serde_json::json!([slow]))).await;
    node.until_status("u1", "Running old:ready").await;
    let moved = pod("u2", serde_json::json!([server("new")]));
    let master = node.master.as_ref().unwrap();
    master.state.lock().unwrap().pods = BTreeMap::from([("u2".to_owned(), moved.clone())]);
    master.watch.send(Change::replaced(vec![wire(&moved)])).await.unwrap();
    node.until("the new one runs", |node| {
        assert!(node.running("old").is_empty() || node.running("new").is_empty(), "both run");
        !node.running("new").is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_while_it_waits_for_its_image_goes_at_once() {
    let mut node = Node::new();
    node.hollow.take_image("nginx", false);
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Pending a:ImagePullBackOff").await;
    node.delete("u1", 30).await;
    node.until("gone", |n| n.pod("u1").is_none() && n.hollow.containers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_appears_is_used_within_seconds() {
    let mut node = Node::new();
    node.hollow.take_image("nginx", false);
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Pending a:ErrImagePull").await;
    let waiting = node.pod("u1").unwrap().status.unwrap().container_statuses.unwrap().remove(0);
    assert!(waiting.state.unwrap().waiting.unwrap().message.unwrap().contains("nginx"));
    node.until_status("u1", "Pending a:ImagePullBackOff").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let pulls = node.hollow.calls(Call::Pull);
    assert!(pulls < 14, "pulls back off: {pulls}");
    node.hollow.give_image("nginx");
    let begun = node.clock.now();
    node.until_status("u1", "Running a:ready").await;
    assert!(node.clock.now().duration_since(begun).as_secs() <= 6);
}

#[tokio::test(start_paused = true)]
async fn a_failed_post_start_hook_ends_the_container() {
    let mut node = Node::new();
    node.start().await;
    let mut container = server("a");
    container["lifecycle"] = serde_json::json!({"postStart": {"exec": {"command": ["sh", "-c", "exit 1"]}}});
    node.apply(pod("u1", serde_json::json!([container]))).await;
    node.until_status("u1", "Running a:CrashLoopBackOff").await;
    assert!(node.state(|s| s.events.iter().any(|e| e.starts_with("FailedPostStartHook"))));
    assert!(!node.history().iter().any(|h| h.contains("a:ready")), "it was never ready");
}

#[tokio::test(start_paused = true)]
async fn a_container_is_stopped_only_after_its_pre_stop_hook() {
    let mut node = Node::new();
    node.start().await;
    let mut container = server("a");
    container["lifecycle"] = serde_json::json!({"preStop": {"exec": {"command": ["sleep", "5"]}}});
    node.apply(pod("u1", serde_json::json!([container]))).await;
    node.until_status("u1", "Running a:ready").await;
    let begun = node.clock.now();
    node.delete("u1", 30).await;
    node.until("the hook is called", |n| n.hollow.calls(Call::Exec) == 1).await;
    node.until("the container ends", |n| n.running("a").is_empty()).await;
    let took = node.clock.now().duration_since(begun).as_secs();
    assert!((5..=6).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_container_is_ready_after_its_hook_and_its_readiness_probe() {
    let mut node = Node::new();
    node.start().await;
    let mut container = server("a");
    container["lifecycle"] = serde_json::json!({"postStart": {"exec": {"command": ["sleep", "2"]}}});
    container["readinessProbe"] =
        serde_json::json!({"exec": {"command": ["sh", "-c", "exit 0"]}, "initialDelaySeconds": 5});
    container["livenessProbe"] = serde_json::json!({"exec": {"command": ["sh", "-c", "exit 1"]}, "initialDelaySeconds": 20,
        "periodSeconds": 2, "failureThreshold": 2});
    node.apply(pod("u1", serde_json::json!([container]))).await;
    node.until_status("u1", "Running a:running").await;
    let begun = node.clock.now();
    node.until_status("u1", "Running a:ready").await;
    let took = node.clock.now().duration_since(begun).as_secs();
    assert!((4..=6).contains(&took), "{took} s");
    node.until("restarted", |n| n.running("a").first().is_some_and(|c| c.attempt == 1)).await;
    let took = node.clock.now().duration_since(begun).as_secs();
    assert!((21..=24).contains(&took), "{took} s");
    assert!(node.state(|s| s.events.iter().any(|e| e.starts_with("Unhealthy liveness probe failed"))));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_a_restart_of_the_minion_cut_short_keeps_no_container_unready() {
    let mut node = Node::new();
    node.start().await;
    let mut container = server("a");
    container["lifecycle"] = serde_json::json!({"postStart": {"exec": {"command": ["sleep", "5"]}}});
    node.apply(pod("u1", serde_json::json!([container]))).await;
    node.until_status("u1", "Running a:running").await;
    node.stop().await;
    node.start().await;
    node.until_status("u1", "Running a:ready").await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order() {
    let mut node = Node::new();
    node.start().await;
    let mut pod = pod("u1", serde_json::json!([server("a")]));
    let inits = serde_json::json!([shell("one", "sleep 2"), shell("two", "sleep 1")]);
    pod.spec.as_mut().unwrap().init_containers = serde_json::from_value(inits).unwrap();
    node.apply(pod).await;
    node.until("one runs", |n| !n.running("one").is_empty()).await;
    node.until("two runs", |n| !n.running("two").is_empty()).await;
    assert!(node.running("one").is_empty() && node.running("a").is_empty());
    assert_eq!(node.digest("u1"), "Pending a:PodInitializing");
    node.until_status("u1", "Running a:ready").await;
}

#[tokio::test(start_paused = true)]
async fn a_job_succeeds_and_gives_its_network_back() {
    let mut node = Node::new();
    node.start().await;
    let mut pod = pod("u1", serde_json::json!([shell("a", "echo done; exit 0")]));
    pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    node.apply(pod).await;
    node.until_status("u1", "Succeeded a:exit-0").await;
    node.until("no network", |n| n.running(labels::INFRA).is_empty()).await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(node.hollow.containers().len(), 1, "the dead container stays for its log");
    assert_eq!(node.hollow.calls(Call::Start), 1);
}

#[tokio::test(start_paused = true)]
async fn a_death_during_a_gap_in_the_events_is_healed() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    node.hollow.lose_events(true);
    node.hollow.kill(&node.running("a")[0].id);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(node.running("a").is_empty());
    node.hollow.lose_events(false);
    node.until("healed", |n| n.running("a").len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_engine_may_be_out_of_reach_for_a_while() {
    let mut node = Node::new();
    node.hollow.set_reachable(false);
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    node.hollow.set_reachable(true);
    node.until_status("u1", "Running a:ready").await;
    node.hollow.set_reachable(false);
    node.hollow.kill(&node.running("a")[0].id);
    tokio::time::sleep(Duration::from_secs(30)).await;
    node.hollow.set_reachable(true);
    node.until("healed", |n| n.running("a").len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_is_asked_once_a_second_and_statuses_are_told_meanwhile() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until("it is being started", |n| n.hollow.calls(Call::RunInfra) == 1).await;
    node.hollow.set_reachable(false);
    let looks = node.hollow.calls(Call::List);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let looks = node.hollow.calls(Call::List) - looks;
    assert!(looks <= 15, "looked {looks} times");
    assert_eq!(node.digest("u1"), "Pending a:ContainerCreating");
}

/// Plans that the test below has let fail.
static FAILED: AtomicUsize = AtomicUsize::new(0);

#[tokio::test(start_paused = true)]
async fn a_worker_that_fails_is_started_again_ever_more_slowly() {
    let mut node = Node::new();
    node.plan = |desired, observed, memory, context| {
        assert!(FAILED.fetch_add(1, Ordering::Relaxed) >= 4, "made to fail");
        plan::plan_pod(desired, observed, memory, context)
    };
    node.start().await;
    let begun = node.clock.now();
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    let took = node.clock.now().duration_since(begun).as_secs();
    assert!((7..=8).contains(&took), "0, 1, 2, 4 s apart: {took} s");
}

#[tokio::test(start_paused = true)]
async fn healing_goes_on_without_the_master_and_is_reported_later() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    node.state(|s| s.down = true);
    node.master.as_ref().unwrap().watch.send(Change::Interrupted("down".into())).await.unwrap();
    node.hollow.kill(&node.running("a")[0].id);
    node.until("healed", |n| n.running("a").first().is_some_and(|c| c.attempt == 1)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    node.state(|s| s.down = false);
    node.until("reported", |n| {
        let status = n.pod("u1").and_then(|p| p.status?.container_statuses);
        status.is_some_and(|s| s[0].restart_count == 1 && s[0].ready)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_engine_neither_double_nor_lose_a_container() {
    for call in [Call::List, Call::Image, Call::RunInfra, Call::Create, Call::Start, Call::Stop, Call::Remove] {
        for answer in [true, false] {
            let mut node = Node::new();
            if answer {
                node.hollow.fail(call, 3)
            } else {
                node.hollow.lose_answer(call, 3)
            }
            node.start().await;
            node.apply(pod("u1", serde_json::json!([server("a"), server("b")]))).await;
            node.until_status("u1", "Running a:ready b:ready").await;
            assert_eq!((node.running("a").len(), node.running("b").len()), (1, 1), "{call:?}");
            node.delete("u1", 1).await;
            node.until("gone", |n| n.pod("u1").is_none() && n.hollow.containers().is_empty()).await;
            node.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_someone_else_wrote_into_the_status_is_corrected() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    let mut lost = node.pod("u1").unwrap();
    lost.status.as_mut().unwrap().reason = Some("NodeLost".into());
    node.apply(lost).await;
    node.until("corrected", |n| n.pod("u1").unwrap().status.unwrap().reason.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_pod_costs_nothing() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = node.history();
    assert!(writes.len() <= 2, "{writes:?}");
    let looks = node.hollow.calls(Call::List);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(node.hollow.calls(Call::List), looks);
    assert!(node.history().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_volume_says_so_and_is_healed_when_it_is_put_right() {
    let mut node = Node::new();
    node.start().await;
    let wanted = node.root.path().join("host");
    let mut pod = pod("u1", serde_json::json!([shell("a", "sleep 100000")]));
    let volumes = serde_json::json!([{"name": "data", "hostPath": {"path": wanted, "type": "Directory"}}]);
    pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
    node.apply(pod).await;
    node.until("told", |n| {
        let message = n.pod("u1").and_then(|p| p.status?.message);
        message.is_some_and(|m| m.contains("not a directory on this node"))
    })
    .await;
    std::fs::create_dir(&wanted).unwrap();
    node.until_status("u1", "Running a:ready").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_can_not_be_refreshed_is_used_as_it_is() {
    let mut node = Node::new();
    node.hollow.fail(Call::Pull, 1);
    node.start().await;
    let mut container = server("a");
    container["imagePullPolicy"] = "Always".into();
    node.apply(pod("u1", serde_json::json!([container]))).await;
    node.until_status("u1", "Running a:ready").await;
    assert_eq!(node.hollow.calls(Call::Pull), 1);
    assert!(node.state(|s| s.events.iter().any(|e| e.starts_with("PullSkipped"))));
}

#[tokio::test(start_paused = true)]
async fn many_pods_start_four_at_a_time_and_a_restart_does_not_wait_for_them() {
    let mut node = Node::new();
    node.start().await;
    node.apply(pod("first", serde_json::json!([server("healed")]))).await;
    node.until_status("first", "Running healed:ready").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    for number in 0..40 {
        node.apply(pod(&format!("u{number}"), serde_json::json!([server("a")]))).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = node.clock.now();
    node.hollow.kill(&node.running("healed")[0].id);
    node.until("healed", |n| n.running("healed").len() == 1).await;
    assert!(node.clock.now().duration_since(begun).as_millis() < 300);
    node.until("all run", |n| n.running("a").len() == 40).await;
    // 80 starts of 0.21 s, four at a time.
    let took = node.clock.now().duration_since(begun).as_millis();
    assert!((3_500..4_600).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn pods_that_wait_for_an_image_keep_others_from_starting_for_a_second_at_most() {
    let mut node = Node::new();
    for image in ["missing", "slow"] {
        node.hollow.take_image(image, image == "slow");
    }
    node.start().await;
    for number in 0..16 {
        for image in ["missing", "slow"] {
            let container = serde_json::json!([{"name": image, "image": image}]);
            node.apply(pod(&format!("{image}-{number}"), container)).await;
        }
    }
    let begun = node.clock.now();
    node.apply(pod("u1", serde_json::json!([server("a")]))).await;
    node.until_status("u1", "Running a:ready").await;
    // 32 before it, eight a second.
    let took = node.clock.now().duration_since(begun).as_secs_f64();
    assert!(took < 5.0, "{took} s");
}
