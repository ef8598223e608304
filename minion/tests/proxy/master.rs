//! A master that serves lists and watches of services and endpoints, and nothing else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};

/// One change: the collection, its version, the event as it goes on the wire.
type Entry = (String, u64, String);

struct State {
    version: u64,
    objects: Vec<(String, Value)>,
    log: Vec<Entry>,
    news: broadcast::Sender<Entry>,
}

/// Handle of the master; the server runs as long as the runtime.
#[derive(Clone)]
pub(crate) struct Master {
    state: Arc<Mutex<State>>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Master {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let news = broadcast::channel(1024).0;
        let state = State { version: 1, objects: Vec::new(), log: Vec::new(), news };
        let master = Self { state: Arc::new(Mutex::new(state)), address: listener.local_addr().unwrap() };
        let server = master.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                let service = service_fn(move |request| {
                    let response = server.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        master
    }

    /// Creates or replaces a service.
    pub(crate) fn service(&self, name: &str, ip: &str, ports: Value) {
        self.service_of(name, json!({"clusterIP": ip, "ports": ports}));
    }

    /// Creates or replaces a service.
    pub(crate) fn service_of(&self, name: &str, spec: Value) {
        let kind = "Service";
        let meta = json!({"namespace": "default", "name": name});
        self.set("services", json!({"kind": kind, "apiVersion": "v1", "metadata": meta, "spec": spec}));
    }

    /// Creates or replaces the endpoints of a service.
    pub(crate) fn endpoints(&self, name: &str, hosts: &[&str], ports: Value) {
        let hosts: Vec<_> = hosts.iter().map(|ip| (*ip, "somewhere")).collect();
        self.endpoints_on(name, &hosts, ports);
    }

    /// Creates or replaces the endpoints of a service: addresses and their nodes.
    pub(crate) fn endpoints_on(&self, name: &str, hosts: &[(&str, &str)], ports: Value) {
        let addresses: Vec<_> = hosts.iter().map(|(ip, node)| json!({"ip": ip, "nodeName": node})).collect();
        let subsets = json!([{"addresses": addresses, "ports": ports}]);
        let meta = json!({"namespace": "default", "name": name});
        self.set("endpoints", json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": meta, "subsets": subsets}));
    }

    fn set(&self, plural: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let name = object["metadata"]["name"].clone();
        let same = |(p, o): &(String, Value)| p == plural && o["metadata"]["name"] == name;
        let known = state.objects.iter().position(same);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        match known {
            Some(at) => state.objects[at].1 = object,
            None => state.objects.push((plural.to_owned(), object)),
        }
        let entry = (plural.to_owned(), state.version, line);
        state.log.push(entry.clone());
        let _ = state.news.send(entry);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let plural = request.uri().path().trim_start_matches("/api/v1/").to_owned();
        let query = request.uri().query().unwrap_or_default();
        let state = self.state.lock().unwrap();
        if !query.contains("watch=true") {
            let items: Vec<_> = state.objects.iter().filter(|(p, _)| *p == plural).map(|(_, o)| o).collect();
            let list = json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items});
            return Response::new(Full::from(list.to_string()).boxed_unsync());
        }
        let after = query.split('&').find_map(|q| q.strip_prefix("resourceVersion="));
        let after: u64 = after.unwrap().parse().unwrap();
        let old: Vec<_> = state.log.iter().filter(|(_, version, _)| *version > after).cloned().collect();
        let new = stream::unfold(state.news.subscribe(), |mut news| async {
            news.recv().await.ok().map(|entry| (entry, news))
        });
        let lines = stream::iter(old).chain(new).filter_map(move |(of, _, line)| {
            let frame = (of == plural).then(|| Ok(Frame::data(Bytes::from(line))));
            async { frame }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
    }
}
