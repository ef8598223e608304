//! The backup that the server streams.

use coracle_master::{
    backup::{check, restore},
    server::Limits,
    store::MemoryStore,
};
use serde_json::json;

use crate::harness::{Master, PODS, SERVICES, pod, service};

#[tokio::test]
async fn a_backup_holds_every_object_at_the_version_that_it_names() {
    let master = Master::start().await;
    master.add_node("m1").await;
    for name in ["a", "b"] {
        master.post(PODS, &pod(name)).await.expect(201);
    }
    master.post(SERVICES, &service("s")).await.expect(201);
    let count: usize = master.registry.counts().map(|(_, n)| n).sum();
    let reply = master.get("/coracle/v1/backup").await.expect(200);
    assert_eq!(reply.headers["content-type"], "application/jsonl");
    let summary = check(&reply.body[..]).unwrap();
    assert_eq!(summary.header.objects as usize, count);
    assert_eq!(summary.header.resource_version, master.registry.version());
    assert_eq!(summary.header.cluster.cluster_id, "0000cafe");
    let restored = restore(&MemoryStore::default(), || Ok(&reply.body[..]), false, |_| {}).await.unwrap();
    assert_eq!(restored.header, summary.header);
    master.post("/coracle/v1/backup", &json!({})).await.expect(405);
}

#[tokio::test]
async fn a_long_backup_comes_in_parts_and_needs_the_place_of_a_stream() {
    let master = Master::start().await;
    for n in 0..12 {
        let mut pod = pod(&format!("p{n}"));
        pod["metadata"]["annotations"] = json!({"note": "x".repeat(100_000)});
        master.post(PODS, &pod).await.expect(201);
    }
    let reply = master.get("/coracle/v1/backup").await.expect(200);
    assert!(reply.headers.get("content-length").is_none());
    assert!(check(&reply.body[..]).unwrap().bytes > 1_200_000);
    let full = Master::with(Limits { streams: 0, ..Default::default() }).await;
    full.get("/coracle/v1/backup").await.refused(429, "streams are open");
}
