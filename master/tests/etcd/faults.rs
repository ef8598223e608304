//! Three members under load while they are killed, frozen and cut off.
//!
//! Several writers compare and set a few keys. Nothing that was acknowledged may be lost, nothing
//! refused may appear, and every reader must see one and the same history.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
};

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::record::Record;

const KEYS: usize = 3;
const WRITERS: usize = 4;

/// One acknowledged write.
#[derive(Debug, Clone)]
struct Done {
    key: String,
    value: Bytes,
    expect: Expect,
    version: u64,
    asked: Instant,
    answered: Instant,
}

#[derive(Default)]
struct Log {
    done: Mutex<Vec<Done>>,
    /// Values of writes that were answered with "not done".
    refused: Mutex<Vec<Bytes>>,
    /// Of which nobody knows.
    unknown: AtomicUsize,
    count: AtomicU64,
    stop: AtomicBool,
}

async fn write(number: usize, store: Arc<EtcdStore>, record: Arc<Record>, log: Arc<Log>) {
    let mut seen = BTreeMap::new();
    for round in 0.. {
        if log.stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("k{}", (number + round) % KEYS);
        // What the reader was told, or what was answered since.
        let known = record.version_of(&key).max(seen.get(&key).copied());
        let expect = known.map_or(Expect::Absent, Expect::Version);
        let value = Bytes::from(format!("{number}:{round}"));
        let asked = Instant::now();
        let outcome = store.commit(vec![Write::one(&*key, Some(value.clone()), expect)]).await.remove(0);
        match outcome {
            Outcome::Committed(version) => {
                seen.insert(key.clone(), version);
                log.done.lock().unwrap().push(Done { key, value, expect, version, asked, answered: Instant::now() });
                log.count.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Conflict { op: 0 } => log.refused.lock().unwrap().push(value),
            Outcome::Failed(StoreError::Unavailable { .. }) => drop(log.unknown.fetch_add(1, Ordering::Relaxed)),
            Outcome::Failed(StoreError::Unwritable { .. }) => log.refused.lock().unwrap().push(value),
            other => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until a hundred more writes were done.
async fn progress(log: &Log, after: &str) {
    let goal = log.count.load(Ordering::Relaxed) + 100;
    let begin = Instant::now();
    while log.count.load(Ordering::Relaxed) < goal {
        assert!(begin.elapsed() < PATIENCE, "writes go on after {after}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{after}: a hundred more writes after {:?}", begin.elapsed());
}

async fn good(stores: &[Arc<EtcdStore>], after: &str) {
    for store in stores {
        health(store, &format!("it is well after {after}"), |health| *health == Health::Good).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn three_members_under_load_lose_nothing() {
    let mut cluster = Cluster::start(3).unwrap();
    let mut stores = Vec::new();
    for first in 0..3 {
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(first);
        let config = EtcdConfig { endpoints, ..config(&cluster, "/faults") };
        stores.push(Arc::new(EtcdStore::open(config).await.unwrap()));
    }
    let mut records = Vec::new();
    for store in &stores {
        records.push(Arc::new(Record::of(store).await));
    }
    let log = Arc::new(Log::default());
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        // The third store only follows.
        let (store, record) = (stores[number % 2].clone(), records[number % 2].clone());
        writers.spawn(write(number, store, record, log.clone()));
    }
    progress(&log, "the start").await;
    shake(&mut cluster, &stores, &log).await;
    log.stop.store(true, Ordering::Relaxed);
    timeout(PATIENCE, async { while writers.join_next().await.transpose().unwrap().is_some() {} }).await.unwrap();
    check(&stores, &records, &log).await;
}

async fn shake(cluster: &mut Cluster, stores: &[Arc<EtcdStore>], log: &Log) {
    let leader = cluster.wait_for_leader().unwrap();
    let follower = (leader + 1) % 3;
    cluster.kill(follower).unwrap();
    progress(log, "a follower was killed").await;
    cluster.restart(follower).unwrap();

    let leader = cluster.wait_for_leader().unwrap();
    cluster.kill(leader).unwrap();
    progress(log, "the leader was killed").await;
    cluster.restart(leader).unwrap();
    progress(log, "it was started again").await;
    good(stores, "members were killed").await;

    (0..3).for_each(|member| cluster.freeze(member).unwrap());
    for store in stores {
        let Health::Degraded { cause } = health(store, "a frozen etcd is told", is_degraded).await else {
            panic!("it is degraded")
        };
        assert!(cause.contains("majority"), "{cause}");
    }
    (0..3).for_each(|member| cluster.thaw(member).unwrap());
    progress(log, "all members stood still").await;
    good(stores, "all members stood still").await;

    let leader = cluster.wait_for_leader().unwrap();
    cluster.isolate(leader);
    progress(log, "the leader was cut off").await;
    cluster.heal();
    good(stores, "the leader was cut off").await;

    (0..3).for_each(|member| cluster.cut_clients(member));
    progress(log, "connections were cut").await;

    (0..3).for_each(|member| cluster.kill(member).unwrap());
    for store in stores {
        health(store, "that all are dead is told", is_degraded).await;
    }
    (0..3).for_each(|member| cluster.restart(member).unwrap());
    progress(log, "all members were killed").await;
    good(stores, "all members were killed").await;
}

async fn check(stores: &[Arc<EtcdStore>], records: &[Arc<Record>], log: &Log) {
    let mut done = log.done.lock().unwrap().clone();
    let last = done.iter().map(|done| done.version).max().unwrap();
    let fresh = Record::of(&stores[2]).await;
    let last = last.max(fresh.state().view.values.values().map(|(version, _)| *version).max().unwrap());
    for record in records {
        record.reach(last).await;
    }
    let history = records[0].state().changes.clone();
    for record in records {
        let state = record.state();
        assert_eq!(state.resets, 0, "nothing was compacted");
        assert!(state.changes == history, "all readers saw one history");
        assert_eq!(state.view.values, fresh.state().view.values, "and its end is what is stored");
    }
    // The version before each change of a key.
    let mut before = BTreeMap::new();
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    for change in &history {
        let prior = latest.insert(&change.key, change.version);
        before.insert(change.version, (change, prior));
    }
    for done in &done {
        let (change, prior) = before.get(&done.version).unwrap_or_else(|| panic!("{done:?} is lost"));
        assert_eq!((&change.key, &change.value), (&done.key, &Some(done.value.clone())));
        assert_eq!(prior.map_or(Expect::Absent, Expect::Version), done.expect, "one after the other");
    }
    let written: std::collections::BTreeSet<&Bytes> =
        history.iter().filter_map(|change| change.value.as_ref()).collect();
    assert_eq!(written.len(), history.len(), "nothing was done twice");
    let refused = log.refused.lock().unwrap();
    assert!(refused.iter().all(|value| !written.contains(value)), "nothing refused was done");
    // What was answered before another was asked for came before it.
    let mut answered = done.clone();
    answered.sort_by_key(|done| done.answered);
    done.sort_by_key(|done| done.asked);
    let (mut at, mut newest) = (0, 0);
    for done in &done {
        while answered[at].answered < done.asked {
            newest = newest.max(answered[at].version);
            at += 1;
        }
        assert!(done.version > newest, "{done:?} came after {newest}");
    }
    let unknown = log.unknown.load(Ordering::Relaxed);
    println!("{} changes, {} acknowledged, {unknown} unknown, {} refused", history.len(), done.len(), refused.len());
}
