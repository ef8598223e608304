//! A whole minion with one pod, and a master that the test plays.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_minion::{
    Minion, MinionConfig, StartError,
    minion::RecordError,
    reset::{ResetConfig, reset},
    runtime::{Runtime, State::Running},
};
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::bench::{Bench, DEADLINE, NODE, eventually, with_engine};

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What the master knows.
#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    beats: Vec<Value>,
}

/// A master with nodes, heartbeats, one pod and one service.
struct Master {
    url: String,
    cluster: Value,
    pod_cidr: String,
    pod: Value,
    portal: String,
    state: Mutex<State>,
}

impl Master {
    async fn start(b: &Bench) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pod_cidr, service_cidr) = ranges(&b.cluster);
        let master = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            cluster: json!({
                "clusterID": b.cluster, "serviceCIDR": service_cidr, "podCIDR": pod_cidr, "heartbeatMillis": 100,
                "version": "0.1.0",
            }),
            pod_cidr: pod_cidr.to_string(),
            pod: json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "web", "namespace": "default", "uid": format!("u-{}", b.cluster), "resourceVersion": "1"},
                "spec": {"nodeName": NODE, "containers": [{
                    "name": "web", "image": b.image, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "sleep 1000"],
                }]},
            }),
            portal: Ipv4Addr::from(u32::from(service_cidr.network()) + 7).to_string(),
            state: Mutex::default(),
        });
        let serving = Arc::clone(&master);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let master = Arc::clone(&serving);
                let service = service_fn(move |request| {
                    let master = Arc::clone(&master);
                    async move { Ok::<_, hyper::Error>(master.answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        master
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body: Value =
            body.collect().await.ok().and_then(|b| serde_json::from_slice(&b.to_bytes()).ok()).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        let query = parts.uri.query().unwrap_or_default();
        let mut state = self.state.lock().unwrap();
        match (&parts.method, path.as_slice()) {
            (_, _) if query.contains("watch=true") => {
                let silent = futures_util::stream::pending::<()>().map(|()| Ok(Frame::data(Bytes::new())));
                Response::new(StreamBody::new(silent).boxed_unsync())
            }
            (&Method::GET, ["coracle", "v1", "cluster"]) => answer(200, &self.cluster),
            (&Method::PUT, ["coracle", "v1", "nodes", name, "heartbeat"]) => {
                if !state.nodes.contains_key(*name) {
                    return not_found();
                }
                state.beats.push(body);
                answer(200, &json!({}))
            }
            (&Method::POST, ["api", "v1", "nodes"]) => {
                let mut node = body;
                let cidr = node["spec"]["podCIDR"].as_str().unwrap_or(&self.pod_cidr).to_owned();
                node["spec"]["podCIDR"] = cidr.into();
                state.nodes.insert(node["metadata"]["name"].as_str().unwrap().to_owned(), node.clone());
                answer(201, &node)
            }
            (&Method::GET, ["api", "v1", "nodes", name]) => {
                state.nodes.get(*name).map_or_else(not_found, |n| answer(200, n))
            }
            (&Method::PUT, ["api", "v1", "nodes", name, ..]) => {
                state.nodes.insert((*name).to_owned(), body.clone());
                answer(200, &body)
            }
            (&Method::GET, ["api", "v1", plural]) => {
                let service = json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": "shop", "namespace": "default", "resourceVersion": "1"},
                    "spec": {"clusterIP": self.portal, "ports": [{"port": 80}]},
                });
                let items: Vec<&Value> = match *plural {
                    "nodes" => state.nodes.values().collect(),
                    "pods" => vec![&self.pod],
                    "services" => vec![&service],
                    _ => Vec::new(),
                };
                answer(200, &json!({"metadata": {"resourceVersion": "1"}, "items": items}))
            }
            (&Method::PUT, ["api", "v1", "namespaces", _, "pods", _, "status"]) => answer(200, &body),
            (&Method::POST, ["api", "v1", "namespaces", _, "events"]) => answer(201, &body),
            _ => not_found(),
        }
    }

    fn node(&self) -> Option<Value> {
        self.state.lock().unwrap().nodes.get(NODE).cloned()
    }

    async fn ready_beat(&self) {
        let before = self.state.lock().unwrap().beats.len();
        eventually("a heartbeat", async || {
            let state = self.state.lock().unwrap();
            (state.beats[before..].iter().any(|b| b["ready"] == true)).then_some(())
        })
        .await;
    }
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(body.to_string()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn not_found() -> Response<Body> {
    let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "none", "code": 404});
    answer(404, &status)
}

/// A pod and a service range that no other test has.
fn ranges(cluster: &str) -> (Ipv4Net, Ipv4Net) {
    let [_, _, low, lowest] = u32::from_str_radix(cluster, 16).unwrap().to_be_bytes();
    let range = |second: u8| Ipv4Net::new(Ipv4Addr::new(10, second + low % 32, lowest, 0), 24).unwrap();
    (range(128), range(160))
}

#[tokio::test]
async fn a_minion_registers_beats_and_leaves_its_pods_running_when_it_stops() {
    with_engine(async |b: &Bench| {
        let master = Master::start(b).await;
        let root = tempfile::tempdir().unwrap();
        let config = MinionConfig {
            name: Some(NODE.into()),
            address: Some("127.0.0.1".parse().unwrap()),
            ..MinionConfig::new(&master.url, root.path())
        };
        let start = || tokio::time::timeout(DEADLINE, Minion::start(config.clone()));
        let minion = start().await.expect("starts in time").unwrap();
        tokio::time::timeout(DEADLINE, minion.ready()).await.expect("is ready in time");
        assert_eq!(minion.name(), NODE);
        assert_eq!(minion.pod_cidr().to_string(), master.pod_cidr);
        let node = master.node().unwrap();
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], NODE);
        assert_eq!(node["status"]["addresses"][0]["address"], "127.0.0.1");
        assert!(node["status"]["capacity"]["cpu"].is_string(), "{node}");
        master.ready_beat().await;

        // A node that vanished is registered again, with the network that its pods use.
        master.state.lock().unwrap().nodes.clear();
        let again = eventually("the node again", async || master.node()).await;
        assert_eq!(again["spec"]["podCIDR"], master.pod_cidr.as_str());

        let second = start().await.expect("answers in time");
        assert!(matches!(second, Err(StartError::Directory(RecordError::InUse(_)))), "{second:?}");

        let running = async || {
            let seen = b.runtime.list().await.unwrap();
            let running = seen.into_iter().filter(|c| matches!(c.state, Running { .. }));
            running.map(|c| (c.name.clone(), c.id.clone())).collect::<Vec<_>>()
        };
        let pod = eventually("both containers of the pod run", async || {
            let containers = running().await;
            (containers.len() == 2).then_some(containers)
        })
        .await;
        let began = Instant::now();
        minion.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(running().await, pod, "stopping a minion stops no container");

        let minion = start().await.expect("starts in time").unwrap();
        tokio::time::timeout(DEADLINE, minion.ready()).await.expect("is ready in time");
        master.ready_beat().await;
        assert_eq!(running().await, pod, "a restarted minion adopts what runs");
        minion.shutdown().await;
        let config = ResetConfig { root_dir: root.path().to_owned(), docker: None, cluster_id: None };
        let report = reset(config).await.unwrap();
        assert_eq!((report.containers, report.networks), (2, 1));
        assert!(running().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_pod_finds_a_service_by_its_short_name_also_after_the_minion_was_away() {
    with_engine(async |b: &Bench| {
        let master = Master::start(b).await;
        let root = tempfile::tempdir().unwrap();
        let config = MinionConfig {
            name: Some(NODE.into()),
            address: Some("127.0.0.1".parse().unwrap()),
            ..MinionConfig::new(&master.url, root.path())
        };
        let start = async || {
            let minion = tokio::time::timeout(DEADLINE, Minion::start(config.clone())).await.unwrap().unwrap();
            tokio::time::timeout(DEADLINE, minion.ready()).await.expect("is ready in time");
            minion
        };
        let minion = start().await;
        let web = eventually("the pod runs", async || {
            let seen = b.runtime.list().await.unwrap();
            seen.into_iter().find(|c| c.name == "web" && matches!(c.state, Running { .. })).map(|c| c.id.clone())
        })
        .await;
        let run = async |command: &[&str]| {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            b.runtime.exec(&web, &command, DEADLINE).await.unwrap()
        };
        let network: Ipv4Net = master.pod_cidr.parse().unwrap();
        let gateway = Ipv4Addr::from(u32::from(network.network()) + 1);
        let conf = run(&["/bin/cat", "/etc/resolv.conf"]).await.output;
        let begins = format!("nameserver {gateway}\nsearch default.svc.cluster.local svc.cluster.local cluster.local");
        assert!(conf.starts_with(&begins) && conf.ends_with("options ndots:5\n"), "{conf}");

        // It asks in all search domains, and fails if one of them does not have the name.
        let found = run(&["/bin/busybox", "nslookup", "shop"]).await.output;
        let expected = format!("Name:\tshop.default.svc.cluster.local\nAddress: {}\n", master.portal);
        assert!(found.contains(&expected), "{found}");
        let missing = run(&["/bin/busybox", "nslookup", "none.default.svc.cluster.local"]).await;
        assert!(missing.code != 0 && missing.output.contains("NXDOMAIN"), "{missing:?}");

        minion.shutdown().await;
        let minion = start().await;
        let found = run(&["/bin/busybox", "nslookup", "shop"]).await.output;
        assert!(found.contains(&expected), "{found}");
        minion.shutdown().await;
        reset(ResetConfig { root_dir: root.path().to_owned(), docker: None, cluster_id: None }).await.unwrap();
    })
    .await;
}
