//! The API of 2014 on the same objects: the article's files, its answers, its errors.

use coracle_api::core::{Pod, Service};
use serde_json::{Value, json};

use crate::harness::{Master, cluster_ip, pod, typed, within};

const OLD: &str = "/api/v1beta1";

/// Spec §0.1, byte for byte.
const POD: &str = r#"{"id":"jenkins","kind":"Pod","apiVersion":"v1beta1","desiredState":{"manifest":{"version":"v1beta1","id":"jenkins",
 "containers":[{"name":"jenkins","image":"csanchez/jenkins-swarm:1.565.3.3",
   "ports":[{"containerPort":8080,"hostPort":8080},{"containerPort":50000,"hostPort":50000}],
   "volumeMounts":[{"name":"jenkins-data","mountPath":"/var/jenkins_home"}]}],
 "volumes":[{"name":"jenkins-data","source":{"emptyDir":{}}}]}},
 "labels":{"name":"jenkins"}}"#;
const SERVICE: &str = r#"{"id":"jenkins","kind":"Service","apiVersion":"v1beta1","port":8888,"containerPort":8080,"selector":{"name":"jenkins"}}"#;
const CONTROLLER: &str = r#"{"id":"jenkins-slave","apiVersion":"v1beta1","kind":"ReplicationController","desiredState":{"replicas":1,
 "replicaSelector":{"name":"jenkins-slave"},
 "podTemplate":{"desiredState":{"manifest":{"version":"v1beta1","id":"jenkins-slave","containers":[
   {"name":"jenkins-slave","image":"csanchez/jenkins-swarm-slave:1.21",
    "command":["sh","-c","/usr/local/bin/jenkins-slave.sh -master http://$JENKINS_SERVICE_HOST:$JENKINS_SERVICE_PORT -tunnel $JENKINS_SLAVE_SERVICE_HOST:$JENKINS_SLAVE_SERVICE_PORT -username jenkins -password jenkins -executors 1"]}]}},
  "labels":{"name":"jenkins-slave"}}},
 "labels":{"name":"jenkins-slave"}}"#;

impl Master {
    async fn old_post(&self, path: &str, body: &str) -> crate::harness::Reply {
        // Clients of 2014 sent no content type.
        self.send("POST", &format!("{OLD}/{path}"), &[], body.to_owned()).await
    }
}

#[tokio::test]
async fn the_files_of_the_article_are_accepted() {
    let master = Master::start().await;
    let created = master.old_post("pods", POD).await.expect(201).json();
    assert_eq!(
        (&created["kind"], &created["id"], &created["apiVersion"]),
        (&json!("Pod"), &json!("jenkins"), &json!("v1beta1"))
    );
    assert_eq!(created["currentState"]["status"], "Waiting");
    assert_eq!(created["labels"], json!({"name": "jenkins"}));
    let service = master.old_post("services", SERVICE).await.expect(201).json();
    assert!(service["portalIP"].as_str().unwrap().starts_with("10.0.0."), "{service}");
    assert_eq!((&service["port"], &service["containerPort"]), (&json!(8888), &json!(8080)));
    let controller = master.old_post("replicationControllers", CONTROLLER).await.expect(201).json();
    assert_eq!(controller["desiredState"]["replicas"], 1);

    // The same objects through the other version.
    let pod = master.client.namespaced::<Pod>("default").get("jenkins").await.unwrap();
    assert_eq!(pod.spec.unwrap().containers[0].image.as_deref(), Some("csanchez/jenkins-swarm:1.565.3.3"));
    let hub = master.client.namespaced::<Service>("default").get("jenkins").await.unwrap();
    assert_eq!(service["portalIP"], cluster_ip(&hub));

    let list = master.get(&format!("{OLD}/pods")).await.expect(200).json();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("PodList"), 1));
    assert!(list["resourceVersion"].is_u64(), "{list}");
    let picked = master.get(&format!("{OLD}/pods?labels=name%3Dother")).await.expect(200).json();
    assert_eq!(picked["items"], json!([]));
    let unassigned = master.get(&format!("{OLD}/pods?fields=DesiredState.Host%3D")).await.expect(200).json();
    assert_eq!(unassigned["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_controller_is_resized_as_kubecfg_did_it() {
    let master = Master::start().await;
    master.old_post("replicationControllers", CONTROLLER).await.expect(201);
    let path = format!("{OLD}/replicationControllers/jenkins-slave");
    let mut read = master.get(&path).await.expect(200).json();
    read["desiredState"]["replicas"] = 2.into();
    let resized = master.put(&path, &read).await.expect(200).json();
    assert_eq!(resized["desiredState"]["replicas"], 2);
    let stale = master.put(&path, &read).await.expect(409).json();
    assert_eq!((&stale["reason"], &stale["apiVersion"]), (&json!("Conflict"), &json!("v1beta1")));
    assert!(
        stale["message"].as_str().unwrap().starts_with("replicationController \"jenkins-slave\" cannot be updated: ")
    );
    // Without a version the present one is meant; the name is the body's, whatever the path says.
    read.as_object_mut().unwrap().remove("resourceVersion");
    read["desiredState"]["replicas"] = 0.into();
    let stopped = master.put(&format!("{OLD}/replicationControllers/anything"), &read).await.expect(200).json();
    assert_eq!(stopped["desiredState"]["replicas"], 0);
    let gone = master.delete(&path).await.expect(200).text();
    assert_eq!(gone, r#"{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Success"}"#);
}

/// No controller runs here, so these are pods that the controller of the stop had no time to delete.
#[tokio::test]
async fn rm_right_after_stop_does_not_set_the_last_pods_free() {
    let master = Master::start().await;
    let path = format!("{OLD}/replicationControllers/jenkins-slave");
    for (replicas, owners) in [("2", None), ("0", Some(1))] {
        let body = CONTROLLER.replacen("\"replicas\":1", &format!("\"replicas\":{replicas}"), 1);
        master.old_post("replicationControllers", &body).await.expect(201);
        let uid = master.get(&path).await.expect(200).json()["uid"].clone();
        let name = format!("slave-{replicas}");
        let mut slave = pod(&name);
        let owner = json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "jenkins-slave", "uid": uid,
            "controller": true});
        slave["metadata"]["ownerReferences"] = json!([owner]);
        master.post("/api/v1/namespaces/default/pods", &slave).await.expect(201);
        master.delete(&path).await.expect(200);
        master.get(&path).await.expect(404);
        let left = master.registry.get_typed::<Pod>("default", &name).unwrap().metadata.owner_references;
        assert_eq!(left.filter(|o| !o.is_empty()).map(|o| o.len()), owners, "of {replicas}");
    }
}

#[tokio::test]
async fn errors_have_the_words_of_2014_and_the_right_codes() {
    let master = Master::start().await;
    let check = async |reply: crate::harness::Reply, code: u16, part: &str| {
        let reply = reply.expect(code);
        let status = reply.json();
        assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("Status"), &json!("v1beta1")));
        assert!(reply.message().contains(part), "{}", reply.message());
        status
    };
    let missing = check(master.get(&format!("{OLD}/pods/nope")).await, 404, "pod \"nope\" not found").await;
    assert_eq!(missing["details"]["id"], "nope");
    master.old_post("pods", POD).await.expect(201);
    check(master.old_post("pods", POD).await, 409, "pod \"jenkins\" already exists").await;
    check(master.old_post("pods", "").await, 400, "empty").await;
    check(master.old_post("pods", SERVICE).await, 400, "Service").await;
    let no_version = POD.replace("\"version\":\"v1beta1\",", "");
    check(master.old_post("pods", &no_version).await, 422, "desiredState.manifest").await;
    check(master.get(&format!("{OLD}/pods?labels=bogus")).await, 400, "bogus").await;
    check(master.get(&format!("{OLD}/pods?fields=bogus%3D1")).await, 400, "bogus").await;
    check(
        master.old_post("pods?namespace=b", &POD.replacen('{', "{\"namespace\":\"a\",", 1)).await,
        409,
        "does not match",
    )
    .await;
    for (method, path, code, text) in [
        ("GET", "bogus", 404, "404: Page Not Found"),
        ("GET", "operations/1", 404, "404: Page Not Found"),
        ("PATCH", "pods/x", 405, "405: Method Not Allowed"),
        ("GET", "bindings", 405, "405: Method Not Allowed"),
    ] {
        let reply = master.send(method, &format!("{OLD}/{path}"), &[], "").await.expect(code);
        assert_eq!(reply.text(), text);
    }
}

#[tokio::test]
async fn any_namespace_exists_for_those_who_name_one() {
    let master = Master::start().await;
    let created = master.old_post("pods?namespace=team", POD).await.expect(201).json();
    assert_eq!(created["namespace"], "team");
    master.get("/api/v1/namespaces/team").await.expect(200);
    master.get(&format!("{OLD}/pods/jenkins")).await.expect(404);
    master.get(&format!("{OLD}/pods/jenkins?namespace=team")).await.expect(200);
}

#[tokio::test]
async fn a_yaml_body_with_trailing_commas_is_read() {
    let master = Master::start().await;
    let body =
        "{\"id\":\"web\",\"kind\":\"Service\",\"apiVersion\":\"v1beta1\",\"port\":80,\"selector\":{\"a\":\"b\",},}";
    master.old_post("services", body).await.expect(201);
}

#[tokio::test]
async fn a_watch_of_2014_sees_objects_of_2014() {
    let master = Master::start().await;
    master.old_post("pods", POD).await.expect(201);
    let mut lines = master.watch(&format!("{OLD}/watch/pods?labels=name%3Djenkins")).await;
    let line = lines.next().await.unwrap();
    assert_eq!((&line["type"], &line["object"]["apiVersion"]), (&json!("ADDED"), &json!("v1beta1")));
    assert!(line["object"]["resourceVersion"].is_u64(), "{line}");
    master.post("/api/v1/namespaces/default/pods", &pod("other")).await.expect(201);
    master.delete(&format!("{OLD}/pods/jenkins")).await.expect(200);
    assert_eq!(lines.event().await, "DELETED jenkins");
    let end = master.watch(&format!("{OLD}/watch/pods?resourceVersion=999999")).await.next().await.unwrap();
    assert_eq!((&end["type"], &end["object"]["apiVersion"]), (&json!("ERROR"), &json!("v1beta1")));
}

#[tokio::test]
async fn a_deletion_is_answered_when_the_pod_is_gone() {
    let master = Master::start().await;
    master.add_node("n1").await;
    master.add_bound_pod("a", "n1").await;
    let path = format!("{OLD}/pods/a");
    let deleting = master.delete(&path);
    tokio::pin!(deleting);
    // The minion's part: it sees the mark, stops the pod and confirms.
    let minion = async {
        let mut lines = master.watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1").await;
        loop {
            let line: Value = lines.next().await.unwrap();
            if line["object"]["metadata"]["deletionTimestamp"].is_string() {
                break;
            }
        }
        let uid = master.registry.get_typed::<Pod>("default", "a").unwrap().metadata.uid;
        master.client.namespaced::<Pod>("default").delete("a", Some(0), uid.as_deref()).await.unwrap();
    };
    let (reply, ()) = within(futures_util::future::join(&mut deleting, minion)).await;
    assert_eq!(reply.expect(200).json()["status"], "Success");
    master.client.namespaced::<Pod>("default").create(&typed(pod("a"))).await.unwrap();
}

#[tokio::test]
async fn a_deletion_that_takes_too_long_is_said_to_be_under_way() {
    let master = Master::start().await;
    master.add_node("n1").await;
    let mut object = pod("a");
    object["spec"]["terminationGracePeriodSeconds"] = 1.into();
    object["metadata"]["name"] = "a".into();
    master.post("/api/v1/namespaces/default/pods", &object).await.expect(201);
    master
        .old_post("bindings", r#"{"kind":"Binding","apiVersion":"v1beta1","podID":"a","host":"n1"}"#)
        .await
        .expect(201);
    let working = master.delete(&format!("{OLD}/pods/a")).await.expect(202).json();
    assert_eq!((&working["kind"], &working["status"]), (&json!("Status"), &json!("Working")));
}

#[tokio::test]
async fn a_pod_on_a_minion_takes_a_new_image_and_nothing_that_would_move_it() {
    let master = Master::start().await;
    master.add_node("n1").await;
    master.old_post("pods", POD).await.expect(201);
    master.old_post("bindings", r#"{"kind":"Binding","podID":"jenkins","host":"n1"}"#).await.expect(201);
    let path = format!("{OLD}/pods/jenkins");
    let mut read = master.get(&path).await.expect(200).json();
    assert_eq!(read["currentState"]["host"], "n1");
    let container = "/desiredState/manifest/containers/0";
    read.pointer_mut(container).unwrap()["image"] = "csanchez/jenkins-swarm:2".into();
    let written = master.put(&path, &read).await.expect(200).json();
    assert_eq!(written.pointer(container).unwrap()["image"], "csanchez/jenkins-swarm:2");
    let pod = master.client.namespaced::<Pod>("default").get("jenkins").await.unwrap();
    assert_eq!(pod.spec.unwrap().containers[0].image.as_deref(), Some("csanchez/jenkins-swarm:2"));
    let mut moved = master.get(&path).await.expect(200).json();
    moved.pointer_mut(container).unwrap()["ports"][0]["hostPort"] = 9090.into();
    let refused = master.put(&path, &moved).await.expect(422);
    assert!(refused.message().contains("desiredState.manifest"), "{}", refused.message());
}

#[tokio::test]
async fn what_minions_could_not_run_is_refused_and_names_of_today_are_taken() {
    let master = Master::start().await;
    for (from, to, field) in [
        (r#""id":"jenkins","kind":"Pod""#, r#""id":"Jen_kins","kind":"Pod""#, "name: invalid value: 'Jen_kins'"),
        (r#""containers":[{"#, r#""containers":[],"surprise":[{"#, "desiredState.manifest.containers: required value"),
    ] {
        assert!(POD.contains(from), "{from}");
        let reply = master.old_post("pods", &POD.replacen(from, to, 1)).await.expect(422);
        assert!(reply.message().contains(field), "{}", reply.message());
    }
    // 0.5.4 took neither more than 24 letters nor dots and slashes.
    let labels = r#""labels":{"app.example.com/a-name-of-more-than-24-letters":"x"}"#;
    master.old_post("pods", &POD.replacen(r#""labels":{"name":"jenkins"}"#, labels, 1)).await.expect(201);
    let service = SERVICE.replacen(r#""id":"jenkins""#, r#""id":"a-service-of-more-than-24-letters""#, 1);
    master.old_post("services", &service).await.expect(201);
}

#[tokio::test]
async fn a_refused_service_takes_no_address_away() {
    let master = Master::start().await;
    master.old_post("services", SERVICE).await.expect(201);
    // More often than there are addresses in the range, a /24.
    for _ in 0..300 {
        master.old_post("services", SERVICE).await.expect(409);
    }
    master.old_post("services", &SERVICE.replacen("jenkins", "another", 1)).await.expect(201);
}

#[tokio::test]
async fn a_minion_that_was_never_heard_of_is_read_and_removed_and_holds_up_nobody() {
    let master = Master::start().await;
    master.add_node("n1").await;
    master.add_bound_pod("a", "n1").await;
    let minion = format!("{OLD}/minions/n1");
    assert_eq!(master.get(&minion).await.expect(200).json()["id"], "n1");
    for list in ["minions", "pods"] {
        let list = master.get(&format!("{OLD}/{list}")).await.expect(200).json();
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    }
    master.delete(&minion).await.expect(200);
    master.get(&minion).await.expect(404);
}

#[tokio::test]
async fn minions_are_nodes() {
    let master = Master::start().await;
    master.add_node("n1").await;
    let list = master.get(&format!("{OLD}/minions?namespace=default")).await.expect(200).json();
    assert_eq!((&list["kind"], &list["items"][0]["id"]), (&json!("MinionList"), &json!("n1")));
    let body = r#"{"kind":"Minion","apiVersion":"v1beta1","id":"n2","resources":{"capacity":{"cpu":1000,"memory":3221225472}}}"#;
    master.old_post("minions", body).await.expect(201);
    master.get("/api/v1/nodes/n2").await.expect(200);
    master.delete(&format!("{OLD}/minions/n2")).await.expect(200);
}
