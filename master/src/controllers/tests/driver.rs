//! The queue, and the loop that drives a controller.

use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::{registry::LogLimits, store::Store};

fn key(name: &str) -> Key {
    Key::new("n", name)
}

#[tokio::test(start_paused = true)]
async fn the_earlier_wake_up_counts() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.wake(key("a"), now + Duration::from_secs(5));
    queue.wake(key("a"), now + Duration::from_secs(1));
    queue.wake(key("a"), now + Duration::from_secs(9));
    assert_eq!(queue.next_due(), Some(now + Duration::from_secs(1)));
    assert_eq!(queue.pop(now), None);
    assert_eq!(queue.pop(now + Duration::from_secs(1)), Some(key("a")));
    assert_eq!(queue.next_due(), None);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_success_forgets_them() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let mut wait = || {
        queue.failed(key("a"), now);
        let due = queue.next_due().unwrap() - now;
        queue.pop(now + due);
        due
    };
    assert_eq!(wait(), BACKOFF_MIN);
    assert_eq!(wait(), BACKOFF_MIN * 2);
    (0..40).for_each(|_| {
        wait();
    });
    assert_eq!(wait(), BACKOFF_MAX);
    queue.done(key("a"), None, now);
    queue.failed(key("a"), now);
    assert_eq!(queue.next_due(), Some(now + BACKOFF_MIN));
}

#[tokio::test(start_paused = true)]
async fn who_looked_long_lets_changes_gather() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let due_after = |queue: &mut Queue, spent| {
        queue.wake(key("a"), now);
        queue.pause(&Looks { spent }, now);
        let due = queue.next_due().unwrap();
        assert_eq!(queue.pop(due), Some(key("a")));
        due - now
    };
    assert_eq!(due_after(&mut queue, LOOKS_FREE), Duration::ZERO);
    let spent = LOOKS_FREE * 10;
    assert_eq!(due_after(&mut queue, spent), spent * (SHARE - 1));
    assert_eq!(due_after(&mut queue, LOOKS_MAX), LOOKS_MAX * (SHARE - 1), "a whole round is paused for in full");
    assert_eq!(due_after(&mut queue, PAUSE_MAX), PAUSE_MAX);
    queue.wake(key("b"), now + PAUSE_MAX * 2);
    assert_eq!(queue.next_due(), Some(now + PAUSE_MAX * 2), "a pause is no reason to look");
}

#[tokio::test]
async fn a_loop_that_fell_behind_is_told_to_start_anew() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let store = Arc::new(MemoryStore::default());
    let (loaded, updates) = store.load().await.unwrap();
    let limits = LogLimits { events_max: 100, ..Default::default() };
    let registry = Registry::start_with(store, loaded, updates, limits, &tasks, stop.clone()).unwrap();
    let mut nodes = std::pin::pin!(changes(registry.clone(), Node::row()));
    assert!(nodes.next().await.unwrap().anew);
    registry.create(Box::new(Node::default())).await.unwrap();
    assert_eq!(nodes.next().await.unwrap().items.len(), 1);
    for i in 0..101 {
        let mut node = Node::default();
        node.metadata.generation = Some(i);
        registry.update(Box::new(node), Expected::Any).await.unwrap();
    }
    assert!(nodes.next().await.unwrap().anew);
    assert_eq!(nodes.next().await.unwrap().items.len(), 1);
}

/// Says what it is asked to reconcile, and waits at a gate. Pods wake nobody.
struct Gated {
    asked: mpsc::Sender<Key>,
    gate: Arc<Semaphore>,
}

impl Controller for Gated {
    fn watches(&self) -> &'static [&'static Kind] {
        static KINDS: [&Kind; 2] =
            [&coracle_api::objects::replication_controller::KIND, &coracle_api::objects::pod::KIND];
        &KINDS
    }

    fn wakes(&self, item: &WatchItem) -> Vec<Key> {
        let ours = item.entry.kind == ReplicationController::row();
        ours.then(|| item.entry.key.clone()).into_iter().collect()
    }

    async fn reconcile(&self, key: &Key, _: &mut Looks) -> Result<Option<Duration>, ApiError> {
        self.asked.send(key.clone()).await.unwrap();
        self.gate.acquire().await.unwrap().forget();
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_loop_missed_while_its_watch_was_cut_off_is_looked_at() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let store = Arc::new(MemoryStore::default());
    let (loaded, updates) = store.load().await.unwrap();
    let limits = LogLimits { events_max: 100, ..Default::default() };
    let registry = Registry::start_with(store, loaded, updates, limits, &tasks, stop.clone()).unwrap();
    let (asked, mut heard) = mpsc::channel(64);
    let gate = Arc::new(Semaphore::new(0));
    tasks.spawn(drive(Gated { asked, gate: gate.clone() }, registry.clone(), stop.clone()));
    registry.create(Box::new(ReplicationController::default())).await.unwrap();
    let mut next = async || tokio::time::timeout(Duration::from_secs(1), heard.recv()).await.is_ok();
    assert!(next().await, "the new one");
    gate.add_permits(8);
    while next().await {}
    gate.forget_permits(8);
    let mut changed = ReplicationController::default();
    changed.metadata.generation = Some(1);
    registry.update(Box::new(changed), Expected::Any).await.unwrap();
    assert!(next().await, "the changed one, during which nobody looks");
    registry.create(Box::new(Pod::default())).await.unwrap();
    for i in 0..101 {
        let mut pod = Pod::default();
        pod.metadata.generation = Some(i);
        registry.update(Box::new(pod), Expected::Any).await.unwrap();
    }
    gate.add_permits(1);
    assert!(next().await, "pods may have gone");
    stop.cancel();
}

#[tokio::test]
async fn a_loop_that_ends_by_itself_is_a_failure_and_one_that_was_stopped_is_not() {
    let (stop, failed) = (CancellationToken::new(), CancellationToken::new());
    stop.cancel();
    watched("stopped", async {}.boxed(), stop, failed.clone()).await;
    assert!(!failed.is_cancelled());
    watched("broken", async { panic!("a bug") }.boxed(), CancellationToken::new(), failed.clone()).await;
    assert!(failed.is_cancelled());
}
