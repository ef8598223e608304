//! The engine's side of the pod network: one Docker bridge network for each cluster.
//!
//! Invariant: only a network that carries the cluster's label is ever removed, and never one that
//! has containers on it.

use std::{collections::HashMap, future::Future, time::Duration};

use bollard::{
    Docker,
    errors::Error,
    models::{
        ContainerSummary, EndpointIpamConfig, EndpointResource, EndpointSettings, Ipam, IpamConfig, Network,
        NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect,
    },
    query_parameters::ListContainersOptionsBuilder,
};
use ipnet::Ipv4Net;

use super::{NetworkConfig, NetworkError, bridge_name, cidr::UsedCidr, network_name};
use crate::runtime::{docker::api_number, labels};

const READ_LIMIT: Duration = Duration::from_secs(10);
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
/// From Docker 28 on the engine drops what comes to a container's address from outside its bridge, in
/// the raw table, before any chain that it leaves to its users; but not on networks of this mode.
const GATEWAY_MODE: (&str, &str) = ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected");
/// The API of Docker 28.0. Engines of 27 refuse the mode.
const GATEWAY_MODE_SINCE: (u32, u32) = (1, 48);

/// What to do about the network that the engine has.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Adopt,
    Replace,
}

/// Makes the cluster's network exist as `config` says. `used` are the ranges of the host.
pub(super) async fn ensure(docker: &Docker, config: &NetworkConfig, used: &[UsedCidr]) -> Result<(), NetworkError> {
    let name = network_name(&config.cluster_id);
    if let Some(found) = inspect(docker, &name).await? {
        match judge(config, &found)? {
            Verdict::Adopt => return Ok(()),
            Verdict::Replace => remove_by_name(docker, &name).await?,
        }
    }
    let networks = call("listing networks", READ_LIMIT, docker.list_networks(None)).await?;
    check_ranges(config, &networks, used)?;
    let version = call("asking for the engine's version", READ_LIMIT, docker.version()).await?;
    let request = request(config, api_number(&version.api_version.unwrap_or_default()));
    let created = call(&format!("creating network {name}"), CHANGE_LIMIT, docker.create_network(request)).await;
    match created {
        Ok(_) => Ok(()),
        // Made meanwhile by another minion of this cluster on the engine.
        Err(NetworkError::Engine { source, .. }) if status(&source) == Some(409) => match inspect(docker, &name).await?
        {
            Some(found) if judge(config, &found)? == Verdict::Adopt => Ok(()),
            _ => Err(NetworkError::Engine { what: format!("creating network {name}"), source }),
        },
        Err(e) => Err(e),
    }
}

/// A container on the cluster's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: String,
    /// Its address there.
    pub(super) address: String,
}

/// Who is on the cluster's network, for the engine. Nobody where there is no network.
pub(super) async fn members(docker: &Docker, cluster_id: &str) -> Result<Vec<Member>, NetworkError> {
    let name = network_name(cluster_id);
    match inspect(docker, &name).await? {
        None => Ok(Vec::new()),
        Some(found) if !is_ours(&found, cluster_id) => Err(NetworkError::NotOurs(name)),
        Some(found) => Ok(members_of(found)),
    }
}

fn members_of(found: NetworkInspect) -> Vec<Member> {
    let containers = found.containers.unwrap_or_default().into_iter();
    let member = |(id, endpoint): (String, EndpointResource)| {
        let address = endpoint.ipv4_address.unwrap_or_default();
        Member { id, address: address.split('/').next().unwrap_or_default().to_owned() }
    };
    containers.map(member).collect()
}

/// Takes a container off the network; off already is success.
pub(super) async fn disconnect(docker: &Docker, cluster_id: &str, member: &Member) -> Result<(), NetworkError> {
    let name = network_name(cluster_id);
    let request = NetworkDisconnectRequest { container: member.id.clone(), force: Some(true) };
    let what = format!("disconnecting container {} from network {name}", member.id);
    match call(&what, CHANGE_LIMIT, docker.disconnect_network(&name, request)).await {
        Err(NetworkError::Engine { source, .. }) if matches!(status(&source), Some(403 | 404)) => Ok(()),
        other => other,
    }
}

/// Puts a container onto the network with the address that it had, published ports included. One
/// that is there already, gone or dead needs nothing.
pub(super) async fn connect(docker: &Docker, cluster_id: &str, member: &Member) -> Result<(), NetworkError> {
    let name = network_name(cluster_id);
    let address = EndpointIpamConfig { ipv4_address: Some(member.address.clone()), ..Default::default() };
    let endpoint = EndpointSettings { ipam_config: Some(address), ..Default::default() };
    let request = NetworkConnectRequest { container: member.id.clone(), endpoint_config: Some(endpoint) };
    let what = format!("connecting container {} to network {name}", member.id);
    match call(&what, CHANGE_LIMIT, docker.connect_network(&name, request)).await {
        Err(NetworkError::Engine { source, .. }) if matches!(status(&source), Some(403 | 404)) => Ok(()),
        other => other,
    }
}

/// Whether the engine itself failed at it: it may once more, or not.
pub(super) fn is_answer(error: &NetworkError) -> bool {
    matches!(error, NetworkError::Engine { source, .. } if status(source).is_some())
}

/// Kills the running containers that were started on the cluster's network and are not on it any
/// more: nobody can tell their addresses, and their pods start anew with new ones.
pub(super) async fn kill_strays(docker: &Docker, cluster_id: &str) -> Result<(), NetworkError> {
    let name = network_name(cluster_id);
    let label = format!("{}={cluster_id}", labels::CLUSTER);
    let options = ListContainersOptionsBuilder::default().filters(&HashMap::from([("label", vec![label])])).build();
    let running = call("listing containers", READ_LIMIT, docker.list_containers(Some(options))).await?;
    for id in running.into_iter().filter(|c| is_stray(c, &name)).filter_map(|c| c.id) {
        tracing::warn!(container = id, network = name, "a container was taken off the pod network; its pod restarts");
        match call(&format!("killing container {id}"), CHANGE_LIMIT, docker.kill_container(&id, None)).await {
            Err(NetworkError::Engine { source, .. }) if matches!(status(&source), Some(404 | 409)) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_stray(container: &ContainerSummary, network: &str) -> bool {
    let mode = container.host_config.as_ref().and_then(|h| h.network_mode.as_deref());
    let networks = container.network_settings.as_ref().and_then(|s| s.networks.as_ref());
    mode == Some(network) && !networks.is_some_and(|networks| networks.contains_key(network))
}

/// Removes the cluster's network; gone already is success.
pub(super) async fn remove(docker: &Docker, cluster_id: &str) -> Result<(), NetworkError> {
    let name = network_name(cluster_id);
    match inspect(docker, &name).await? {
        None => Ok(()),
        Some(found) if !is_ours(&found, cluster_id) => Err(NetworkError::NotOurs(name)),
        Some(_) => remove_by_name(docker, &name).await,
    }
}

async fn remove_by_name(docker: &Docker, name: &str) -> Result<(), NetworkError> {
    let removed = call(&format!("removing network {name}"), CHANGE_LIMIT, docker.remove_network(name)).await;
    match removed {
        Err(NetworkError::Engine { source, .. }) if status(&source) == Some(404) => Ok(()),
        other => other,
    }
}

async fn inspect(docker: &Docker, name: &str) -> Result<Option<NetworkInspect>, NetworkError> {
    match call(&format!("inspecting network {name}"), READ_LIMIT, docker.inspect_network(name, None)).await {
        Ok(found) => Ok(Some(found)),
        Err(NetworkError::Engine { source, .. }) if status(&source) == Some(404) => Ok(None),
        Err(e) => Err(e),
    }
}

fn judge(config: &NetworkConfig, found: &NetworkInspect) -> Result<Verdict, NetworkError> {
    let network = network_name(&config.cluster_id);
    if !is_ours(found, &config.cluster_id) {
        return Err(NetworkError::NotOurs(network));
    }
    let subnets = subnets(found.ipam.as_ref());
    let option = |key: &str| found.options.as_ref().and_then(|o| o.get(key)).map(String::as_str);
    let right = subnets == [config.pod_cidr] && option(BRIDGE_NAME) == Some(&bridge_name(&config.cluster_id));
    let containers = found.containers.as_ref().map_or(0, HashMap::len);
    match (right, containers) {
        (true, _) => Ok(Verdict::Adopt),
        (false, 0) => Ok(Verdict::Replace),
        (false, containers) => {
            let subnet = subnets.first().map_or_else(|| "no range".into(), ToString::to_string);
            Err(NetworkError::InUse { network, subnet, wanted: config.pod_cidr, containers })
        }
    }
}

fn is_ours(found: &NetworkInspect, cluster_id: &str) -> bool {
    found.labels.as_ref().and_then(|l| l.get(labels::CLUSTER)).is_some_and(|id| id == cluster_id)
}

fn subnets(ipam: Option<&Ipam>) -> Vec<Ipv4Net> {
    let configs = ipam.and_then(|i| i.config.as_deref()).unwrap_or_default();
    configs.iter().filter_map(|c| c.subnet.as_deref()?.parse().ok()).collect()
}

/// Refuses ranges that would cut something off.
fn check_ranges(config: &NetworkConfig, networks: &[Network], used: &[UsedCidr]) -> Result<(), NetworkError> {
    let own = network_name(&config.cluster_id);
    let of_docker = networks.iter().filter(|n| n.name.as_deref() != Some(&own)).flat_map(|n| {
        let by = format!("Docker network {}", n.name.as_deref().unwrap_or_default());
        subnets(n.ipam.as_ref()).into_iter().map(move |cidr| UsedCidr { cidr, by: by.clone() })
    });
    // Docker's networks come first: their names say more than those of their bridges.
    let used: Vec<_> = of_docker.chain(used.iter().cloned()).collect();
    super::check_free("--pod-cidr", config.pod_cidr, &used)?;
    super::check_free("--service-cidr", config.service_cidr, &used)
}

fn request(config: &NetworkConfig, api: (u32, u32)) -> NetworkCreateRequest {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let range = IpamConfig {
        subnet: Some(config.pod_cidr.to_string()),
        gateway: Some(config.gateway().addr().to_string()),
        ..Default::default()
    };
    let bridge = bridge_name(&config.cluster_id);
    let mut options = vec![
        (BRIDGE_NAME, &*bridge),
        ("com.docker.network.bridge.enable_icc", "true"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
    ];
    options.extend((api >= GATEWAY_MODE_SINCE).then_some(GATEWAY_MODE));
    NetworkCreateRequest {
        name: network_name(&config.cluster_id),
        driver: Some("bridge".into()),
        ipam: Some(Ipam { driver: Some("default".into()), config: Some(vec![range]), options: None }),
        options: Some(pairs(&options)),
        labels: Some(pairs(&[(labels::CLUSTER, &config.cluster_id), (labels::NODE, &config.node)])),
        ..Default::default()
    }
}

async fn call<T>(
    what: &str,
    limit: Duration,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, NetworkError> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(NetworkError::Engine { what: what.to_owned(), source: Box::new(source) }),
        Err(_) => Err(NetworkError::EngineTimeout { what: what.to_owned(), seconds: limit.as_secs() }),
    }
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerSummaryHostConfig, ContainerSummaryNetworkSettings};

    use super::*;

    const ENGINE_20_10: (u32, u32) = (1, 41);

    fn config() -> NetworkConfig {
        NetworkConfig {
            cluster_id: "0a1b2c3d".into(),
            node: "n1".into(),
            address: std::net::Ipv4Addr::new(192, 0, 2, 11).into(),
            pods_cidr: "10.244.0.0/16".parse().unwrap(),
            routes: super::super::PodRoutes::Auto,
            pod_cidr: "10.244.3.0/24".parse().unwrap(),
            service_cidr: "10.0.0.0/16".parse().unwrap(),
        }
    }

    fn found(subnet: &str, cluster: &str, containers: usize) -> NetworkInspect {
        let made = request(&NetworkConfig { pod_cidr: subnet.parse().unwrap(), ..config() }, ENGINE_20_10);
        NetworkInspect {
            ipam: made.ipam,
            options: made.options,
            labels: Some(HashMap::from([(labels::CLUSTER.to_owned(), cluster.to_owned())])),
            containers: Some((0..containers).map(|i| (i.to_string(), Default::default())).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn engines_that_drop_what_comes_from_other_hosts_are_told_not_to() {
        let mode = |api| request(&config(), api).options.unwrap().get(GATEWAY_MODE.0).cloned();
        assert_eq!(mode((1, 48)).as_deref(), Some("nat-unprotected"));
        assert_eq!([mode((1, 47)), mode(ENGINE_20_10)], [None, None]);
    }

    #[test]
    fn a_right_network_is_adopted_and_a_wrong_one_replaced_only_when_unused() {
        let check = |found: NetworkInspect, expected: Result<Verdict, &str>| {
            let got = judge(&config(), &found).map_err(|e| e.to_string());
            match expected {
                Ok(verdict) => assert_eq!(got, Ok(verdict)),
                Err(part) => assert!(got.as_ref().unwrap_err().contains(part), "{got:?}"),
            }
        };
        check(found("10.244.3.0/24", "0a1b2c3d", 4), Ok(Verdict::Adopt));
        check(found("10.244.9.0/24", "0a1b2c3d", 0), Ok(Verdict::Replace));
        check(found("10.244.9.0/24", "0a1b2c3d", 2), Err("2 container(s) use it"));
        check(found("10.244.9.0/24", "0a1b2c3d", 2), Err("--pod-cidr 10.244.9.0/24"));
        check(found("10.244.3.0/24", "ffffffff", 0), Err("docker network rm coracle-0a1b2c3d"));
    }

    #[test]
    fn an_overlap_is_refused_with_both_names_and_the_flag() {
        let other =
            Network { name: Some("lan".into()), ipam: request(&config(), ENGINE_20_10).ipam, ..Default::default() };
        let error = check_ranges(&config(), &[other], &[]).unwrap_err().to_string();
        assert!(error.starts_with("--pod-cidr 10.244.3.0/24 overlaps 10.244.3.0/24 of Docker network lan"), "{error}");

        let lan = UsedCidr { cidr: "10.0.7.0/24".parse().unwrap(), by: "interface eth0".into() };
        let error = check_ranges(&config(), &[], &[lan]).unwrap_err().to_string();
        assert!(error.starts_with("--service-cidr 10.0.0.0/16 overlaps 10.0.7.0/24 of interface eth0"), "{error}");

        let own = Network {
            name: Some("coracle-0a1b2c3d".into()),
            ipam: request(&config(), ENGINE_20_10).ipam,
            ..Default::default()
        };
        assert!(check_ranges(&config(), &[own], &[]).is_ok());
    }

    #[test]
    fn members_are_told_with_the_address_to_give_back() {
        let endpoint = EndpointResource { ipv4_address: Some("10.244.3.2/24".into()), ..Default::default() };
        let containers = Some(HashMap::from([("c1".to_owned(), endpoint)]));
        let found = NetworkInspect { containers, ..Default::default() };
        assert_eq!(members_of(found), [Member { id: "c1".into(), address: "10.244.3.2".into() }]);
    }

    #[test]
    fn a_stray_is_a_container_made_for_the_network_and_not_on_it() {
        let check = |mode: &str, on: &[&str], expected| {
            let networks = on.iter().map(|n| ((*n).to_owned(), EndpointSettings::default())).collect();
            let host = ContainerSummaryHostConfig { network_mode: Some(mode.into()), ..Default::default() };
            let container = ContainerSummary {
                host_config: Some(host),
                network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
                ..Default::default()
            };
            assert_eq!(is_stray(&container, "coracle-1"), expected, "{mode} {on:?}");
        };
        check("coracle-1", &["coracle-1"], false);
        check("coracle-1", &[], true);
        check("coracle-1", &["bridge"], true);
        check("host", &["host"], false);
        check("container:abc", &[], false);
    }
}
