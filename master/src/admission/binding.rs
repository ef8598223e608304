//! Binding: the order to run a pod on a node, carried out in one compare-and-set.

use std::sync::Arc;

use coracle_api::{
    ApiError, Object, TypedObject,
    core::{Binding, Node, Pod, PodCondition},
    error::{FieldErrors, Reason},
};
use jiff::Timestamp;

use crate::registry::{Entry, Registry};

/// Assigns the pod that the binding names. 404 without pod or node, 409 when the pod is bound
/// already, is being deleted, or is not the one the binding means.
pub(crate) async fn bind(registry: &Registry, binding: &dyn Object, now: Timestamp) -> Result<Arc<Entry>, ApiError> {
    let row = Pod::row();
    let meta = binding.meta().clone();
    let (name, namespace) = (binding.name(), binding.namespace());
    let binding =
        binding.downcast_ref::<Binding>().ok_or_else(|| ApiError::bad_request("the body is not a Binding"))?;
    let node = binding.target.name.clone().unwrap_or_default();
    let mut errors = FieldErrors::default();
    if name.is_empty() {
        errors.required("metadata.name", "the name of the pod");
    }
    if node.is_empty() {
        errors.required("target.name", "the name of the node");
    }
    if binding.target.kind.as_deref().is_some_and(|kind| !kind.is_empty() && kind != "Node" && kind != "Minion") {
        errors.not_supported("target.kind", binding.target.kind.as_deref().unwrap_or_default(), &["Node"]);
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("binding", name, errors.into_vec()));
    }
    if registry.get(Node::row(), "", &node).is_none() {
        return Err(ApiError::not_found(Node::row().error_name, &node));
    }
    registry
        .modify::<Pod>(namespace, name, |pod| {
            if meta.uid.as_ref().is_some_and(|uid| Some(uid) != pod.metadata.uid.as_ref()) {
                return Err(ApiError::conflict(row.error_name, name, "it is not the pod that the binding means"));
            }
            if pod.metadata.deletion_timestamp.is_some() {
                return Err(refused(name, format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            let spec = pod.spec.get_or_insert_default();
            if let Some(host) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
                return Err(refused(name, format!("pod {name} is already assigned to host {host}")));
            }
            spec.node_name = Some(node.clone());
            if let Some(annotations) = &meta.annotations {
                pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
            }
            mark_scheduled(pod, now);
            Ok(true)
        })
        .await
}

fn refused(name: &str, message: String) -> ApiError {
    ApiError::new(Reason::Conflict, message).about(Pod::row().error_name, name)
}

fn mark_scheduled(pod: &mut Pod, now: Timestamp) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(now.into()),
        ..Default::default()
    });
}
