//! The scale of an object: its replicas, as `autoscaling/v1` `Scale`. Works on the JSON of any
//! kind that has `spec.replicas`.

use bytes::Bytes;
use coracle_api::{ApiError, error::FieldErrors};
use serde_json::{Value, json};

use super::{
    Shared,
    patch::Patch,
    router::Target,
    write::{self, Part, WriteOptions, Written},
};
use crate::registry::Entry;

/// What to do to a scale.
pub(crate) enum Change<'a> {
    Replace(&'a Value),
    Patch(&'a Patch),
}

/// Reads the scale.
pub(crate) fn get(shared: &Shared, target: &Target) -> Result<Bytes, ApiError> {
    let entry = write::find(shared, target.kind, target.namespace(), target.name())?;
    Ok(scale_of(&object(&entry)?).to_string().into())
}

/// Changes the replicas, by way of a patch of the object: no one else's change is lost.
pub(crate) async fn change(
    shared: &Shared,
    target: &Target,
    change: Change<'_>,
    options: WriteOptions,
) -> Result<Written, ApiError> {
    let entry = write::find(shared, target.kind, target.namespace(), target.name())?;
    let old = scale_of(&object(&entry)?);
    let new = match change {
        Change::Replace(new) => new.clone(),
        Change::Patch(patch) => patch.apply(target.kind.error_name, target.name(), old.clone())?,
    };
    let mut patch = object_patch(&new, target)?;
    if let Change::Patch(given) = change
        && !given.names_version()
        && let Some(named) = patch["metadata"].as_object_mut()
    {
        // It is the one that the patch was applied to, and not the caller's condition.
        named.remove("resourceVersion");
    }
    let written = write::patch(shared, &Patch::Merge(patch), target, Part::Main, options).await?;
    let stored: Value = serde_json::from_slice(&written.json).map_err(ApiError::internal)?;
    Ok(Written { json: scale_of(&stored).to_string().into(), ..written })
}

fn object(entry: &Entry) -> Result<Value, ApiError> {
    serde_json::from_slice(&entry.json).map_err(ApiError::internal)
}

fn scale_of(object: &Value) -> Value {
    let meta = |field: &str| object["metadata"][field].clone();
    let selector = object["spec"]["selector"].as_object().into_iter().flatten();
    let selector: Vec<_> = selector.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta("name"), "namespace": meta("namespace"), "uid": meta("uid"),
            "resourceVersion": meta("resourceVersion"), "creationTimestamp": meta("creationTimestamp"),
        },
        "spec": { "replicas": object["spec"]["replicas"].as_i64().unwrap_or(0) },
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(","),
        },
    })
}

/// The merge patch of the object that a new scale amounts to.
fn object_patch(new: &Value, target: &Target) -> Result<Value, ApiError> {
    if !matches!(new["kind"].as_str(), None | Some("Scale")) {
        return Err(ApiError::bad_request(format!("the body is not a Scale: its kind is {}", new["kind"])));
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if !["", target.name()].contains(&name) {
        let message = format!("the name of the scale ({name}) does not match the name on the URL ({})", target.name());
        return Err(ApiError::bad_request(message));
    }
    let replicas = match &new["spec"]["replicas"] {
        Value::Null => 0,
        other => match other.as_i64() {
            Some(n) if (0..=i64::from(i32::MAX)).contains(&n) => n,
            _ => {
                let mut errors = FieldErrors::default();
                errors.invalid("spec.replicas", other, "must be a whole number of at least 0");
                return Err(ApiError::invalid("scale", target.name(), errors.into_vec()));
            }
        },
    };
    let mut patch = json!({ "spec": { "replicas": replicas } });
    for field in ["resourceVersion", "uid"] {
        // Named by the caller: then the object must still have it.
        if let Some(value) = new["metadata"][field].as_str().filter(|value| !value.is_empty()) {
            patch["metadata"][field] = value.into();
        }
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use coracle_api::kinds::{KINDS, Subresource};

    use super::*;
    use crate::server::router::{Edition, Verb};

    fn target() -> Target {
        let kind = KINDS.iter().copied().find(|k| k.has(Subresource::Scale)).unwrap();
        let (namespace, name) = (Some("default".to_owned()), Some("web".to_owned()));
        Target { edition: Edition::V1, verb: Verb::Replace, kind, namespace, name, sub: Some(Subresource::Scale) }
    }

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let object = json!({"metadata":{"name":"web","resourceVersion":"5"},
            "spec":{"replicas":3,"selector":{"app":"web","tier":"front"}},"status":{"replicas":2}});
        let scale = scale_of(&object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas":2,"selector":"app=web,tier=front"}));
        assert_eq!(scale["apiVersion"], "autoscaling/v1");
    }

    #[test]
    fn a_new_scale_touches_replicas_only() {
        let patch = |new: Value| object_patch(&new, &target());
        assert_eq!(patch(json!({"spec":{"replicas":4}})).unwrap(), json!({"spec":{"replicas":4}}));
        let stale = patch(json!({"metadata":{"resourceVersion":"4"},"spec":{"replicas":4}})).unwrap();
        assert_eq!(stale["metadata"]["resourceVersion"], "4");
        assert_eq!(patch(json!({"spec":{"replicas":-1}})).unwrap_err().code(), 422);
        assert_eq!(patch(json!({"spec":{"replicas":"3"}})).unwrap_err().code(), 422);
        assert_eq!(patch(json!({"kind":"Pod"})).unwrap_err().code(), 400);
        assert_eq!(patch(json!({"metadata":{"name":"other"}})).unwrap_err().code(), 400);
    }
}
