//! Watches: what is delivered, in which order, and when a watch ends.

use std::time::Duration;

use coracle_api::{
    client::{Change, ListParams, Reflector},
    core::Pod,
};
use coracle_master::server::Limits;
use serde_json::json;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};

use crate::harness::{Master, PODS, pod, typed, within};

#[tokio::test]
async fn a_watch_without_version_shows_what_is_there_first() {
    let master = Master::start().await;
    master.post(PODS, &pod("a")).await.expect(201);
    master.post(PODS, &pod("b")).await.expect(201);
    let mut lines = master.watch(&format!("{PODS}?watch=true")).await;
    assert_eq!(lines.event().await, "ADDED a");
    assert_eq!(lines.event().await, "ADDED b");
    master.patch(&format!("{PODS}/a"), "merge-patch", &json!({"metadata": {"labels": {"x": "1"}}})).await.expect(200);
    assert_eq!(lines.event().await, "MODIFIED a");
    master.delete(&format!("{PODS}/b")).await.expect(200);
    assert_eq!(lines.event().await, "DELETED b");
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let master = Master::start().await;
    master.post(PODS, &pod("a")).await.expect(201);
    let version = master.get(PODS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    master.post(PODS, &pod("b")).await.expect(201);
    for path in
        [format!("{PODS}?watch=1&resourceVersion={version}"), format!("/api/v1/watch/pods?resourceVersion={version}")]
    {
        let mut lines = master.watch(&path).await;
        let line = lines.next().await.unwrap();
        assert_eq!((&line["type"], &line["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
        assert_eq!(line["object"]["kind"], "Pod");
    }
}

#[tokio::test]
async fn selectors_are_tracked() {
    let master = Master::start().await;
    let mut lines = master.watch(&format!("{PODS}?watch=true&labelSelector=tier%3Dfront")).await;
    let mut by_node = master.watch("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1").await;
    master.post(PODS, &pod("a")).await.expect(201);
    let tier = |tier: Option<&str>| json!({"metadata": {"labels": {"tier": tier}}});
    let path = format!("{PODS}/a");
    master.patch(&path, "merge-patch", &tier(Some("front"))).await.expect(200);
    assert_eq!(lines.event().await, "ADDED a");
    master.patch(&path, "merge-patch", &tier(Some("back"))).await.expect(200);
    assert_eq!(lines.event().await, "DELETED a");
    master.add_node("n1").await;
    master.post(&format!("{PODS}/a/binding"), &json!({"target": {"name": "n1"}})).await.expect(201);
    assert_eq!(by_node.event().await, "ADDED a");
}

#[tokio::test]
async fn bookmarks_keep_idle_watches_fresh() {
    let master = Master::with(Limits { bookmark_time: Duration::from_millis(30), ..Default::default() }).await;
    let mut lines = master.watch(&format!("{PODS}?watch=true&allowWatchBookmarks=true")).await;
    master.add_node("n1").await;
    let latest = master.registry.version().to_string();
    loop {
        let line = lines.next().await.unwrap();
        assert_eq!((&line["type"], &line["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
        if line["object"]["metadata"]["resourceVersion"] == *latest {
            break;
        }
    }
    // Who did not ask for them gets none: the first line is the object.
    let mut plain = master.watch(&format!("{PODS}?watch=true")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    master.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(plain.event().await, "ADDED a");
}

#[tokio::test]
async fn versions_that_cannot_be_served_are_refused() {
    let master = Master::start().await;
    let watch = |version: &str| format!("{PODS}?watch=true&resourceVersion={version}");
    master.get(&watch("soon")).await.refused(400, "'soon'");
    for path in [PODS, "/api/v1/watch/pods", "/api/v1beta1/watch/pods"] {
        let mut lines = master.watch(&format!("{path}?watch=true&resourceVersion=999999")).await;
        let line = lines.next().await.unwrap();
        assert_eq!((&line["type"], &line["object"]["code"]), (&json!("ERROR"), &json!(410)), "{path}: {line}");
        assert!(line["object"]["message"].as_str().unwrap().contains("list again"), "{line}");
        assert!(lines.next().await.is_none(), "that is all");
    }
    master.get(&format!("{PODS}?watch=true&sendInitialEvents=true")).await.refused(422, "sendInitialEvents");
    master.get(&format!("{PODS}?resourceVersion=999999")).await.refused(504, "too large resource version");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_up() {
    let master = Master::start().await;
    let mut lines = master.watch(&format!("{PODS}?watch=true&timeoutSeconds=1")).await;
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_reflector_follows_the_server() {
    let master = Master::start().await;
    let pods = master.client.namespaced::<Pod>("default");
    pods.create(&typed(pod("a"))).await.unwrap();
    let mut reflector = Reflector::new(pods.clone(), ListParams::default());
    assert!(matches!(within(reflector.next()).await, Change::Replaced(items) if items.len() == 1));
    pods.create(&typed(pod("b"))).await.unwrap();
    assert!(matches!(within(reflector.next()).await, Change::Applied(p) if p.metadata.name.as_deref() == Some("b")));
    pods.delete("a", None, None).await.unwrap();
    assert!(matches!(within(reflector.next()).await, Change::Deleted(p) if p.metadata.name.as_deref() == Some("a")));
}

/// A watcher that never reads: the server must not keep what it does not take.
#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off() {
    let master = Master::with(Limits { stall_time: Duration::from_millis(300), ..Default::default() }).await;
    let mut stream = TcpStream::connect(master.address).await.unwrap();
    let request = format!("GET {PODS}?watch=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let streams = async || {
        let page = master.get("/metrics").await.text();
        page.lines().find_map(|l| l.strip_prefix("coracle_streams ")).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(streams().await, 1);
    let mut object = pod("a");
    object["metadata"]["annotations"] = json!({"padding": "x".repeat(200_000)});
    master.post(PODS, &object).await.expect(201);
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    let mut round = 0;
    while streams().await == 1 {
        assert!(tokio::time::Instant::now() < deadline, "the watcher was never cut off");
        round += 1;
        object["metadata"]["labels"] = json!({"round": round.to_string()});
        master.put(&format!("{PODS}/a"), &object).await.expect(200);
    }
    // Its end is the end of the connection's data, not silence.
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n) = within(stream.read(&mut buffer)).await
        && n > 0
    {}
}

#[tokio::test]
async fn stopping_ends_watches_first_and_does_not_hang() {
    let master = Master::start().await;
    let mut lines = master.watch(&format!("{PODS}?watch=true")).await;
    master.post(PODS, &pod("a")).await.expect(201);
    assert_eq!(lines.event().await, "ADDED a");
    // An idle connection and one that never sends anything do not hold the drain up.
    let _silent = TcpStream::connect(master.address).await.unwrap();
    let (address, server) = (master.address, master.server);
    let started = std::time::Instant::now();
    within(server.shutdown()).await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert!(lines.next().await.is_none());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn dropped_watches_are_forgotten() {
    let master = Master::start().await;
    let lines = master.watch(&format!("{PODS}?watch=true")).await;
    drop(lines);
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        let page = master.get("/metrics").await.text();
        if page.contains("coracle_streams 0") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
