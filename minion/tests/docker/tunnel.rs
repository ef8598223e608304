//! The master's side of the tunnel, played by the test: what a minion serves on it, from real
//! containers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::client::Client;
use coracle_minion::{
    node::{server::NodeServer, tunnel},
    pods::FindError,
    runtime::{ContainerId, Runtime},
};
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::bench::{Bench, DEADLINE, with_engine};

type Body = BoxBody<Bytes, std::io::Error>;
type Sender = http2::SendRequest<Body>;

/// A master that takes tunnels.
struct Master {
    url: String,
    tunnels: mpsc::Receiver<(Sender, JoinHandle<()>)>,
}

impl Master {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tx, tunnels) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tx = tx.clone();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    assert_eq!(request.uri().path(), "/coracle/v1/nodes/test-node/tunnel");
                    assert_eq!(request.headers()["upgrade"], "coracle-tunnel");
                    let upgrade = hyper::upgrade::on(&mut request);
                    tokio::spawn(take(upgrade, tx.clone()));
                    let response = Response::builder()
                        .status(StatusCode::SWITCHING_PROTOCOLS)
                        .header("connection", "Upgrade")
                        .header("upgrade", "coracle-tunnel")
                        .body(Empty::<Bytes>::new());
                    async move { response }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
        Self { url, tunnels }
    }

    async fn tunnel(&mut self) -> (Sender, JoinHandle<()>) {
        tokio::time::timeout(DEADLINE, self.tunnels.recv()).await.expect("a tunnel in time").expect("a master")
    }
}

async fn take(upgrade: OnUpgrade, tx: mpsc::Sender<(Sender, JoinHandle<()>)>) {
    let upgraded = upgrade.await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), upgraded).await.unwrap();
    let connection = tokio::spawn(async move { drop(connection.await) });
    tx.send((sender, connection)).await.unwrap();
}

/// A minion's end: the container `web` of pod `default/pod` is `id`.
struct MinionEnd {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl MinionEnd {
    fn start(b: &Bench, master: &str, id: ContainerId) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let find = Arc::new(move |query: &coracle_minion::pods::PodQuery| {
            if (query.namespace.as_str(), query.pod.as_str(), query.container.as_str()) == ("default", "pod", "web") {
                Ok(id.clone())
            } else {
                Err(FindError::NotFound(format!("pod {}/{} is not on this node", query.namespace, query.pod)))
            }
        });
        let server = Arc::new(NodeServer::new(Arc::clone(&b.runtime), find, tasks.clone(), shutdown.clone()));
        let transport = Client::new(master).unwrap().transport().clone();
        tasks.spawn(tunnel::run(transport, "test-node".into(), server, tasks.clone(), shutdown.clone()));
        Self { tasks, shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await.expect("stops in less than a second");
    }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

async fn get(sender: &mut Sender, path: &str) -> (StatusCode, String) {
    let request = Request::get(format!("http://minion{path}")).body(empty()).unwrap();
    let response = tokio::time::timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
    let status = response.status();
    let body = tokio::time::timeout(DEADLINE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Runs a command as kubectl would, behind the master's handshake. Gives output and status.
async fn run(sender: &mut Sender, query: &str, input: &[u8]) -> (String, serde_json::Value) {
    let (upload, mut uploaded) = mpsc::channel::<Bytes>(4);
    let frames = futures_util::stream::poll_fn(move |cx| uploaded.poll_recv(cx)).map(|b| Ok(Frame::data(b)));
    let request = Request::post(format!("http://minion/exec/default/pod/web?{query}"))
        .header("upgrade-protocol", "v5.channel.k8s.io")
        .body(BodyExt::boxed(StreamBody::new(frames)))
        .unwrap();
    let response = tokio::time::timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut download = response.into_body();
    let (near, far) = tokio::io::duplex(4096);
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            if upload.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(frame)) = download.frame().await {
            if to_client.write_all(&frame.into_data().unwrap_or_default()).await.is_err() {
                return;
            }
        }
    });
    let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    client.send(Message::binary([&[0], input].concat())).await.unwrap();
    client.send(Message::binary(vec![255, 0])).await.unwrap();
    let mut output = String::new();
    loop {
        let message = tokio::time::timeout(DEADLINE, client.next()).await.expect("goes on or ends").unwrap().unwrap();
        let Message::Binary(bytes) = message else { panic!("no status came: {message:?}") };
        match bytes[0] {
            3 => return (output, serde_json::from_slice(&bytes[1..]).unwrap()),
            channel => output.push_str(&format!("{channel}:{}", String::from_utf8_lossy(&bytes[1..]))),
        }
    }
}

#[tokio::test]
async fn the_master_reads_logs_and_runs_commands_through_the_tunnel() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "echo one; echo two; sleep 1000").await;
        b.wrote(&id, "two").await;
        let mut master = Master::start().await;
        let minion = MinionEnd::start(b, &master.url, id);
        let (mut sender, connection) = master.tunnel().await;

        assert_eq!(get(&mut sender, "/logs/default/pod/web").await, (StatusCode::OK, "one\ntwo\n".into()));
        assert_eq!(get(&mut sender, "/logs/default/pod/web?tailLines=1").await.1, "two\n");
        assert_eq!(get(&mut sender, "/logs/default/pod/web?limitBytes=5").await.1, "one\nt");
        let (code, status) = get(&mut sender, "/logs/default/other/web").await;
        assert_eq!(code, StatusCode::NOT_FOUND);
        assert!(status.contains("pod default/other is not on this node"), "{status}");
        assert_eq!(get(&mut sender, "/logs/default/pod/web?tailLines=x").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(get(&mut sender, "/etc/passwd").await.0, StatusCode::NOT_FOUND);

        let query = "stdin=true&stdout=true&command=/bin/sh&command=-c&command=cat%3B+exit+4";
        let (output, status) = run(&mut sender, query, b"hello").await;
        assert_eq!((output.as_str(), status["details"]["causes"][0]["message"].as_str()), ("1:hello", Some("4")));
        let (_, status) = run(&mut sender, "command=/bin/sh&command=-c&command=true", b"").await;
        assert_eq!(status["status"], "Success");

        // A tunnel that breaks is opened again.
        connection.abort();
        let (mut sender, _connection) = master.tunnel().await;
        assert_eq!(get(&mut sender, "/logs/default/pod/web?tailLines=1").await.1, "two\n");

        // A log that is being followed does not hold up the minion's end.
        let request = Request::get("http://minion/logs/default/pod/web?follow=true").body(empty()).unwrap();
        let mut following = sender.send_request(request).await.unwrap().into_body();
        following.frame().await.unwrap().unwrap();
        minion.stop().await;
    })
    .await;
}
