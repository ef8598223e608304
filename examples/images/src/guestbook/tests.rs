//! Leader, followers and front end together, in one process and over real sockets.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    command::Command, connection::Connection, follower::Follower, frontend::Frontend, leader::Leader, resp::Reply,
};
use crate::{
    http::{get, post},
    testing::{Scratch, eventually, listen},
};

const PATIENCE: Duration = Duration::from_secs(5);

async fn start_leader(data: &Path) -> (JoinHandle<()>, String) {
    let (listener, address) = listen().await;
    (tokio::spawn(Leader::open(data).unwrap().serve(listener)), address)
}

async fn start_follower(leader: &str) -> String {
    let follower = Follower::new(leader.to_owned());
    let replicating = Arc::clone(&follower);
    tokio::spawn(async move { replicating.replicate().await });
    follower.first_copy().await;
    let (listener, address) = listen().await;
    tokio::spawn(follower.serve(listener));
    address
}

async fn ask(address: &str, line: &str) -> Reply {
    let mut connection = Connection::connect(address).await.unwrap();
    connection.send(format!("{line}\r\n").as_bytes()).await.unwrap();
    connection.receive().await.unwrap()
}

async fn until_list(address: &str, expected: &[&str]) {
    let expected = Reply::Array(expected.iter().map(|value| value.as_bytes().to_vec()).collect());
    eventually("the list", async || (ask(address, "LRANGE guestbook 0 -1").await == expected).then_some(())).await;
}

#[tokio::test]
async fn followers_get_what_was_there_and_what_comes() {
    let scratch = Scratch::new();
    let (_task, leader) = start_leader(scratch.path()).await;
    assert_eq!(ask(&leader, "RPUSH guestbook one two").await, Reply::Integer(2));
    let followers = [start_follower(&leader).await, start_follower(&leader).await];
    for follower in &followers {
        until_list(follower, &["one", "two"]).await;
    }
    assert_eq!(ask(&leader, "RPUSH guestbook three").await, Reply::Integer(3));
    for follower in &followers {
        until_list(follower, &["one", "two", "three"]).await;
        assert!(
            matches!(ask(follower, "RPUSH guestbook x").await, Reply::Error(text) if text.starts_with("READONLY "))
        );
    }
}

#[tokio::test]
async fn a_restarted_leader_has_its_entries_and_an_empty_one_is_copied_too() {
    let scratch = Scratch::new();
    let (task, leader) = start_leader(&scratch.path().join("first")).await;
    ask(&leader, "RPUSH guestbook one").await;
    let follower = start_follower(&leader).await;

    task.abort();
    let _ = task.await;
    let again = Leader::open(&scratch.path().join("first")).unwrap();
    let task = tokio::spawn(again.serve(TcpListener::bind(&leader).await.unwrap()));
    assert_eq!(ask(&leader, "RPUSH guestbook two").await, Reply::Integer(2));
    until_list(&follower, &["one", "two"]).await;

    task.abort();
    let _ = task.await;
    let empty = Leader::open(&scratch.path().join("second")).unwrap();
    let _task = tokio::spawn(empty.serve(TcpListener::bind(&leader).await.unwrap()));
    until_list(&follower, &[]).await;
}

#[tokio::test]
async fn a_large_copy_arrives_whole() {
    let scratch = Scratch::new();
    let (_task, leader) = start_leader(scratch.path()).await;
    let values: Vec<Vec<u8>> = (0..1000).map(|n| n.to_string().into_bytes()).collect();
    let mut connection = Connection::connect(&leader).await.unwrap();
    let push = Command::Push { key: b"guestbook".to_vec(), values: values.clone() };
    assert_eq!(connection.ask(push, PATIENCE).await.unwrap(), Reply::Integer(1000));
    let follower = start_follower(&leader).await;
    assert_eq!(ask(&follower, "LRANGE guestbook 0 -1").await, Reply::Array(values));
}

#[tokio::test]
async fn the_front_end_writes_to_the_leader_and_reads_from_a_follower() {
    let scratch = Scratch::new();
    let (task, leader) = start_leader(scratch.path()).await;
    let follower = start_follower(&leader).await;
    let (listener, address) = listen().await;
    tokio::spawn(Frontend { leader, follower }.serve(listener));

    assert_eq!(get(&address, "/healthz").await.unwrap().body, "ok\n");
    assert_eq!(post(&address, "/", "message=%3Cb%3Ehello%3C/b%3E").await.unwrap().status, 303);
    let page = eventually("the message", async || {
        Some(get(&address, "/").await.unwrap()).filter(|page| page.body.contains("hello"))
    })
    .await;
    assert!(page.body.contains("<li>&lt;b&gt;hello&lt;/b&gt;</li>"), "{page:?}");
    assert_eq!(get(&address, "/messages").await.unwrap().body, "[\"<b>hello</b>\"]\n");
    assert_eq!(post(&address, "/", "message=+").await.unwrap().status, 400);

    task.abort();
    let _ = task.await;
    assert_eq!(post(&address, "/", "message=lost").await.unwrap().status, 503);
    assert_eq!(get(&address, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn garbage_is_answered_and_hung_up_on() {
    let scratch = Scratch::new();
    let (_task, leader) = start_leader(scratch.path()).await;
    let mut stranger = TcpStream::connect(&leader).await.unwrap();
    stranger.write_all(b"FLUSHALL\r\n\r\nPING\r\n*1\r\n$x\r\n").await.unwrap();
    let mut answers = String::new();
    stranger.read_to_string(&mut answers).await.unwrap();
    let answers: Vec<&str> = answers.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(answers, ["-ERR", "+PONG", "-ERR"]);
}
