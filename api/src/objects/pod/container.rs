//! The rules on one container.

use std::collections::BTreeSet;

use super::{handler, resources, volume};
use crate::{
    core::{Container, EnvVar, EnvVarSource},
    error::{FieldErrorKind, FieldErrors},
    objects::{
        names::{DNS_LABEL, ENV_NAME, PORT_NAME, Shown},
        ports::{check_ip, check_one_of, check_port, check_protocol},
    },
};

/// Fields of its pod that a variable can be set from, besides single labels and annotations.
const POD_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: [&str; 4] = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Which list of the pod a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs for the pod's life.
    Main,
    /// Runs to its end before the main ones start.
    Init,
    /// Listed with the init containers, but goes on running beside the main ones.
    Sidecar,
}

pub(super) fn validate(
    path: &str,
    container: &Container,
    role: Role,
    volumes: &BTreeSet<&str>,
    errors: &mut FieldErrors,
) {
    DNS_LABEL.check(format!("{path}.name"), &container.name, errors);
    if container.name == super::INFRA_CONTAINER {
        let detail = format!("'{}' is the name of the pod's own network container: choose another", container.name);
        errors.forbidden(format!("{path}.name"), detail);
    }
    validate_image(&format!("{path}.image"), container.image.as_deref().unwrap_or_default(), errors);
    let pull = ["Always", "IfNotPresent", "Never"];
    check_one_of(format!("{path}.imagePullPolicy"), container.image_pull_policy.as_deref(), &pull, errors);
    let policy = container.termination_message_policy.as_deref();
    check_one_of(format!("{path}.terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"], errors);
    validate_ports(path, container, errors);
    validate_env(path, container, errors);
    volume::validate_mounts(path, container, volumes, errors);
    handler::validate(path, container, errors);
    if let Some(needs) = &container.resources {
        resources::validate(&format!("{path}.resources"), needs, errors);
    }
    validate_security(path, container, errors);
    match container.restart_policy.as_deref() {
        None => {}
        Some("Always") if role == Role::Sidecar => {}
        Some(other) if role == Role::Main => {
            let detail = format!("'{}': only init containers have one of their own: set the pod's", Shown(other));
            errors.push(format!("{path}.restartPolicy"), FieldErrorKind::NotSupported, detail);
        }
        Some(other) => errors.not_supported(format!("{path}.restartPolicy"), Shown(other), &["Always"]),
    }
    if container.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty()) {
        let detail = "containers restart by the pod's restartPolicy: set that instead";
        errors.push(format!("{path}.restartPolicyRules"), FieldErrorKind::NotSupported, detail);
    }
    if role == Role::Init {
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                errors.forbidden(
                    format!("{path}.{field}"),
                    "an init container without restartPolicy Always runs to its end: remove it",
                );
            }
        }
    }
}

fn validate_image(path: &str, image: &str, errors: &mut FieldErrors) {
    if image.trim().is_empty() {
        errors.required(path, "the image to run, such as nginx:1.29");
    } else if image.trim() != image {
        errors.invalid(path, Shown(image), "must have no spaces before or after the name");
    } else if image.contains(char::is_whitespace) || image.contains(char::is_control) {
        errors.invalid(path, Shown(image), "must contain no spaces");
    }
}

fn validate_ports(path: &str, container: &Container, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            PORT_NAME.check(format!("{path}.name"), name, errors);
            if !names.insert(name) {
                errors.duplicate(format!("{path}.name"), Shown(name));
            }
        }
        if port.container_port == 0 {
            errors.required(format!("{path}.containerPort"), crate::objects::ports::PORT_RULE);
        } else {
            check_port(format!("{path}.containerPort"), port.container_port, errors);
        }
        if let Some(number) = port.host_port.filter(|p| *p != 0) {
            check_port(format!("{path}.hostPort"), number, errors);
        }
        check_protocol(format!("{path}.protocol"), port.protocol.as_deref(), errors);
        if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
            check_ip(format!("{path}.hostIP"), ip, errors);
        }
    }
}

fn validate_env(path: &str, container: &Container, errors: &mut FieldErrors) {
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{i}]");
        ENV_NAME.check(format!("{path}.name"), &variable.name, errors);
        if let Some(source) = &variable.value_from {
            validate_source(&format!("{path}.valueFrom"), variable, source, errors);
        }
    }
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        let path = format!("{path}.envFrom[{i}]");
        match (&source.config_map_ref, &source.secret_ref) {
            (None, None) => errors.required(&path, "one of configMapRef and secretRef must be set"),
            (Some(_), Some(_)) => errors.forbidden(&path, "only one of configMapRef and secretRef may be set"),
            (Some(map), None) => check_optional(format!("{path}.configMapRef"), map.optional, errors),
            (None, Some(secret)) => check_optional(format!("{path}.secretRef"), secret.optional, errors),
        }
    }
}

fn validate_source(path: &str, variable: &EnvVar, source: &EnvVarSource, errors: &mut FieldErrors) {
    let set = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    match set.iter().filter(|s| **s).count() {
        0 => errors.required(path, "one source must be set: fieldRef or resourceFieldRef"),
        1 => {}
        _ => errors.forbidden(path, "only one source may be set: remove the others"),
    }
    if variable.value.as_deref().is_some_and(|v| !v.is_empty()) {
        errors.forbidden(path, "may not be set together with value: remove one of them");
    }
    if let Some(field) = &source.field_ref {
        let at = format!("{path}.fieldRef.fieldPath");
        let named = |map: &str| {
            let key = field.field_path.strip_prefix(map).and_then(|p| p.strip_prefix("['"));
            key.and_then(|k| k.strip_suffix("']")).is_some_and(|k| !k.is_empty())
        };
        if field.field_path.is_empty() {
            errors.required(at, "the field of the pod, such as metadata.name");
        } else if !POD_FIELDS.contains(&field.field_path.as_str())
            && !named("metadata.labels")
            && !named("metadata.annotations")
        {
            let mut supported = POD_FIELDS.to_vec();
            supported.extend(["metadata.labels['key']", "metadata.annotations['key']"]);
            errors.not_supported(at, Shown(&field.field_path), &supported);
        }
    }
    if let Some(field) = &source.resource_field_ref {
        if !RESOURCE_FIELDS.contains(&field.resource.as_str()) {
            let at = format!("{path}.resourceFieldRef.resource");
            errors.not_supported(at, Shown(&field.resource), &RESOURCE_FIELDS);
        }
        if let Some(divisor) = &field.divisor {
            resources::check_quantity(format!("{path}.resourceFieldRef.divisor"), divisor, errors);
        }
    }
    if let Some(map) = &source.config_map_key_ref {
        check_optional(format!("{path}.configMapKeyRef"), map.optional, errors);
    }
    if let Some(secret) = &source.secret_key_ref {
        check_optional(format!("{path}.secretKeyRef"), secret.optional, errors);
    }
    if let Some(file) = &source.file_key_ref {
        check_optional(format!("{path}.fileKeyRef"), file.optional, errors);
    }
}

/// There are no ConfigMaps and Secrets here: a pod that needs one would never start.
fn check_optional(path: String, optional: Option<bool>, errors: &mut FieldErrors) {
    if optional != Some(true) {
        let detail = "this cluster has no such objects: give the value in the pod, or set optional: true";
        errors.push(path, FieldErrorKind::NotSupported, detail);
    }
}

fn validate_security(path: &str, container: &Container, errors: &mut FieldErrors) {
    let Some(security) = &container.security_context else { return };
    let path = format!("{path}.securityContext");
    check_id(format!("{path}.runAsUser"), security.run_as_user, errors);
    check_id(format!("{path}.runAsGroup"), security.run_as_group, errors);
    if security.allow_privilege_escalation == Some(false) && security.privileged == Some(true) {
        let detail = "may not be false when privileged is true: remove one of them";
        errors.forbidden(format!("{path}.allowPrivilegeEscalation"), detail);
    }
}

/// A user or group number.
pub(super) fn check_id(path: String, id: Option<i64>, errors: &mut FieldErrors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647");
    }
}
