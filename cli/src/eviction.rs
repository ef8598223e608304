//! Evictions as this client orders them, and orders taken back.

use coracle_api::{
    TypedObject,
    client::{ClientError, object_path},
    core::Pod,
    kinds::Subresource,
    objects::replacement::REPLACE,
};
use http::Method;
use serde_json::{Value, json};

use crate::{failure::Outcome, json::text, session::Session};

/// A very pod, not a namesake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Which<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    /// As it was when this was decided on (`resourceVersion`), if a change since is a reason to decide again.
    pub(crate) version: Option<&'a str>,
}

impl Which<'_> {
    fn path(&self, sub: Option<Subresource>) -> String {
        object_path(Pod::row(), Some(self.namespace), Some(self.name), sub)
    }
}

/// Orders an eviction. `how` says more than Kubernetes' own: an annotation and its value. A pod that is
/// another one, another version or gone by now is left to the next look.
pub(crate) async fn evict(
    session: &Session,
    pod: Which<'_>,
    how: Option<(&str, &str)>,
    grace_period_s: Option<u32>,
) -> Outcome {
    let mut eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    });
    if let Some(version) = pod.version {
        eviction["deleteOptions"]["preconditions"]["resourceVersion"] = version.into();
    }
    if let Some((key, value)) = how {
        eviction["metadata"]["annotations"] = json!({key: value});
    }
    if let Some(seconds) = grace_period_s {
        eviction["deleteOptions"]["gracePeriodSeconds"] = seconds.into();
    }
    left_to_the_next_look(session.json(Method::POST, &pod.path(Some(Subresource::Eviction)), Some(&eviction)).await)
}

/// Takes the order to replace a pod back.
pub(crate) async fn take_back(session: &Session, pod: Which<'_>) -> Outcome {
    let Some(mut object) = session.get_opt(&pod.path(None)).await? else { return Ok(()) };
    let version = text(&object, "/metadata/resourceVersion");
    if text(&object, "/metadata/uid") != pod.uid || pod.version.is_some_and(|v| v != version) {
        return Ok(());
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(REPLACE);
    }
    left_to_the_next_look(session.json(Method::PUT, &pod.path(None), Some(&object)).await)
}

fn left_to_the_next_look(result: Result<Value, ClientError>) -> Outcome {
    match result {
        Err(e) if !e.is_conflict() && !e.is_not_found() => Err(e.into()),
        _ => Ok(()),
    }
}
