//! Services: a portal address for a changing set of pods.
//!
//! Owns the kind's row, rules and the variables by which containers find a service. The portal
//! address itself is allotted by the master, before validation.

mod environment;
#[cfg(test)]
mod tests;
mod validation;

use std::net::Ipv4Addr;

pub use self::environment::environment;
use crate::{
    IntOrString,
    core::{ClientIPConfig, Service, ServiceSpec, ServiceStatus, SessionAffinityConfig},
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["svc"],
    subresources: &[Subresource::Status],
    fields: &["spec.clusterIP", "spec.type"],
    claims: true,
    ..Kind::of::<Service>("services", "service")
};

/// The `clusterIP` of a service without a portal.
pub const NO_PORTAL: &str = "None";

/// What a service with this portal address claims.
pub fn portal_claim(address: &impl std::fmt::Display) -> String {
    format!("portals/{address}")
}

/// What a service with this node port claims.
pub fn node_port_claim(protocol: &str, port: u16) -> String {
    format!("node-ports/{}-{port}", protocol.to_ascii_lowercase())
}

impl TypedObject for Service {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            default_spec(spec);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        match &self.spec {
            Some(spec) => validation::validate_spec(spec, errors),
            None => errors.required("spec", "a service needs ports and, as a rule, a selector"),
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            validation::validate_update(new, old, errors);
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(ServiceStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        let (Some(new), Some(old)) = (&mut self.spec, &old.spec) else { return };
        // A manifest that never named the portal keeps it.
        if !is_external_name(new) && new.cluster_ip.as_deref().unwrap_or_default().is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        leave_type(new, old);
    }

    fn claims(&self) -> Vec<String> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let portal = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != NO_PORTAL);
        let node_ports = spec.ports.iter().flatten().filter_map(|port| {
            let number = port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?;
            Some(node_port_claim(port.protocol.as_deref().unwrap_or("TCP"), number))
        });
        portal.map(|ip| portal_claim(&ip)).into_iter().chain(node_ports).collect()
    }

    fn spec_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn field(&self, field: &str) -> Option<&str> {
        match field {
            "spec.clusterIP" => self.spec.as_ref()?.cluster_ip.as_deref(),
            "spec.type" => self.spec.as_ref()?.type_.as_deref(),
            _ => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.spec.as_ref().map(validation::warnings).unwrap_or_default()
    }
}

/// Whether it has no portal on purpose: clients talk to its pods.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some(NO_PORTAL)
}

/// Its portal address, once allotted.
pub fn portal_ip(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

/// Gives it its portal address.
pub fn set_portal_ip(service: &mut Service, ip: Ipv4Addr) {
    let spec = service.spec.get_or_insert_default();
    spec.cluster_ip = Some(ip.to_string());
    spec.cluster_ips = Some(vec![ip.to_string()]);
}

/// Whether it gets a portal address: every service but headless and `ExternalName` ones.
pub fn needs_portal(service: &Service) -> bool {
    !is_headless(service) && service.spec.as_ref().is_none_or(|s| !is_external_name(s))
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// Takes off what an alias has not, or an alias alone has, where the caller left it as it was: a patch that changes the
/// type keeps it without meaning to (`dropTypeDependentFields` in Kubernetes). Node ports are admission's.
fn leave_type(new: &mut ServiceSpec, old: &ServiceSpec) {
    fn leave<T: PartialEq>(new: &mut Option<T>, old: &Option<T>) {
        if new == old {
            *new = None;
        }
    }
    if is_external_name(new) && !is_external_name(old) {
        leave(&mut new.cluster_ip, &old.cluster_ip);
        leave(&mut new.cluster_ips, &old.cluster_ips);
        leave(&mut new.ip_families, &old.ip_families);
        leave(&mut new.ip_family_policy, &old.ip_family_policy);
        leave(&mut new.internal_traffic_policy, &old.internal_traffic_policy);
    }
    if is_external_name(old) && !is_external_name(new) {
        leave(&mut new.external_name, &old.external_name);
    }
}

/// Fills in what the author left out, as current Kubernetes core/v1 does.
fn default_spec(spec: &mut ServiceSpec) {
    let unset = |field: &Option<String>| field.as_deref().unwrap_or_default().is_empty();
    let fill = |field: &mut Option<String>, value: &str| {
        if field.as_deref().unwrap_or_default().is_empty() {
            *field = Some(value.to_owned());
        }
    };
    fill(&mut spec.type_, "ClusterIP");
    fill(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            client.timeout_seconds.get_or_insert(10_800);
        }
        _ => spec.session_affinity_config = None,
    }
    for port in spec.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
        let same = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if same {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if is_external_name(spec) {
        return;
    }
    fill(&mut spec.internal_traffic_policy, "Cluster");
    let external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if external_ips || matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        fill(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    fill(&mut spec.ip_family_policy, "SingleStack");
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families = Some(vec!["IPv4".into()]);
    }
    // Either form of the address stands for both.
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).filter(|ip| !ip.is_empty()).cloned();
    if unset(&spec.cluster_ip) && first.is_some() {
        spec.cluster_ip = first;
    } else if !unset(&spec.cluster_ip) && first.is_none() {
        spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
    }
}
