//! Several registries on one store, as masters share an etcd.

use coracle_api::core::{Pod, PodSpec, Service, ServiceSpec};

use super::*;
use crate::store::{Health, Outcome, Update, Write};

/// Two masters' registries on one store.
struct Masters {
    store: Arc<MemoryStore>,
    a: Registry,
    b: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Masters {
    async fn new() -> Self {
        let (store, tasks, stop) = (Arc::new(MemoryStore::default()), TaskTracker::new(), CancellationToken::new());
        let a = Registry::open(store.clone(), &tasks, stop.clone()).await.unwrap();
        let b = Registry::open(store.clone(), &tasks, stop.clone()).await.unwrap();
        Self { store, a, b, tasks, stop }
    }

    async fn agree(&self) {
        let version = self.a.version().max(self.b.version());
        assert!(self.a.reached(version, PATIENCE).await && self.b.reached(version, PATIENCE).await);
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

fn service(name: &str, portal: &str) -> Box<dyn Object> {
    Box::new(Service {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some("n".into()), ..Default::default() },
        spec: Some(ServiceSpec { cluster_ip: Some(portal.into()), ..Default::default() }),
        status: None,
    })
}

fn pod(name: &str, node: &str) -> Box<dyn Object> {
    Box::new(Pod {
        metadata: ObjectMeta { name: Some(name.into()), namespace: Some("n".into()), ..Default::default() },
        spec: Some(PodSpec { node_name: Some(node.into()), ..Default::default() }),
        status: None,
    })
}

#[tokio::test]
async fn a_write_through_one_is_read_there_at_once_and_by_the_others_as_it_arrives() {
    let masters = Masters::new().await;
    let mut watch = masters.b.watch(kind(), Selection::default(), None).unwrap();
    let entry = masters.a.create(namespace("x", 1)).await.unwrap();
    assert_eq!(masters.a.get(kind(), "", "x").unwrap().version, entry.version);
    let seen = watch.next().await.unwrap();
    assert_eq!((seen[0].event, &seen[0].entry.json), (EventType::Added, &entry.json));
    let newer = masters.b.update(namespace("x", 2), Expected::Version(entry.version)).await.unwrap();
    masters.agree().await;
    assert_eq!(masters.a.get(kind(), "", "x").unwrap().json, newer.json);
}

#[tokio::test]
async fn one_of_two_writes_wins_and_the_loser_then_knows_why() {
    let masters = Masters::new().await;
    for round in 0..50 {
        let name = format!("x{round}");
        let (a, b) = tokio::join!(masters.a.create(namespace(&name, 1)), masters.b.create(namespace(&name, 2)));
        assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1);
        for (registry, result) in [(&masters.a, &a), (&masters.b, &b)] {
            assert!(registry.get(kind(), "", &name).is_some(), "whoever lost sees what won");
            if let Err(error) = result {
                assert_eq!(error.reason, coracle_api::error::Reason::AlreadyExists);
            }
        }
    }
}

#[tokio::test]
async fn modifications_through_both_all_count() {
    let masters = Masters::new().await;
    masters.a.create(namespace("x", 0)).await.unwrap();
    masters.agree().await;
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let registry = if i % 2 == 0 { masters.a.clone() } else { masters.b.clone() };
            tokio::spawn(async move {
                let add = |n: &mut Namespace| {
                    let label = n.metadata.labels.get_or_insert_default().entry("n".into()).or_default();
                    *label = (label.parse::<u32>().unwrap() + 1).to_string();
                    Ok(true)
                };
                registry.modify::<Namespace>("", "x", add).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    masters.agree().await;
    for registry in [&masters.a, &masters.b] {
        assert_eq!(registry.get(kind(), "", "x").unwrap().label("n"), Some("16"));
    }
}

#[tokio::test]
async fn an_address_belongs_to_one_service_whoever_gives_it_out() {
    let masters = Masters::new().await;
    let address = "10.0.0.9";
    let (a, b) = tokio::join!(masters.a.create(service("a", address)), masters.b.create(service("b", address)));
    let (Ok(won), Err(lost)) = (if a.is_ok() { (a, b) } else { (b, a) }) else { panic!("one of them") };
    assert_eq!(lost.reason, coracle_api::error::Reason::Conflict);
    assert!(lost.message.contains(address), "{}", lost.message);
    masters.agree().await;
    assert!(masters.a.is_claimed("portals/10.0.0.9") && masters.b.is_claimed("portals/10.0.0.9"));
    // Another address gives the first one back, a deletion too.
    masters.b.update(service(&won.key.name, "10.0.0.10"), Expected::Any).await.unwrap();
    masters.agree().await;
    assert!(!masters.a.is_claimed("portals/10.0.0.9"));
    masters.a.create(service("c", address)).await.unwrap();
    masters.agree().await;
    for name in [won.key.name.as_str(), "c"] {
        masters.b.delete(Service::row(), "n", name, Expected::Any).await.unwrap();
    }
    let (loaded, _updates) = masters.store.load().await.unwrap();
    assert!(loaded.items.is_empty(), "nothing is left behind: {:?}", loaded.items);
}

#[tokio::test]
async fn a_deposed_leader_writes_nothing_more() {
    let masters = Masters::new().await;
    let old = masters.a.fenced(Some(masters.store.elect().await));
    old.create(namespace("x", 1)).await.unwrap();
    let new = masters.b.fenced(Some(masters.store.elect().await));
    let refused = old.update(namespace("x", 2), Expected::Any).await.unwrap_err();
    assert_eq!(refused.code(), 503);
    assert!(refused.message.contains("does not lead"), "{}", refused.message);
    masters.agree().await;
    new.update(namespace("x", 3), Expected::Any).await.unwrap();
    masters.a.create(namespace("y", 1)).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_away_refuses_writes_and_reads_go_on() {
    let masters = Masters::new().await;
    masters.a.create(namespace("x", 1)).await.unwrap();
    masters.store.set_health(Health::Degraded { cause: "no majority".into() });
    let refused = masters.a.create(namespace("y", 1)).await.unwrap_err();
    assert_eq!(refused.code(), 503);
    assert!(refused.message.contains("no majority"), "{}", refused.message);
    assert!(masters.a.get(kind(), "", "x").is_some());
    assert_ne!(*masters.a.health().borrow(), Health::Good);
    masters.store.set_health(Health::Good);
    masters.a.create(namespace("y", 1)).await.unwrap();
}

#[tokio::test]
async fn a_reader_whose_history_is_gone_starts_anew_and_its_watchers_list_again() {
    let masters = Masters::new().await;
    masters.a.create(namespace("x", 1)).await.unwrap();
    masters.a.create(pod("p", "n1")).await.unwrap();
    masters.agree().await;
    let from = masters.b.version();
    let on_node = || Selection { fields: FieldSelector::parse("spec.nodeName=n1").unwrap(), ..Default::default() };
    let mut all = masters.b.watch(kind(), Selection::default(), Some(from)).unwrap();
    let mut lane = masters.b.watch(Pod::row(), on_node(), Some(from)).unwrap();
    // Something changes between, so that the cursors are behind.
    masters.a.delete(kind(), "", "x", Expected::Any).await.unwrap();
    masters.agree().await;
    masters.store.reset_readers().await;
    masters.a.create(namespace("z", 1)).await.unwrap();
    masters.agree().await;
    assert_eq!(all.next().await.unwrap_err().code(), 410);
    assert_eq!(lane.next().await.unwrap_err().code(), 410);
    let (a, b) = (masters.a.snapshot_all(), masters.b.snapshot_all());
    assert_eq!(a.0, b.0);
    for ((kind, of_a), (_, of_b)) in a.1.iter().zip(&b.1) {
        let text = |entries: &Entries| entries.values().map(|e| e.json.clone()).collect::<Vec<_>>();
        assert_eq!(text(of_a), text(of_b), "{}", kind.plural);
    }
}

#[tokio::test]
async fn what_does_not_decode_is_not_served_and_hides_nothing_else() {
    let masters = Masters::new().await;
    masters.a.create(namespace("x", 1)).await.unwrap();
    let garbage = Write::one("namespaces//x", Some(Bytes::from_static(b"{")), Expect::Any);
    assert!(matches!(masters.store.commit(vec![garbage]).await[..], [Outcome::Committed(_)]));
    masters.a.create(namespace("y", 1)).await.unwrap();
    assert_eq!(masters.a.get(kind(), "", "x").unwrap().label("n"), Some("1"), "the last good state stays");
}

/// A store that answers a commit before or after its readers hear of it, as the network has it.
#[tokio::test]
async fn a_write_is_answered_only_when_it_can_be_read_however_late_the_change_comes() {
    struct Late(MemoryStore, Arc<tokio::sync::Semaphore>);
    impl Store for Late {
        fn load(&self) -> crate::store::BoxFuture<'_, Result<(Loaded, Updates), StoreError>> {
            Box::pin(async {
                let (loaded, mut updates) = self.0.load().await?;
                let (forward, late) = mpsc::channel::<Update>(1);
                let gate = self.1.clone();
                tokio::spawn(async move {
                    while let Some(update) = updates.recv().await {
                        gate.acquire().await.unwrap().forget();
                        drop(forward.send(update).await);
                    }
                });
                Ok((loaded, late))
            })
        }
        fn commit(&self, batch: Vec<Write>) -> crate::store::BoxFuture<'_, Vec<Outcome>> {
            self.0.commit(batch)
        }
        fn health(&self) -> signal::Receiver<Health> {
            self.0.health()
        }
    }
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let store = Arc::new(Late(MemoryStore::default(), gate.clone()));
    let registry = Registry::open(store, &TaskTracker::new(), CancellationToken::new()).await.unwrap();
    let writer = registry.clone();
    let mut writing = tokio::spawn(async move { writer.create(namespace("x", 1)).await.unwrap() });
    // It is durable long before: let everything that can run do so.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished() && registry.get(kind(), "", "x").is_none());
    gate.add_permits(100);
    let entry = (&mut writing).await.unwrap();
    assert_eq!(registry.get(kind(), "", "x").unwrap().version, entry.version);
}

/// A store that never reports changes one by one, as an etcd that was compacted meanwhile.
#[tokio::test]
async fn a_write_whose_change_is_lost_in_a_reset_is_answered_and_blocks_nothing() {
    struct Forgetful(MemoryStore);
    impl Store for Forgetful {
        fn load(&self) -> crate::store::BoxFuture<'_, Result<(Loaded, Updates), StoreError>> {
            self.0.load()
        }
        fn commit(&self, batch: Vec<Write>) -> crate::store::BoxFuture<'_, Vec<Outcome>> {
            Box::pin(async {
                let outcomes = self.0.commit_untold(batch).await;
                self.0.reset_readers().await;
                outcomes
            })
        }
        fn health(&self) -> signal::Receiver<Health> {
            self.0.health()
        }
    }
    let store = Arc::new(Forgetful(MemoryStore::default()));
    let registry = Registry::open(store, &TaskTracker::new(), CancellationToken::new()).await.unwrap();
    let within = async {
        let first = registry.create(namespace("x", 1)).await.unwrap();
        assert_eq!(registry.get(kind(), "", "x").unwrap().json, first.json);
        registry.update(namespace("x", 2), Expected::Version(first.version)).await.unwrap();
        let gone = registry.delete(kind(), "", "x", Expected::Any).await.unwrap();
        assert_eq!((gone.version, gone.label("n")), (registry.version(), Some("2")));
        registry.create(namespace("x", 3)).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, within).await.expect("every write is answered");
}

#[tokio::test]
async fn stopping_waits_for_the_writes_under_way() {
    let masters = Masters::new().await;
    let writes: Vec<_> = (0..64)
        .map(|i| {
            let registry = masters.a.clone();
            tokio::spawn(async move { registry.create(namespace(&format!("x{i}"), 1)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    masters.stop.cancel();
    masters.tasks.close();
    tokio::time::timeout(PATIENCE, masters.tasks.wait()).await.unwrap();
    let (loaded, _updates) = masters.store.load().await.unwrap();
    for (i, write) in writes.into_iter().enumerate() {
        if write.await.unwrap().is_ok() {
            let key = format!("namespaces//x{i}");
            assert!(loaded.items.iter().any(|item| item.key == key), "{key} was acknowledged");
        }
    }
}
