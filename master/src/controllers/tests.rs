//! All loops together over a memory store.

mod driver;
mod nodes;
mod owners;
mod pods;
mod services;

use std::{net::SocketAddr, sync::Arc};

use coracle_api::{
    Object, TypedObject,
    core::{Node, Pod, ReplicationController},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    admission::{Propagation, Removal, Removed},
    coordination::Alone,
    liveness::{Beat, Condition, Liveness},
    plans::Plans,
    registry::{Expected, PodFacts},
    store::MemoryStore,
};

/// How often minions beat.
const BEAT: Duration = Duration::from_secs(2);

/// A registry with every loop running.
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

    async fn remove<T: TypedObject>(&self, name: &str, propagation: Option<Propagation>) -> Removed {
        let removal = Removal { propagation, ..Removal::default() };
        crate::admission::remove(&self.registry, T::row(), "default", name, &removal, jiff::Timestamp::now())
            .await
            .unwrap()
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

fn ready(world: &World, node: &str) -> Option<String> {
    let conditions = world.registry.get_typed::<Node>("", node)?.status?.conditions?;
    conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status)
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
