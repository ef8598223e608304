//! A pod's container, everything resolved, as the engine is asked for it. Pure.

use std::net::IpAddr;

use coracle_api::core::{Container, Pod, PodSpec, SecurityContext};

use super::{
    environment::{ConfigError, Surroundings, environment},
    expansion::expand,
    manager::Config,
    naming::{ContainerName, infra_hash, spec_hash},
    plan::image_of,
    report::name_of,
    resources::Resources,
    restart,
};
use crate::runtime::{ContainerId, ContainerSpec, InfraSpec, PublishedPort, labels};

/// The limit of the kernel.
const HOSTNAME_CHARS_MAX: usize = 63;

/// The pod's infra container: network, host name, published ports.
pub fn infra_spec(pod: &Pod, attempt: u32, config: &Config) -> InfraSpec {
    let name = ContainerName::of(pod, labels::INFRA, &infra_hash(pod), attempt);
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let host_network = spec.host_network == Some(true);
    InfraSpec {
        labels: name.labels(&config.cluster_id, &config.node),
        name: name.to_string(),
        hostname: hostname(pod, spec),
        ports: if host_network { Vec::new() } else { published_ports(spec, config) },
        host_network,
    }
}

/// What was made ready for a container.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// Its volume mounts.
    pub binds: Vec<String>,
    /// As whom its image runs; asked for where [`needs_image_user`] says so.
    pub image_user: String,
}

/// Whether the image's user must be known: a group alone leaves the user as it is.
pub fn needs_image_user(pod: &Pod, container: &Container) -> bool {
    matches!(ids(pod, container), (None, Some(_)))
}

/// The user and the group that are asked for; the container's setting wins over the pod's.
fn ids(pod: &Pod, container: &Container) -> (Option<i64>, Option<i64>) {
    let (own, of_pod) = (&container.security_context, pod.spec.as_ref().and_then(|s| s.security_context.as_ref()));
    let user = own.as_ref().and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
    let group = own.as_ref().and_then(|c| c.run_as_group).or(of_pod.and_then(|c| c.run_as_group));
    (user, group)
}

/// A container of the pod.
pub fn container_spec(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    infra: &ContainerId,
    prepared: Prepared,
    around: &Surroundings<'_>,
    config: &Config,
) -> Result<ContainerSpec, ConfigError> {
    let name = ContainerName::of(pod, &container.name, &spec_hash(container), attempt);
    let env = environment(pod, container, around)?;
    let expanded = |list: &Option<Vec<String>>| {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| expand(text, |name| env.get(name))).collect())
    };
    let resources = Resources::of(container);
    let security = container.security_context.clone().unwrap_or_default();
    let capabilities = security.capabilities.clone().unwrap_or_default();
    Ok(ContainerSpec {
        labels: name.labels(&config.cluster_id, &config.node),
        name: name.to_string(),
        infra: Some(infra.clone()),
        image: image_of(container).to_owned(),
        entrypoint: expanded(&container.command),
        cmd: expanded(&container.args),
        env: env.to_lines(),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        binds: prepared.binds,
        cpu_shares: resources.cpu_shares(),
        cpu_limit_milli: resources.cpu_limit_milli,
        memory_limit: resources.memory_limit,
        user: user(pod, container, &security, &prepared.image_user)?,
        privileged: security.privileged == Some(true),
        read_only_root: security.read_only_root_filesystem == Some(true),
        cap_add: capabilities.add.unwrap_or_default(),
        cap_drop: capabilities.drop.unwrap_or_default(),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
    })
}

/// `user[:group]`, if it is not the image's own.
fn user(
    pod: &Pod,
    container: &Container,
    own: &SecurityContext,
    image_user: &str,
) -> Result<Option<String>, ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let (user, group) = ids(pod, container);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) && user.is_none_or(|uid| uid == 0) {
        return Err(ConfigError(format!(
            "container {} must not run as root (runAsNonRoot); set runAsUser to the number of another user",
            container.name
        )));
    }
    Ok(match (user, group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (None, Some(group)) => {
            let user = image_user.split(':').next().filter(|user| !user.is_empty());
            Some(format!("{}:{group}", user.unwrap_or("0")))
        }
    })
}

fn hostname(pod: &Pod, spec: &PodSpec) -> String {
    let name = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(name_of(pod).1);
    let cut: String = name.chars().take(HOSTNAME_CHARS_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The host ports of all containers: the infra container owns the network, so it publishes them.
fn published_ports(spec: &PodSpec, config: &Config) -> Vec<PublishedPort> {
    let ports = restart::containers(spec).flat_map(|(_, c)| c.ports.iter().flatten());
    let mut published = Vec::new();
    for port in ports {
        let host_port = port.host_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
        let Ok(container_port) = u16::try_from(port.container_port) else { continue };
        if host_port == 0 {
            continue;
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        let asked: Option<IpAddr> = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
        let everywhere = asked.is_none_or(|ip| ip.is_unspecified());
        let ours = protocol == "tcp" && config.own_listeners.iter().any(|own| own.port() == host_port);
        let host_ip = if everywhere && ours { Some(config.node_ip) } else { asked };
        let entry = PublishedPort { protocol, container_port, host_ip, host_port };
        if !published.contains(&entry) {
            published.push(entry);
        }
    }
    published
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::services::Services;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": spec,
        }))
        .unwrap()
    }

    fn config() -> Config {
        Config::new("n1", [192, 0, 2, 1].into(), "0badcafe", "/nonexistent".into())
    }

    fn built(pod: &Pod) -> Result<ContainerSpec, ConfigError> {
        built_on(pod, "")
    }

    fn built_on(pod: &Pod, image_user: &str) -> Result<ContainerSpec, ConfigError> {
        let prepared = Prepared { image_user: image_user.into(), ..Prepared::default() };
        let services = &Services::default();
        let around = Surroundings { services, pod_ip: None, node_ip: [192, 0, 2, 1].into(), node: "n1" };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        container_spec(pod, container, 2, &ContainerId("infra".into()), prepared, &around, &config())
    }

    #[test]
    fn command_becomes_the_entrypoint_and_args_the_command() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "i", "command": ["run", "$(X)"],
            "args": ["$$(X)"], "env": [{"name": "X", "value": "1"}]}]}));
        let spec = built(&pod).unwrap();
        assert_eq!(spec.entrypoint, Some(vec!["run".to_owned(), "1".into()]));
        assert_eq!(spec.cmd, Some(vec!["$(X)".to_owned()]));
        assert!(spec.name.ends_with("_web.shop.api_u1_00000002"), "{}", spec.name);
        assert_eq!(spec.labels[labels::ATTEMPT], "2");
    }

    #[test]
    fn an_empty_command_leaves_the_images_own() {
        let spec = built(&pod(json!({"containers": [{"name": "c", "command": [], "args": []}]}))).unwrap();
        assert_eq!((spec.entrypoint, spec.cmd), (None, None));
    }

    #[test]
    fn requests_weigh_and_limits_bind() {
        let spec = built(&pod(json!({"containers": [{"name": "c", "resources":
            {"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "1Ki"}}}]})));
        let spec = spec.unwrap();
        assert_eq!((spec.cpu_shares, spec.cpu_limit_milli, spec.memory_limit), (256, 1000, 1024));
    }

    #[test]
    fn non_root_without_a_user_is_refused_with_the_remedy() {
        let context = json!({"runAsNonRoot": true});
        let refused = built(&pod(json!({"containers": [{"name": "c", "securityContext": context}]})));
        assert!(refused.unwrap_err().0.contains("runAsUser"));
        let context = json!({"runAsNonRoot": true, "runAsUser": 7, "runAsGroup": 8});
        let spec = built(&pod(json!({"containers": [{"name": "c", "securityContext": context}]})));
        assert_eq!(spec.unwrap().user.as_deref(), Some("7:8"));
    }

    #[test]
    fn a_group_alone_leaves_the_user_to_the_image() {
        let context = json!({"runAsGroup": 8});
        let of_container = pod(json!({"containers": [{"name": "c", "securityContext": context}]}));
        let of_pod = pod(json!({"securityContext": context, "containers": [{"name": "c"}]}));
        for (image_user, expected) in [("", "0:8"), ("1000", "1000:8"), ("app:staff", "app:8"), (":staff", "0:8")] {
            for pod in [&of_container, &of_pod] {
                assert!(needs_image_user(pod, &pod.spec.as_ref().unwrap().containers[0]));
                assert_eq!(built_on(pod, image_user).unwrap().user.as_deref(), Some(expected), "{image_user}");
            }
        }
        let with_user =
            pod(json!({"securityContext": {"runAsUser": 7, "runAsGroup": 8}, "containers": [{"name": "c"}]}));
        assert!(!needs_image_user(&with_user, &with_user.spec.as_ref().unwrap().containers[0]));
        assert_eq!(built_on(&with_user, "1000").unwrap().user.as_deref(), Some("7:8"));
    }

    #[test]
    fn the_infra_container_publishes_the_ports_of_all_containers() {
        let port = |c: u16, h: u16| json!({"containerPort": c, "hostPort": h, "protocol": "UDP"});
        let pod = pod(json!({"containers": [
            {"name": "a", "ports": [port(53, 5353), {"containerPort": 80}]}, {"name": "b", "ports": [port(54, 5454)]}]}));
        let infra = infra_spec(&pod, 0, &config());
        let ports: Vec<_> = infra.ports.iter().map(|p| (p.container_port, p.host_port, p.protocol.as_str())).collect();
        assert_eq!(ports, [(53, 5353, "udp"), (54, 5454, "udp")]);
    }

    #[test]
    fn a_host_port_of_the_master_itself_is_published_on_the_nodes_address() {
        let mut config = config();
        config.own_listeners = vec![([127, 0, 0, 1], 8080).into()];
        let port = |h: u16, ip: &str, protocol: &str| json!({"containerPort": 80, "hostPort": h, "hostIP": ip, "protocol": protocol});
        let ports =
            [port(8080, "", "TCP"), port(8080, "", "UDP"), port(8080, "192.0.2.9", "TCP"), port(8081, "", "TCP")];
        let pod = pod(json!({"containers": [{"name": "a", "ports": ports}]}));
        let at: Vec<_> = infra_spec(&pod, 0, &config).ports.into_iter().map(|p| p.host_ip).collect();
        assert_eq!(at, [Some(config.node_ip), None, Some([192, 0, 2, 9].into()), None]);
    }

    #[test]
    fn a_pod_on_the_nodes_network_publishes_nothing() {
        let pod = pod(json!({"hostNetwork": true, "hostname": "x".repeat(80), "containers": [
            {"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]}));
        let infra = infra_spec(&pod, 0, &config());
        assert!(infra.host_network && infra.ports.is_empty());
        assert_eq!(infra.hostname.len(), 63);
    }
}
