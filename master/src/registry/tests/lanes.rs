//! Watches of one node's pods: they see what a watch of all pods implies, and are woken by nothing
//! else.

use coracle_api::core::{Pod, PodSpec};
use futures_util::FutureExt;

use super::*;

fn pod(name: u8, node: u8) -> Box<dyn Object> {
    let metadata = ObjectMeta { name: Some(format!("p{name}")), namespace: Some("n".into()), ..Default::default() };
    Box::new(Pod {
        metadata,
        spec: Some(PodSpec { node_name: Some(format!("n{node}")), ..Default::default() }),
        status: None,
    })
}

fn on(node: u8) -> Selection {
    Selection { fields: FieldSelector::parse(&format!("spec.nodeName=n{node}")).unwrap(), ..Default::default() }
}

fn is_on(entry: &Entry, node: u8) -> bool {
    entry.field("spec.nodeName") == Some(&format!("n{node}"))
}

async fn write(registry: &Registry, name: u8, node: u8) {
    if node == 9 {
        drop(registry.delete(Pod::row(), "n", &format!("p{name}"), Expected::Any).await);
    } else if registry.create(pod(name, node)).await.is_err() {
        registry.update(pod(name, node), Expected::Any).await.unwrap();
    }
}

async fn small_ring(events_max: usize) -> Registry {
    let store = Arc::new(MemoryStore::default());
    let (loaded, updates) = store.load().await.unwrap();
    let limits = LogLimits { events_max, ..Default::default() };
    Registry::start_with(store, loaded, updates, limits, &TaskTracker::new(), CancellationToken::new()).unwrap()
}

/// What a change was, for comparison.
type Seen = (EventType, Key, u64);

fn seen(item: &WatchItem) -> Seen {
    (item.event, item.entry.key.clone(), item.entry.version)
}

/// What the watches of single nodes should have seen, from what the watch of all saw.
fn implied(all: &[WatchItem], node: u8) -> Vec<Seen> {
    let mut there: BTreeMap<&Key, bool> = BTreeMap::new();
    let mut events = Vec::new();
    for item in all {
        let is = item.event != EventType::Deleted && is_on(&item.entry, node);
        let was = there.insert(&item.entry.key, is).unwrap_or_default();
        let event = match (was, is) {
            (false, false) => continue,
            (false, true) => EventType::Added,
            (true, true) => EventType::Modified,
            (true, false) => EventType::Deleted,
        };
        events.push((event, item.entry.key.clone(), item.entry.version));
    }
    events
}

proptest! {
    #[test]
    fn a_lane_shows_what_the_watch_of_all_implies(
        steps in prop::collection::vec((0_u8..6, prop_oneof![0_u8..4, Just(9_u8)], any::<bool>()), 1..80),
        events_max in 80_usize..200,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = small_ring(events_max).await;
            let mut all = registry.watch(Pod::row(), Selection::default(), Some(0)).unwrap();
            let mut lanes: Vec<_> = (0..4).map(|n| registry.watch(Pod::row(), on(n), Some(0)).unwrap()).collect();
            let mut found = vec![Vec::new(); 4];
            for (name, node, read) in steps {
                write(&registry, name, node).await;
                if read {
                    for (lane, found) in lanes.iter_mut().zip(&mut found) {
                        found.extend(drain(lane).await.iter().map(seen));
                    }
                }
            }
            let all = drain(&mut all).await;
            for (n, lane) in (0..).zip(&mut lanes) {
                found[usize::from(n)].extend(drain(lane).await.iter().map(seen));
                assert_eq!(found[usize::from(n)], implied(&all, n), "node n{n}");
                assert_eq!(lane.advance(), registry.version(), "an idle cursor is brought to the present");
            }
        });
    }
}

#[tokio::test]
async fn the_events_of_others_neither_wake_nor_outdate_a_watch_of_one_node() {
    let registry = small_ring(10).await;
    let mut lane = registry.watch(Pod::row(), on(1), Some(0)).unwrap();
    let mut waiting = Box::pin(lane.next());
    let (waker, count) = counting_waker();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(waiting.poll_unpin(&mut context).is_pending());
    for i in 0..100 {
        write(&registry, i % 3, 2).await;
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 0, "it slept on");
    write(&registry, 7, 1).await;
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
    let items = waiting.await.unwrap();
    assert_eq!((items.len(), items[0].event), (1, EventType::Added));
    // A watch that starts from before the ring can't know what was in it.
    assert_eq!(registry.watch(Pod::row(), on(1), Some(0)).unwrap_err().code(), 410);
}

#[tokio::test]
async fn a_watch_of_one_node_that_missed_an_event_of_it_lists_again() {
    let registry = small_ring(10).await;
    let mut lane = registry.watch(Pod::row(), on(1), Some(0)).unwrap();
    write(&registry, 7, 1).await;
    for i in 0..10 {
        write(&registry, i % 3, 2).await;
    }
    assert_eq!(lane.next().await.unwrap_err().code(), 410);
    let mut fresh = registry.watch(Pod::row(), on(1), None).unwrap();
    assert_eq!(drain(&mut fresh).await.len(), 1);
}

/// A waker that counts.
fn counting_waker() -> (std::task::Waker, Arc<std::sync::atomic::AtomicU32>) {
    struct Count(Arc<std::sync::atomic::AtomicU32>);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    (Arc::new(Count(count.clone())).into(), count)
}
