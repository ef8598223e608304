//! How a pod goes: at once if it was never bound, else in two steps, so that its minion can stop
//! it in order and confirm. One that is only to move is made anew in place of the second step.

use std::sync::Arc;

use coracle_api::{
    ApiError, TypedObject,
    core::Pod,
    error::Reason,
    meta::ObjectMeta,
    objects::{pod, replacement::MOVE},
};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::{
    controllers::relocation,
    registry::{Entry, Expected, Registry},
};

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
    end_pod(registry, namespace, name, grace_s, now, check, false).await
}

/// Asks for a pod to end on its minion and to be made anew for another one: the same name, labels
/// and spec, another uid. Whoever deletes it before it has stopped takes that back.
pub(crate) async fn move_pod(
    registry: &Registry,
    namespace: &str,
    name: &str,
    grace_s: Option<i64>,
    now: Timestamp,
    check: impl Fn(&ObjectMeta) -> Result<(), ApiError>,
) -> Result<Arc<Entry>, ApiError> {
    end_pod(registry, namespace, name, grace_s, now, check, true).await
}

async fn end_pod(
    registry: &Registry,
    namespace: &str,
    name: &str,
    grace_s: Option<i64>,
    now: Timestamp,
    check: impl Fn(&ObjectMeta) -> Result<(), ApiError>,
    moves: bool,
) -> Result<Arc<Entry>, ApiError> {
    let mut attempt = 0;
    loop {
        let mut remove = false;
        let mark = |pod: &mut Pod| {
            check(&pod.metadata)?;
            let asked = grace_s.or_else(|| pod.spec.as_ref()?.termination_grace_period_seconds).unwrap_or(30).max(0);
            let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
            let moving = pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MOVE));
            let ending = pod.metadata.deletion_timestamp.is_some();
            let lives = bound && !pod::is_terminal(pod);
            remove = asked == 0 || !lives;
            if remove && lives && (if ending { moving } else { moves }) {
                // It has stopped, or nobody waits for that.
                remove = false;
                make_anew(pod, registry.source().id(), now);
                return Ok(true);
            }
            if remove {
                return Ok(false);
            }
            // A pod that somebody wants gone does not move, whoever asks next.
            let changes = if moves { !moving && !ending } else { moving };
            if changes {
                let annotations = pod.metadata.annotations.get_or_insert_default();
                if moves {
                    annotations.insert(MOVE.into(), "true".into());
                } else {
                    annotations.remove(MOVE);
                }
            }
            let sooner = pod.metadata.deletion_grace_period_seconds.is_none_or(|already| asked < already);
            if sooner {
                pod.metadata.deletion_timestamp = Some((now + SignedDuration::from_secs(asked)).into());
                pod.metadata.deletion_grace_period_seconds = Some(asked);
            }
            Ok(sooner || changes)
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

fn make_anew(pod: &mut Pod, uid: Uuid, now: Timestamp) {
    pod.metadata.deletion_timestamp = None;
    pod.metadata.deletion_grace_period_seconds = None;
    pod.metadata.annotations.get_or_insert_default().remove(MOVE);
    relocation::renew(pod, uid.to_string(), now.into());
}
