//! Rules that hold for the metadata of every kind.
//!
//! Owns what names, labels, annotations and owners may look like, and what an update keeps. Not:
//! `generateName`, versions and timestamps, which the server fills in before or after.

use super::names::{DNS_1035_LABEL, DNS_LABEL, DNS_SUBDOMAIN, QUALIFIED_NAME, Syntax, check_labels};
use crate::{error::FieldErrors, kinds::Kind, meta::ObjectMeta};

/// Most bytes in all keys and values of the annotations together.
pub const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

/// The rule on names of a kind.
pub fn name_syntax(kind: &Kind) -> Syntax {
    match kind.kind {
        "Service" => DNS_1035_LABEL,
        "Namespace" => DNS_LABEL,
        _ => DNS_SUBDOMAIN,
    }
}

/// Checks name, namespace, labels, annotations, owners and finalizers.
pub fn validate(meta: &ObjectMeta, kind: &Kind, errors: &mut FieldErrors) {
    name_syntax(kind).check("metadata.name", meta.name.as_deref().unwrap_or_default(), errors);
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if kind.namespaced {
        DNS_LABEL.check("metadata.namespace", namespace, errors);
    } else if !namespace.is_empty() {
        errors.forbidden("metadata.namespace", format!("a {} is in no namespace: leave it out", kind.kind));
    }
    check_annotated("metadata", meta, errors);
    check_owners(meta, errors);
    for (i, finalizer) in meta.finalizers.iter().flatten().enumerate() {
        QUALIFIED_NAME.check(format!("metadata.finalizers[{i}]"), finalizer, errors);
    }
}

/// The part of the rules that also holds for the metadata of a template.
pub(crate) fn check_annotated(path: &str, meta: &ObjectMeta, errors: &mut FieldErrors) {
    check_labels(&format!("{path}.labels"), meta.labels.as_ref(), errors);
    let path = format!("{path}.annotations");
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        // Kubernetes accepts upper-case prefixes here, and only here.
        QUALIFIED_NAME.check(&path, &key.to_ascii_lowercase(), errors);
        size += key.len() + value.len();
    }
    if size > MAX_ANNOTATIONS_BYTES {
        let rule = format_args!("all annotations together must be at most {MAX_ANNOTATIONS_BYTES} bytes");
        errors.invalid(path, format_args!("{size} bytes"), rule);
    }
}

fn check_owners(meta: &ObjectMeta, errors: &mut FieldErrors) {
    let mut controller = None;
    for (i, owner) in meta.owner_references.iter().flatten().enumerate() {
        let path = format!("metadata.ownerReferences[{i}]");
        for (field, value) in
            [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)]
        {
            if value.is_empty() {
                errors.required(format!("{path}.{field}"), "an owner is named by apiVersion, kind, name and uid");
            }
        }
        if owner.controller == Some(true)
            && let Some(first) = controller.replace(&owner.name)
        {
            let rule = format_args!("only one owner may be the controller, and '{first}' is one");
            errors.invalid(format!("{path}.controller"), &owner.name, rule);
        }
    }
}

/// What to tell about a kind whose deletion waits for something else than finalizers.
pub(crate) fn finalizer_warning(meta: &ObjectMeta) -> Option<String> {
    let set = meta.finalizers.as_ref().is_some_and(|f| !f.is_empty());
    set.then(|| "metadata.finalizers is stored but not enforced: the deletion does not wait for them".to_owned())
}

/// Carries over what no update may change: identity, age and deletion. `selfLink` is dropped; the
/// server owns `resourceVersion` and moves `generation` when the spec changed.
pub fn prepare_update(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.name.clone_from(&old.name);
    new.namespace.clone_from(&old.namespace);
    new.generate_name.clone_from(&old.generate_name);
    new.uid.clone_from(&old.uid);
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    new.generation = old.generation;
    new.self_link = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StringMap, objects};

    fn errors_of(meta: serde_json::Value, kind: &Kind) -> String {
        let mut errors = FieldErrors::default();
        validate(&serde_json::from_value(meta).unwrap(), kind, &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn check(meta: serde_json::Value, kind: &Kind, expected: &[&str]) {
        let text = errors_of(meta.clone(), kind);
        assert_eq!(text.is_empty(), expected.is_empty(), "{meta}: {text}");
        for part in expected {
            assert!(text.contains(part), "{meta}: expected {part:?} in {text:?}");
        }
    }

    #[test]
    fn metadata_rules_name_the_field_and_the_remedy() {
        let (pod, node) = (&objects::pod::KIND, &objects::node::KIND);
        let (service, namespace) = (&objects::service::KIND, &objects::namespace::KIND);
        let json = |name: &str, namespace: &str| serde_json::json!({"name": name, "namespace": namespace});
        check(json("redis.master-2", "default"), pod, &[]);
        check(json("", "default"), pod, &["metadata.name: required value: must be at most 253"]);
        check(json("Upper", "default"), pod, &["metadata.name: invalid value: 'Upper': must be"]);
        check(json("a", ""), pod, &["metadata.namespace: required value"]);
        check(json("a", "x.y"), pod, &["metadata.namespace: invalid value: 'x.y'"]);
        check(json("a", "x"), node, &["metadata.namespace: forbidden: a Node is in no namespace: leave it out"]);
        check(json("10.245.2.3", ""), node, &[]);
        check(json(&format!("s{}", "a".repeat(62)), "default"), service, &[]);
        check(json("2tier", "default"), service, &["metadata.name: invalid value: '2tier'", "starting with a letter"]);
        check(json("a.b", ""), namespace, &["metadata.name: invalid value"]);
    }

    #[test]
    fn labels_owners_and_finalizers_are_checked() {
        let with =
            |field: &str, value: serde_json::Value| serde_json::json!({"name": "a", "namespace": "b", field: value});
        let pod = &objects::pod::KIND;
        check(with("labels", serde_json::json!({"example.com/a-rather-long-key-of-today": "V.1"})), pod, &[]);
        check(with("labels", serde_json::json!({"a b": "c"})), pod, &["metadata.labels: invalid value: 'a b'"]);
        check(with("labels", serde_json::json!({"a": "c d"})), pod, &["metadata.labels: invalid value: 'a=c d'"]);
        check(with("annotations", serde_json::json!({"Example.com/x": "any text"})), pod, &[]);
        check(with("annotations", serde_json::json!({"?": ""})), pod, &["metadata.annotations: invalid value: '?'"]);
        check(with("finalizers", serde_json::json!(["!"])), pod, &["metadata.finalizers[0]"]);
        let owner = serde_json::json!({"apiVersion": "v1", "kind": "X", "name": "n", "uid": "u", "controller": true});
        check(with("ownerReferences", serde_json::json!([owner])), pod, &[]);
        check(
            with("ownerReferences", serde_json::json!([owner, owner])),
            pod,
            &["metadata.ownerReferences[1].controller", "only one"],
        );
        check(
            with("ownerReferences", serde_json::json!([{"apiVersion": "", "kind": "X", "name": "n", "uid": "u"}])),
            pod,
            &["metadata.ownerReferences[0].apiVersion: required"],
        );
    }

    #[test]
    fn annotations_have_a_total_size() {
        let meta =
            |size: usize| serde_json::json!({"name": "a", "namespace": "b", "annotations": {"k": "x".repeat(size)}});
        check(meta(MAX_ANNOTATIONS_BYTES - 1), &objects::pod::KIND, &[]);
        check(meta(MAX_ANNOTATIONS_BYTES), &objects::pod::KIND, &["at most 262144 bytes"]);
    }

    #[test]
    fn an_update_keeps_identity_and_takes_labels() {
        let old: ObjectMeta = serde_json::from_value(serde_json::json!({
            "name": "a", "namespace": "b", "uid": "u", "generation": 3, "creationTimestamp": "2020-01-01T00:00:00Z",
            "deletionTimestamp": "2020-01-02T00:00:00Z", "labels": {"x": "1"},
        }))
        .unwrap();
        let labels = StringMap::from([("x".to_owned(), "2".to_owned())]);
        let mut new = ObjectMeta { labels: Some(labels.clone()), self_link: Some("/x".into()), ..Default::default() };
        prepare_update(&mut new, &old);
        assert_eq!(new, ObjectMeta { labels: Some(labels), ..old });
    }
}
