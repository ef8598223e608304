//! Masters and slaves together, in one process and over real sockets.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    master::{Home, Master},
    name::Name,
    protocol::Pace,
    slave::{Options, Slave},
};
use crate::{
    http::{get, post},
    testing::{Scratch, eventually, listen},
};

const PACE: Pace = Pace { ping: Duration::from_millis(20), silence_max: Duration::from_millis(500) };

struct Running {
    task: JoinHandle<()>,
    pages: String,
    slaves: String,
}

impl Running {
    /// As when a container is killed: the sockets close and nobody cleans up.
    async fn kill(self) -> (String, String) {
        self.task.abort();
        let _ = self.task.await;
        (self.pages, self.slaves)
    }
}

async fn start_master(home: &Path) -> Running {
    let ((pages, pages_address), (slaves, slaves_address)) = (listen().await, listen().await);
    start_on(home, pages, slaves, (pages_address, slaves_address))
}

fn start_on(home: &Path, pages: TcpListener, slaves: TcpListener, addresses: (String, String)) -> Running {
    let master = Master::new(Home::open(home).unwrap(), PACE);
    let task = tokio::spawn(async move { master.serve(pages, slaves).await });
    Running { task, pages: addresses.0, slaves: addresses.1 }
}

fn start_slave(name: &str, master: &Running) -> JoinHandle<()> {
    let options = Options { master: master.pages.clone(), tunnel: master.slaves.clone(), executors: 1 };
    let name = Name::parse(name).unwrap();
    let slave = Slave::new(options, name.clone(), name, PACE);
    tokio::spawn(async move { slave.serve().await })
}

async fn document(pages: &str) -> String {
    let answer = get(pages, "/api/json").await.unwrap();
    assert_eq!(answer.status, 200);
    answer.body
}

async fn until_document(pages: &str, part: &str) -> String {
    eventually(part, async || Some(document(pages).await).filter(|document| document.contains(part))).await
}

#[tokio::test]
async fn a_build_runs_on_a_slave_and_is_recorded() {
    let scratch = Scratch::new();
    let master = start_master(scratch.path()).await;
    assert_eq!(post(&master.pages, "/build", "").await.unwrap().status, 503);

    let slave = start_slave("slave-1", &master);
    until_document(&master.pages, r#""slaves":[{"name":"slave-1","executors":1,"busy":0}]"#).await;
    let build = post(&master.pages, "/build", "").await.unwrap();
    assert_eq!(build.status, 201);
    assert!(
        build.body.starts_with(r#"{"number":1,"result":"SUCCESS","slave":"slave-1","hostname":"slave-1""#),
        "{build:?}"
    );
    assert!(document(&master.pages).await.contains(build.body.trim()));
    assert!(get(&master.pages, "/").await.unwrap().body.contains("#1 on slave-1"));

    slave.abort();
    until_document(&master.pages, r#""slaves":[]"#).await;
}

#[tokio::test]
async fn two_slaves_share_the_builds() {
    let scratch = Scratch::new();
    let master = start_master(scratch.path()).await;
    let _slaves = [start_slave("slave-1", &master), start_slave("slave-2", &master)];
    eventually("two slaves", async || {
        let document = document(&master.pages).await;
        (document.contains("slave-1") && document.contains("slave-2")).then_some(())
    })
    .await;
    let (first, second) = tokio::join!(post(&master.pages, "/build", ""), post(&master.pages, "/build", ""));
    let bodies = first.unwrap().body + &second.unwrap().body;
    assert!(bodies.contains(r#""hostname":"slave-1""#) && bodies.contains(r#""hostname":"slave-2""#), "{bodies}");
}

#[tokio::test]
async fn a_replaced_master_keeps_the_history_and_gets_its_slaves_back() {
    let scratch = Scratch::new();
    let master = start_master(scratch.path()).await;
    let _slave = start_slave("slave-1", &master);
    until_document(&master.pages, "slave-1").await;
    post(&master.pages, "/build", "").await.unwrap();
    let before = document(&master.pages).await;

    let addresses = master.kill().await;
    let pages = TcpListener::bind(&addresses.0).await.unwrap();
    let slaves = TcpListener::bind(&addresses.1).await.unwrap();
    let master = start_on(scratch.path(), pages, slaves, addresses);
    let after = until_document(&master.pages, r#""slaves":[{"name":"slave-1""#).await;
    assert_eq!(after, before.replace(r#""boots":1"#, r#""boots":2"#));
    assert!(post(&master.pages, "/build", "").await.unwrap().body.starts_with(r#"{"number":2,"#));
}

#[tokio::test]
async fn a_silent_slave_is_dropped() {
    let scratch = Scratch::new();
    let master = start_master(scratch.path()).await;
    let mut silent = TcpStream::connect(&master.slaves).await.unwrap();
    silent.write_all(b"hello silent 1\n").await.unwrap();
    until_document(&master.pages, "silent").await;
    until_document(&master.pages, r#""slaves":[]"#).await;
}

#[tokio::test]
async fn strangers_are_turned_away_from_both_ports() {
    let scratch = Scratch::new();
    let master = start_master(scratch.path()).await;
    for garbage in ["GET / HTTP/1.1\r\n\r\n", "hello\n", &"x".repeat(10_000)] {
        let mut stranger = TcpStream::connect(&master.slaves).await.unwrap();
        // The master may hang up before all of it is written or read.
        let _ = stranger.write_all(garbage.as_bytes()).await;
        let _ = stranger.read_to_end(&mut Vec::new()).await;
    }
    let mut stranger = TcpStream::connect(&master.pages).await.unwrap();
    stranger.write_all(&[b'\xff'; 9000]).await.unwrap();
    let mut answer = String::new();
    stranger.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(get(&master.pages, "/build").await.unwrap().status, 405);
    assert_eq!(get(&master.pages, "/etc/passwd").await.unwrap().status, 404);
    assert_eq!(get(&master.pages, "/login").await.unwrap().status, 200);
    assert!(document(&master.pages).await.contains(r#""slaves":[]"#));
}
