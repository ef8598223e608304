//! What every store must do.

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};

use super::*;
use crate::contract::{agrees_with_a_map, batches, keeps_its_promises};

#[tokio::test]
async fn etcd_keeps_its_promises() {
    let cluster = Cluster::start(1).unwrap();
    keeps_its_promises(&open(&cluster, "/promises").await).await;
}

/// Cases in the default run; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 512;

#[test]
fn etcd_agrees_with_a_map() {
    let cluster = Cluster::start(1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { CASES };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let number = AtomicUsize::new(0);
    let case = |batches| {
        // Under a prefix of its own, which makes it empty.
        let prefix = format!("/map/{}", number.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let store = Arc::new(open(&cluster, &prefix).await);
            agrees_with_a_map(store, batches, async |_, store| store).await;
        });
        Ok::<_, TestCaseError>(())
    };
    runner.run(&batches(), case).unwrap();
}
