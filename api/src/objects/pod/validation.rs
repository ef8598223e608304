//! The rules on a pod's spec as a whole, for pods and for templates.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    container::{self, Role, check_id},
    placement, volume,
};
use crate::{
    core::{Container, PodSpec, PodTemplateSpec, Toleration},
    error::FieldErrors,
    objects::{
        metadata,
        names::{DNS_LABEL, DNS_SUBDOMAIN, QUALIFIED_NAME, Shown, Syntax, check_labels},
        ports::{check_ip, check_one_of, is_port},
    },
};

/// Checks the template of a controller, whose pods are restarted for ever.
pub(in crate::objects) fn validate_template(path: &str, template: &PodTemplateSpec, errors: &mut FieldErrors) {
    if let Some(meta) = &template.metadata {
        metadata::check_annotated(&format!("{path}.metadata"), meta, errors);
    }
    let path = format!("{path}.spec");
    let Some(spec) = &template.spec else {
        return errors.required(path, "a template needs a spec with at least one container");
    };
    validate_spec(&path, spec, errors);
    // Other values that are no policy at all were reported just now.
    if let Some(policy @ ("OnFailure" | "Never")) = spec.restart_policy.as_deref() {
        errors.not_supported(format!("{path}.restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = "pods of a controller run for ever: remove it";
        errors.forbidden(format!("{path}.activeDeadlineSeconds"), detail);
    }
}

pub(super) fn validate_spec(path: &str, spec: &PodSpec, errors: &mut FieldErrors) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let volumes = volume::validate_volumes(&format!("{path}.volumes"), volumes, errors);
    validate_containers(path, spec, &volumes, errors);
    check_host_ports(path, spec, errors);
    let restart = ["Always", "OnFailure", "Never"];
    check_one_of(format!("{path}.restartPolicy"), spec.restart_policy.as_deref(), &restart, errors);
    validate_dns(path, spec, errors);
    if let Some(grace) = spec.termination_grace_period_seconds.filter(|g| *g < 0) {
        errors.invalid(format!("{path}.terminationGracePeriodSeconds"), grace, "must be at least 0");
    }
    if let Some(deadline) = spec.active_deadline_seconds.filter(|d| !(1..=i64::from(i32::MAX)).contains(d)) {
        errors.invalid(format!("{path}.activeDeadlineSeconds"), deadline, "must be between 1 and 2147483647");
    }
    check_labels(&format!("{path}.nodeSelector"), spec.node_selector.as_ref(), errors);
    check_optional(format!("{path}.nodeName"), spec.node_name.as_deref(), DNS_SUBDOMAIN, errors);
    check_optional(format!("{path}.hostname"), spec.hostname.as_deref(), DNS_LABEL, errors);
    check_optional(format!("{path}.subdomain"), spec.subdomain.as_deref(), DNS_LABEL, errors);
    let account = spec.service_account_name.as_deref();
    check_optional(format!("{path}.serviceAccountName"), account, DNS_SUBDOMAIN, errors);
    check_one_of(format!("{path}.os.name"), spec.os.as_ref().map(|os| os.name.as_str()), &["linux"], errors);
    if let Some(security) = &spec.security_context {
        check_id(format!("{path}.securityContext.runAsUser"), security.run_as_user, errors);
        check_id(format!("{path}.securityContext.runAsGroup"), security.run_as_group, errors);
        check_id(format!("{path}.securityContext.fsGroup"), security.fs_group, errors);
    }
    for (i, toleration) in spec.tolerations.iter().flatten().enumerate() {
        validate_toleration(&format!("{path}.tolerations[{i}]"), toleration, errors);
    }
    if let Some(affinity) = &spec.affinity {
        placement::validate_affinity(&format!("{path}.affinity"), affinity, errors);
    }
}

fn check_optional(path: String, text: Option<&str>, syntax: Syntax, errors: &mut FieldErrors) {
    if let Some(text) = text.filter(|t| !t.is_empty()) {
        syntax.check(path, text, errors);
    }
}

fn validate_containers(path: &str, spec: &PodSpec, volumes: &BTreeSet<&str>, errors: &mut FieldErrors) {
    if spec.containers.is_empty() {
        errors.required(format!("{path}.containers"), "a pod needs at least one container");
    }
    let init = spec.init_containers.iter().flatten().enumerate();
    let role = |c: &Container| if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
    let init = init.map(|(i, c)| (format!("{path}.initContainers[{i}]"), c, role(c)));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(i, c)| (format!("{path}.containers[{i}]"), c, Role::Main));
    let mut names = BTreeSet::new();
    for (path, one, role) in init.chain(main) {
        container::validate(&path, one, role, volumes, errors);
        if !one.name.is_empty() && !names.insert(one.name.as_str()) {
            errors.duplicate(format!("{path}.name"), Shown(&one.name));
        }
    }
}

/// A port of the node serves one container of the pod, per protocol and address.
fn check_host_ports(path: &str, spec: &PodSpec, errors: &mut FieldErrors) {
    let mut taken: BTreeMap<(&str, u16), Vec<Option<IpAddr>>> = BTreeMap::new();
    let lists = [("initContainers", spec.init_containers.as_deref()), ("containers", Some(spec.containers.as_slice()))];
    let all = lists.into_iter().flat_map(|(list, all)| all.into_iter().flatten().enumerate().map(move |c| (list, c)));
    for (list, (c, one)) in all {
        for (p, port) in one.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|n| is_port(*n)) else { continue };
            let at = format!("{path}.{list}[{c}].ports[{p}].hostPort");
            if spec.host_network == Some(true) && number != port.container_port {
                let rule = "must be equal to containerPort, since the pod uses the node's network";
                errors.invalid(&at, number, rule);
            }
            let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
            let ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).filter(|ip| !ip.is_unspecified());
            let users = taken.entry((protocol, number as u16)).or_default();
            // No address means all addresses.
            if users.iter().any(|other| other.is_none() || ip.is_none() || *other == ip) {
                errors.duplicate(at, format_args!("{number}/{protocol}"));
            }
            users.push(ip);
        }
    }
}

fn validate_dns(path: &str, spec: &PodSpec, errors: &mut FieldErrors) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    let policy = spec.dns_policy.as_deref();
    check_one_of(format!("{path}.dnsPolicy"), policy, &policies, errors);
    let servers = spec.dns_config.as_ref().and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if policy == Some("None") && servers.is_empty() {
        errors.required(format!("{path}.dnsConfig.nameservers"), "at least one name server, since dnsPolicy is None");
    }
    for (i, server) in servers.iter().enumerate() {
        check_ip(format!("{path}.dnsConfig.nameservers[{i}]"), server, errors);
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        check_ip(format!("{path}.hostAliases[{i}].ip"), &alias.ip, errors);
        for (n, name) in alias.hostnames.iter().flatten().enumerate() {
            DNS_SUBDOMAIN.check(format!("{path}.hostAliases[{i}].hostnames[{n}]"), name, errors);
        }
    }
}

fn validate_toleration(path: &str, toleration: &Toleration, errors: &mut FieldErrors) {
    let operator = toleration.operator.as_deref().filter(|o| !o.is_empty());
    check_one_of(format!("{path}.operator"), operator, &["Exists", "Equal"], errors);
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    check_one_of(format!("{path}.effect"), toleration.effect.as_deref(), &effects, errors);
    match toleration.key.as_deref().filter(|k| !k.is_empty()) {
        Some(key) => QUALIFIED_NAME.check(format!("{path}.key"), key, errors),
        None if operator != Some("Exists") => {
            errors.invalid(format!("{path}.operator"), operator.unwrap_or("Equal"), "must be Exists when key is empty");
        }
        None => {}
    }
    if operator == Some("Exists") && toleration.value.as_deref().is_some_and(|v| !v.is_empty()) {
        errors.forbidden(format!("{path}.value"), "Exists compares no value: remove it");
    }
}
