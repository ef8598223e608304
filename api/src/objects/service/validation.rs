//! The rules on a service's spec, and the fields that nothing acts on.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{NO_PORTAL, is_external_name};
use crate::{
    IntOrString,
    core::ServiceSpec,
    error::FieldErrors,
    objects::{
        names::{DNS_LABEL, DNS_SUBDOMAIN, Shown, check_labels},
        ports::{check_ip, check_one_of, check_port, check_port_or_name, check_protocol, is_port},
    },
};

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

pub(super) fn validate_spec(spec: &ServiceSpec, errors: &mut FieldErrors) {
    check_one_of("spec.type", spec.type_.as_deref(), &TYPES, errors);
    check_labels("spec.selector", spec.selector.as_ref(), errors);
    validate_ports(spec, errors);
    validate_address(spec, errors);
    check_one_of("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"], errors);
    let client = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    if let Some(timeout) = client.and_then(|c| c.timeout_seconds).filter(|t| !(1..=86_400).contains(t)) {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        errors.invalid(path, timeout, "must be between 1 and 86400");
    }
    for (path, policy) in [
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy),
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy),
    ] {
        check_one_of(path, policy.as_deref(), &["Cluster", "Local"], errors);
    }
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        check_ip(format!("spec.externalIPs[{i}]"), ip, errors);
    }
    if is_external_name(spec) {
        let name = spec.external_name.as_deref().unwrap_or_default();
        DNS_SUBDOMAIN.check("spec.externalName", name.strip_suffix('.').unwrap_or(name), errors);
    }
}

fn validate_ports(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some(NO_PORTAL);
    if ports.is_empty() && !headless && !is_external_name(spec) {
        errors.required("spec.ports", "at least one port, unless clusterIP is None");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => {
                errors.required(format!("{path}.name"), "each of several ports needs a name");
            }
            "" => {}
            name => {
                DNS_LABEL.check(format!("{path}.name"), name, errors);
                if !names.insert(name) {
                    errors.duplicate(format!("{path}.name"), Shown(name));
                }
            }
        }
        check_port(format!("{path}.port"), port.port, errors);
        check_protocol(format!("{path}.protocol"), port.protocol.as_deref(), errors);
        // One that was not given is the port: what is wrong with that is told once.
        if let Some(target) = port.target_port.as_ref().filter(|t| **t != IntOrString::Int(port.port)) {
            check_port_or_name(format!("{path}.targetPort"), target, errors);
        }
        if let Some(number) = port.node_port.filter(|p| *p != 0) {
            check_port(format!("{path}.nodePort"), number, errors);
            if matches!(spec.type_.as_deref(), Some("ClusterIP" | "ExternalName")) {
                let detail = "only a service of type NodePort or LoadBalancer has node ports: change the type";
                errors.forbidden(format!("{path}.nodePort"), detail);
            }
        }
        let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
        if is_port(port.port) && !numbers.insert((port.port, protocol)) {
            errors.duplicate(path, format_args!("{}/{protocol}", port.port));
        }
    }
}

fn validate_address(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    match ip {
        "" => {}
        _ if is_external_name(spec) => {
            errors.forbidden("spec.clusterIP", "a service of type ExternalName has no address: remove it");
        }
        NO_PORTAL if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) => {
            errors.invalid("spec.clusterIP", ip, "must be left out or an address for this type");
        }
        NO_PORTAL => {}
        _ if ip.parse::<Ipv4Addr>().is_err() => {
            errors.invalid("spec.clusterIP", Shown(ip), "must be an IPv4 address, None, or left out");
        }
        _ => {}
    }
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    if list.len() > 1 {
        errors.invalid("spec.clusterIPs", list.len(), "must be one address: services have one IP family");
    } else if let Some(first) = list.first()
        && first != ip
    {
        errors.invalid("spec.clusterIPs[0]", Shown(first), "must be equal to spec.clusterIP");
    }
    for (i, family) in spec.ip_families.iter().flatten().enumerate() {
        check_one_of(format!("spec.ipFamilies[{i}]"), Some(family), &["IPv4"], errors);
    }
    let policies = ["SingleStack", "PreferDualStack"];
    check_one_of("spec.ipFamilyPolicy", spec.ip_family_policy.as_deref(), &policies, errors);
}

pub(super) fn validate_update(new: &ServiceSpec, old: &ServiceSpec, errors: &mut FieldErrors) {
    let had = old.cluster_ip.as_deref().unwrap_or_default();
    let has = new.cluster_ip.as_deref().unwrap_or_default();
    // Becoming an alias, or ceasing to be one, gives the address back or allots one.
    if had.is_empty() || had == has || is_external_name(new) || is_external_name(old) {
        return;
    }
    let rule = format_args!("may not change: keep '{had}', or delete the service and create it again");
    errors.invalid("spec.clusterIP", Shown(has), rule);
}

/// What of a service is served in part, or not at all; one sentence each.
pub(super) fn warnings(spec: &ServiceSpec) -> Vec<String> {
    let type_ = spec.type_.as_deref().unwrap_or_default();
    let dual = spec.ip_family_policy.as_deref() == Some("PreferDualStack");
    let rows = [
        (
            type_ == "LoadBalancer",
            "spec.type LoadBalancer",
            "nothing allots an address outside the cluster; its node ports are served",
        ),
        (spec.traffic_distribution.is_some(), "spec.trafficDistribution", "traffic goes to pods on all nodes"),
        (dual, "spec.ipFamilyPolicy", "services have an IPv4 address only"),
    ];
    let set = rows.iter().filter(|(set, ..)| *set);
    let mut all: Vec<String> =
        set.map(|(_, field, instead)| format!("{field} is stored but not enforced: {instead}")).collect();
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        all.push("spec.externalIPs are served only by minions started with --external-ips RANGE".into());
    }
    all
}
