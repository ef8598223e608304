//! Discovery, health, metrics and what minions ask.

use std::time::Duration;

use coracle_master::server::{Limits, Server, ServerConfig, StartError};
use serde_json::json;

use crate::harness::{Master, PODS, pod};

#[tokio::test]
async fn clients_find_out_what_there_is() {
    let master = Master::start().await;
    let api = master.get("/api").await.expect(200).json();
    assert_eq!((&api["kind"], &api["versions"]), (&json!("APIVersions"), &json!(["v1", "v1beta1"])));
    let groups = master.get("/apis").await.expect(200).json()["groups"].clone();
    assert_eq!((&groups[0]["name"], groups.as_array().unwrap().len()), (&json!("discovery.k8s.io"), 1));
    let list = master.get("/api/v1").await.expect(200).json();
    let resources = list["resources"].as_array().unwrap();
    let find = |name: &str| resources.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!((&find("pods")["kind"], &find("pods")["shortNames"]), (&json!("Pod"), &json!(["po"])));
    assert_eq!(find("nodes")["namespaced"], false);
    assert_eq!(find("replicationcontrollers/scale")["kind"], "Scale");
    assert_eq!(find("bindings")["verbs"], json!(["create"]));
    assert_eq!(master.get("/api/v1beta1").await.expect(200).json()["groupVersion"], "v1beta1");
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let accept = format!("{media},application/json");
    let all = master.send("GET", "/api", &[("accept", &accept)], "").await.expect(200);
    assert_eq!(all.headers["content-type"], media);
    let versions = all.json()["items"][0]["versions"].clone();
    assert_eq!((versions.as_array().unwrap().len(), &versions[0]["version"]), (1, &json!("v1")));
    let others = master.send("GET", "/apis", &[("accept", &accept)], "").await.expect(200).json();
    assert_eq!(others["items"][0]["versions"][0]["resources"][0]["resource"], "endpointslices");
    assert_eq!(master.get("/apis/discovery.k8s.io").await.expect(200).json()["preferredVersion"]["version"], "v1");
    let resources = master.get("/apis/discovery.k8s.io/v1").await.expect(200).json();
    assert_eq!(resources["resources"][0]["verbs"], json!(["get", "list"]));
    let version = master.get("/version").await.expect(200).json();
    assert_eq!(version["major"], "1");
    assert!(version["gitVersion"].as_str().unwrap().contains("coracle"));
    let schema = master.get("/openapi/v3/api/v1").await.expect(200).json();
    assert!(schema["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"].is_object());
    for page in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(master.get(page).await.expect(200).text(), "ok");
    }
    assert!(master.get("/").await.expect(200).text().contains("Welcome"));
}

#[tokio::test]
async fn endpoints_are_read_as_slices_too() {
    let master = Master::start().await;
    let endpoints = json!({"metadata": {"name": "web", "labels": {"tier": "front"}}, "subsets": [
        {"addresses": [{"ip": "10.244.0.2", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-1"}}],
         "notReadyAddresses": [{"ip": "10.244.0.3"}], "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
        {"addresses": [{"ip": "10.244.0.4"}], "ports": [{"port": 8081}]}]});
    master.post("/api/v1/namespaces/default/endpoints", &endpoints).await.expect(201);
    master
        .post(
            "/api/v1/namespaces/default/endpoints",
            &json!({"metadata": {"name": "other"}, "subsets": [
        {"addresses": [{"ip": "10.244.0.9"}], "ports": [{"port": 1}]}]}),
        )
        .await
        .expect(201);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    // As kubectl describe service asks.
    let list =
        master.get(&format!("{slices}?labelSelector=kubernetes.io%2Fservice-name%3Dweb")).await.expect(200).json();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EndpointSliceList"), &json!("discovery.k8s.io/v1")));
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|s| s["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["web", "web.2"]);
    let slice = master.get(&format!("{slices}/web")).await.expect(200).json();
    assert_eq!(slice, list["items"][0]);
    assert_eq!((&slice["kind"], &slice["addressType"]), (&json!("EndpointSlice"), &json!("IPv4")));
    assert_eq!(slice["metadata"]["labels"]["tier"], "front");
    let ready = |at: usize| slice["endpoints"][at]["conditions"]["ready"].as_bool();
    assert_eq!((ready(0), ready(1)), (Some(true), Some(false)));
    assert_eq!(slice["endpoints"][0]["targetRef"]["name"], "web-1");
    assert_eq!(list["items"][1]["ports"][0], json!({"name": "", "port": 8081, "protocol": "TCP"}));
    assert_eq!(slice["ports"][1], json!({"name": "dns", "port": 53, "protocol": "UDP"}));

    let count = async |query: &str| {
        let list = master.get(&format!("/apis/discovery.k8s.io/v1/endpointslices{query}")).await.expect(200).json();
        list["items"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("?fieldSelector=metadata.name%3Dother").await), (3, 1));
    master.get(&format!("{slices}/web.3")).await.refused(404, "endpointslices \"web.3\" not found");
    master.get(&format!("{slices}?fieldSelector=a%3Db")).await.refused(400, "metadata.name");
    master.get(&format!("{slices}?watch=true")).await.refused(405, "does not allow this method");
    master.delete(&format!("{slices}/web")).await.refused(405, "does not allow this method");
    master
        .get("/apis/discovery.k8s.io/v1beta1/endpointslices")
        .await
        .refused(404, "the group has endpointslices of v1");
}

#[tokio::test]
async fn metrics_count_requests_by_verb_kind_and_code() {
    let master = Master::start().await;
    master.post(PODS, &pod("a")).await.expect(201);
    master.get(&format!("{PODS}/zz")).await.expect(404);
    let page = master.get("/metrics").await.expect(200);
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = page.text();
    for line in [
        "coracle_requests_total{verb=\"create\",kind=\"pods\",code=\"201\"} 1",
        "coracle_requests_total{verb=\"get\",kind=\"pods\",code=\"404\"} 1",
        "coracle_objects{kind=\"pods\"} 1",
        "coracle_request_duration_seconds_count{verb=\"create\",kind=\"pods\"} 1",
        "coracle_store_writes ",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn minions_learn_the_facts_and_beat() {
    let master = Master::start().await;
    let facts = master.get("/coracle/v1/cluster").await.expect(200).json();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        facts,
        json!({"clusterID": "0000cafe", "serviceCIDR": "10.0.0.0/24", "podCIDR": "10.244.0.0/16",
            "heartbeatMillis": 2000, "version": version})
    );
    let path = "/coracle/v1/nodes/n1/heartbeat";
    let beat = json!({"ready": true, "reason": "MinionReady", "message": "all is well"});
    master.put(path, &beat).await.refused(404, "\"n1\" not found");
    assert!(master.liveness.snapshot().is_empty());
    master.add_node("n1").await;
    assert_eq!(master.put(path, &beat).await.expect(200).json(), json!({"nextMillis": 2000}));
    let beats = master.liveness.snapshot();
    assert!(beats["n1"].condition.ready && beats["n1"].condition.message == "all is well");
    master.put(path, &json!({"ready": "yes"})).await.refused(400, "not a heartbeat");
}

#[tokio::test]
async fn an_address_open_to_others_is_refused() {
    let master = Master::start().await;
    let facts = coracle_master::cluster::ClusterFacts {
        cluster_id: "x".into(),
        service_cidr: "10.0.0.0/24".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let start = async |listen: String| {
        let config = ServerConfig::new(listen.parse().unwrap());
        Server::start(config, master.registry.clone(), master.liveness.clone(), facts.clone(), &stop).await
    };
    let open = start("0.0.0.0:0".into()).await.unwrap_err();
    assert!(matches!(open, StartError::OpenToAll(_)) && open.to_string().contains("--allow-from"), "{open}");
    let taken = start(master.address.to_string()).await.unwrap_err();
    assert!(matches!(taken, StartError::Bind { .. }), "{taken}");
}

#[tokio::test]
async fn who_asks_too_much_at_once_is_told_to_wait() {
    let master = Master::with(Limits { streams: 1, ..Default::default() }).await;
    let _first = master.watch(&format!("{PODS}?watch=true")).await;
    let second = master.get(&format!("{PODS}?watch=true")).await;
    assert_eq!(second.headers["retry-after"], "1");
    second.refused(429, "try again");
    master.get(PODS).await.expect(200);
    let master = Master::with(Limits { requests: 0, answer_time: Duration::from_secs(1), ..Default::default() }).await;
    master.get(PODS).await.refused(429, "try again");
    master.get("/healthz").await.expect(200);
}
