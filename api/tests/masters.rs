//! A client of several masters, of which some refuse, hang, stop or die.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use coracle_api::{
    client::{Change, Client, ClientError, ListParams, Patience, Reflector},
    core::Pod,
};
use http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a master that hangs costs a test.
const SHORT: Duration = Duration::from_millis(500);

/// Fails instead of hanging.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("no answer in time")
}

/// What a fake master does with a request.
enum Act {
    /// Answers.
    Answer(u16, String),
    /// Sends this as the start of an endless body, and closes when the switch is turned.
    Stream(String, watch::Receiver<bool>),
    /// Says nothing.
    Hang,
    /// Closes.
    Close,
}

/// A master made of one function: `METHOD /path?query` in, what to do out.
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (act, log) = (Arc::new(act), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (act, log) = (act.clone(), log.clone());
                tokio::spawn(async move {
                    let (stream, line) = read_request(stream).await;
                    log.lock().unwrap().push(line.clone());
                    perform(stream, act(&line)).await;
                });
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn read_request(mut stream: TcpStream) -> (TcpStream, String) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\r\n\r\n") {
        let n = stream.read(&mut buffer).await.unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        if n == 0 {
            break;
        }
    }
    let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    (stream, line)
}

async fn perform(mut stream: TcpStream, act: Act) {
    let sent = match act {
        Act::Answer(code, body) => {
            let head = format!("HTTP/1.1 {code} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await
        }
        Act::Stream(body, mut end) => {
            let sent = stream.write_all(format!("HTTP/1.1 200 x\r\nconnection: close\r\n\r\n{body}").as_bytes()).await;
            drop(end.wait_for(|end| *end).await);
            sent
        }
        Act::Hang => stream.read(&mut [0; 1]).await.map(drop), // until the client closes
        Act::Close => Ok(()),
    };
    // The client may have had enough.
    drop(sent);
}

/// An address where nothing listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn client(masters: &[&str]) -> Client {
    let patience = Patience { answer: PATIENCE, answer_of_several: SHORT, ..Patience::default() };
    Client::with_patience(&masters.join(","), patience).unwrap()
}

fn pod(name: &str, version: u64) -> serde_json::Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "resourceVersion": version.to_string()}})
}

fn well(_: &str) -> Act {
    Act::Answer(200, pod("a", 1).to_string())
}

fn refuses(code: u16, reason: &str) -> Act {
    let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code});
    Act::Answer(code, status.to_string())
}

#[tokio::test]
async fn one_that_is_not_there_is_passed_over_and_not_asked_again() {
    let (gone, good) = (nobody().await, Fake::start(well).await);
    let client = client(&[&gone, &good.url]);
    assert_eq!(client.transport().server(), gone);
    within(client.namespaced::<Pod>("default").get("a")).await.unwrap();
    assert_eq!(client.transport().server(), good.url, "it is stuck to");
    // Nothing of a request that never left can have been done.
    let client = self::client(&[&gone, &good.url]);
    within(client.namespaced::<Pod>("default").create(&Pod::default())).await.unwrap();
    assert_eq!(good.asked()[1], "POST /api/v1/namespaces/default/pods");
}

#[tokio::test]
async fn one_that_hangs_costs_one_wait() {
    let (silent, good) = (Fake::start(|_| Act::Hang).await, Fake::start(well).await);
    let pods = client(&[&silent.url, &good.url]).namespaced::<Pod>("default");
    for _ in 0..3 {
        within(pods.get("a")).await.unwrap();
    }
    assert_eq!((silent.asked().len(), good.asked().len()), (1, 3));
}

#[tokio::test]
async fn a_caller_who_gives_up_leaves_a_silent_master() {
    let (silent, good) = (Fake::start(|_| Act::Hang).await, Fake::start(well).await);
    let client = Client::new(&format!("{},{}", silent.url, good.url)).unwrap();
    let pods = client.namespaced::<Pod>("default");
    assert!(tokio::time::timeout(Duration::from_millis(1100), pods.get("a")).await.is_err());
    within(pods.get("a")).await.unwrap();
    assert_eq!((silent.asked().len(), good.asked().len()), (1, 1));
}

#[tokio::test]
async fn what_may_have_been_created_is_not_created_again() {
    let ways: [fn(&str) -> Act; 2] = [|_| Act::Close, |_| Act::Hang];
    for act in ways {
        let (bad, good) = (Fake::start(act).await, Fake::start(well).await);
        let patience = Patience { answer: SHORT, ..Patience::default() };
        let client = Client::with_patience(&format!("{},{}", bad.url, good.url), patience).unwrap();
        let error = within(client.namespaced::<Pod>("default").create(&Pod::default())).await.unwrap_err();
        assert!(matches!(&error, ClientError::Unknown { server, .. } if *server == bad.url), "{error}");
        let text = error.to_string();
        for part in ["POST /api/v1/namespaces/default/pods", "it is not known whether it was done"] {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
        assert!(good.asked().is_empty());
        assert_eq!(client.transport().server(), good.url, "the next request does not go there");
    }
}

#[tokio::test]
async fn one_that_stops_is_left_for_one_that_does_not() {
    let (stops, good) = (Fake::start(|_| refuses(503, "ServiceUnavailable")).await, Fake::start(well).await);
    let client = client(&[&stops.url, &good.url]);
    let pods = client.namespaced::<Pod>("default");
    let error = within(pods.create(&Pod::default())).await.unwrap_err();
    assert_eq!(error.api().map(|e| e.code()), Some(503));
    assert!(good.asked().is_empty(), "a create is not repeated");
    within(pods.update("a", &Pod::default())).await.unwrap();
    assert_eq!(client.transport().server(), good.url);
    // Where no other does better, its answer tells most.
    let client = self::client(&[&stops.url, &nobody().await]);
    let error = within(client.transport().json(Method::GET, "/x", None)).await.unwrap_err();
    assert_eq!(error.api().map(|e| e.code()), Some(503));
}

#[tokio::test]
async fn when_none_answers_all_are_named_with_their_causes() {
    let (gone, closes) = (nobody().await, Fake::start(|_| Act::Close).await);
    let error = within(client(&[&gone, &closes.url]).transport().json(Method::GET, "/x", None)).await.unwrap_err();
    assert!(error.is_transient());
    let text = error.to_string();
    for part in ["none of the 2 masters", &gone, "refused", &closes.url, "connection closed", "--master"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    let error = within(client(&[&gone]).transport().json(Method::GET, "/x", None)).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot reach the master at {gone}")), "{error}");
}

#[tokio::test]
async fn a_bare_connection_goes_to_one_that_listens() {
    let (gone, good) = (nobody().await, Fake::start(well).await);
    let client = client(&[&gone, &good.url, &gone]);
    let (_, authority) = within(client.transport().connect()).await.unwrap();
    assert_eq!(format!("http://{authority}"), good.url);
    let each: Vec<_> = client.transport().each().unwrap().iter().map(|t| t.server().to_owned()).collect();
    assert_eq!(each, [gone, good.url], "each once");
}

fn list(version: u64) -> Act {
    Act::Answer(200, json!({"metadata": {"resourceVersion": version.to_string()}, "items": []}).to_string())
}

fn event(name: &str, version: u64) -> String {
    format!("{}\n", json!({"type": "ADDED", "object": pod(name, version)}))
}

fn reflector(client: &Client) -> Reflector<Pod> {
    Reflector::new(client.all(), ListParams::default())
}

/// The next change as words; interruptions are left out.
async fn change(reflector: &mut Reflector<Pod>) -> String {
    loop {
        match within(reflector.next()).await {
            Change::Replaced(pods) => return format!("list of {}", pods.len()),
            Change::Applied(pod) => return format!("applied {}", pod.metadata.name.as_deref().unwrap_or_default()),
            Change::Deleted(pod) => return format!("deleted {}", pod.metadata.name.as_deref().unwrap_or_default()),
            Change::Interrupted(_) => {}
        }
    }
}

#[tokio::test]
async fn a_watch_goes_on_at_another_master_from_where_it_was() {
    let (die, end) = watch::channel(false);
    let first = Fake::start(move |line: &str| {
        if *end.borrow() {
            Act::Close
        } else if line.contains("watch=true") {
            Act::Stream(event("a", 6), end.clone())
        } else {
            list(5)
        }
    });
    let (_open, never) = watch::channel(false);
    let second = Fake::start(move |line: &str| match line.contains("resourceVersion=6") {
        true => Act::Stream(event("b", 7), never.clone()),
        false => refuses(410, "Expired"),
    });
    let (first, second) = (first.await, second.await);
    let mut reflector = reflector(&client(&[&first.url, &second.url]));
    assert_eq!(change(&mut reflector).await, "list of 0");
    assert_eq!(change(&mut reflector).await, "applied a");
    die.send_replace(true);
    assert_eq!(change(&mut reflector).await, "applied b");
    assert_eq!(second.asked().len(), 1, "{:?}", second.asked());
}

#[tokio::test]
async fn a_watch_leaves_a_master_that_other_requests_found_silent() {
    let (_open, never) = watch::channel(false);
    let still = never.clone();
    let first = Fake::start(move |line: &str| match line {
        line if line.contains("watch=true") => Act::Stream(event("a", 6), never.clone()),
        line if line.contains("/pods") => list(5),
        _ => Act::Hang,
    });
    let second = Fake::start(move |line: &str| match line.contains("watch=true") {
        true => Act::Stream(event("b", 7), still.clone()),
        false => well(line),
    });
    let (first, second) = (first.await, second.await);
    let client = client(&[&first.url, &second.url]);
    let mut reflector = reflector(&client);
    assert_eq!(change(&mut reflector).await, "list of 0");
    assert_eq!(change(&mut reflector).await, "applied a");
    within(client.transport().json(Method::PUT, "/heartbeat", None)).await.unwrap();
    assert_eq!(change(&mut reflector).await, "applied b");
}

#[tokio::test]
async fn a_master_that_is_behind_is_asked_again_for_the_same_version() {
    let (_open, never) = watch::channel(false);
    let early = Mutex::new(2);
    let fake = Fake::start(move |line: &str| {
        let mut early = early.lock().unwrap();
        match line {
            "GET /api/v1/pods" => list(5),
            _ if *early > 0 => {
                *early -= 1;
                refuses(504, "Timeout")
            }
            line if line.ends_with("resourceVersion=5") => Act::Stream(event("a", 6), never.clone()),
            _ => refuses(410, "Expired"),
        }
    });
    let fake = fake.await;
    let mut reflector = reflector(&client(&[&fake.url]));
    assert_eq!(change(&mut reflector).await, "list of 0");
    assert_eq!(change(&mut reflector).await, "applied a");
    assert_eq!(fake.asked().len(), 4, "{:?}", fake.asked());
}

#[tokio::test]
async fn a_list_is_never_older_than_what_was_seen_unless_the_cluster_is() {
    let (_open, never) = watch::channel(false);
    let restored = Mutex::new(false);
    let fake = Fake::start(move |line: &str| {
        let mut restored = restored.lock().unwrap();
        match (line.contains("watch=true"), line.contains("resourceVersion=50")) {
            (true, true) => {
                *restored = true;
                refuses(410, "Expired")
            }
            (true, false) => Act::Stream(event("a", 4), never.clone()),
            (false, true) => refuses(504, "Timeout"),
            (false, false) => list(if *restored { 3 } else { 50 }),
        }
    });
    let fake = fake.await;
    let mut reflector = reflector(&client(&[&fake.url]));
    assert_eq!(change(&mut reflector).await, "list of 0");
    assert_eq!(change(&mut reflector).await, "list of 0");
    assert_eq!(change(&mut reflector).await, "applied a");
    let bounded = fake.asked().iter().filter(|line| **line == "GET /api/v1/pods?resourceVersion=50").count();
    assert!((2..40).contains(&bounded), "{:?}", fake.asked());
}
