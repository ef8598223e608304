//! When etcd's history is compacted, and when etcd is full.

use coracle_master::coordination::Coordinator;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client};

use super::*;
use crate::{contract::put, record::Record};

#[tokio::test]
async fn a_reader_that_missed_what_was_compacted_gets_everything_anew() {
    let cluster = Cluster::start(1).unwrap();
    let store = open(&cluster, "/history").await;
    let record = Record::of(&store).await;
    let direct = format!("etcd://{}/history", cluster.direct_endpoints()[0]);
    let other = EtcdStore::open(EtcdConfig::parse(&direct, EtcdAccess::default()).unwrap()).await.unwrap();
    let first = other.commit((0..50).map(|i| put(&format!("k{i}"), "old", Expect::Absent)).collect()).await;
    let Outcome::Committed(version) = first[49] else { panic!("{first:?}") };
    record.reach(version).await;

    // A short interruption costs nothing.
    cluster.cut_clients(0);
    let outcome = other.commit(vec![put("k0", "newer", Expect::Any)]).await.remove(0);
    let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
    record.reach(version).await;
    assert_eq!(record.told(), (0, 51, 50));

    cluster.stall_clients(0, true);
    cluster.cut_clients(0);
    for i in 0..40 {
        other.commit(vec![crate::contract::delete(&format!("k{i}"), Expect::Any)]).await;
    }
    let outcome = other.commit(vec![put("k49", "new", Expect::Any)]).await.remove(0);
    let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
    let mut client = Client::connect(cluster.direct_endpoints(), None).await.unwrap();
    client.compact(i64::try_from(version / 256).unwrap(), None).await.unwrap();
    cluster.stall_clients(0, false);

    record.reach(version).await;
    {
        let state = record.state();
        assert_eq!((state.resets, state.view.values.len()), (1, 10));
        assert_eq!(state.view.values["k49"], (version, Bytes::from_static(b"new")));
    }
    let outcome = store.commit(vec![put("after", "", Expect::Absent)]).await.remove(0);
    let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
    record.reach(version).await;
    let fresh = Record::of(&other).await;
    assert_eq!(fresh.state().view.values, record.state().view.values);
    assert_eq!(record.state().resets, 1);
}

#[tokio::test]
async fn history_is_kept_for_a_while_only() {
    let cluster = Cluster::start(1).unwrap();
    let store = open(&cluster, "/old").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut client = Client::connect(cluster.direct_endpoints(), None).await.unwrap();
    let coordinator = store.coordinator("a").keeping(Duration::from_secs(3));
    let compacting = coordinator.upkeep(stop.clone());
    let writing = async {
        let outcome = store.commit(vec![put("k", "first", Expect::Absent)]).await.remove(0);
        let Outcome::Committed(first) = outcome else { panic!("{outcome:?}") };
        let first = i64::try_from(first / 256).unwrap();
        let begin = tokio::time::Instant::now();
        loop {
            let outcome = store.commit(vec![put("k", "next", Expect::Any)]).await.remove(0);
            let Outcome::Committed(next) = outcome else { panic!("{outcome:?}") };
            let at = |revision| Some(etcd_client::GetOptions::new().with_revision(revision));
            client.get("/old/objects/k", at(i64::try_from(next / 256).unwrap())).await.expect("the present stays");
            if let Err(error) = client.get("/old/objects/k", at(first)).await {
                assert!(error.to_string().contains("compacted"), "{error}");
                assert!(begin.elapsed() >= Duration::from_secs(3), "not before its time");
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "it is forgotten");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.cancel();
    };
    tokio::join!(compacting, writing);
    assert_eq!(*store.health().borrow(), Health::Good);
}

#[tokio::test]
async fn a_full_etcd_is_told_and_mends_by_itself() {
    // Some writes of a megabyte.
    let options = Options { arguments: vec!["--quota-backend-bytes=4000000".to_owned()], ..Options::default() };
    let cluster = Cluster::start_with(1, &options).unwrap();
    let store = open(&cluster, "/full").await;
    let record = Record::of(&store).await;
    let big = |i: usize| Write::one(format!("k{}", i % 2), Some(vec![1; 1_000_000].into()), Expect::Any);
    let mut last = 0;
    let error = loop {
        match store.commit(vec![big(last as usize)]).await.remove(0) {
            Outcome::Committed(version) => last = version,
            Outcome::Failed(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(&error, StoreError::Unwritable { cause, .. } if cause.contains("disarm the alarm")), "{error}");
    let told = health(&store, "it is told", is_degraded).await;
    assert!(matches!(&told, Health::Degraded { cause } if cause.contains("--quota-backend-bytes")), "{told:?}");

    let mut client = Client::connect(cluster.direct_endpoints(), None).await.unwrap();
    let physical = etcd_client::CompactionOptions::new().with_physical();
    client.compact(i64::try_from(last / 256).unwrap(), Some(physical)).await.unwrap();
    client.defragment().await.unwrap();
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    let mut member = AlarmOptions::new();
    member.with_member(alarms.alarms()[0].member_id());
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member)).await.unwrap();
    health(&store, "it mends by itself", |health| *health == Health::Good).await;
    let outcome = store.commit(vec![put("k", "", Expect::Absent)]).await.remove(0);
    let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
    record.reach(version).await;
}

#[tokio::test]
async fn what_others_wrote_or_deleted_by_hand_is_told() {
    let cluster = Cluster::start(1).unwrap();
    let store = open(&cluster, "/hand").await;
    let record = Record::of(&store).await;
    let many = (0..300).map(|i| put(&format!("k{i}"), "", Expect::Absent)).collect();
    let last = store.commit(many).await.into_iter().fold(0, |last, outcome| match outcome {
        Outcome::Committed(version) => last.max(version),
        other => panic!("{other:?}"),
    });
    record.reach(last).await;
    let mut client = Client::connect(cluster.direct_endpoints(), None).await.unwrap();

    // More deletions at once than a revision has numbers for.
    let delete = client.delete("/hand/objects/k", Some(etcd_client::DeleteOptions::new().with_prefix()));
    let revision = delete.await.unwrap().header().unwrap().revision();
    record.reach(revision.unsigned_abs() * 256).await;
    assert_eq!(record.told(), (1, 0, 0));

    client.put("/hand/objects/foreign", [200, 1, 2], None).await.unwrap();
    let told = health(&store, "it is told", is_degraded).await;
    assert!(matches!(&told, Health::Degraded { cause } if cause.contains("/hand/objects/foreign")), "{told:?}");
    assert!(matches!(store.load().await, Err(StoreError::Damaged { place, .. }) if place == "/hand/objects/foreign"));
    client.delete("/hand/objects/foreign", None).await.unwrap();
    health(&store, "it mends by itself", |health| *health == Health::Good).await;
    let outcome = store.commit(vec![put("k", "", Expect::Absent)]).await.remove(0);
    let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
    record.reach(version).await;
    assert_eq!(record.state().view.values.len(), 1);
}
