//! The stores that need nothing but this machine keep the contract.

use std::{path::Path, sync::Arc};

use proptest::prelude::*;

use super::{
    contract::{agrees_with_a_map, batches, keeps_its_promises},
    *,
};

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

#[tokio::test]
async fn memory_keeps_its_promises() {
    keeps_its_promises(&MemoryStore::default()).await;
}

proptest! {
    #[test]
    fn memory_agrees_with_a_map(batches in batches()) {
        run(agrees_with_a_map(Arc::new(MemoryStore::default()), batches, async |_, store| store));
    }
}

async fn open(dir: &Path) -> Arc<dyn Store> {
    // The lock is released when the thread of the store dropped before has ended.
    loop {
        match EmbeddedStore::open(dir).await {
            Ok(store) => return Arc::new(store),
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn embedded_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    keeps_its_promises(&EmbeddedStore::open(dir.path()).await.unwrap()).await;
}

#[tokio::test]
async fn embedded_is_opened_by_one_master_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = EmbeddedStore::open(dir.path()).await.unwrap();
    assert!(matches!(EmbeddedStore::open(dir.path()).await, Err(StoreError::Locked { .. })));
    drop(first);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn embedded_agrees_with_a_map_across_restarts(batches in batches()) {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            let reopen = async |i: usize, store: Arc<dyn Store>| {
                if i % 5 < 4 {
                    return store;
                }
                drop(store);
                open(dir.path()).await
            };
            agrees_with_a_map(open(dir.path()).await, batches, reopen).await;
        });
    }
}
