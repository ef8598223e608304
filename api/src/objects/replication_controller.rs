//! Replication controllers: keep so many pods of a template running.
//!
//! Owns the kind's row and rules; the template's rules are those of [`super::pod`].

use super::{names::check_labels, pod};
use crate::{
    core::{ReplicationController, ReplicationControllerStatus},
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
    selector::selects,
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    error_name: "replicationController",
    short_names: &["rc"],
    v1beta1_plural: Some("replicationControllers"),
    subresources: &[Subresource::Status, Subresource::Scale],
    ..Kind::of::<ReplicationController>("replicationcontrollers", "replicationcontroller")
};

impl TypedObject for ReplicationController {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        let Some(spec) = &mut self.spec else { return };
        spec.replicas.get_or_insert(1);
        let Some(template) = &mut spec.template else { return };
        let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref()).filter(|l| !l.is_empty());
        for map in [&mut spec.selector, &mut self.metadata.labels] {
            if map.as_ref().is_none_or(|m| m.is_empty()) {
                *map = labels.cloned().or_else(|| map.take());
            }
        }
        if let Some(pod) = &mut template.spec {
            pod::default_spec(pod);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let Some(spec) = &self.spec else {
            return errors.required("spec", "a replication controller needs a selector and a template");
        };
        if let Some(replicas) = spec.replicas.filter(|r| *r < 0) {
            errors.invalid("spec.replicas", replicas, "must be at least 0");
        }
        if let Some(seconds) = spec.min_ready_seconds.filter(|s| *s < 0) {
            errors.invalid("spec.minReadySeconds", seconds, "must be at least 0");
        }
        let selector = spec.selector.as_ref().filter(|s| !s.is_empty());
        if selector.is_none() {
            errors.required("spec.selector", "at least one label that the template has");
        }
        check_labels("spec.selector", selector, errors);
        let Some(template) = &spec.template else {
            return errors.required("spec.template", "the pod to run");
        };
        let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if selector.is_some() && !selects(selector, labels) {
            let shown = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
            let rule = "must have all labels of spec.selector";
            errors.invalid("spec.template.metadata.labels", super::names::Shown(&shown), rule);
        }
        pod::validate_template("spec.template", template, errors);
    }

    fn prepare_create(&mut self) {
        self.status = Some(ReplicationControllerStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn spec_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn warnings(&self) -> Vec<String> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let pod = spec.template.as_ref().and_then(|t| t.spec.as_ref());
        pod.map(|pod| pod::spec_warnings("spec.template.spec", pod)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Object;

    fn rc(spec: serde_json::Value) -> ReplicationController {
        let json = serde_json::json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        serde_json::from_value(json).unwrap()
    }

    fn template() -> serde_json::Value {
        serde_json::json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    }

    fn check(spec: serde_json::Value, expected: &str) {
        let mut rc = rc(spec.clone());
        TypedObject::set_defaults(&mut rc);
        let error = Object::validate(&rc).unwrap_err();
        assert!(error.message.contains(expected), "{spec}: expected {expected:?} in {:?}", error.message);
    }

    #[test]
    fn selector_and_labels_default_to_the_templates_labels() {
        let mut rc = rc(serde_json::json!({"template": template()}));
        TypedObject::set_defaults(&mut rc);
        assert_eq!(Object::validate(&rc), Ok(()));
        let spec = rc.spec.as_ref().unwrap();
        assert_eq!(spec.replicas, Some(1));
        assert_eq!(spec.selector.as_ref().unwrap()["app"], "web");
        assert_eq!(rc.metadata.labels.as_ref().unwrap()["app"], "web");
        let pod = spec.template.as_ref().unwrap().spec.as_ref().unwrap();
        assert_eq!(pod.restart_policy.as_deref(), Some("Always"));
        assert_eq!(pod.enable_service_links, None, "only a pod gets this default");
        let mut twice = rc.clone();
        TypedObject::set_defaults(&mut twice);
        assert_eq!(twice, rc);
    }

    #[test]
    fn bad_controllers_are_refused_with_path_and_remedy() {
        let json = |v: serde_json::Value| v;
        check(json(serde_json::json!({})), "spec.selector: required value: at least one label");
        check(json(serde_json::json!({"selector": {"a": "b"}})), "spec.template: required value: the pod to run");
        check(
            json(serde_json::json!({"replicas": -1, "template": template()})),
            "spec.replicas: invalid value: '-1': must be at least 0",
        );
        check(
            json(serde_json::json!({"selector": {"app": "x"}, "template": template()})),
            "spec.template.metadata.labels: invalid value: 'app=web': must have all labels of spec.selector",
        );
        let mut once = template();
        once["spec"]["restartPolicy"] = "Never".into();
        check(
            json(serde_json::json!({"template": once})),
            "spec.template.spec.restartPolicy: unsupported value: 'Never': supported values: Always",
        );
        let mut unnamed = template();
        unnamed["spec"]["containers"][0]["name"] = "".into();
        check(json(serde_json::json!({"template": unnamed})), "spec.template.spec.containers[0].name: required value");
    }

    #[test]
    fn the_selector_may_change() {
        let old = rc(serde_json::json!({"selector": {"app": "web"}, "template": template()}));
        let mut relabelled = template();
        relabelled["metadata"]["labels"]["app"] = "other".into();
        let new = rc(serde_json::json!({"selector": {"app": "other"}, "template": relabelled}));
        assert_eq!(Object::validate_update(&new, &old), Ok(()));
        assert!(TypedObject::spec_changed(&new, &old));
    }
}
