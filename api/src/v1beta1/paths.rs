//! Names of fields in errors: hub paths told in the words of 2014 (spec §9).
//!
//! Pods are told by their wire fields; replication controllers and services kept their internal
//! names, which are close to the hub's. A path that has no 2014 name stays as it is.

use crate::{ApiError, FieldError, error::Reason, kinds::Kind};

/// Hub name → 2014 name, below a container.
const CONTAINER: &[(&str, &str)] = &[
    (".args", ".command"),
    (".resources.limits.cpu", ".cpu"),
    (".resources.limits[cpu]", ".cpu"),
    (".resources.requests.cpu", ".cpu"),
    (".resources.requests[cpu]", ".cpu"),
    (".resources.limits.memory", ".memory"),
    (".resources.limits[memory]", ".memory"),
    (".resources.requests.memory", ".memory"),
    (".resources.requests[memory]", ".memory"),
    (".securityContext.privileged", ".privileged"),
];

/// Hub name → 2014 name, below a volume.
const VOLUME: &[(&str, &str)] = &[
    (".hostPath", ".source.hostDir"),
    (".emptyDir", ".source.emptyDir"),
    (".gcePersistentDisk", ".source.persistentDisk"),
    (".gitRepo", ".source.gitRepo"),
];

/// Hub name → 2014 name, for services.
const SERVICE: &[(&str, &str)] = &[
    ("spec.ports[0].targetPort", "spec.containerPort"),
    ("spec.ports[0].protocol", "spec.protocol"),
    ("spec.ports[0].port", "spec.port"),
    ("spec.clusterIP", "spec.portalIP"),
    ("spec.externalIPs", "spec.publicIPs"),
    ("spec.type", "spec.createExternalLoadBalancer"),
];

/// Hub name → 2014 name, for every kind.
const METADATA: &[(&str, &str)] = &[("metadata.labels", "label"), ("metadata", "")];

/// The 2014 name of a field that an error calls by its hub path.
pub fn field_path(path: &str, kind: &Kind) -> String {
    if let Some(name) = rename(path, METADATA) {
        return name.trim_start_matches('.').to_owned();
    }
    match kind.kind {
        "Pod" => pod_path(path),
        "ReplicationController" => match path.strip_prefix("spec.template.") {
            Some(rest) => format!("spec.template.{}", template_path(rest)),
            None => path.to_owned(),
        },
        "Service" => rename(path, SERVICE).unwrap_or_else(|| path.to_owned()),
        _ => path.to_owned(),
    }
}

/// An error about a hub object, told to a caller of the 2014 form.
pub fn translate_error(error: ApiError, kind: &Kind) -> ApiError {
    if error.reason != Reason::Invalid || error.causes.is_empty() {
        return error;
    }
    let causes = error.causes.into_iter().map(|c| FieldError { path: field_path(&c.path, kind), ..c }).collect();
    let (object, name) = (error.kind.as_deref().unwrap_or(kind.error_name), error.name.as_deref().unwrap_or_default());
    ApiError { retry_after_s: error.retry_after_s, ..ApiError::invalid(object, name, causes) }
}

fn pod_path(path: &str) -> String {
    const POD: &[(&str, &str)] =
        &[("spec.nodeName", "desiredState.host"), ("spec.nodeSelector", "nodeSelector"), ("status", "currentState")];
    if let Some(name) = rename(path, POD) {
        return name;
    }
    match path.strip_prefix("spec.") {
        Some(rest) => format!("desiredState.manifest.{}", manifest_path(rest)),
        None if path == "spec" => "desiredState.manifest".to_owned(),
        None => path.to_owned(),
    }
}

fn template_path(path: &str) -> String {
    match path.strip_prefix("spec.") {
        Some(rest) => format!("spec.{}", manifest_path(rest)),
        None => rename(path, &[("metadata.labels", "labels"), ("metadata.annotations", "annotations")])
            .unwrap_or_else(|| path.to_owned()),
    }
}

/// `path` is below a pod's spec.
fn manifest_path(path: &str) -> String {
    let table = match path {
        _ if path.starts_with("containers[") => CONTAINER,
        _ if path.starts_with("volumes[") => VOLUME,
        _ => return path.to_owned(),
    };
    let Some(end) = path.find(']') else { return path.to_owned() };
    let (item, field) = path.split_at(end + 1);
    match rename(field, table) {
        Some(field) => format!("{item}{field}"),
        None => path.to_owned(),
    }
}

/// Replaces the first matching whole-field prefix.
fn rename(path: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(old, new)| {
        let rest = path.strip_prefix(old)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{new}{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FieldErrors, objects};

    fn check(kind: &Kind, path: &str, expected: &str) {
        assert_eq!(field_path(path, kind), expected, "{} {path}", kind.kind);
    }

    #[test]
    fn pod_paths_are_told_by_their_wire_fields() {
        let pod = &objects::pod::KIND;
        check(pod, "metadata.name", "name");
        check(pod, "metadata.labels.a", "label.a");
        check(pod, "metadata.annotations", "annotations");
        check(pod, "metadata", "");
        check(pod, "spec.containers[0].image", "desiredState.manifest.containers[0].image");
        check(pod, "spec.containers", "desiredState.manifest.containers");
        check(pod, "spec", "desiredState.manifest");
        check(pod, "spec.containers[1].args[2]", "desiredState.manifest.containers[1].command[2]");
        check(pod, "spec.containers[0].argsy", "desiredState.manifest.containers[0].argsy");
        check(pod, "spec.containers[0].resources.limits[cpu]", "desiredState.manifest.containers[0].cpu");
        check(pod, "spec.volumes[0].hostPath.path", "desiredState.manifest.volumes[0].source.hostDir.path");
        check(pod, "spec.volumes[0].name", "desiredState.manifest.volumes[0].name");
        check(pod, "spec.restartPolicy", "desiredState.manifest.restartPolicy");
        check(pod, "spec.nodeName", "desiredState.host");
        check(pod, "spec.nodeSelector.a", "nodeSelector.a");
        check(pod, "status.podIP", "currentState.podIP");
    }

    #[test]
    fn controllers_and_services_keep_their_internal_names() {
        let (rc, service) = (&objects::replication_controller::KIND, &objects::service::KIND);
        check(rc, "spec.replicas", "spec.replicas");
        check(rc, "spec.template.metadata.labels", "spec.template.labels");
        check(rc, "spec.template.spec.containers[0].args", "spec.template.spec.containers[0].command");
        check(service, "metadata.name", "name");
        check(service, "spec.clusterIP", "spec.portalIP");
        check(service, "spec.clusterIPs", "spec.clusterIPs");
        check(service, "spec.ports[0].port", "spec.port");
        check(service, "spec.ports[1].port", "spec.ports[1].port");
        check(service, "spec.ports[0].targetPort", "spec.containerPort");
    }

    #[test]
    fn a_translated_error_says_the_new_names_in_message_and_causes() {
        let mut errors = FieldErrors::default();
        errors.required("spec.containers[0].image", "");
        let error = ApiError::invalid("pod", "x", errors.into_vec());
        let told = translate_error(error, &objects::pod::KIND);
        assert_eq!(told.message, "pod \"x\" is invalid: desiredState.manifest.containers[0].image: required value");
        assert_eq!(told.causes[0].path, "desiredState.manifest.containers[0].image");
        let other = ApiError::not_found("pod", "x");
        assert_eq!(translate_error(other.clone(), &objects::pod::KIND), other);
    }
}
