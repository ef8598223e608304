//! The variables by which a container finds the services that exist when it starts.

use coracle_api::core::{Pod, Service};

use super::report::name_of;

/// Services of the master that every pod is told of.
const EVERYWHERE: [&str; 2] = ["kubernetes", "kubernetes-ro"];

/// Variables of the services that the pod is told of, in a fixed order.
pub(super) fn variables(pod: &Pod, services: &[Service]) -> Vec<(String, String)> {
    let (namespace, _) = name_of(pod);
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let name = |s: &Service| s.metadata.name.clone().unwrap_or_default();
    let told = |s: &&Service| {
        let home = s.metadata.namespace.as_deref().unwrap_or("default");
        let master = home == "default" && EVERYWHERE.contains(&name(s).as_str());
        master || links && home == namespace
    };
    let mut told: Vec<_> = services.iter().filter(told).collect();
    // The namespace's own service of such a name is set last and wins.
    told.sort_by_key(|s| (s.metadata.namespace.as_deref() == Some(namespace), name(s)));
    told.into_iter().flat_map(environment).collect()
}

/// The variables of one service (spec §5): its host and port, and the forms of a Docker link.
fn environment(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(host), Some(first)) = (spec.cluster_ip.as_deref(), ports.first()) else { return Vec::new() };
    if host.is_empty() || host == "None" {
        return Vec::new();
    }
    let mangle = |text: &str| text.to_ascii_uppercase().replace(['-', '.'], "_");
    let prefix = mangle(service.metadata.name.as_deref().unwrap_or_default());
    let protocol = |p: Option<&str>| p.unwrap_or("TCP").to_ascii_lowercase();
    let mut all = vec![
        (format!("{prefix}_SERVICE_HOST"), host.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports.iter().filter(|p| p.name.as_deref().is_some_and(|n| !n.is_empty())) {
        let name = mangle(port.name.as_deref().unwrap_or_default());
        all.push((format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string()));
    }
    let first_url = format!("{}://{host}:{}", protocol(first.protocol.as_deref()), first.port);
    all.push((format!("{prefix}_PORT"), first_url));
    for port in ports {
        let proto = protocol(port.protocol.as_deref());
        let base = format!("{prefix}_PORT_{}_{}", port.port, proto.to_ascii_uppercase());
        all.push((base.clone(), format!("{proto}://{host}:{}", port.port)));
        all.push((format!("{base}_PROTO"), proto));
        all.push((format!("{base}_PORT"), port.port.to_string()));
        all.push((format!("{base}_ADDR"), host.to_owned()));
    }
    all
}
