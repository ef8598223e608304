//! There and back again, through every store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_api::{Object, TypedObject, core};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    format::{Header, Reader, Writer},
    *,
};
use crate::{
    cluster::{self, ClusterError, ClusterFacts, Ranges},
    registry::{Expected, Registry},
    store::{EmbeddedStore, Expect, Loaded, MemoryStore, Store, StoreError, Write},
    verify::verify,
};

fn facts() -> ClusterFacts {
    ClusterFacts {
        cluster_id: "0000cafe".into(),
        service_cidr: "10.0.0.0/24".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
    }
}

async fn open(store: Arc<dyn Store>) -> Registry {
    Registry::open(store, &TaskTracker::new(), CancellationToken::new()).await.unwrap()
}

fn cut(registry: &Registry) -> Vec<u8> {
    Cut::new(registry, facts(), "2024-05-06T07:08:09Z".into()).flatten().collect()
}

async fn restore_into(store: &dyn Store, text: &[u8], replace: bool) -> Result<Restored, RestoreError> {
    restore(store, || Ok(text), replace, |_| {}).await
}

/// Everything that a registry serves, without resourceVersions, by key.
fn served(registry: &Registry) -> BTreeMap<String, Vec<u8>> {
    let (_, kinds) = registry.snapshot_all();
    let all = kinds.iter().flat_map(|(kind, entries)| entries.values().map(|e| (e.key.stored(kind), e.stored())));
    all.collect()
}

async fn loaded(store: &dyn Store) -> Loaded {
    store.load().await.unwrap().0
}

/// What is in a store makes sense, and has larger versions than the backup.
async fn check_store(store: &dyn Store, header: &Header, objects: usize) {
    let loaded = loaded(store).await;
    assert!(loaded.items.iter().all(|item| item.version > header.resource_version));
    let report = verify(loaded.items.into_iter().map(|item| (item.key, item.version, item.value)));
    assert_eq!(report.problems, []);
    assert_eq!((report.objects as usize, report.cluster), (objects, Some(facts())));
}

fn typed<T: TypedObject>(value: Value) -> Box<dyn Object> {
    Box::new(serde_json::from_value::<T>(value).unwrap())
}

fn pod(name: &str, text: &str) -> Box<dyn Object> {
    let annotations = json!({"note": text});
    typed::<core::Pod>(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "annotations": annotations},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }))
}

fn service(name: &str, address: &str) -> Box<dyn Object> {
    typed::<core::Service>(json!({
        "metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]},
    }))
}

fn node(name: &str) -> Box<dyn Object> {
    typed::<core::Node>(json!({"metadata": {"name": name}, "spec": {"podCIDR": "10.244.1.0/24"}}))
}

/// A registry with a few objects and a past.
async fn some() -> Registry {
    let registry = open(Arc::new(MemoryStore::default())).await;
    for object in [pod("a", "x"), pod("b", "y"), service("s", "10.0.0.9"), service("h", "None"), node("m1")] {
        registry.create(object).await.unwrap();
    }
    for _ in 0..50 {
        registry.update(node("m1"), Expected::Any).await.unwrap();
    }
    registry.delete(core::Pod::row(), "default", "b", Expected::Any).await.unwrap();
    registry
}

/// Objects in every shape that matters: kinds with and without namespace, with claims, with texts
/// that JSON must escape.
fn objects() -> impl Strategy<Value = Vec<Box<dyn Object>>> {
    let any = ("[a-z]{1,5}", any::<String>(), 0..4u8, 1..250u8).prop_map(|(name, text, kind, n)| match kind {
        0 => pod(&name, &text),
        1 => service(&name, &format!("10.0.0.{n}")),
        2 => node(&name),
        _ => typed::<core::Namespace>(json!({"metadata": {"name": name, "labels": {"n": n.to_string()}}})),
    });
    prop::collection::vec(any, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_restored_registry_serves_the_same_bytes(objects in objects()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = open(Arc::new(MemoryStore::default())).await;
            for object in objects {
                // Namesakes and claims of others are refused, which is as good.
                drop(registry.create(object).await);
            }
            let text = cut(&registry);
            let store = Arc::new(MemoryStore::default());
            let restored = restore_into(&*store, &text, false).await.unwrap();
            assert_eq!((restored.replaced, restored.continues), (0, true));
            check_store(&*store, &restored.header, served(&registry).len()).await;
            let again = open(store).await;
            assert_eq!(served(&again), served(&registry));
            // Apart from versions it is a fixed point.
            assert_eq!(records(&cut(&again)), records(&text));
        });
    }
}

fn records(text: &[u8]) -> Vec<(String, bytes::Bytes)> {
    let records = Reader::default().push(text).unwrap();
    records.into_iter().map(|r| (r.key, r.object)).collect()
}

/// Opens a store whose last owner may be about to let go of it.
async fn open_embedded(dir: &std::path::Path) -> EmbeddedStore {
    let opening = async {
        loop {
            match EmbeddedStore::open(dir).await {
                Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), opening).await.expect("the lock is let go")
}

#[tokio::test]
async fn an_embedded_store_goes_on_from_the_backups_version_also_after_a_restart() {
    let registry = some().await;
    let text = cut(&registry);
    let dir = tempfile::tempdir().unwrap();
    let store = open_embedded(dir.path()).await;
    let restored = restore_into(&store, &text, false).await.unwrap();
    assert!(restored.continues);
    assert_eq!(restored.header.resource_version, registry.version());
    check_store(&store, &restored.header, 4).await;
    drop(store);
    let again = open(Arc::new(open_embedded(dir.path()).await)).await;
    assert_eq!(served(&again), served(&registry));
    assert!(again.is_claimed("portals/10.0.0.9"));
    // Old positions are refused, so that whoever watched lists anew.
    let watch = again.watch(core::Pod::row(), Default::default(), Some(registry.version()));
    assert_eq!(watch.err().map(|e| e.code()), Some(410));
}

#[tokio::test]
async fn a_store_that_holds_something_is_replaced_only_on_request() {
    let text = cut(&some().await);
    let store = MemoryStore::default();
    let old = open(Arc::new(MemoryStore::default())).await;
    old.create(pod("old", "")).await.unwrap();
    restore_into(&store, &cut(&old), false).await.unwrap();
    let before = loaded(&store).await;
    let error = restore_into(&store, &text, false).await.unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty(2)), "{error}");
    assert_eq!(loaded(&store).await, before, "nothing was touched");
    let restored = restore_into(&store, &text, true).await.unwrap();
    assert_eq!(restored.replaced, 2);
    check_store(&store, &restored.header, 4).await;
    assert!(loaded(&store).await.items.iter().all(|item| item.key != "pods/default/old"));
}

#[tokio::test]
async fn a_bad_backup_leaves_the_store_alone() {
    let text = cut(&some().await);
    let store = MemoryStore::default();
    restore_into(&store, &text, false).await.unwrap();
    let before = loaded(&store).await;
    let mut flipped = text.clone();
    flipped[text.len() / 2] ^= 1;
    for bad in [&text[..text.len() - 1], &text[..text.len() / 2], &flipped[..]] {
        let error = restore_into(&store, bad, true).await.unwrap_err();
        assert!(matches!(error, RestoreError::Format(_)), "{error}");
    }
    assert_eq!(loaded(&store).await, before);
}

/// A backup whose checksum is right, whatever its objects are.
fn forged(objects: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    let header = Header::new(facts(), 9, "2024-05-06T07:08:09Z".into(), objects.len() as u64);
    let mut writer = Writer::new(&header, &mut out);
    for (key, object) in objects {
        writer.object(key, 5, object, &mut out);
    }
    writer.finish(&mut out);
    out.to_vec()
}

#[test]
fn objects_that_make_no_sense_are_refused_with_their_line() {
    let (a, b) = (pod("a", "").to_json(), pod("b", "").to_json());
    let refused = |objects: &[(&str, Vec<u8>)], line: u64, part: &str| {
        let text = forged(objects);
        let error = check(&text[..]).unwrap_err().to_string();
        assert!(error.contains(&format!("line {line}: ")) && error.contains(part), "{error}");
    };
    let (ka, kb) = ("pods/default/a", "pods/default/b");
    assert!(check(&forged(&[(ka, a.clone()), (kb, b.clone())])[..]).is_ok());
    refused(&[(ka, a.clone()), (kb, a.clone())], 3, "is pods/default/a");
    refused(&[(ka, a.clone()), (ka, a.clone())], 3, "twice");
    refused(&[("ponds/default/a", a.clone())], 2, "no kind 'ponds'");
    refused(&[("coracle/cluster", a.clone())], 2, "no object's key");
    refused(&[(ka, b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":7}".to_vec())], 2, "no Pod");
    let services = [
        ("services/default/s", service("s", "10.0.0.9").to_json()),
        ("services/default/t", service("t", "10.0.0.9").to_json()),
    ];
    refused(&services, 3, "and so has services/default/s");
}

#[tokio::test]
async fn a_restore_that_was_not_finished_is_not_served_and_can_be_repeated() {
    let text = cut(&some().await);
    let store = MemoryStore::default();
    let ranges = |net: &str| Ranges { wanted: None, default: net.parse().unwrap() };
    let (services, pods) = (ranges("10.0.0.0/24"), ranges("10.244.0.0/16"));
    store.commit(vec![Write::one(UNFINISHED, Some("x".into()), Expect::Any)]).await;
    let half = loaded(&store).await;
    let error = cluster::establish(&store, &half, services, pods, 1).await.unwrap_err();
    assert!(matches!(error, ClusterError::HalfRestored), "{error}");
    restore_into(&store, &text, true).await.unwrap();
    let whole = loaded(&store).await;
    assert_eq!(cluster::establish(&store, &whole, services, pods, 1).await.unwrap(), facts(), "the id is kept");
}
