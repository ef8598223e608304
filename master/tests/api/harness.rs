//! A master for one test, on a free port, and ways to talk to it.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::{
    TypedObject,
    client::Client,
    core::{Node, Pod, Service},
};
use coracle_master::{
    cluster::ClusterFacts,
    liveness::Liveness,
    registry::Registry,
    server::{Limits, Server, ServerConfig},
    store::MemoryStore,
};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Patience of every wait in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Master {
    pub(crate) server: Server,
    pub(crate) registry: Registry,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    http: HttpClient<HttpConnector, Full<Bytes>>,
    _stop: tokio_util::sync::DropGuard,
}

pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
    /// Fails unless the answer has this code; the message tells the rest.
    pub(crate) fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }
    /// Fails unless the answer is a Status with this code that contains this text.
    pub(crate) fn refused(self, code: u16, part: &str) {
        let reply = self.expect(code);
        let status = reply.json();
        assert_eq!(
            (&status["kind"], &status["status"], &status["code"]),
            (&json!("Status"), &json!("Failure"), &json!(code))
        );
        assert!(reply.message().contains(part), "'{part}' is not in: {}", reply.message());
    }
}

impl Master {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let stop = CancellationToken::new();
        let registry =
            Registry::open(Arc::new(MemoryStore::default()), &TaskTracker::new(), stop.clone()).await.unwrap();
        let liveness = Arc::new(Liveness::default());
        let facts = ClusterFacts {
            cluster_id: "0000cafe".into(),
            service_cidr: "10.0.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
        };
        let config = ServerConfig { limits, ..ServerConfig::new("127.0.0.1:0".parse().unwrap()) };
        let server = Server::start(config, registry.clone(), liveness.clone(), facts, &stop).await.unwrap();
        let address = server.address;
        Self {
            server,
            registry,
            liveness,
            address,
            client: Client::new(&format!("http://{address}")).unwrap(),
            http: HttpClient::builder(TokioExecutor::new()).build_http(),
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request =
            Request::builder().method(method.parse::<Method>().unwrap()).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        within(self.http.request(request.body(Full::new(body.into())).unwrap())).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        let body = within(body.collect()).await.unwrap().to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }
    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], "").await
    }
    pub(crate) async fn patch(&self, path: &str, language: &str, body: &Value) -> Reply {
        let media = format!("application/{language}+json");
        self.send("PATCH", path, &[("content-type", &media)], body.to_string()).await
    }

    /// Opens a watch and returns its lines.
    pub(crate) async fn watch(&self, path: &str) -> Lines {
        let response = self.open("GET", path, &[], "").await;
        assert_eq!(response.status(), 200, "{path}");
        Lines { body: response.into_body(), buffer: Vec::new() }
    }

    /// Creates a node, so that pods can be bound.
    pub(crate) async fn add_node(&self, name: &str) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        self.client.all::<Node>().create(&node).await.unwrap();
    }

    /// Creates a pod and binds it.
    pub(crate) async fn add_bound_pod(&self, name: &str, node: &str) -> Pod {
        let pods = self.client.namespaced::<Pod>("default");
        pods.create(&typed(pod(name))).await.unwrap();
        let target = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        self.post(&format!("/api/v1/namespaces/default/pods/{name}/binding"), &target).await.expect(201);
        pods.get(name).await.unwrap()
    }

    /// Sends bytes as they are and reads until the server closes or has answered enough.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read all.
        drop(stream.write_all(bytes).await);
        read_text(&mut stream).await
    }
}

/// Reads until the other end closes.
pub(crate) async fn read_text(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = within(stream.read(&mut buffer)).await
        && n > 0
    {
        out.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            match within(self.body.frame()).await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next line as `TYPE name`.
    pub(crate) async fn event(&mut self) -> String {
        let line = self.next().await.expect("the watch ended");
        let object = &line["object"];
        let name = object["metadata"]["name"].as_str().or(object["id"].as_str()).unwrap_or_default();
        format!("{} {name}", line["type"].as_str().unwrap())
    }
}

/// Fails instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("no answer in time")
}

pub(crate) fn typed<T: TypedObject>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

pub(crate) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
}

pub(crate) fn cluster_ip(service: &Service) -> String {
    service.spec.as_ref().and_then(|s| s.cluster_ip.clone()).unwrap_or_default()
}

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
