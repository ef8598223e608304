//! Objects through `v1`: create, read, replace, patch, list, delete, and the subresources.

use coracle_api::{
    client::ListParams,
    core::{Pod, ReplicationController, Service},
};
use serde_json::json;

use crate::harness::{Master, PODS, SERVICES, cluster_ip, pod, service, typed, within};

const RCS: &str = "/api/v1/namespaces/default/replicationcontrollers";

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let master = Master::start().await;
    let pods = master.client.namespaced::<Pod>("default");
    let created = pods.create(&typed(pod("a"))).await.unwrap();
    let meta = &created.metadata;
    assert!(meta.uid.is_some() && meta.creation_timestamp.is_some() && meta.resource_version.is_some());
    assert_eq!(meta.namespace.as_deref(), Some("default"));
    assert_eq!(created.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"));
    assert_eq!(created.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    assert!(pods.create(&typed(pod("a"))).await.unwrap_err().is_already_exists());

    let mut labelled = created.clone();
    labelled.metadata.labels = Some([("app".to_owned(), "b".to_owned())].into());
    let updated = pods.update("a", &labelled).await.unwrap();
    assert_ne!(updated.metadata.resource_version, created.metadata.resource_version);
    assert_eq!(updated.metadata.uid, created.metadata.uid);
    assert!(pods.update("a", &labelled).await.unwrap_err().is_conflict(), "the version is stale");
    labelled.metadata.resource_version = None;
    let same = pods.update("a", &labelled).await.unwrap();
    assert_eq!(same, updated, "an update that changes nothing is not a change");

    pods.delete("a", None, None).await.unwrap();
    assert!(pods.get("a").await.unwrap_err().is_not_found());
    assert!(pods.delete("a", None, None).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_status_that_means_another_pod_of_that_name_is_refused() {
    let master = Master::start().await;
    let mut status = master.post(PODS, &pod("a")).await.expect(201).json();
    status["metadata"] = json!({"name": "a", "uid": "another"});
    status["status"]["phase"] = "Running".into();
    master.put(&format!("{PODS}/a/status"), &status).await.refused(409, "uid is");
}

#[tokio::test]
async fn answers_have_the_codes_and_bodies_of_kubernetes() {
    let master = Master::start().await;
    let created = master.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(created.headers["content-type"], "application/json");
    assert_eq!(created.json()["kind"], "Pod");
    master.put(&format!("{PODS}/a"), &pod("a")).await.expect(200);
    let list = master.get(PODS).await.expect(200).json();
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("a")));
    let deleted = master.delete(&format!("{PODS}/a")).await.expect(200).json();
    assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
    master.get(&format!("{PODS}/a")).await.refused(404, "pods \"a\" not found");
    let head = master.send("HEAD", PODS, &[], "").await.expect(200);
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn names_are_generated_on_demand() {
    let master = Master::start().await;
    let mut object = pod("x");
    object["metadata"] = json!({"generateName": "web-"});
    let (a, b) = (master.post(PODS, &object).await.expect(201), master.post(PODS, &object).await.expect(201));
    let name = |reply: &crate::harness::Reply| reply.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&a).starts_with("web-") && name(&a).len() == 9);
    assert_ne!(name(&a), name(&b));
    object["metadata"] = json!({});
    master.post(PODS, &object).await.refused(422, "metadata.name: required value");
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_stores_nothing() {
    let master = Master::start().await;
    let dry = format!("{PODS}?dryRun=All");
    assert!(master.post(&dry, &pod("a")).await.expect(201).json()["metadata"]["uid"].is_string());
    master.get(&format!("{PODS}/a")).await.expect(404);
    master.post(PODS, &pod("a")).await.expect(201);
    master.post(&dry, &pod("a")).await.refused(409, "already exists");
    let mut changed = pod("a");
    changed["metadata"]["labels"]["app"] = "new".into();
    let shown = master.put(&format!("{PODS}/a?dryRun=All"), &changed).await.expect(200).json();
    assert_eq!(shown["metadata"]["labels"]["app"], "new");
    assert_eq!(master.get(&format!("{PODS}/a")).await.json()["metadata"]["labels"]["app"], "a");
    master.send("DELETE", &format!("{PODS}/a?dryRun=All"), &[], "").await.expect(200);
    master.get(&format!("{PODS}/a")).await.expect(200);
}

#[tokio::test]
async fn namespaces_come_before_what_is_in_them() {
    let master = Master::start().await;
    master.get("/api/v1/namespaces/default").await.expect(200);
    master.post("/api/v1/namespaces/x/pods", &pod("a")).await.refused(404, "namespaces \"x\" not found");
    master.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.expect(201);
    master.post("/api/v1/namespaces/x/pods", &pod("a")).await.expect(201);
    let mut elsewhere = pod("b");
    elsewhere["metadata"]["namespace"] = "default".into();
    master.post("/api/v1/namespaces/x/pods", &elsewhere).await.refused(400, "does not match the namespace");
    master.get("/api/v1/namespaces/default/pods/a").await.expect(404);
    assert_eq!(master.get("/api/v1/pods").await.json()["items"].as_array().unwrap().len(), 1);

    let ending = master.delete("/api/v1/namespaces/x").await.expect(200).json();
    assert_eq!(ending["status"]["phase"], "Terminating");
    master.post("/api/v1/namespaces/x/pods", &pod("c")).await.refused(403, "being terminated");
    master.delete("/api/v1/namespaces/default").await.refused(403, "may not be deleted");
}

#[tokio::test]
async fn selectors_pick_what_they_say() {
    let master = Master::start().await;
    master.add_node("n1").await;
    for name in ["a", "b", "c"] {
        master.post(PODS, &pod(name)).await.expect(201);
    }
    master.add_bound_pod("d", "n1").await;
    let names = async |labels: &str, fields: &str| {
        let params = ListParams { labels: labels.into(), fields: fields.into() };
        let list = master.client.namespaced::<Pod>("default").list(&params).await.unwrap();
        list.items.into_iter().filter_map(|p| p.metadata.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("", "").await, "a b c d");
    assert_eq!(names("app in (a,c)", "").await, "a c");
    assert_eq!(names("app!=a", "spec.nodeName=").await, "b c");
    assert_eq!(names("", "spec.nodeName=n1").await, "d");
    assert_eq!(names("", "metadata.name=b").await, "b");
    assert_eq!(names("app=a", "metadata.name=b").await, "");
    master.get(&format!("{PODS}?labelSelector=a+b+c")).await.refused(400, "'a b c'");
    master.get(&format!("{PODS}?fieldSelector=spec.bogus%3D1")).await.refused(400, "use metadata.name");
}

#[tokio::test]
async fn pages_show_one_snapshot_once() {
    let master = Master::start().await;
    for i in 0..7 {
        master.post(PODS, &pod(&format!("p{i}"))).await.expect(201);
    }
    let first = master.get(&format!("{PODS}?limit=3")).await.expect(200).json();
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // What changes between pages is not in them.
    master.delete(&format!("{PODS}/p5")).await.expect(200);
    master.post(PODS, &pod("p00")).await.expect(201);
    let mut seen: Vec<String> = Vec::new();
    let mut page = first.clone();
    loop {
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()));
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        page = master.get(&format!("{PODS}?limit=3&continue={token}")).await.expect(200).json();
    }
    assert_eq!(seen, ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]);
    master.get(&format!("{PODS}?limit=3&continue=bogus")).await.refused(400, "continue");
    master.get(&format!("{PODS}?limit=3&continue=1.3.2f")).await.refused(410, "list from the start");
    master.get(&format!("{PODS}?limit=x")).await.refused(400, "limit='x'");
}

#[tokio::test]
async fn a_long_list_is_whole() {
    let master = Master::start().await;
    let padding = "x".repeat(20_000);
    for i in 0..40 {
        let mut object = pod(&format!("p{i:02}"));
        object["metadata"]["annotations"] = json!({"padding": padding});
        master.post(PODS, &object).await.expect(201);
    }
    let reply = master.get(PODS).await.expect(200);
    assert!(reply.body.len() > 800_000);
    assert_eq!(reply.json()["items"].as_array().unwrap().len(), 40);
}

#[tokio::test]
async fn patches_in_three_languages_change_the_object() {
    let master = Master::start().await;
    master.post(PODS, &pod("a")).await.expect(201);
    let path = format!("{PODS}/a");
    let patched = master.patch(&path, "merge-patch", &json!({"metadata": {"labels": {"x": "1"}}})).await.expect(200);
    assert_eq!(patched.json()["metadata"]["labels"], json!({"app": "a", "x": "1"}));
    let containers = json!({"spec": {"containers": [{"name": "c", "image": "other"}]}});
    let patched = master.patch(&path, "strategic-merge-patch", &containers).await.expect(200).json();
    assert_eq!(patched["spec"]["containers"][0]["image"], "other");
    assert_eq!(patched["spec"]["containers"].as_array().unwrap().len(), 1);
    let operations = json!([{"op": "remove", "path": "/metadata/labels/x"}]);
    let patched = master.patch(&path, "json-patch", &operations).await.expect(200).json();
    assert_eq!(patched["metadata"]["labels"], json!({"app": "a"}));
    master.patch(&path, "json-patch", &operations).await.expect(422);
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"y": "1"}}});
    master.patch(&path, "merge-patch", &stale).await.refused(409, "has been modified");
    let renamed = json!({"metadata": {"name": "b"}});
    master.patch(&path, "merge-patch", &renamed).await.refused(400, "does not match the name");
    let applied = master.send("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], "a: 1").await;
    applied.refused(415, "server-side apply is not supported");
    master.patch(&format!("{PODS}/zz"), "merge-patch", &json!({})).await.expect(404);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let master = Master::start().await;
    let pods = master.client.namespaced::<Pod>("default");
    let mut object = pods.create(&typed(pod("a"))).await.unwrap();
    object.metadata.resource_version = None;
    object.status.get_or_insert_default().phase = Some("Running".into());
    object.metadata.labels = Some([("app".to_owned(), "sneaky".to_owned())].into());
    let status = pods.update_status("a", &object).await.unwrap();
    assert_eq!(status.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(status.metadata.labels.as_ref().unwrap()["app"], "a", "a status update touches the status only");
    object.status.get_or_insert_default().phase = Some("Failed".into());
    let main = pods.update("a", &object).await.unwrap();
    assert_eq!(main.metadata.labels.as_ref().unwrap()["app"], "sneaky");
    assert_eq!(main.status.as_ref().unwrap().phase.as_deref(), Some("Running"), "an update keeps the status");
}

/// Makes a controller of one pod; where its scale is.
async fn scale_of_one(master: &Master) -> String {
    let rc: ReplicationController = typed(json!({"metadata": {"name": "web"}, "spec": {"replicas": 1,
        "selector": {"app": "web"}, "template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}}));
    master.client.namespaced::<ReplicationController>("default").create(&rc).await.unwrap();
    format!("{RCS}/web/scale")
}

#[tokio::test]
async fn a_scale_moves_replicas_and_nothing_else() {
    let master = Master::start().await;
    let path = scale_of_one(&master).await;
    let scale = master.get(&path).await.expect(200).json();
    assert_eq!((&scale["apiVersion"], &scale["status"]["selector"]), (&json!("autoscaling/v1"), &json!("app=web")));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 3.into();
    assert_eq!(master.put(&path, &wanted).await.expect(200).json()["spec"]["replicas"], 3);
    let stored = master.get(&format!("{RCS}/web")).await.json();
    assert_eq!((&stored["spec"]["replicas"], &stored["metadata"]["generation"]), (&json!(3), &json!(2)));
    master.put(&path, &wanted).await.refused(409, "has been modified");
    let patched = master.patch(&path, "merge-patch", &json!({"spec": {"replicas": 0}})).await.expect(200).json();
    assert_eq!(patched["spec"]["replicas"], 0);
    master.patch(&path, "merge-patch", &json!({"spec": {"replicas": -1}})).await.refused(422, "spec.replicas");
}

#[tokio::test]
async fn of_two_who_scale_from_the_same_version_one_is_told() {
    let master = Master::start().await;
    let path = scale_of_one(&master).await;
    for round in 0..10 {
        let scale = master.get(&path).await.expect(200).json();
        let put = |replicas: u64| {
            let mut wanted = scale.clone();
            wanted["spec"]["replicas"] = replicas.into();
            let (master, path) = (&master, &path);
            async move { master.put(path, &wanted).await.code }
        };
        let patch = |replicas: u64| {
            let version = scale["metadata"]["resourceVersion"].clone();
            let wanted = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}});
            let (master, path) = (&master, &path);
            async move { master.patch(path, "merge-patch", &wanted).await.code }
        };
        let puts = futures_util::future::join_all((2..10).map(|n| put(round * 100 + n)));
        let patches = futures_util::future::join_all((10..20).map(|n| patch(round * 100 + n)));
        let (puts, patches) = futures_util::future::join(puts, patches).await;
        let codes = [puts, patches].concat();
        let told = codes.iter().filter(|code| **code == 409).count();
        assert_eq!((codes.len() - told, told), (1, codes.len() - 1), "{codes:?}");
    }
}

#[tokio::test]
async fn a_binding_is_given_once() {
    let master = Master::start().await;
    master.add_node("n1").await;
    let bound = master.add_bound_pod("a", "n1").await;
    assert_eq!(bound.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
    let conditions = bound.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "PodScheduled" && c.status == "True"));
    let bind = |pod: &str, node: &str| json!({"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
    let bindings = "/api/v1/namespaces/default/bindings";
    master.post(bindings, &bind("a", "n1")).await.refused(409, "already assigned to host n1");
    master.post(bindings, &bind("zz", "n1")).await.refused(404, "pods \"zz\" not found");
    master.post(PODS, &pod("b")).await.expect(201);
    master.post(bindings, &bind("b", "bogus")).await.refused(404, "\"bogus\" not found");
    master.post(bindings, &bind("b", "")).await.refused(422, "target.name");
    let mut guarded = bind("b", "n1");
    guarded["metadata"]["uid"] = "another".into();
    master.post(bindings, &guarded).await.refused(409, "not the pod");
    master.post(bindings, &bind("b", "n1")).await.expect(201);
}

#[tokio::test]
async fn a_bound_pod_goes_in_two_steps() {
    let master = Master::start().await;
    master.add_node("n1").await;
    let uid = master.add_bound_pod("a", "n1").await.metadata.uid.unwrap();
    let path = format!("{PODS}/a");
    let ending = master.delete(&path).await.expect(200).json();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    master.post(PODS, &pod("a")).await.refused(409, "it is being deleted");
    let shorter = master.delete(&format!("{path}?gracePeriodSeconds=5")).await.expect(200).json();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let mut revived = ending.clone();
    revived["metadata"] = json!({"name": "a"});
    let kept = master.put(&path, &revived).await.expect(200).json();
    assert!(kept["metadata"]["deletionTimestamp"].is_string(), "no update revives a pod");
    let pods = master.client.namespaced::<Pod>("default");
    assert!(pods.delete("a", Some(0), Some("another")).await.unwrap_err().is_conflict());
    pods.delete("a", Some(0), Some(&uid)).await.unwrap();
    assert!(pods.get("a").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let master = Master::start().await;
    for name in ["a", "b", "c"] {
        master.post(PODS, &pod(name)).await.expect(201);
    }
    master.delete(&format!("{PODS}?labelSelector=app+in+(a,b)")).await.expect(200);
    let left = master.get(PODS).await.json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}

#[tokio::test]
async fn every_service_gets_an_address_of_its_own() {
    let master = Master::start().await;
    let services = master.client.namespaced::<Service>("default");
    let many = (0..60).map(|i| {
        let services = services.clone();
        async move { services.create(&typed(service(&format!("s{i}")))).await.unwrap() }
    });
    let created = futures_util::future::join_all(many).await;
    let mut addresses: Vec<_> = created.iter().map(cluster_ip).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 60);
    assert!(addresses.iter().all(|a| a.starts_with("10.0.0.") && a != "10.0.0.0" && a != "10.0.0.255"));

    // What goes free is given out again, and what is not is not.
    let taken = cluster_ip(&created[0]);
    let mut wanted = service("wanted");
    wanted["spec"]["clusterIP"] = taken.clone().into();
    master.post(SERVICES, &wanted).await.refused(422, "another service has this address");
    services.delete("s0", None, None).await.unwrap();
    master.post(SERVICES, &wanted).await.expect(201);
    for (address, why) in [("10.9.9.9", "service range"), ("10.0.0.0", "service range"), ("bogus", "spec.clusterIP")] {
        wanted["metadata"]["name"] = "other".into();
        wanted["spec"]["clusterIP"] = address.into();
        master.post(SERVICES, &wanted).await.refused(422, why);
    }
    wanted["spec"]["clusterIP"] = "None".into();
    assert_eq!(master.post(SERVICES, &wanted).await.expect(201).json()["spec"]["clusterIP"], "None");
    let kept = master.put(&format!("{SERVICES}/wanted"), &service("wanted")).await.expect(200).json();
    assert_eq!(kept["spec"]["clusterIP"], taken, "an update keeps the address");
}

#[tokio::test]
async fn node_ports_are_given_out_kept_and_given_back() {
    let master = Master::start().await;
    let of_type = |name: &str, type_: &str, node_port: i32| {
        let mut service = service(name);
        service["spec"]["type"] = type_.into();
        service["spec"]["ports"] = json!([{"port": 80, "nodePort": node_port}]);
        service
    };
    let created = master.post(SERVICES, &of_type("a", "NodePort", 0)).await.expect(201).json();
    let given = created["spec"]["ports"][0]["nodePort"].as_i64().unwrap() as i32;
    assert!((30_000..=32_767).contains(&given), "{created}");
    master.post(SERVICES, &of_type("b", "NodePort", given)).await.refused(422, "has this node port");
    master.post(SERVICES, &of_type("b", "NodePort", 80)).await.refused(422, "must be between 30000 and 32767");
    let mut update = created.clone();
    update["spec"]["ports"] = json!([{"port": 80}]);
    let updated = master.put(&format!("{SERVICES}/a"), &update).await.expect(200).json();
    assert_eq!(updated["spec"]["ports"][0]["nodePort"], given, "an update that does not say keeps it");
    let mut internal = updated;
    internal["spec"]["type"] = "ClusterIP".into();
    let internal = master.put(&format!("{SERVICES}/a"), &internal).await.expect(200).json();
    assert_eq!(internal["spec"]["ports"][0].get("nodePort"), None);
    master.post(SERVICES, &of_type("b", "LoadBalancer", given)).await.expect(201);
}

#[tokio::test]
async fn a_full_service_range_is_said_to_be_full() {
    let master = Master::start().await;
    let services = master.client.namespaced::<Service>("default");
    // A /24 has 254 addresses, and the master's own services have some of them.
    let own = services.list(&ListParams::default()).await.unwrap().items.len();
    for i in own..254 {
        services.create(&typed(service(&format!("s{i}")))).await.unwrap();
    }
    master.post(SERVICES, &service("late")).await.refused(500, "has no free address");
    services.delete("s7", None, None).await.unwrap();
    master.post(SERVICES, &service("late")).await.expect(201);
}

#[tokio::test]
async fn kubectl_gets_the_table_that_it_asks_for() {
    let master = Master::start().await;
    master.post(PODS, &pod("a")).await.expect(201);
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    for path in [format!("{PODS}?limit=500"), format!("{PODS}/a")] {
        let table = master.send("GET", &path, &accept, "").await.expect(200).json();
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        let columns: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(columns, ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]);
        let row = &table["rows"][0];
        assert_eq!(row["cells"].as_array().unwrap()[..4], [json!("a"), json!("0/1"), json!("Pending"), json!("0")]);
        assert_eq!(
            (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
            (&json!("PartialObjectMetadata"), &json!("a"))
        );
        assert!(table["metadata"]["resourceVersion"].is_string());
    }
    let mut watch = master.open("GET", &format!("{PODS}?watch=true"), &accept, "").await.into_body();
    let line = within(http_body_util::BodyExt::frame(&mut watch)).await.unwrap().unwrap().into_data().unwrap();
    let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&event["type"], &event["object"]["rows"][0]["cells"][0]), (&json!("ADDED"), &json!("a")));
}
