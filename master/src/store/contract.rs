//! What every store must do, run against every implementation.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use proptest::prelude::*;

use super::*;

fn put(key: &str, value: &str, expect: Expect) -> Write {
    Write { key: key.into(), value: Some(Bytes::copy_from_slice(value.as_bytes())), expect }
}

async fn compare_and_set(store: &dyn Store) {
    let outcomes = store
        .commit(vec![put("a", "1", Expect::Absent), put("b", "1", Expect::Version(9)), put("c", "1", Expect::Absent)])
        .await
        .unwrap();
    assert_eq!(outcomes, [Outcome::Committed(1), Outcome::Conflict, Outcome::Committed(2)]);
    let outcomes = store.commit(vec![put("a", "2", Expect::Absent), put("c", "2", Expect::Version(2))]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Conflict, Outcome::Committed(3)]);
    let delete = Write { key: "a".into(), value: None, expect: Expect::Version(1) };
    assert_eq!(store.commit(vec![delete]).await.unwrap(), [Outcome::Committed(4)]);
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.version, 4, "a deletion counts");
    assert_eq!(loaded.items, [Stored { key: "c".into(), value: Bytes::from_static(b"2"), version: 3 }]);
}

#[tokio::test]
async fn memory_compares_and_sets() {
    compare_and_set(&MemoryStore::default()).await;
}

#[tokio::test]
async fn embedded_compares_and_sets() {
    let dir = tempfile::tempdir().unwrap();
    compare_and_set(&EmbeddedStore::open(dir.path()).await.unwrap()).await;
}

#[tokio::test]
async fn embedded_is_opened_by_one_master_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = EmbeddedStore::open(dir.path()).await.unwrap();
    assert!(matches!(EmbeddedStore::open(dir.path()).await, Err(StoreError::Locked { .. })));
    drop(first);
}

/// (key, value, whether to expect what is there, whether to delete)
type Step = (u8, u8, bool, bool);

/// Applies random batches to a store and to a plain map; they must agree, also after reopening.
async fn agrees_with_a_map(dir: Option<&Path>, batches: Vec<Vec<Step>>) {
    async fn open(dir: Option<&Path>) -> Arc<dyn Store> {
        match dir {
            // The lock is released when the thread of the store dropped before has ended.
            Some(dir) => loop {
                match EmbeddedStore::open(dir).await {
                    Ok(store) => return Arc::new(store),
                    Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
                    Err(e) => panic!("{e}"),
                }
            },
            None => Arc::new(MemoryStore::default()),
        }
    }
    let mut store = open(dir).await;
    let mut model: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    let mut version = 0;
    for (i, batch) in batches.into_iter().enumerate() {
        let mut writes: Vec<Write> = Vec::new();
        let mut expected = Vec::new();
        for (key, value, honest, delete) in batch {
            let key = format!("k{}", key % 8);
            if writes.iter().any(|w| w.key == key) {
                continue;
            }
            let current = model.get(&key).map(|(v, _)| *v);
            let expect = match (honest, current) {
                (true, Some(v)) => Expect::Version(v),
                (true, None) | (false, Some(_)) => Expect::Absent,
                (false, None) => Expect::Version(version + 100),
            };
            let value = (!delete).then(|| Bytes::from(vec![value; 3]));
            if honest {
                version += 1;
                match &value {
                    Some(v) => model.insert(key.clone(), (version, v.to_vec())),
                    None => model.remove(&key),
                };
                expected.push(Outcome::Committed(version));
            } else {
                expected.push(Outcome::Conflict);
            }
            writes.push(Write { key, value, expect });
        }
        assert_eq!(store.commit(writes).await.unwrap(), expected);
        if dir.is_some() && i % 5 == 4 {
            drop(store);
            store = open(dir).await;
        }
        let loaded = store.load().await.unwrap();
        let found: BTreeMap<_, _> = loaded.items.into_iter().map(|s| (s.key, (s.version, s.value.to_vec()))).collect();
        assert_eq!(found, model);
        assert_eq!(loaded.version, version);
    }
}

fn batches() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(any::<Step>(), 0..6), 1..12)
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #[test]
    fn memory_agrees_with_a_map(batches in batches()) {
        run(agrees_with_a_map(None, batches));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn embedded_agrees_with_a_map_across_restarts(batches in batches()) {
        let dir = tempfile::tempdir().unwrap();
        run(agrees_with_a_map(Some(dir.path()), batches));
    }
}
