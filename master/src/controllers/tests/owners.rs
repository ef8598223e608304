//! What goes with its owner, and what stays.

use coracle_api::{
    core::{Namespace, Service},
    objects::replacement::MOVE,
};

use super::*;
use crate::{admission, deletion};

impl World {
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
        deletion::delete_pod(&world.registry, "default", &name, Some(0), jiff::Timestamp::now()).await.unwrap();
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
async fn a_namespace_goes_when_nothing_in_it_waits_for_anybody() {
    let world = World::new().await;
    world.create::<Namespace>(json!({"metadata": {"name": "ci"}})).await;
    let service = |name: &str, finalizers: &[&str]| {
        let metadata = json!({"name": name, "namespace": "ci", "finalizers": finalizers});
        json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}})
    };
    world.create::<Service>(service("plain", &[])).await;
    world.create::<Service>(service("held", &["example.com/balancer"])).await;
    let removal = Removal::default();
    admission::remove(&world.registry, Namespace::row(), "", "ci", &removal, jiff::Timestamp::now()).await.unwrap();
    let there = |w: &World, name: &str| w.registry.get(Service::row(), "ci", name).is_some();
    world.until("what waits for nobody is gone", |w| (!there(w, "plain")).then_some(())).await;
    world.until("what waits is told", |w| w.registry.get(Service::row(), "ci", "held").filter(|e| e.is_ending())).await;
    assert!(world.registry.get(Namespace::row(), "", "ci").is_some(), "it is not empty");
    let take_off = |service: &mut Service| {
        service.metadata.finalizers = None;
        Ok(true)
    };
    world.registry.modify("ci", "held", take_off).await.unwrap();
    world.until("it goes", |w| w.registry.get(Namespace::row(), "", "ci").is_none().then_some(())).await;
}

#[tokio::test]
async fn a_pod_that_was_to_move_ends_with_its_namespace() {
    let world = World::new().await;
    world.node("n1").await;
    world.create::<Namespace>(json!({"metadata": {"name": "ci"}})).await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
    world.create::<Pod>(json!({"metadata": {"name": "p", "namespace": "ci"}, "spec": spec})).await;
    let now = jiff::Timestamp::now();
    deletion::move_pod(&world.registry, "ci", "p", None, now, |_| Ok(())).await.unwrap();
    let moves = |w: &World| {
        let pod = w.registry.get_typed::<Pod>("ci", "p").expect("a pod that ends, until its minion says so");
        pod.metadata.annotations.is_some_and(|a| a.contains_key(MOVE))
    };
    assert!(moves(&world));
    admission::remove(&world.registry, Namespace::row(), "", "ci", &Removal::default(), now).await.unwrap();
    world.until("it does not move", |w| (!moves(w)).then_some(())).await;
    deletion::delete_pod(&world.registry, "ci", "p", Some(0), now).await.unwrap();
    world.until("both are gone", |w| w.registry.get(Namespace::row(), "", "ci").is_none().then_some(())).await;
}
