//! The registry over a memory store: what a reader, a writer and a watcher may rely on.

mod lanes;
mod several;

use std::collections::BTreeMap;

use coracle_api::{core::Namespace, meta::ObjectMeta};
use proptest::prelude::*;

use super::*;
use crate::store::MemoryStore;

async fn registry() -> (Registry, CancellationToken) {
    let stop = CancellationToken::new();
    let store = Arc::new(MemoryStore::default());
    (Registry::open(store, &TaskTracker::new(), stop.clone()).await.unwrap(), stop)
}

fn namespace(name: &str, label: u8) -> Box<dyn Object> {
    let labels = [("n".to_owned(), label.to_string())].into();
    Box::new(Namespace {
        metadata: ObjectMeta { name: Some(name.into()), labels: Some(labels), ..Default::default() },
        ..Default::default()
    })
}

fn kind() -> &'static Kind {
    Namespace::row()
}

/// What a watcher has to say now, without waiting for more.
async fn drain(watcher: &mut Watcher) -> Vec<WatchItem> {
    let mut items = Vec::new();
    while let Some(Ok(more)) = futures_util::FutureExt::now_or_never(watcher.next()) {
        items.extend(more);
    }
    items
}

#[tokio::test]
async fn an_entry_carries_its_version_in_its_json() {
    let (registry, _stop) = registry().await;
    let entry = registry.create(namespace("a", 1)).await.unwrap();
    assert_eq!(entry.version, 1);
    let json: serde_json::Value = serde_json::from_slice(&entry.json).unwrap();
    assert_eq!(json["metadata"]["resourceVersion"], "1");
    assert_eq!(json["kind"], "Namespace");
    let gone = registry.delete(kind(), "", "a", Expected::Any).await.unwrap();
    let line: serde_json::Value = serde_json::from_slice(&gone.line(EventType::Deleted)).unwrap();
    assert_eq!(line["object"]["metadata"]["resourceVersion"], "2");
    assert_eq!(line["object"]["metadata"]["name"], "a");
}

#[tokio::test]
async fn writes_are_refused_when_the_object_is_there_gone_or_changed() {
    let (registry, _stop) = registry().await;
    let first = registry.create(namespace("a", 1)).await.unwrap();
    assert_eq!(registry.create(namespace("a", 1)).await.unwrap_err().code(), 409);
    let second = registry.update(namespace("a", 2), Expected::Version(first.version)).await.unwrap();
    let stale = registry.update(namespace("a", 3), Expected::Version(first.version)).await.unwrap_err();
    assert_eq!(stale.code(), 409);
    assert!(stale.message.contains("has been modified"), "{}", stale.message);
    assert_eq!(registry.get(kind(), "", "a").unwrap().version, second.version);
    assert_eq!(registry.update(namespace("b", 3), Expected::Any).await.unwrap_err().code(), 404);
    assert_eq!(registry.delete(kind(), "", "b", Expected::Any).await.unwrap_err().code(), 404);
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_others_only_where_many_wrote_and_not_for_long() {
    let (registry, _stop) = registry().await;
    let write = |name: String| {
        let registry = registry.clone();
        async move {
            let begun = tokio::time::Instant::now();
            registry.create(namespace(&name, 1)).await.unwrap();
            begun.elapsed()
        }
    };
    let many = async |round: &str, count: usize| {
        let waits = futures_util::future::join_all((0..count).map(|i| write(format!("{round}-{i}")))).await;
        waits.into_iter().max().unwrap()
    };
    for name in 0..10 {
        assert_eq!(write(format!("alone-{name}")).await, Duration::ZERO, "one who writes alone waits for nobody");
    }
    for round in 0..5 {
        assert_eq!(many(&format!("eight-{round}"), 8).await, Duration::ZERO, "they are as many as last time");
    }
    let waited = write("fewer".into()).await;
    assert!(waited > Duration::ZERO && waited <= Duration::from_millis(2), "{waited:?}");
    assert_eq!(write("alone-again".into()).await, Duration::ZERO);
    many("crowd", 100).await;
    assert_eq!(many("forty", 40).await, Duration::ZERO, "they are enough");
}

#[tokio::test]
async fn concurrent_modifications_all_count() {
    let (registry, _stop) = registry().await;
    registry.create(namespace("a", 0)).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move {
                let add = |n: &mut Namespace| {
                    let label = n.metadata.labels.get_or_insert_default().entry("n".into()).or_default();
                    *label = (label.parse::<u32>().unwrap() + 1).to_string();
                    Ok(true)
                };
                registry.modify::<Namespace>("", "a", add).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(registry.get(kind(), "", "a").unwrap().label("n"), Some("8"));
}

#[tokio::test]
async fn a_selective_watch_sees_objects_enter_and_leave() {
    let (registry, _stop) = registry().await;
    let selection = Selection { labels: LabelSelector::parse("n=1").unwrap(), ..Default::default() };
    registry.create(namespace("a", 1)).await.unwrap();
    let mut watcher = registry.watch(kind(), selection, None).unwrap();
    let seen = |items: Vec<WatchItem>| {
        items.iter().map(|i| (i.event.as_str(), i.entry.label("n").unwrap().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(seen(drain(&mut watcher).await), [("ADDED", "1".into())]);
    registry.update(namespace("a", 2), Expected::Any).await.unwrap();
    registry.update(namespace("a", 3), Expected::Any).await.unwrap();
    registry.update(namespace("a", 1), Expected::Any).await.unwrap();
    registry.delete(kind(), "", "a", Expected::Any).await.unwrap();
    let expected = [("DELETED", "1".into()), ("ADDED", "1".into()), ("DELETED", "1".into())];
    assert_eq!(seen(drain(&mut watcher).await), expected);
}

#[tokio::test]
async fn a_cursor_that_falls_off_the_ring_is_told_to_list_again() {
    let (store, stop) = (Arc::new(MemoryStore::default()), CancellationToken::new());
    let (loaded, updates) = store.load().await.unwrap();
    let limits = LogLimits { events_max: 100, ..Default::default() };
    let registry = Registry::start_with(store, loaded, updates, limits, &TaskTracker::new(), stop).unwrap();
    registry.create(namespace("a", 0)).await.unwrap();
    let mut slow = registry.watch(kind(), Selection::default(), Some(1)).unwrap();
    for i in 0..101u32 {
        registry.update(namespace("a", (i % 7) as u8), Expected::Any).await.unwrap();
    }
    assert_eq!(slow.next().await.unwrap_err().code(), 410);
    assert_eq!(registry.watch(kind(), Selection::default(), Some(1)).unwrap_err().code(), 410);
    let ahead = registry.version() + 1;
    assert_eq!(registry.watch(kind(), Selection::default(), Some(ahead)).unwrap_err().code(), 410);
}

#[tokio::test]
async fn a_restart_finds_what_was_stored() {
    let store = Arc::new(MemoryStore::default());
    let stop = CancellationToken::new();
    let first = Registry::open(store.clone(), &TaskTracker::new(), stop.clone()).await.unwrap();
    first.create(namespace("a", 1)).await.unwrap();
    first.create(namespace("b", 1)).await.unwrap();
    first.delete(kind(), "", "b", Expected::Any).await.unwrap();
    let again = Registry::open(store, &TaskTracker::new(), stop).await.unwrap();
    assert_eq!(again.version(), 3);
    assert_eq!(again.snapshot(kind()).entries.len(), 1);
    assert_eq!(again.get(kind(), "", "a").unwrap().json, first.get(kind(), "", "a").unwrap().json);
    assert_eq!(again.watch(kind(), Selection::default(), Some(2)).unwrap_err().code(), 410);
}

/// Replays a watch on a map; it must end equal to the snapshot, whatever the start.
async fn replay_equals_snapshot(steps: Vec<(u8, u8)>, start: usize) {
    let (registry, _stop) = registry().await;
    let mut watcher = None;
    let mut view = BTreeMap::new();
    for (i, (name, label)) in steps.iter().enumerate() {
        if i == start % steps.len() {
            watcher = Some(registry.watch(kind(), Selection::default(), None).unwrap());
        }
        let name = format!("n{}", name % 4);
        if label % 5 == 0 {
            drop(registry.delete(kind(), "", &name, Expected::Any).await);
        } else if registry.create(namespace(&name, *label)).await.is_err() {
            registry.update(namespace(&name, *label), Expected::Any).await.unwrap();
        }
    }
    let mut last = 0;
    for item in drain(watcher.as_mut().unwrap()).await {
        let known = view.contains_key(&item.entry.key);
        match item.event {
            EventType::Added => assert!(!known, "added twice"),
            EventType::Modified | EventType::Deleted => assert!(known, "changed before it was added"),
        }
        if known {
            assert!(item.entry.version > last, "versions rise");
        }
        last = last.max(item.entry.version);
        if item.event == EventType::Deleted {
            view.remove(&item.entry.key);
        } else {
            view.insert(item.entry.key.clone(), item.entry.json.clone());
        }
    }
    let now: BTreeMap<_, _> =
        registry.snapshot(kind()).entries.iter().map(|(k, e)| (k.clone(), e.json.clone())).collect();
    assert_eq!(view, now);
}

proptest! {
    #[test]
    fn a_replayed_watch_equals_the_snapshot(
        steps in prop::collection::vec(any::<(u8, u8)>(), 1..60),
        start in any::<usize>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(replay_equals_snapshot(steps, start));
    }
}
