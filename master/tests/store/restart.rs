//! A start with many objects is quick.

use std::time::{Duration, Instant};

use coracle_master::store::{Expect, Options, Outcome, Store, Write};

use super::open;

const RECORDS: usize = 100_000;
/// An optimized build takes a tenth of it.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_hundred_thousand_records_are_back_in_no_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Options::default()).await;
    for from in (0..RECORDS).step_by(2000) {
        let put = |i| Write::one(format!("pods/default/{i:06}"), Some(vec![i as u8; 1500].into()), Expect::Absent);
        let outcomes = store.commit((from..from + 2000).map(put).collect()).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Committed(_))));
    }
    drop(store);
    let begin = Instant::now();
    let (loaded, _) = open(directory.path(), Options::default()).await.load().await.unwrap();
    let took = begin.elapsed();
    assert_eq!((loaded.items.len(), loaded.version), (RECORDS, RECORDS as u64));
    assert!(loaded.items.iter().enumerate().all(|(i, item)| item.value[..] == [i as u8; 1500]));
    assert!(took < BOUND, "{took:?}");
}
