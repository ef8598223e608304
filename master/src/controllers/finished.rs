//! Pods that ended for good stay, so that one can look at them and their logs, but not in any number.

use std::time::Duration;

use coracle_api::{TypedObject, core::Pod};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::{
    deletion::delete_pod,
    registry::{Key, Registry},
};

/// How many stay.
pub(super) const FINISHED_MAX: usize = 1000;
/// Pods removed at once, so that they share commits.
const GROUP_MAX: usize = 256;
const PERIOD: Duration = Duration::from_secs(20);

/// Removes those that have been finished longest, beyond the number that stays.
pub(crate) async fn bound(registry: Registry, stop: CancellationToken) {
    let mut period = tokio::time::interval(PERIOD);
    // Cancel-safe: a tick that loses is not consumed.
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        let snapshot = registry.snapshot(Pod::row());
        let finished = snapshot.entries.values().filter(|entry| entry.pod().is_some_and(|pod| pod.phase.is_terminal()));
        let surplus = surplus(finished.map(|entry| (entry.version, entry.key.clone())).collect());
        for group in surplus.chunks(GROUP_MAX) {
            let remove = |key: &Key| {
                let (registry, key) = (registry.clone(), key.clone());
                async move { delete_pod(&registry, &key.namespace, &key.name, None, registry.now()).await }
            };
            // Gone already is fine, and what failed is still there in the next round.
            drop(join_all(group.iter().map(remove)).await);
        }
    }
}

/// Those beyond the number that stays. A finished pod is not written any more, so the version of its
/// last write tells when it finished.
fn surplus(mut finished: Vec<(u64, Key)>) -> Vec<Key> {
    finished.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    finished.into_iter().skip(FINISHED_MAX).map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_that_finished_first_go() {
        let finished = (0..FINISHED_MAX as u64 + 2).map(|version| (version, Key::new("n", &version.to_string())));
        assert_eq!(surplus(finished.rev().collect()), [Key::new("n", "1"), Key::new("n", "0")]);
        assert_eq!(surplus(vec![(1, Key::new("n", "a"))]), []);
    }
}
