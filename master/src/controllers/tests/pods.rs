//! Pods are made, placed, replaced and forgotten.

use coracle_api::{core::Event, objects::replacement::REPLACE};

use super::*;

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
