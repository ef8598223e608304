//! Evictions, as `kubectl drain` orders them.

use coracle_api::core::Pod;
use serde_json::{Value, json};

use crate::harness::{Master, PODS};

fn eviction(name: &str, annotations: Value) -> Value {
    json!({"kind": "Eviction", "apiVersion": "policy/v1",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": null, "annotations": annotations}})
}

#[tokio::test]
async fn a_pod_of_a_controller_is_marked_and_others_are_deleted_or_moved() {
    let master = Master::start().await;
    let rcs = "/api/v1/namespaces/default/replicationcontrollers";
    let rc = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"app": "web"}, "template": {
        "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let rc = master.post(rcs, &rc).await.expect(201).json();
    master.add_node("h1").await;
    for name in ["owned", "bare", "moves"] {
        master.add_bound_pod(name, "h1").await;
    }
    let owner = json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": rc["metadata"]["uid"],
        "controller": true}]);
    let patch = json!({"metadata": {"ownerReferences": owner}});
    master.patch(&format!("{PODS}/owned"), "merge-patch", &patch).await.expect(200);

    let evict = async |name: &str, body: &Value| master.post(&format!("{PODS}/{name}/eviction"), body).await;
    let pods = master.client.namespaced::<Pod>("default");
    let mut with_options = eviction("owned", json!({}));
    with_options["deleteOptions"] = json!({"gracePeriodSeconds": 3, "dryRun": ["All"]});
    evict("owned", &with_options).await.expect(201);
    let replace = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|a| a.get("io.coracle/replace")).cloned();
    assert_eq!(replace(&pods.get("owned").await.unwrap()), None, "a dry run");
    with_options["deleteOptions"]["dryRun"] = json!([]);
    let answer = evict("owned", &with_options).await.expect(201).json();
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    let owned = pods.get("owned").await.unwrap();
    assert_eq!(replace(&owned).as_deref(), Some("{\"gracePeriodSeconds\":3}"));
    assert!(owned.metadata.deletion_timestamp.is_none());

    let ordered = eviction("bare", json!({"io.coracle/replace": "{}"}));
    evict("bare", &ordered).await.refused(409, "no replication controller");
    evict("bare", &eviction("bare", json!({}))).await.expect(201);
    let bare = pods.get("bare").await.unwrap();
    assert!(bare.metadata.deletion_timestamp.is_some() && bare.metadata.annotations.is_none_or(|a| a.is_empty()));
    evict("moves", &eviction("moves", json!({"io.coracle/move": "true"}))).await.expect(201);
    pods.delete("moves", Some(0), None).await.unwrap();
    let moved = pods.get("moves").await.unwrap();
    assert_eq!(moved.spec.and_then(|s| s.node_name), None);

    evict("nope", &eviction("nope", json!({}))).await.refused(404, "pods \"nope\" not found");
    let mut stale = eviction("owned", json!({}));
    stale["deleteOptions"] = json!({"preconditions": {"uid": "another"}});
    evict("owned", &stale).await.refused(409, "uid is");
    stale["deleteOptions"] = json!({"preconditions": {"resourceVersion": "1"}});
    evict("owned", &stale).await.refused(409, "resourceVersion is");
    let page = master.get("/api/v1").await.expect(200).json();
    let rows = page["resources"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "pods/eviction").unwrap();
    assert_eq!((&row["group"], &row["version"], &row["kind"]), (&json!("policy"), &json!("v1"), &json!("Eviction")));
}
