//! How a pod goes: at once if it was never bound, else in two steps, so that its minion can stop
//! it in order and confirm.

use std::sync::Arc;

use coracle_api::{ApiError, TypedObject, core::Pod, error::Reason, meta::ObjectMeta, objects::pod};
use jiff::{SignedDuration, Timestamp};

use crate::registry::{Entry, Expected, Registry};

/// Attempts to remove a pod that others write to meanwhile.
const ATTEMPTS: usize = 16;

/// Asks for the deletion of a pod. `grace_s` of `None` means the pod's own grace period; 0 removes
/// it at once. Asking again can only shorten the wait. Returns the last state.
pub(crate) async fn delete_pod(
    registry: &Registry,
    namespace: &str,
    name: &str,
    grace_s: Option<i64>,
    now: Timestamp,
) -> Result<Arc<Entry>, ApiError> {
    delete_pod_if(registry, namespace, name, grace_s, now, |_| Ok(())).await
}

/// [`delete_pod`], if the pod passes a check in the very state that is marked or removed.
pub(crate) async fn delete_pod_if(
    registry: &Registry,
    namespace: &str,
    name: &str,
    grace_s: Option<i64>,
    now: Timestamp,
    check: impl Fn(&ObjectMeta) -> Result<(), ApiError>,
) -> Result<Arc<Entry>, ApiError> {
    let mut attempt = 0;
    loop {
        let mut remove = false;
        let mark = |pod: &mut Pod| {
            check(&pod.metadata)?;
            let asked = grace_s.or_else(|| pod.spec.as_ref()?.termination_grace_period_seconds).unwrap_or(30).max(0);
            let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
            remove = asked == 0 || !bound || pod::is_terminal(pod);
            if remove {
                return Ok(false);
            }
            let sooner = pod.metadata.deletion_grace_period_seconds.is_none_or(|already| asked < already);
            if sooner {
                pod.metadata.deletion_timestamp = Some((now + SignedDuration::from_secs(asked)).into());
                pod.metadata.deletion_grace_period_seconds = Some(asked);
            }
            Ok(sooner)
        };
        let entry = registry.modify(namespace, name, mark).await?;
        if !remove {
            return Ok(entry);
        }
        // Only the state that was looked at may go: it might have been bound since.
        attempt += 1;
        match registry.delete(Pod::row(), namespace, name, Expected::Version(entry.version)).await {
            Err(e) if e.reason == Reason::Conflict && attempt < ATTEMPTS => {}
            deleted => return deleted,
        }
    }
}
