//! Where pods would go, asked over HTTP: answered as the scheduler decides, and nothing is created.

use coracle_api::{
    core::{Node, Pod},
    schedule::ScheduleExplanation,
};
use serde_json::{Value, json};

use crate::harness::{Master, PODS, pod, typed};

const SCHEDULE: &str = "/coracle/v1/schedule";

async fn add_node(master: &Master, name: &str, cpu: &str, spec: Value) {
    let node: Node = typed(json!({"metadata": {"name": name}, "spec": spec, "status": {
        "allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }}));
    master.registry.create(Box::new(node)).await.unwrap();
}

fn asking(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

async fn ask(master: &Master, body: Value) -> ScheduleExplanation {
    let reply = master.post(SCHEDULE, &body).await.expect(200);
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn a_pod_is_told_where_it_would_go_and_why_not_elsewhere() {
    let master = Master::start().await;
    let empty = ask(&master, asking("web", "1")).await;
    assert!(empty.pods[0].message.contains("no minion has joined yet"), "{empty:?}");
    add_node(&master, "a", "4", json!({})).await;
    add_node(&master, "b", "4", json!({"taints": [{"key": "for", "value": "db", "effect": "NoSchedule"}]})).await;
    add_node(&master, "c", "500m", json!({})).await;
    let version = master.registry.version();
    let one = ask(&master, asking("web", "1")).await;
    let placed = &one.pods[0];
    assert_eq!((one.minions, placed.minion.as_deref()), (3, Some("a")));
    assert_eq!((placed.namespace.as_str(), placed.name.as_str()), ("default", "web"));
    assert_eq!(placed.message, "goes to a, the only minion that fits");
    assert_eq!(placed.verdicts[0].points.len(), one.priorities.len());
    let why: Vec<_> = placed.verdicts[1..].iter().map(|v| (v.minion.as_str(), v.message.as_str())).collect();
    let taint = "with the taint for=db:NoSchedule that the pod does not tolerate";
    assert_eq!(why, [("b", taint), ("c", "too little cpu (needs 1000m, free 500m)")]);
    let none = ask(&master, asking("huge", "9")).await;
    assert_eq!(none.pods[0].minion, None);
    assert!(none.pods[0].message.starts_with("waits: 0/3 minions fit: 2 too little cpu"), "{none:?}");
    assert_eq!(master.registry.version(), version, "nothing is written");
}

#[tokio::test]
async fn several_pods_and_controllers_count_those_before_them() {
    let master = Master::start().await;
    add_node(&master, "a", "2", json!({})).await;
    add_node(&master, "b", "2", json!({})).await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": asking("x", "900m")["spec"]});
    let rc = json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"app": "web"}, "template": template}});
    let service =
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    let old = json!({"kind": "Pod", "apiVersion": "v1beta1", "id": "old", "desiredState": {"manifest": {
        "version": "v1beta1", "id": "old", "containers": [{"name": "c", "image": "i", "cpu": 900}]}}});
    let list = json!({"kind": "List", "apiVersion": "v1", "items": [rc, service, old, asking("last", "900m")]});
    let all = ask(&master, list).await;
    let names: Vec<_> = all.pods.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["web-1", "web-2", "web-3", "old", "last"]);
    let on = |node: &str| all.pods.iter().filter(|p| p.minion.as_deref() == Some(node)).count();
    assert_eq!((on("a"), on("b")), (2, 2), "{all:?}");
    assert!(
        all.pods[4].message.contains("2 too little cpu (needs 900m, largest free 200m)"),
        "{}",
        all.pods[4].message
    );
    assert_eq!(all.ignored, ["service/s"]);
}

#[tokio::test]
async fn the_question_is_checked_like_a_creation() {
    let master = Master::start().await;
    add_node(&master, "a", "2", json!({})).await;
    master.post(SCHEDULE, &asking("A", "1")).await.refused(422, "metadata.name");
    master
        .post(SCHEDULE, &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}}))
        .await
        .refused(400, "nothing in the body has pods");
    master.post(SCHEDULE, &json!({"kind": "Bogus", "apiVersion": "v1"})).await.refused(400, "no kind");
    master.post(&format!("{SCHEDULE}?namespace=none"), &pod("a")).await.refused(404, "none");
    assert_eq!(master.get(SCHEDULE).await.code, 405);
    // One of that name may be there: the question is where another would go.
    master.post(PODS, &asking("web", "1")).await.expect(201);
    let again = ask(&master, asking("web", "1")).await;
    assert_eq!((again.pods[0].name.as_str(), again.pods[0].minion.as_deref()), ("web", Some("a")));
    let bound: Pod = typed(json!({"metadata": {"name": "bound", "namespace": "default"}, "spec": {"nodeName": "a",
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1500m"}}}]}}));
    master.registry.create(Box::new(bound)).await.unwrap();
    let full = ask(&master, asking("web", "1")).await;
    assert_eq!(full.pods[0].message, "waits: 0/1 minions fit: 1 too little cpu (needs 1000m, largest free 500m)");
}
