//! Logs, commands and the tunnel, with a minion that is played by the test.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::harness::{Master, PODS, pod, within};

/// What the played minion was asked.
type Asked = Arc<Mutex<Vec<String>>>;

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Opens a tunnel and answers on it: logs with two lines, commands with an echo.
async fn open_tunnel(master: &Master, node: &str) -> (Asked, tokio::task::JoinHandle<()>) {
    let mut stream = TcpStream::connect(master.address).await.unwrap();
    let request = format!(
        "GET /coracle/v1/nodes/{node}/tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: coracle-tunnel\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("upgrade: coracle-tunnel"), "{head}");
    let asked = Asked::default();
    let seen = asked.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let protocol = request.headers().get("upgrade-protocol").map(|p| p.to_str().unwrap().to_owned());
        let line = format!(
            "{} {} {}",
            request.method(),
            request.uri().path_and_query().unwrap(),
            protocol.unwrap_or_default()
        );
        seen.lock().unwrap().push(line.trim().to_owned());
        async move { Ok::<_, Infallible>(play(request)) }
    });
    let serving = tokio::spawn(async move {
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
    });
    (asked, serving)
}

fn play(request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let (parts, mut frames) = mpsc::channel::<Bytes>(4);
    let code = if request.uri().path().contains("/broken/") { 404 } else { 200 };
    let echo = request.uri().path().starts_with("/exec/");
    tokio::spawn(async move {
        if code != 200 {
            let status =
                r#"{"kind":"Status","status":"Failure","message":"no such container","reason":"NotFound","code":404}"#;
            drop(parts.send(Bytes::from_static(status.as_bytes())).await);
        } else if echo {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                drop(parts.send(frame.into_data().unwrap_or_default()).await);
            }
        } else {
            drop(parts.send(Bytes::from_static(b"one\n")).await);
            drop(parts.send(Bytes::from_static(b"two\n")).await);
        }
    });
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| {
        frames.poll_recv(cx).map(|f| f.map(|f| Ok(Frame::data(f))))
    }));
    Response::builder().status(code).body(BodyExt::boxed(body)).unwrap()
}

const HANDSHAKE: &str = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io, v5.channel.k8s.io\r\n\r\n";

#[tokio::test]
async fn a_log_comes_through_the_tunnel() {
    let master = Master::start().await;
    master.add_node("n1").await;
    let uid = master.add_bound_pod("a", "n1").await.metadata.uid.unwrap();
    let path = format!("{PODS}/a/log");
    let lost = master.get(&path).await;
    assert!(lost.headers.contains_key("retry-after"));
    lost.refused(503, "minion n1 has no connection");
    let (asked, _serving) = open_tunnel(&master, "n1").await;
    let log = wait_for_tunnel(&master, &format!("{path}?follow=true&tailLines=5&bogus=1")).await;
    assert_eq!(log, "one\ntwo\n");
    assert_eq!(*asked.lock().unwrap(), [format!("GET /logs/default/a/c?uid={uid}&follow=true&tailLines=5")]);
    master.get(&format!("{path}?tailLines=x")).await.refused(400, "tailLines='x'");
    master.get(&format!("{path}?sinceTime=yesterday")).await.refused(400, "sinceTime: 'yesterday' is not a time");
    let both = format!("{path}?sinceTime=2026-01-02T03:04:05Z&sinceSeconds=1");
    master.get(&both).await.refused(400, "exclude each other");
    master.get(&format!("{path}?sinceTime=2026-01-02T03:04:05Z")).await.expect(200);
    let last = asked.lock().unwrap().last().unwrap().clone();
    assert!(last.ends_with("&sinceTime=2026-01-02T03%3A04%3A05Z"), "{last}");
    master.get(&format!("{path}?container=zz")).await.refused(400, "container zz is not valid");
    master.post(PODS, &pod("b")).await.expect(201);
    master.get(&format!("{PODS}/b/log")).await.refused(400, "does not have a host assigned");
    master.get(&format!("{PODS}/zz/log")).await.refused(404, "pods \"zz\" not found");
}

/// The master notices a new tunnel when it has read its first bytes.
async fn wait_for_tunnel(master: &Master, path: &str) -> String {
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        let reply = master.get(path).await;
        if reply.code != 503 {
            return reply.expect(200).text();
        }
        assert!(tokio::time::Instant::now() < deadline, "the tunnel never opened");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_is_a_websocket_of_the_best_protocol() {
    let master = Master::start().await;
    master.add_node("n1").await;
    master.add_bound_pod("a", "n1").await;
    let (asked, _serving) = open_tunnel(&master, "n1").await;
    wait_for_tunnel(&master, &format!("{PODS}/a/log")).await;
    let mut stream = TcpStream::connect(master.address).await.unwrap();
    let exec =
        format!("GET {PODS}/a/exec?command=sh&command=-c&command=a%20b&stdin=true&stdout=true HTTP/1.1\r\n{HANDSHAKE}");
    stream.write_all(exec.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-protocol: v5.channel.k8s.io"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    // Bytes go through as they are.
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (mut read, mut write) = stream.into_split();
    let sent = bytes.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut echoed = vec![0; bytes.len()];
    within(read.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(echoed, bytes);
    drop(writing.await.unwrap());
    assert_eq!(within(read.read(&mut echoed)).await.unwrap_or(0), 0, "the end is passed on");
    let asked = asked.lock().unwrap().last().unwrap().clone();
    assert!(asked.starts_with("POST /exec/default/a/c?uid="), "{asked}");
    assert!(asked.ends_with(
        "&command=sh&command=-c&command=a%20b&stdin=true&stdout=true&stderr=true&tty=false v5.channel.k8s.io"
    ));
}

#[tokio::test]
async fn commands_that_cannot_start_are_refused_before_the_handshake() {
    let master = Master::start().await;
    master.add_node("n1").await;
    master.add_bound_pod("a", "n1").await;
    master.get(&format!("{PODS}/a/exec?command=sh")).await.refused(400, "needs a WebSocket");
    let (_asked, _serving) = open_tunnel(&master, "n1").await;
    wait_for_tunnel(&master, &format!("{PODS}/a/log")).await;
    let no_command = format!("GET {PODS}/a/exec HTTP/1.1\r\nConnection: close\r\n{HANDSHAKE}");
    assert!(master.raw(no_command.as_bytes()).await.contains("at least one command"));
    let mut broken = pod("p");
    broken["spec"]["containers"][0]["name"] = "broken".into();
    broken["metadata"]["name"] = "broken".into();
    master.post(PODS, &broken).await.expect(201);
    let binding = serde_json::json!({"target": {"name": "n1"}});
    master.post(&format!("{PODS}/broken/binding"), &binding).await.expect(201);
    master.get(&format!("{PODS}/broken/log")).await.refused(404, "no such container");
}

#[tokio::test]
async fn a_new_tunnel_replaces_the_old_and_a_broken_one_is_forgotten() {
    let master = Master::start().await;
    master.add_node("n1").await;
    master.add_bound_pod("a", "n1").await;
    let path = format!("{PODS}/a/log");
    let (first, serving) = open_tunnel(&master, "n1").await;
    wait_for_tunnel(&master, &path).await;
    let (second, again) = open_tunnel(&master, "n1").await;
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while second.lock().unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the new tunnel was never used");
        master.get(&path).await.expect(200);
    }
    let used = first.lock().unwrap().len();
    master.get(&path).await.expect(200);
    assert_eq!(first.lock().unwrap().len(), used);
    serving.abort();
    again.abort();
    while master.get(&path).await.code != 503 {
        assert!(tokio::time::Instant::now() < deadline, "the broken tunnel is still there");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
