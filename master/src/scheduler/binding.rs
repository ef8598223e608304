//! What a decision writes on a pod: its node, once, and the condition `PodScheduled`.

use coracle_api::{
    ApiError,
    core::{Pod, PodCondition},
    error::Reason,
};
use jiff::Timestamp;

use crate::registry::{Expected, Key, Registry, Written};

/// Assigns a pod to a node, once: `Conflict` if it is assigned, being deleted, or another pod of
/// that name than the one with `uid`. Returns the version of the assigned pod.
async fn bind_pod(
    registry: &Registry,
    key: &Key,
    uid: Option<&str>,
    node: &str,
    now: Timestamp,
) -> Result<u64, ApiError> {
    let change = |pod: &mut Pod| {
        if uid.is_some() && pod.metadata.uid.as_deref() != uid {
            let why = "it was replaced by another pod of the same name";
            return Err(ApiError::conflict("pod", &key.name, why));
        }
        assign(pod, node, now)?;
        Ok(true)
    };
    registry.modify(&key.namespace, &key.name, change).await.map(|entry| entry.version)
}

/// [`bind_pod`] for a pod as it was at `version`: without reading it again, if it is still so.
pub(super) async fn bind_decided(
    registry: &Registry,
    key: &Key,
    mut pod: Pod,
    version: u64,
    node: &str,
    now: Timestamp,
) -> Result<u64, ApiError> {
    let uid = pod.metadata.uid.clone();
    assign(&mut pod, node, now)?;
    match registry.update_written(Written::of(Box::new(pod)), Expected::Version(version)).await {
        Err(error) if error.reason == Reason::Conflict => bind_pod(registry, key, uid.as_deref(), node, now).await,
        done => done.map(|entry| entry.version),
    }
}

fn assign(pod: &mut Pod, node: &str, now: Timestamp) -> Result<(), ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(ApiError::conflict("pod", name, "it is being deleted"));
    }
    if let Some(host) = node_of(pod) {
        return Err(ApiError::conflict("pod", name, format!("it is already assigned to host {host}")));
    }
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    set_condition(pod, condition("True", None, None, now));
    Ok(())
}

/// Says on a pod why it waits. An idempotent write: it is none where the pod says so already.
pub(super) async fn tell_unschedulable(
    registry: &Registry,
    key: &Key,
    why: &str,
    now: Timestamp,
) -> Result<(), ApiError> {
    let set = |pod: &mut Pod| {
        let condition = condition("False", Some("Unschedulable"), Some(why), now);
        Ok(node_of(pod).is_none() && set_condition(pod, condition))
    };
    registry.modify(&key.namespace, &key.name, set).await.map(drop)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

fn condition(status: &str, reason: Option<&str>, message: Option<&str>, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".into(),
        status: status.into(),
        reason: reason.map(Into::into),
        message: message.map(Into::into),
        last_transition_time: Some(now.into()),
        ..Default::default()
    }
}

/// Whether the condition said something else before.
fn set_condition(pod: &mut Pod, mut condition: PodCondition) -> bool {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    if let Some(old) = conditions.iter().find(|c| c.type_ == condition.type_) {
        if (&old.status, &old.reason, &old.message) == (&condition.status, &condition.reason, &condition.message) {
            return false;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != condition.type_);
    conditions.push(condition);
    true
}
