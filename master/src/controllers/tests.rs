//! The queue, and all loops together over a memory store.

use std::{net::SocketAddr, sync::Arc};

use coracle_api::{
    Object, TypedObject,
    core::{Endpoints, Event, Node, Pod, ReplicationController, Service},
    objects::replacement::REPLACE,
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::{
    admission::{Propagation, Removal, Removed},
    coordination::Alone,
    deletion,
    liveness::{Beat, Condition, Liveness},
    plans::Plans,
    registry::{Expected, LogLimits, PodFacts},
    store::{MemoryStore, Store},
};

fn key(name: &str) -> Key {
    Key::new("n", name)
}

#[tokio::test(start_paused = true)]
async fn the_earlier_wake_up_counts() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.wake(key("a"), now + Duration::from_secs(5));
    queue.wake(key("a"), now + Duration::from_secs(1));
    queue.wake(key("a"), now + Duration::from_secs(9));
    assert_eq!(queue.next_due(), Some(now + Duration::from_secs(1)));
    assert_eq!(queue.pop(now), None);
    assert_eq!(queue.pop(now + Duration::from_secs(1)), Some(key("a")));
    assert_eq!(queue.next_due(), None);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_success_forgets_them() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let mut wait = || {
        queue.failed(key("a"), now);
        let due = queue.next_due().unwrap() - now;
        queue.pop(now + due);
        due
    };
    assert_eq!(wait(), BACKOFF_MIN);
    assert_eq!(wait(), BACKOFF_MIN * 2);
    (0..40).for_each(|_| {
        wait();
    });
    assert_eq!(wait(), BACKOFF_MAX);
    queue.done(key("a"), None, now);
    queue.failed(key("a"), now);
    assert_eq!(queue.next_due(), Some(now + BACKOFF_MIN));
}

#[tokio::test(start_paused = true)]
async fn who_looked_long_lets_changes_gather() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let due_after = |queue: &mut Queue, spent| {
        queue.wake(key("a"), now);
        queue.pause(&Looks { spent }, now);
        let due = queue.next_due().unwrap();
        assert_eq!(queue.pop(due), Some(key("a")));
        due - now
    };
    assert_eq!(due_after(&mut queue, LOOKS_FREE), Duration::ZERO);
    let spent = LOOKS_FREE * 10;
    assert_eq!(due_after(&mut queue, spent), spent * (SHARE - 1));
    assert_eq!(due_after(&mut queue, LOOKS_MAX), LOOKS_MAX * (SHARE - 1), "a whole round is paused for in full");
    assert_eq!(due_after(&mut queue, PAUSE_MAX), PAUSE_MAX);
    queue.wake(key("b"), now + PAUSE_MAX * 2);
    assert_eq!(queue.next_due(), Some(now + PAUSE_MAX * 2), "a pause is no reason to look");
}

/// A registry with every loop running.
const BEAT: Duration = Duration::from_secs(2);

struct World {
    registry: Registry,
    liveness: Arc<Liveness>,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    async fn new() -> Self {
        Self::with_pods_in("10.244.0.0/16").await
    }

    async fn with_pods_in(pod_cidr: &str) -> Self {
        Self::with(pod_cidr, None).await
    }

    async fn with(pod_cidr: &str, advertised: Option<SocketAddr>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::open(Arc::new(MemoryStore::default()), &tasks, stop.clone()).await.unwrap();
        let loops = Loops {
            registry: registry.clone(),
            liveness: Arc::new(Liveness::default()),
            coordinator: Arc::new(Alone::new("this")),
            advertised,
            pod_cidr: pod_cidr.parse().unwrap(),
            beat: BEAT,
            plans: Plans::default(),
            failed: CancellationToken::new(),
        };
        start(&loops, &tasks, &stop);
        Self { registry, liveness: loops.liveness, _stop: stop.drop_guard() }
    }

    async fn create<T: TypedObject>(&self, object: Value) {
        let mut object: T = serde_json::from_value(object).unwrap();
        let meta = Object::meta_mut(&mut object);
        meta.uid = Some(uuid::Uuid::new_v4().to_string());
        meta.creation_timestamp = Some(jiff::Timestamp::now().into());
        Object::set_defaults(&mut object);
        self.registry.create(Box::new(object)).await.unwrap();
    }

    async fn node(&self, name: &str) {
        let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        self.create::<Node>(json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}})).await;
        self.beat(name);
    }

    fn beat(&self, name: &str) {
        let condition = Condition { ready: true, reason: "MinionReady".into(), message: String::new() };
        self.liveness.beat(name, Beat { at: Instant::now(), next: BEAT, condition });
    }

    async fn rc(&self, name: &str, replicas: i32) {
        let template = json!({"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}});
        let spec = json!({"replicas": replicas, "selector": {"app": name}, "template": template});
        self.create::<ReplicationController>(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
            .await;
    }

    async fn scale(&self, name: &str, replicas: i32) {
        let set = |rc: &mut ReplicationController| {
            rc.spec.as_mut().unwrap().replicas = Some(replicas);
            Ok(true)
        };
        self.registry.modify("default", name, set).await.unwrap();
    }

    /// What the minion would write.
    async fn run_pod(&self, name: &str, ip: &str) {
        let set = |pod: &mut Pod| {
            let status = json!({"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]});
            pod.status = Some(serde_json::from_value(status).unwrap());
            Ok(true)
        };
        self.registry.modify("default", name, set).await.unwrap();
    }

    fn pods(&self) -> Vec<(String, PodFacts)> {
        let pods = self.registry.snapshot(Pod::row());
        pods.entries.values().map(|e| (e.key.name.to_string(), e.pod().unwrap().clone())).collect()
    }

    /// Waits, on the change of any object, until `check` gives a value.
    async fn until<T>(&self, what: &str, mut check: impl FnMut(&Self) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(value) = check(self) {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:#?}", self.pods()))
    }
}

#[tokio::test]
async fn a_pod_of_another_scheduler_is_left_to_it() {
    let world = World::new().await;
    world.node("n1").await;
    for (name, scheduler) in [("foreign", "mine"), ("ours", "")] {
        let spec = json!({"schedulerName": scheduler, "containers": [{"name": "c", "image": "i"}]});
        world.create::<Pod>(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    }
    // In the order of their names: once the second is placed the first was passed over.
    world.until("ours is placed", |w| w.pods().iter().find(|(n, p)| n == "ours" && p.node.is_some()).map(drop)).await;
    let theirs = world.registry.get(Pod::row(), "default", "foreign").unwrap();
    assert_eq!(theirs.pod().unwrap().node, None);
    assert!(theirs.typed::<Pod>().unwrap().status.is_none_or(|s| s.conditions.is_none()), "nothing is said about it");
}

#[tokio::test]
async fn replicas_are_created_placed_apart_and_replaced() {
    let world = World::new().await;
    world.rc("web", 4).await;
    world.until("four wait without a node", |w| (w.pods().len() == 4).then_some(())).await;
    world.node("n1").await;
    world.node("n2").await;
    let on = |w: &World, node: &str| w.pods().iter().filter(|(_, p)| p.node.as_deref() == Some(node)).count();
    world.until("all are placed", |w| (on(w, "n1") + on(w, "n2") == 4).then_some(())).await;
    let victim = world.pods().remove(0).0;
    world.registry.delete(Pod::row(), "default", &victim, Expected::Any).await.unwrap();
    world
        .until("it is replaced", |w| {
            let pods = w.pods();
            (pods.len() == 4 && pods.iter().all(|(name, p)| *name != victim && p.node.is_some())).then_some(())
        })
        .await;
    world.scale("web", 0).await;
    world.until("bound pods are asked to go", |w| w.pods().iter().all(|(_, p)| p.terminating).then_some(())).await;
    let status = |w: &World| w.registry.get_typed::<ReplicationController>("default", "web").unwrap().status.unwrap();
    world.until("the status follows", |w| (status(w).replicas == 0).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_ended_are_kept_in_bounded_number() {
    let world = World::new().await;
    let pod = |name: String, phase| {
        json!({"metadata": {"name": name, "namespace": "default"}, "status": {"phase": phase},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
    };
    world.create::<Pod>(pod("alive".into(), "Running")).await;
    for i in 0..finished::FINISHED_MAX + 2 {
        world.create::<Pod>(pod(format!("{i}"), if i % 2 == 0 { "Failed" } else { "Succeeded" })).await;
    }
    // Of the paused clock: a round later.
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.until("the surplus goes", |w| (w.pods().len() == finished::FINISHED_MAX + 1).then_some(())).await;
    let has = |name: &str| world.registry.get(Pod::row(), "default", name).is_some();
    assert_eq!(["0", "1", "2", "alive"].map(has), [false, false, true, true]);
}

#[tokio::test]
async fn an_event_that_repeats_is_counted() {
    let world = World::new().await;
    world.node("n1").await;
    let node = world.registry.get_typed::<Node>("", "n1").unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let events = Recorder::start(world.registry.clone(), &tasks, stop.clone());
    let _stop = stop.drop_guard();
    let counts = |w: &World| -> Vec<i32> {
        let events = w.registry.snapshot(Event::row());
        let events = events.entries.values().map(|e| e.typed::<Event>().unwrap());
        events.filter(|e| e.reason.as_deref() == Some("Tired")).map(|e| e.count.unwrap()).collect()
    };
    events.warning(&node, "Tired", "again");
    world.until("it is told", |w| (counts(w) == [1]).then_some(())).await;
    events.warning(&node, "Tired", "again");
    world.until("it is counted", |w| (counts(w) == [2]).then_some(())).await;
    // Expired meanwhile: it comes back.
    for entry in world.registry.snapshot(Event::row()).entries.values() {
        world.registry.delete(Event::row(), &entry.key.namespace, &entry.key.name, Expected::Any).await.unwrap();
    }
    events.warning(&node, "Tired", "again");
    world.until("it is told anew", |w| (counts(w) == [3]).then_some(())).await;
}

#[tokio::test]
async fn endpoints_follow_ready_pods() {
    let world = World::new().await;
    world.node("n1").await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 8888, "targetPort": 80}]});
    world.create::<Service>(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).await;
    world.rc("web", 1).await;
    let name = world
        .until("a pod is placed", |w| w.pods().into_iter().find(|(_, p)| p.node.is_some()).map(|(name, _)| name))
        .await;
    let ready = |w: &World| {
        let endpoints = w.registry.get_typed::<Endpoints>("default", "web")?;
        let subsets = endpoints.subsets.unwrap_or_default();
        Some(subsets.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.ip.clone()).collect::<Vec<_>>())
    };
    world.run_pod(&name, "10.244.0.9").await;
    world.until("the pod is an endpoint", |w| (ready(w)? == ["10.244.0.9"]).then_some(())).await;
    crate::deletion::delete_pod(&world.registry, "default", &name, None, jiff::Timestamp::now()).await.unwrap();
    world.until("a pod on its way out is none", |w| ready(w)?.is_empty().then_some(())).await;
    world.registry.delete(Service::row(), "default", "web", Expected::Any).await.unwrap();
    world.until("no service, no endpoints", |w| ready(w).is_none().then_some(())).await;
}

/// The master listens on loopback, where no pod reaches it.
#[tokio::test]
async fn the_services_of_the_master_lead_nowhere() {
    let world = World::new().await;
    world.node("n1").await;
    // The last one shows that endpoints were made.
    for name in ["kubernetes", "kubernetes-ro", "web"] {
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 443}]});
        world.create::<Service>(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    }
    world.rc("web", 1).await;
    let name = world.until("a pod", |w| w.pods().first().map(|(name, _)| name.clone())).await;
    world.run_pod(&name, "10.244.0.9").await;
    let subsets = |w: &World, name: &str| w.registry.get_typed::<Endpoints>("default", name)?.subsets;
    world.until("the other has endpoints", |w| subsets(w, "web").filter(|s| !s.is_empty())).await;
    assert_eq!((subsets(&world, "kubernetes"), subsets(&world, "kubernetes-ro")), (None, None));
}

#[tokio::test]
async fn the_services_of_a_master_that_others_reach_lead_to_it() {
    let world = World::with("10.244.0.0/16", Some("192.0.2.10:8080".parse().unwrap())).await;
    let found = |w: &World, name: &str| {
        let subset = w.registry.get_typed::<Endpoints>("default", name)?.subsets?.pop()?;
        Some((subset.addresses?.pop()?.ip, subset.ports?.pop()?.port))
    };
    let expected = || Some(("192.0.2.10".to_owned(), 8080));
    for name in ["kubernetes", "kubernetes-ro"] {
        world.until("the endpoints are there", |w| (found(w, name) == expected()).then_some(())).await;
        world.registry.delete(Endpoints::row(), "default", name, Expected::Any).await.unwrap();
        world.until("they are there again", |w| (found(w, name) == expected()).then_some(())).await;
        let clear = |endpoints: &mut Endpoints| {
            endpoints.subsets = None;
            Ok(true)
        };
        world.registry.modify("default", name, clear).await.unwrap();
        world.until("they are right again", |w| (found(w, name) == expected()).then_some(())).await;
    }
}

#[tokio::test]
async fn nodes_get_a_pod_network_and_become_ready_by_their_beats() {
    let world = World::new().await;
    world.node("n1").await;
    world.node("n2").await;
    let node = |w: &World, name: &str| {
        let node = w.registry.get_typed::<Node>("", name)?;
        let ready = node.status?.conditions?.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        Some((node.spec?.pod_cidr?, ready))
    };
    let first = world.until("n1 is ready", |w| node(w, "n1").filter(|(_, ready)| *ready)).await.0;
    let second = world.until("n2 is ready", |w| node(w, "n2").filter(|(_, ready)| *ready)).await.0;
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_it_fits() {
    let world = World::new().await;
    let resources = json!({"requests": {"cpu": "3"}});
    for name in ["a", "b"] {
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
        world.create::<Pod>(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    }
    world.node("n1").await;
    let why = |w: &World| {
        let pods = w.registry.snapshot(Pod::row());
        let waiting = pods.entries.values().find(|e| e.pod().is_some_and(|p| p.node.is_none()))?;
        let status = waiting.typed::<Pod>()?.status?;
        status.conditions?.iter().find_map(|c| c.message.clone()).filter(|m| m.contains("too little cpu"))
    };
    let message = world.until("one waits for cpu", why).await;
    assert_eq!(message, "0/1 minions fit: 1 too little cpu (needs 3000m, largest free 1000m)");
    world.node("n2").await;
    world.until("both are placed", |w| w.pods().iter().all(|(_, p)| p.node.is_some()).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pod_is_tried_when_something_helps_it_and_not_before() {
    let world = World::new().await;
    world.node("n1").await;
    let taints = |taints: Value| {
        move |node: &mut Node| {
            node.spec.get_or_insert_default().taints = serde_json::from_value(taints.clone()).unwrap();
            Ok(true)
        }
    };
    world.registry.modify("", "n1", taints(json!([{"key": "for", "effect": "NoSchedule"}]))).await.unwrap();
    world.until("the node is ready", |w| (ready(w, "n1")? == "True").then_some(())).await;
    for (name, cpu) in [("small", "1"), ("large", "9"), ("bearing", "1")] {
        let resources = json!({"requests": {"cpu": cpu}});
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
        world.create::<Pod>(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    }
    let why = |w: &World, name: &str| {
        let status = w.registry.get_typed::<Pod>("default", name)?.status?;
        let condition = status.conditions?.into_iter().find(|c| c.type_ == "PodScheduled")?;
        assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("Unschedulable")));
        condition.message
    };
    let sentence = "0/1 minions fit: 1 with the taint for:NoSchedule that the pod does not tolerate";
    let told = |w: &World, name: &str, sentence: &str| {
        w.beat("n1");
        why(w, name).is_some_and(|why| why == sentence).then_some(())
    };
    for name in ["small", "large", "bearing"] {
        world.until("all are told of the taint", |w| told(w, name, sentence)).await;
    }
    let events = |w: &World| {
        let events = w.registry.snapshot(coracle_api::core::Event::row());
        let failed = |e: &Arc<crate::registry::Entry>| e.field("reason") == Some("FailedScheduling");
        events.entries.values().filter(|e| failed(e)).count()
    };
    world.until("and by one event each", |w| (events(w) == 3).then_some(())).await;
    let placed = |w: &World, name: &str| w.pods().iter().any(|(n, p)| n == name && p.node.is_some()).then_some(());
    // The pod changes.
    let bear = |pod: &mut Pod| {
        let all = json!([{"operator": "Exists"}]);
        pod.spec.as_mut().unwrap().tolerations = serde_json::from_value(all).unwrap();
        Ok(true)
    };
    world.registry.modify("default", "bearing", bear).await.unwrap();
    world.until("the one that bears it is placed", |w| placed(w, "bearing")).await;
    assert_eq!((placed(&world, "small"), placed(&world, "large")), (None, None));
    // The node changes.
    world.registry.modify("", "n1", taints(Value::Null)).await.unwrap();
    world.until("the small one is placed", |w| placed(w, "small")).await;
    // What helped others is told within a round.
    let sentence = "0/1 minions fit: 1 too little cpu (needs 9000m, largest free 2000m)";
    world.until("the large one is told another reason", |w| told(w, "large", sentence)).await;
}

/// The status of the condition `Ready`, if there is one.
fn ready(world: &World, node: &str) -> Option<String> {
    let conditions = world.registry.get_typed::<Node>("", node)?.status?.conditions?;
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status)
}

#[tokio::test(start_paused = true)]
async fn a_minion_that_joins_late_is_not_called_silent_before_it_could_beat() {
    let world = World::new().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    world.create::<Node>(json!({"metadata": {"name": "n1"}})).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ready(&world, "n1"), None);
    world.until("without a beat it is silent", |w| (ready(w, "n1")? == "Unknown").then_some(())).await;
    world.beat("n1");
    world.until("with a beat it is ready", |w| (ready(w, "n1")? == "True").then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_silent_minion_are_marked_until_it_returns() {
    let world = World::new().await;
    world.node("n1").await;
    world.rc("web", 1).await;
    world.until("a pod is placed", |w| w.pods().iter().any(|(_, p)| p.node.is_some()).then_some(())).await;
    world.until("its minion falls silent", |w| w.pods().iter().all(|(_, p)| p.lost).then_some(())).await;
    world.beat("n1");
    world.until("and returns", |w| w.pods().iter().all(|(_, p)| !p.lost).then_some(())).await;
}

/// Waits while these minions beat.
async fn while_beating<T>(world: &World, what: &str, minions: &[&str], check: impl Fn(&World) -> Option<T>) -> T {
    let beating = |w: &World| {
        minions.iter().for_each(|minion| w.beat(minion));
        check(w)
    };
    world.until(what, beating).await
}

/// Lets seconds pass, in which these minions beat.
async fn pass(world: &World, minions: &[&str], seconds: usize) {
    for _ in 0..seconds {
        minions.iter().for_each(|minion| world.beat(minion));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn on(world: &World, node: &str) -> usize {
    world.pods().iter().filter(|(_, p)| p.node.as_deref() == Some(node)).count()
}

async fn bare_pod(world: &World, name: &str, annotations: serde_json::Value, volumes: serde_json::Value) {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": volumes, "nodeSelector": {}});
    let meta = json!({"name": name, "namespace": "default", "annotations": annotations});
    world.create::<Pod>(json!({"metadata": meta, "spec": spec})).await;
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_silent_minion_move_to_others() {
    let world = World::new().await;
    world.node("n1").await;
    bare_pod(&world, "bare", json!({}), json!([])).await;
    bare_pod(&world, "tied", json!({}), json!([{"name": "v", "hostPath": {"path": "/srv"}}])).await;
    world.rc("web", 2).await;
    while_beating(&world, "all are on n1", &["n1"], |w| (on(w, "n1") == 4).then_some(())).await;
    world.node("n2").await;
    let uid = |w: &World| w.registry.get_typed::<Pod>("default", "bare").and_then(|p| p.metadata.uid);
    let before = uid(&world);
    while_beating(&world, "n1 is silent", &["n2"], |w| (ready(w, "n1")? == "Unknown").then_some(())).await;
    while_beating(&world, "three have moved", &["n2"], |w| (on(w, "n2") == 3).then_some(())).await;
    assert_eq!((on(&world, "n1"), world.pods().len()), (1, 4), "{:#?}", world.pods());
    let tied = world.pods().into_iter().find(|(name, _)| name == "tied").unwrap().1;
    assert!(tied.lost && tied.node.as_deref() == Some("n1"), "its data is on n1");
    assert_ne!(uid(&world), before, "another pod of the same name");
    // Its minion deleted, there is nothing to wait for.
    world.registry.delete(Node::row(), "", "n1", Expected::Any).await.unwrap();
    while_beating(&world, "the tied one is gone", &["n2"], |w| (w.pods().len() == 3).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_minion_that_is_silent_for_less_than_its_grace_keeps_its_pods() {
    let world = World::new().await;
    world.node("n1").await;
    world.rc("web", 3).await;
    while_beating(&world, "all are on n1", &["n1"], |w| (on(w, "n1") == 3).then_some(())).await;
    world.node("n2").await;
    let names = |w: &World| w.pods().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let before = names(&world);
    pass(&world, &["n2"], 4).await;
    while_beating(&world, "both are ready", &["n1", "n2"], |w| (ready(w, "n1")? == "True").then_some(())).await;
    assert_eq!((names(&world), on(&world, "n1")), (before, 3));
}

#[tokio::test(start_paused = true)]
async fn nothing_moves_while_most_minions_are_silent() {
    let world = World::new().await;
    for name in ["n1", "n2", "n3"] {
        world.node(name).await;
    }
    world.rc("web", 6).await;
    let all = ["n1", "n2", "n3"];
    while_beating(&world, "two on each", &all, |w| all.iter().all(|n| on(w, n) == 2).then_some(())).await;
    let silent = |w: &World| (ready(w, "n1")? == "Unknown" && ready(w, "n2")? == "Unknown").then_some(());
    while_beating(&world, "two are silent", &["n3"], silent).await;
    pass(&world, &["n3"], 900).await;
    assert_eq!((on(&world, "n1"), on(&world, "n2"), on(&world, "n3")), (2, 2, 2));
    while_beating(&world, "one comes back", &["n2", "n3"], |w| (on(w, "n1") == 0).then_some(())).await;
    while_beating(&world, "the pods of the other moved", &["n2", "n3"], |w| {
        (on(w, "n2") + on(w, "n3") == 6).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_its_own_outlives_the_node_that_is_deleted() {
    let world = World::new().await;
    world.node("n1").await;
    bare_pod(&world, "bare", json!({}), json!([])).await;
    bare_pod(&world, "stays", json!({"io.coracle/on-minion-loss": "stay"}), json!([])).await;
    while_beating(&world, "both are on n1", &["n1"], |w| (on(w, "n1") == 2).then_some(())).await;
    world.node("n2").await;
    world.registry.delete(Node::row(), "", "n1", Expected::Any).await.unwrap();
    while_beating(&world, "one has moved", &["n2"], |w| (on(w, "n2") == 1 && w.pods().len() == 1).then_some(())).await;
    assert_eq!(world.pods()[0].0, "bare");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_to_be_replaced_goes_when_another_has_been_ready_for_a_while() {
    let world = World::new().await;
    world.node("n1").await;
    world.rc("web", 1).await;
    let old =
        while_beating(&world, "it is placed", &["n1"], |w| (on(w, "n1") == 1).then(|| w.pods().remove(0).0)).await;
    world.run_pod(&old, "10.244.0.2").await;
    let order = |pod: &mut Pod| {
        pod.metadata.annotations.get_or_insert_default().insert(REPLACE.into(), "{\"gracePeriodSeconds\":7}".into());
        Ok(true)
    };
    world.registry.modify("default", &old, order).await.unwrap();
    let other = |w: &World| w.pods().into_iter().find(|(name, p)| *name != old && p.node.is_some());
    let (new, _) = while_beating(&world, "another is made", &["n1"], other).await;
    let leaving = |w: &World| w.pods().into_iter().any(|(name, p)| name == old && p.terminating);
    pass(&world, &["n1"], 5).await;
    assert!(!leaving(&world), "the new one is not ready");
    world.run_pod(&new, "10.244.0.3").await;
    let begun = Instant::now();
    while_beating(&world, "it goes", &["n1"], |w| leaving(w).then_some(())).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "at once");
    assert_eq!(world.pods().len(), 2, "nothing else changed");
    let pod = world.registry.get_typed::<Pod>("default", &old).unwrap();
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(7));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_moves_is_made_anew_when_it_has_stopped_unless_somebody_deletes_it() {
    let world = World::new().await;
    world.node("n1").await;
    for name in ["moves", "goes"] {
        bare_pod(&world, name, json!({}), json!([])).await;
    }
    while_beating(&world, "both are placed", &["n1"], |w| (on(w, "n1") == 2).then_some(())).await;
    let uid = |w: &World, name: &str| w.registry.get(Pod::row(), "default", name).map(|e| e.uid().to_owned());
    let before = uid(&world, "moves");
    let now = jiff::Timestamp::now();
    for name in ["moves", "goes"] {
        let marked = deletion::move_pod(&world.registry, "default", name, None, now, |_| Ok(())).await.unwrap();
        assert!(marked.pod().unwrap().terminating);
    }
    deletion::delete_pod(&world.registry, "default", "goes", None, now).await.unwrap();
    // The minion's last word.
    for name in ["moves", "goes"] {
        deletion::delete_pod(&world.registry, "default", name, Some(0), now).await.unwrap();
    }
    assert_eq!(uid(&world, "goes"), None);
    while_beating(&world, "it is placed again", &["n1"], |w| (on(w, "n1") == 1).then_some(())).await;
    let moved = world.registry.get_typed::<Pod>("default", "moves").unwrap();
    assert!(moved.metadata.deletion_timestamp.is_none() && moved.metadata.uid != before);
    assert!(!moved.metadata.annotations.unwrap_or_default().contains_key("io.coracle/move"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_moves_without_grace_is_made_anew_at_once() {
    let world = World::new().await;
    world.node("n1").await;
    bare_pod(&world, "moves", json!({}), json!([])).await;
    while_beating(&world, "it is placed", &["n1"], |w| (on(w, "n1") == 1).then_some(())).await;
    let before = world.registry.get(Pod::row(), "default", "moves").unwrap();
    let now = jiff::Timestamp::now();
    let moved = deletion::move_pod(&world.registry, "default", "moves", Some(0), now, |_| Ok(())).await.unwrap();
    assert_ne!(moved.uid(), before.uid());
    assert!(world.registry.get(Pod::row(), "default", "moves").is_some_and(|now| now.uid() == moved.uid()));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_crashes_or_lacks_its_image_is_no_reason_for_another() {
    let world = World::new().await;
    world.node("n1").await;
    world.rc("web", 1).await;
    let name = world.until("a pod", |w| w.pods().first().map(|(name, _)| name.clone())).await;
    for (phase, reason) in [("Running", "CrashLoopBackOff"), ("Pending", "ImagePullBackOff")] {
        let set = |pod: &mut Pod| {
            let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 9,
                "state": {"waiting": {"reason": reason}}});
            let status = json!({"phase": phase, "containerStatuses": [container]});
            pod.status = Some(serde_json::from_value(status).unwrap());
            Ok(true)
        };
        world.registry.modify("default", &name, set).await.unwrap();
        tokio::time::sleep(2 * RESYNC).await;
        let names: Vec<_> = world.pods().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, std::slice::from_ref(&name), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_forgotten_and_its_pods_are_replaced() {
    let world = World::new().await;
    world.node("n1").await;
    world.rc("web", 1).await;
    let placed = |w: &World| w.pods().into_iter().find(|(_, p)| p.node.is_some()).map(|(name, _)| name);
    let first = world.until("a pod is placed", placed).await;
    world.registry.delete(Node::row(), "", "n1", Expected::Any).await.unwrap();
    world.until("its beats are forgotten", |w| w.liveness.snapshot().is_empty().then_some(())).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.pods()[0].0, first, "the minion could be back any moment");
    world.until("another pod waits", |w| w.pods().iter().all(|(name, _)| *name != first).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_minion_without_a_network_left_is_told_once() {
    let world = World::with_pods_in("10.244.0.0/24").await;
    world.node("n1").await;
    world.node("n2").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let events = world.registry.snapshot(coracle_api::core::Event::row());
    let told = events.entries.values().filter(|e| e.field("reason") == Some("NoPodNetwork")).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn endpoints_left_over_from_a_service_are_removed_and_those_of_a_user_stay() {
    let world = World::new().await;
    let labels = json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"});
    world.create::<Endpoints>(json!({"metadata": {"name": "mine", "namespace": "default"}})).await;
    world.create::<Endpoints>(json!({"metadata": {"name": "old", "namespace": "default", "labels": labels}})).await;
    let there = |w: &World, name: &str| w.registry.get(Endpoints::row(), "default", name).is_some();
    world.until("the old ones go", |w| (!there(w, "old")).then_some(())).await;
    assert!(there(&world, "mine"));
}

#[tokio::test]
async fn pods_that_a_deleted_controller_left_are_adopted_by_another() {
    let world = World::new().await;
    world.rc("a", 2).await;
    world.until("two pods", |w| (w.pods().len() == 2).then_some(())).await;
    let template = json!({"metadata": {"labels": {"app": "a", "by": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"app": "a"}, "template": template});
    world
        .create::<ReplicationController>(json!({"metadata": {"name": "b", "namespace": "default"}, "spec": spec}))
        .await;
    world.until("three more", |w| (w.pods().len() == 5).then_some(())).await;
    world.remove::<ReplicationController>("a", None).await;
    world.until("b keeps three of five", |w| (w.pods().len() == 3).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_taken_away_is_replaced_in_the_end() {
    let world = World::new().await;
    world.rc("web", 1).await;
    let name = world.until("a pod", |w| w.pods().first().map(|(name, _)| name.clone())).await;
    let take = |pod: &mut Pod| {
        (pod.metadata.labels, pod.metadata.owner_references) = (None, None);
        Ok(true)
    };
    world.registry.modify("default", &name, take).await.unwrap();
    tokio::time::sleep(RESYNC).await;
    world.until("another one", |w| (w.pods().len() == 2).then_some(())).await;
}

#[tokio::test]
async fn a_loop_that_fell_behind_is_told_to_start_anew() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let store = Arc::new(MemoryStore::default());
    let (loaded, updates) = store.load().await.unwrap();
    let limits = LogLimits { events_max: 100, ..Default::default() };
    let registry = Registry::start_with(store, loaded, updates, limits, &tasks, stop.clone()).unwrap();
    let mut nodes = std::pin::pin!(changes(registry.clone(), Node::row()));
    assert!(nodes.next().await.unwrap().anew);
    registry.create(Box::new(Node::default())).await.unwrap();
    assert_eq!(nodes.next().await.unwrap().items.len(), 1);
    for i in 0..101 {
        let mut node = Node::default();
        node.metadata.generation = Some(i);
        registry.update(Box::new(node), Expected::Any).await.unwrap();
    }
    assert!(nodes.next().await.unwrap().anew);
    assert_eq!(nodes.next().await.unwrap().items.len(), 1);
}

/// Says what it is asked to reconcile, and waits at a gate. Pods wake nobody.
struct Gated {
    asked: mpsc::Sender<Key>,
    gate: Arc<Semaphore>,
}

impl Controller for Gated {
    fn watches(&self) -> &'static [&'static Kind] {
        static KINDS: [&Kind; 2] =
            [&coracle_api::objects::replication_controller::KIND, &coracle_api::objects::pod::KIND];
        &KINDS
    }

    fn wakes(&self, item: &WatchItem) -> Vec<Key> {
        let ours = item.entry.kind == ReplicationController::row();
        ours.then(|| item.entry.key.clone()).into_iter().collect()
    }

    async fn reconcile(&self, key: &Key, _: &mut Looks) -> Result<Option<Duration>, ApiError> {
        self.asked.send(key.clone()).await.unwrap();
        self.gate.acquire().await.unwrap().forget();
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_loop_missed_while_its_watch_was_cut_off_is_looked_at() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let store = Arc::new(MemoryStore::default());
    let (loaded, updates) = store.load().await.unwrap();
    let limits = LogLimits { events_max: 100, ..Default::default() };
    let registry = Registry::start_with(store, loaded, updates, limits, &tasks, stop.clone()).unwrap();
    let (asked, mut heard) = mpsc::channel(64);
    let gate = Arc::new(Semaphore::new(0));
    tasks.spawn(drive(Gated { asked, gate: gate.clone() }, registry.clone(), stop.clone()));
    registry.create(Box::new(ReplicationController::default())).await.unwrap();
    let mut next = async || tokio::time::timeout(Duration::from_secs(1), heard.recv()).await.is_ok();
    assert!(next().await, "the new one");
    gate.add_permits(8);
    while next().await {}
    gate.forget_permits(8);
    let mut changed = ReplicationController::default();
    changed.metadata.generation = Some(1);
    registry.update(Box::new(changed), Expected::Any).await.unwrap();
    assert!(next().await, "the changed one, during which nobody looks");
    registry.create(Box::new(Pod::default())).await.unwrap();
    for i in 0..101 {
        let mut pod = Pod::default();
        pod.metadata.generation = Some(i);
        registry.update(Box::new(pod), Expected::Any).await.unwrap();
    }
    gate.add_permits(1);
    assert!(next().await, "pods may have gone");
    stop.cancel();
}

impl World {
    async fn remove<T: TypedObject>(&self, name: &str, propagation: Option<Propagation>) -> Removed {
        let removal = Removal { propagation, ..Removal::default() };
        crate::admission::remove(&self.registry, T::row(), "default", name, &removal, jiff::Timestamp::now())
            .await
            .unwrap()
    }

    fn owner(&self, name: &str) -> Value {
        let rc = self.registry.get(ReplicationController::row(), "default", name).unwrap();
        json!({"apiVersion": "v1", "kind": "ReplicationController", "name": name, "uid": rc.uid()})
    }

    /// A service that belongs to these.
    async fn owned_service(&self, name: &str, owners: Value) {
        let metadata = json!({"name": name, "namespace": "default", "ownerReferences": owners});
        self.create::<Service>(json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}})).await;
    }

    fn owners_of<T: TypedObject>(&self, name: &str) -> Option<usize> {
        self.registry.get(T::row(), "default", name).map(|entry| entry.owners().len())
    }
}

#[tokio::test]
async fn what_belongs_to_nobody_any_more_goes_and_what_belongs_to_others_stays() {
    let world = World::new().await;
    world.rc("web", 3).await;
    world.rc("other", 0).await;
    world.until("three pods", |w| (w.pods().len() == 3).then_some(())).await;
    let foreign = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "y"});
    world.owned_service("owned", json!([world.owner("web")])).await;
    world.owned_service("shared", json!([world.owner("web"), world.owner("other")])).await;
    world.owned_service("foreign", json!([world.owner("web"), foreign])).await;
    assert!(matches!(
        world.remove::<ReplicationController>("web", Some(Propagation::Background)).await,
        Removed::Gone(_)
    ));
    world.until("its pods are gone", |w| w.pods().is_empty().then_some(())).await;
    world.until("its service is gone", |w| w.owners_of::<Service>("owned").is_none().then_some(())).await;
    for kept in ["shared", "foreign"] {
        world.until("the other owner keeps it", |w| (w.owners_of::<Service>(kept) == Some(1)).then_some(())).await;
    }
    let gone = json!({"apiVersion": "v1", "kind": "Pod", "name": "never", "uid": "was"});
    world.owned_service("late", json!([gone])).await;
    world.until("an owner that is not there", |w| w.owners_of::<Service>("late").is_none().then_some(())).await;
}

#[tokio::test]
async fn a_controller_leaves_its_pods_behind_unless_told_otherwise() {
    let world = World::new().await;
    world.rc("web", 3).await;
    world.until("three pods", |w| (w.pods().len() == 3).then_some(())).await;
    let before = world.pods();
    assert!(matches!(world.remove::<ReplicationController>("web", None).await, Removed::Gone(_)));
    let names = |pods: Vec<(String, PodFacts)>| pods.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(world.pods()), names(before.clone()));
    assert!(world.pods().iter().all(|(_, pod)| pod.owner.is_none()), "{:?}", world.pods());
    world.rc("web", 3).await;
    world.until("its successor adopts them", |w| w.pods().iter().all(|(_, p)| p.owner.is_some()).then_some(())).await;
    assert_eq!(names(world.pods()), names(before));
}

#[tokio::test]
async fn a_controller_stopped_and_removed_at_once_leaves_no_pod_behind() {
    let world = World::new().await;
    world.rc("web", 30).await;
    world.until("its pods", |w| (w.pods().len() == 30).then_some(())).await;
    world.scale("web", 0).await;
    world.remove::<ReplicationController>("web", None).await;
    world.until("its pods are gone", |w| w.pods().is_empty().then_some(())).await;
}

#[tokio::test]
async fn an_owner_told_to_go_last_waits_for_its_pods() {
    let world = World::new().await;
    world.node("n1").await;
    world.rc("web", 2).await;
    world
        .until("two are placed", |w| (w.pods().iter().filter(|p| p.1.node.is_some()).count() == 2).then_some(()))
        .await;
    assert!(matches!(
        world.remove::<ReplicationController>("web", Some(Propagation::Foreground)).await,
        Removed::Ending(_)
    ));
    world.until("its pods are told to stop", |w| w.pods().iter().all(|(_, p)| p.terminating).then_some(())).await;
    for (name, _) in world.pods() {
        assert!(world.owners_of::<ReplicationController>("web").is_some(), "gone before {name}");
        crate::deletion::delete_pod(&world.registry, "default", &name, Some(0), jiff::Timestamp::now()).await.unwrap();
    }
    world.until("it goes", |w| w.owners_of::<ReplicationController>("web").is_none().then_some(())).await;
    assert!(world.pods().is_empty(), "{:?}", world.pods());
}

#[tokio::test]
async fn an_object_with_a_finalizer_goes_when_that_is_taken_off() {
    let world = World::new().await;
    let metadata = json!({"name": "web", "namespace": "default", "finalizers": ["example.com/wait"]});
    world.create::<Service>(json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}})).await;
    for propagation in [None, Some(Propagation::Orphan), Some(Propagation::Foreground)] {
        assert!(matches!(world.remove::<Service>("web", propagation).await, Removed::Ending(_)), "{propagation:?}");
    }
    let take_off = |service: &mut Service| {
        assert_eq!(service.metadata.finalizers.take(), Some(vec!["example.com/wait".to_owned()]));
        Ok(true)
    };
    world.registry.modify("default", "web", take_off).await.unwrap();
    world.until("it goes", |w| w.owners_of::<Service>("web").is_none().then_some(())).await;
}

#[tokio::test]
async fn a_loop_that_ends_by_itself_is_a_failure_and_one_that_was_stopped_is_not() {
    let (stop, failed) = (CancellationToken::new(), CancellationToken::new());
    stop.cancel();
    watched("stopped", async {}.boxed(), stop, failed.clone()).await;
    assert!(!failed.is_cancelled());
    watched("broken", async { panic!("a bug") }.boxed(), CancellationToken::new(), failed.clone()).await;
    assert!(failed.is_cancelled());
}
