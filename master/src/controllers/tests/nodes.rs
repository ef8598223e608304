//! Minions join, beat, fall silent and go, and what becomes of their pods.

use super::*;
use crate::deletion;

/// The status of the condition `Ready`, if there is one.
async fn bare_pod(world: &World, name: &str, annotations: serde_json::Value, volumes: serde_json::Value) {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": volumes, "nodeSelector": {}});
    let meta = json!({"name": name, "namespace": "default", "annotations": annotations});
    world.create::<Pod>(json!({"metadata": meta, "spec": spec})).await;
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
