//! Real files: what `check` says of them, and which directories are refused.

use std::path::Path;

use bytes::Bytes;

use super::super::*;

async fn reopen(dir: &Path) -> EmbeddedStore {
    // The lock is released when the thread of the store dropped before has ended.
    loop {
        match EmbeddedStore::open(dir).await {
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

async fn checked(dir: &Path) -> (CheckReport, Vec<(String, u64, Vec<u8>)>) {
    loop {
        let mut items = Vec::new();
        match check(dir, |key, version, value| items.push((key.to_owned(), version, value.to_vec()))) {
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            other => return (other.unwrap(), items),
        }
    }
}

#[tokio::test]
async fn a_check_tells_what_is_there_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", Some("3")), ("b", None)] {
        store.commit(vec![Write::one(key, value.map(Bytes::from), Expect::Any)]).await;
    }
    assert!(matches!(check(dir.path(), |_, _, _| {}), Err(StoreError::Locked { .. })));
    drop(store);
    let (report, items) = checked(dir.path()).await;
    assert_eq!(items, [("a".to_owned(), 3, b"3".to_vec())]);
    let segment = dir.path().join("0000000001.log");
    let bytes = std::fs::metadata(&segment).unwrap().len();
    let expected = CheckReport { segments: 1, bytes, frames: 4, records: 4, keys: 1, version: 4, ..report.clone() };
    assert_eq!(report, expected);
    assert!(report.garbage_bytes > 0 && report.garbage_bytes < bytes);

    let mut torn = std::fs::read(&segment).unwrap();
    torn.extend([0xc7; 33]);
    std::fs::write(&segment, &torn).unwrap();
    assert_eq!(checked(dir.path()).await.0, CheckReport { torn_bytes: 33, ..report.clone() });
    assert_eq!(std::fs::read(&segment).unwrap(), torn);
    drop(reopen(dir.path()).await);
    assert_eq!(checked(dir.path()).await.0, report, "the start cuts it off");

    torn[60] ^= 1;
    std::fs::write(&segment, &torn).unwrap();
    assert!(matches!(check(dir.path(), |_, _, _| {}), Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    assert!(matches!(check(&absent, |_, _, _| {}), Err(StoreError::Unopenable { .. })));
    assert!(!absent.exists(), "a check makes nothing");
    assert!(matches!(check(dir.path(), |_, _, _| {}), Err(StoreError::Unopenable { .. })));

    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(EmbeddedStore::open(&file).await, Err(StoreError::Unopenable { .. })));

    std::fs::create_dir(dir.path().join("data")).unwrap();
    let Err(StoreError::Unopenable { cause, .. }) = EmbeddedStore::open(dir.path()).await else {
        panic!("it is of another format")
    };
    assert!(cause.contains("format"), "{cause}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).await.unwrap();
    let put = |key: String, bytes: usize| Write::one(key, Some(vec![1; bytes].into()), Expect::Any);
    // More than one frame takes, so it is made durable in two steps.
    let batch = vec![
        put("a".into(), 5 << 20),
        put("too-large".into(), 17 << 20),
        put("k".repeat(5000), 1),
        put("b".into(), 5 << 20),
    ];
    let outcomes = store.commit(batch).await;
    let too_large = |outcome: &Outcome| matches!(outcome, Outcome::Failed(StoreError::TooLarge { .. }));
    assert_eq!((&outcomes[0], &outcomes[3]), (&Outcome::Committed(1), &Outcome::Committed(2)));
    assert!(too_large(&outcomes[1]) && too_large(&outcomes[2]), "{outcomes:?}");
    drop(store);
    let (loaded, _) = reopen(dir.path()).await.load().await.unwrap();
    assert_eq!(loaded.items.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}
