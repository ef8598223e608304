//! One master leads, and another one soon after it can't.

use coracle_master::coordination::{Coordinator, Leadership};
use tokio::{runtime::Runtime, time::Instant};

use super::*;
use crate::contract::put;

/// Another master leads within this, whatever happened to the one before.
const TAKEOVER: Duration = Duration::from_secs(5);

async fn within<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    timeout(time, future).await.unwrap_or_else(|_| panic!("not within {time:?}: {what}"))
}

async fn knows(coordinator: &impl Coordinator, names: &[&str]) {
    let mut announcements = coordinator.announcements();
    let known = announcements.wait_for(|all| all.keys().eq(names));
    within(PATIENCE, "they know each other", known).await.unwrap();
}

fn fenced(leadership: &Leadership, key: &str) -> Vec<Write> {
    vec![Write { fence: leadership.fence, ..put(key, "", Expect::Absent) }]
}

#[tokio::test]
async fn one_leads_and_hands_over() {
    let cluster = Cluster::start(1).unwrap();
    let stores = [open(&cluster, "/lead").await, open(&cluster, "/lead").await];
    let [a, b] = [stores[0].coordinator("a"), stores[1].coordinator("b")];
    let first = within(PATIENCE, "one leads", a.campaign()).await;
    a.announce("at a".into()).await.unwrap();
    b.announce("at b".into()).await.unwrap();
    knows(&a, &["a", "b"]).await;
    b.announce("moved".into()).await.unwrap();
    let moved = |all: &coracle_master::coordination::Announcements| all["b"] == "moved";
    within(PATIENCE, "news are told", a.announcements().wait_for(moved)).await.unwrap();
    let idle = stores[0].load().await.unwrap().0.version;
    assert!(timeout(Duration::from_secs(4), b.campaign()).await.is_err(), "the other one waits");
    assert!(!first.lost.is_cancelled(), "the lease is kept");
    assert_eq!(stores[0].load().await.unwrap().0.version, idle, "nothing is written to keep it");
    assert!(matches!(stores[0].commit(fenced(&first, "a")).await[..], [Outcome::Committed(_)]));

    let (second, ()) = tokio::join!(b.campaign(), async {
        a.resign().await;
        assert!(first.lost.is_cancelled());
    });
    knows(&b, &["b"]).await;
    assert!(second.fence > first.fence, "terms rise");
    assert_eq!(stores[0].commit(fenced(&first, "late")).await, [Outcome::Fenced]);
    assert!(matches!(stores[0].commit(fenced(&second, "late")).await[..], [Outcome::Committed(_)]));

    // Who resigned may come back; and a key that somebody deletes is a leadership that is over.
    let mut client = etcd_client::Client::connect(cluster.direct_endpoints(), None).await.unwrap();
    let third = async {
        client.delete("/lead/leader", None).await.unwrap();
        within(PATIENCE, "it is noticed", second.lost.cancelled()).await;
        within(PATIENCE, "somebody leads", a.campaign()).await
    };
    let third = third.await;
    assert!(third.fence > second.fence);
    knows(&b, &["b"]).await;
}

/// A master in a runtime of its own, which can end as suddenly as a process.
struct Master {
    runtime: Runtime,
    store: Arc<EtcdStore>,
    coordinator: Arc<coracle_master::store::EtcdCoordinator>,
}

impl Master {
    fn start(config: EtcdConfig, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = Arc::new(runtime.block_on(EtcdStore::open(config)).unwrap());
        let coordinator = runtime.block_on(async { Arc::new(store.coordinator(name)) });
        Self { runtime, store, coordinator }
    }

    fn lead(&self) -> tokio::task::JoinHandle<Leadership> {
        let coordinator = self.coordinator.clone();
        self.runtime.spawn(async move { coordinator.campaign().await })
    }
}

#[test]
fn a_dead_leader_is_replaced() {
    let cluster = Cluster::start(1).unwrap();
    let [a, b] = ["a", "b"].map(|name| Master::start(config(&cluster, "/dead"), name));
    let watcher = Runtime::new().unwrap();
    watcher.block_on(async {
        within(PATIENCE, "a leads", a.lead()).await.unwrap();
        a.coordinator.announce("a".into()).await.unwrap();
        b.coordinator.announce("b".into()).await.unwrap();
        knows(&*b.coordinator, &["a", "b"]).await;
    });
    let waiting = b.lead();
    // Nothing of it runs any more, nothing is told to etcd.
    a.runtime.shutdown_background();
    let died = Instant::now();
    let leadership = watcher.block_on(within(TAKEOVER, "b leads", waiting)).unwrap();
    println!("replaced after {:?}", died.elapsed());
    watcher.block_on(knows(&*b.coordinator, &["b"]));
    assert!(matches!(b.runtime.block_on(b.store.commit(fenced(&leadership, "x")))[..], [Outcome::Committed(_)]));
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_replaced_and_knows_it() {
    let cluster = Cluster::start(1).unwrap();
    let a_store = open(&cluster, "/cut").await;
    let direct = format!("etcd://{}/cut", cluster.direct_endpoints()[0]);
    let b_store = EtcdStore::open(EtcdConfig::parse(&direct, EtcdAccess::default()).unwrap()).await.unwrap();
    let [a, b] = [a_store.coordinator("a"), b_store.coordinator("b")];
    a.announce("a".into()).await.unwrap();
    let first = within(PATIENCE, "a leads", a.campaign()).await;
    cluster.stall_clients(0, true);
    let second = within(TAKEOVER, "b leads", async {
        let (second, ()) = tokio::join!(b.campaign(), first.lost.cancelled());
        second
    });
    let second = second.await;
    knows(&b, &[]).await;
    health(&a_store, "it is told", is_degraded).await;
    cluster.stall_clients(0, false);
    knows(&b, &["a"]).await;
    assert_eq!(a_store.commit(fenced(&first, "late")).await, [Outcome::Fenced]);
    health(&a_store, "it mends by itself", |health| *health == Health::Good).await;
    let (third, ()) = tokio::join!(a.campaign(), b.resign());
    assert!(third.fence > second.fence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leading_outlives_members() {
    let mut cluster = Cluster::start(3).unwrap();
    let store = open(&cluster, "/members").await;
    let [a, b] = [store.coordinator("a"), store.coordinator("b")];
    a.announce("a".into()).await.unwrap();
    let leadership = within(PATIENCE, "a leads", a.campaign()).await;
    let waiting = b.campaign();
    tokio::pin!(waiting);
    // The member that the store talks to, which follows or leads.
    cluster.kill(0).unwrap();
    let leadership = tokio::select! {
        // Its lease may have run out while etcd chose a leader; then another term begins, of whoever.
        leadership = &mut waiting => leadership,
        () = tokio::time::sleep(Duration::from_secs(8)) => leadership,
    };
    knows(&a, if leadership.lost.is_cancelled() { &[] } else { &["a"] }).await;
    let outcome = store.commit(fenced(&leadership, "x")).await;
    assert!(matches!(outcome[..], [Outcome::Committed(_)]), "{outcome:?}");
}
