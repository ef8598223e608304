//! Two masters see the same changes, in the same order, under the same versions.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::*;
use crate::record::Record;

/// An operation on one of some keys: 0 for a deletion, else a value.
type Step = (u8, u8);

/// Writes with up to four operations on different keys; conditions may be wrong.
fn writes() -> impl Strategy<Value = Vec<(Vec<Step>, bool)>> {
    let write = (prop::collection::vec((any::<u8>(), 0..4_u8), 1..5), prop::bool::weighted(0.9));
    prop::collection::vec(write, 1..40)
}

/// A batch that names each key at most once. The versions are those that a reader knows.
fn batch(steps: Vec<(Vec<Step>, bool)>, known: &Record) -> Vec<Write> {
    let mut used = std::collections::BTreeSet::new();
    let op = |(key, value): Step, honest: bool| {
        let key = format!("k{}", key % 96);
        let expect = match (honest, known.version_of(&key)) {
            (true, Some(version)) if value % 2 == 0 => Expect::Version(version),
            (true, Some(_)) => Expect::Any,
            (true, None) => Expect::Absent,
            (false, _) => Expect::Version(1 << 40),
        };
        Op { key, value: (value > 0).then(|| vec![value; 5].into()), expect }
    };
    let writes = steps.into_iter().map(|(steps, honest)| {
        let ops = steps.into_iter().map(|step| op(step, honest)).filter(|op| used.insert(op.key.clone())).collect();
        Write { ops, fence: None }
    });
    writes.filter(|write| !write.ops.is_empty()).collect()
}

#[tokio::test]
async fn two_masters_see_the_same() {
    let cluster = Cluster::start(1).unwrap();
    let stores = [open(&cluster, "/two").await, open(&cluster, "/two").await];
    let records = [Record::of(&stores[0]).await, Record::of(&stores[1]).await];
    let mut runner = TestRunner::default();
    let mut committed = Vec::new();
    let mut last = 0;
    for _ in 0..150 {
        let batches = [0, 1].map(|i| batch(writes().new_tree(&mut runner).unwrap().current(), &records[i]));
        let [left, right] = batches.clone();
        let (left, right) = tokio::join!(stores[0].commit(left), stores[1].commit(right));
        for (write, outcome) in batches.into_iter().flatten().zip(left.into_iter().chain(right)) {
            match outcome {
                Outcome::Committed(version) => {
                    // Deletions of what is absent change nothing: there is no version to meet.
                    if write.ops[0].value.is_some() || version % 256 != 255 {
                        committed.push((version, write.ops[0].clone()));
                        last = last.max(version);
                    }
                }
                Outcome::Conflict { op } => assert_ne!(write.ops[op].expect, Expect::Any),
                other => panic!("{other:?}"),
            }
        }
    }
    records[0].reach(last).await;
    records[1].reach(last).await;
    let [left, right] = [0, 1].map(|i: usize| records[i].state().changes.clone());
    assert_eq!(left, right);
    for (version, op) in &committed {
        let at = left.binary_search_by_key(version, |change| change.version).expect("it was reported");
        assert_eq!((&left[at].key, &left[at].value), (&op.key, &op.value), "{version}");
    }
    let happened = |value: bool| left.iter().filter(|change| change.value.is_some() == value).count();
    assert!(committed.len() > 1000 && happened(true) > 1000 && happened(false) > 200, "enough of everything");
    let fresh = Record::of(&stores[0]).await;
    let (fresh, known) = (fresh.state(), records[1].state());
    assert_eq!(fresh.view.values, known.view.values, "who loads knows the versions that were reported");
}

#[tokio::test]
async fn large_batches_and_values_go_through() {
    let cluster = Cluster::start(1).unwrap();
    let store = open(&cluster, "/large").await;
    let record = Record::of(&store).await;
    let put = |key: String, bytes: usize| Write::one(key, Some(vec![7; bytes].into()), Expect::Absent);
    let mut writes: Vec<Write> = (0..1000).map(|i| put(format!("small{i}"), 1200)).collect();
    writes.extend((0..10).map(|i| put(format!("half{i}"), 700_000)));
    writes.push(put("too-large".to_owned(), 1_600_000));
    writes.push(put("almost".to_owned(), 1_500_000));
    let mut wide = Write { ops: Vec::new(), fence: None };
    (0..OPS_MAX).for_each(|i| wide.ops.extend(put(format!("wide{i}"), 100).ops));
    writes.push(wide);
    let outcomes = store.commit(writes.clone()).await;
    for (write, outcome) in writes.iter().zip(&outcomes) {
        match outcome {
            Outcome::Committed(version) => record.reach(*version).await,
            Outcome::Failed(StoreError::TooLarge { key, bytes, limit }) => {
                assert_eq!((&**key, *bytes), ("too-large", 1_600_000));
                assert!(*limit >= 1_500_000);
            }
            other => panic!("{}: {other:?}", write.ops[0].key),
        }
    }
    assert_eq!(record.state().view.values.len(), 1000 + 10 + 1 + OPS_MAX);
    let fresh = Record::of(&store).await;
    assert!(fresh.state().view.values == record.state().view.values, "pages are put together");
    // Nothing is written while nothing happens.
    let before = fresh.state().view.version;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(store.load().await.unwrap().0.version, before);
}
