//! The store around the log: its thread, its readers, its health.

use std::{task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;

use super::{
    super::{disk::Directory, *},
    sim::SimDisk,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options { segment_bytes: 4000, garbage_bytes: 8000, step_bytes: 1000, frame_bytes: 2000 }
}

async fn open(disk: &SimDisk) -> EmbeddedStore {
    let disk = disk.clone();
    let make = || Ok(Box::new(disk) as Box<dyn Directory>);
    EmbeddedStore::start("sim".into(), options(), make).await.unwrap()
}

fn put(key: &str, bytes: usize) -> Vec<Write> {
    vec![Write::one(key, Some(Bytes::from(vec![1; bytes])), Expect::Any)]
}

async fn committed(store: &EmbeddedStore, write: Vec<Write>) -> u64 {
    match store.commit(write).await[..] {
        [Outcome::Committed(version)] => version,
        ref other => panic!("{other:?}"),
    }
}

/// Waits until it is so.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never came to this: {what}"));
}

#[tokio::test]
async fn a_full_disk_is_told_and_forgotten_when_there_is_room() {
    let disk = SimDisk::new(1);
    let store = open(&disk).await;
    let (_, mut updates) = store.load().await.unwrap();
    let mut health = store.health();
    committed(&store, put("a", 10)).await;
    disk.leave_room(20);

    let outcomes = store.commit(put("b", 500)).await;
    let [Outcome::Failed(StoreError::Unwritable { cause, .. })] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(cause.contains("make room"), "{cause}");
    assert!(matches!(&*health.borrow_and_update(), Health::Degraded { cause } if cause.contains("make room")));
    let (loaded, _) = store.load().await.unwrap();
    assert_eq!(loaded.items.len(), 1, "reading goes on");

    disk.mend();
    let good = health.wait_for(|health| *health == Health::Good);
    tokio::time::timeout(PATIENCE, good).await.expect("it mends by itself").unwrap();
    let version = committed(&store, put("b", 500)).await;
    assert_eq!(version, 2, "what was refused was not counted");
    for version in [1, 2] {
        let Some(Update::Changes(changes)) = updates.recv().await else { panic!("updates go on") };
        assert_eq!(changes[0].version, version);
    }
}

#[tokio::test]
async fn after_a_failed_sync_it_goes_on_elsewhere() {
    let disk = SimDisk::new(2);
    let store = open(&disk).await;
    committed(&store, put("a", 10)).await;
    disk.fail_syncs(0, 1);
    let outcomes = store.commit(put("a", 20)).await;
    assert!(matches!(outcomes[..], [Outcome::Failed(StoreError::Unwritable { .. })]), "{outcomes:?}");
    assert!(matches!(&*store.health().borrow(), Health::Degraded { cause } if cause.contains("kernel's log")));
    assert_eq!(disk.names().len(), 2);
    committed(&store, put("b", 10)).await;
    assert_eq!(*store.health().borrow(), Health::Good);

    disk.fail_syncs(0, 2);
    let outcomes = store.commit(put("a", 30)).await;
    assert!(matches!(outcomes[..], [Outcome::Failed(StoreError::Unavailable { .. })]), "it is not known: {outcomes:?}");
    let outcomes = store.commit(put("a", 40)).await;
    assert!(matches!(outcomes[..], [Outcome::Committed(3)]), "{outcomes:?}");
    let (loaded, _) = store.load().await.unwrap();
    assert_eq!(loaded.items[0].value.len(), 40);
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_reaches_the_readers() {
    let disk = SimDisk::new(3);
    let store = open(&disk).await;
    let (_, mut updates) = store.load().await.unwrap();
    let (_, mut others) = store.load().await.unwrap();
    let (_, gone) = store.load().await.unwrap();
    drop(gone);
    let mut commit = store.commit(put("a", 10));
    // It is sent; whether it is done already does not matter.
    std::future::poll_fn(|context| Poll::Ready(commit.as_mut().poll(context).is_ready())).await;
    drop(commit);
    for updates in [&mut updates, &mut others] {
        let Some(Update::Changes(changes)) = updates.recv().await else { panic!("updates go on") };
        assert_eq!((changes[0].key.as_str(), changes[0].version), ("a", 1));
    }
}

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let disk = SimDisk::new(4);
    let store = open(&disk).await;
    let (_, mut updates) = store.load().await.unwrap();
    let writes = async {
        for _ in 0..3 * CHANGES_MAX {
            committed(&store, put("a", 10)).await;
        }
    };
    let mut writes = Box::pin(writes);
    let waits = tokio::time::timeout(Duration::from_millis(100), &mut writes).await.is_err();
    assert!(waits, "it waits for its reader");
    let reads = async {
        for version in 1..=3 * CHANGES_MAX as u64 {
            let Some(Update::Changes(changes)) = updates.recv().await else { panic!("updates go on") };
            assert_eq!(changes[0].version, version);
        }
    };
    tokio::join!(writes, reads);
    assert!(updates.recv().now_or_never().is_none(), "and that was all");
}

#[tokio::test]
async fn a_quiet_store_gives_back_garbage_and_then_rests() {
    let disk = SimDisk::new(5);
    let store = open(&disk).await;
    // Fifteen times what is kept, quicker than one quiet moment.
    for i in 0..20 {
        committed(&store, put(&format!("kept/{i}"), 100)).await;
    }
    for i in 0..30 {
        let writes = (0..20).flat_map(|k| put(&format!("key/{k}"), 100 + i)).collect();
        store.commit(writes).await;
    }
    let live = 40 * 200;
    eventually("the garbage is gone", || disk.used() < 2 * live + 8000 + 4000).await;
    let mut seen = disk.syncs();
    // Steps follow each other at once: a pause longer than the first wait is the end.
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = disk.syncs();
        if now == seen {
            break;
        }
        seen = now;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(disk.syncs(), seen, "an idle store writes nothing");
    let (loaded, _) = store.load().await.unwrap();
    assert_eq!((loaded.items.len(), loaded.version), (40, 620));
}
