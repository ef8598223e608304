//! The resolv.conf of a pod. Pure.
//!
//! Written by the minion and mounted in every container of the pod: the engine's own would send all
//! questions through the engine, which is away while it restarts, and would try no search domain for
//! a name with a dot.

use std::{net::IpAddr, path::Path};

use coracle_api::core::{Container, Pod};

use super::report::name_of;
use crate::dns::resolv_conf::ResolvConf;

/// Where it is in a container.
const PATH: &str = "/etc/resolv.conf";
/// Names with fewer dots are tried in the search domains first, so that `name.namespace.svc` is found.
const OPTIONS: [&str; 1] = ["ndots:5"];
/// What the resolvers of C libraries read.
const NAMESERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// What a node offers to its pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolvers<'a> {
    /// The node's DNS server, while it listens.
    pub(super) cluster: Option<IpAddr>,
    /// `cluster.local`
    pub(super) domain: &'a str,
    /// Whom the host itself asks.
    pub(super) host: &'a ResolvConf,
}

/// The pod's resolv.conf, by its `dnsPolicy` and `dnsConfig`.
pub(super) fn resolv_conf(pod: &Pod, around: Resolvers<'_>) -> ResolvConf {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut conf = match (policy, around.cluster) {
        ("None", _) => ResolvConf::default(),
        ("ClusterFirstWithHostNet", Some(server)) => cluster_first(pod, server, around),
        ("ClusterFirst", Some(server)) if !host_network => cluster_first(pod, server, around),
        _ => as_on_host(host_network, around),
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        let nameservers = own.nameservers.iter().flatten();
        conf.nameservers.extend(nameservers.filter_map(|ip| ip.parse::<IpAddr>().ok()));
        conf.search.extend(own.searches.iter().flatten().filter(|domain| is_word(domain)).cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.as_deref().filter(|name| is_word(name)) else { continue };
            let value = option.value.as_deref().filter(|value| is_word(value));
            conf.options.retain(|known| known.split(':').next() != Some(name));
            conf.options.push(value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")));
        }
    }
    cut(conf)
}

/// Whether a volume of the pod takes its place in a container.
pub(super) fn is_mounted(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| Path::new(&mount.mount_path) == Path::new(PATH))
}

/// The bind that puts the file at `path` in its place: writable as in Kubernetes, for programs that
/// bring a tunnel with resolvers of its own, unless nothing of the container is.
pub(super) fn bind(path: &Path, container: &Container) -> Result<String, String> {
    let read_only = container.security_context.as_ref().and_then(|s| s.read_only_root_filesystem) == Some(true);
    let suffix = if read_only { ":ro" } else { "" };
    let host = path.to_str().filter(|path| !path.contains(':'));
    let host = host.ok_or_else(|| format!("{} can't be mounted: the engine takes no ':' in a path", path.display()))?;
    Ok(format!("{host}:{PATH}{suffix}"))
}

fn cluster_first(pod: &Pod, server: IpAddr, around: Resolvers<'_>) -> ResolvConf {
    let (namespace, domain) = (name_of(pod).0, around.domain);
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    ResolvConf {
        nameservers: vec![server],
        search: own.into_iter().chain(around.host.search.iter().cloned()).collect(),
        options: OPTIONS.map(str::to_owned).to_vec(),
    }
}

fn as_on_host(host_network: bool, around: Resolvers<'_>) -> ResolvConf {
    let mut conf = around.host.clone();
    if !host_network {
        // The loopback of a pod is its own. The node's server asks whom the host does.
        conf.nameservers.retain(|ip| !ip.is_loopback());
        if conf.nameservers.is_empty() {
            conf.nameservers.extend(around.cluster);
        }
    }
    conf
}

/// What is in the API unchecked must not become lines of its own.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Each entry once, and no more than resolvers read.
fn cut(mut conf: ResolvConf) -> ResolvConf {
    let mut seen = Vec::new();
    conf.nameservers.retain(|ip| {
        !seen.contains(ip) && {
            seen.push(*ip);
            true
        }
    });
    conf.nameservers.truncate(NAMESERVERS_MAX);
    let mut search: Vec<String> = Vec::new();
    let mut chars = 0;
    for domain in conf.search {
        chars += domain.len() + 1;
        if search.len() == SEARCH_MAX || chars > SEARCH_CHARS_MAX {
            break;
        }
        if search.contains(&domain) {
            chars -= domain.len() + 1;
        } else {
            search.push(domain);
        }
    }
    ResolvConf { search, ..conf }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SERVER: [u8; 4] = [10, 244, 1, 1];
    const CLUSTER: &str = "nameserver 10.244.1.1\n\
         search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n";
    const HOST: &str = "nameserver 192.0.2.1\nsearch corp.example\noptions edns0\n";

    fn pod(spec: serde_json::Value) -> Pod {
        let meta = json!({"name": "web", "namespace": "shop", "uid": "u1"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn check_with(host: &str, cluster: bool, spec: serde_json::Value, expected: &str) {
        let (host, cluster) = (ResolvConf::parse(host), cluster.then_some(SERVER.into()));
        let around = Resolvers { cluster, domain: "cluster.local", host: &host };
        assert_eq!(resolv_conf(&pod(spec.clone()), around).to_string(), expected, "{spec}");
    }

    fn check(spec: serde_json::Value, expected: &str) {
        check_with(HOST, true, spec, expected);
    }

    #[test]
    fn each_policy_is_that_of_kubernetes() {
        check(json!({"containers": []}), CLUSTER);
        check(json!({"dnsPolicy": "ClusterFirst", "containers": []}), CLUSTER);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true, "containers": []}), HOST);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true, "containers": []}), CLUSTER);
        check(json!({"dnsPolicy": "Default", "containers": []}), HOST);
        let own = json!({"nameservers": ["192.0.2.9"], "searches": ["a.example"]});
        let expected = "nameserver 192.0.2.9\nsearch a.example\n";
        check(json!({"dnsPolicy": "None", "dnsConfig": own, "containers": []}), expected);
    }

    #[test]
    fn what_the_pod_adds_comes_last_and_its_options_win() {
        let own = json!({
            "nameservers": ["192.0.2.9", "10.244.1.1", "192.0.2.10", "192.0.2.11"],
            "searches": ["svc.cluster.local", "a.example", "x\nnameserver 1.2.3.4"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}, {"name": "a b"}],
        });
        let expected = "nameserver 10.244.1.1\nnameserver 192.0.2.9\nnameserver 192.0.2.10\n\
            search shop.svc.cluster.local svc.cluster.local cluster.local corp.example a.example\noptions ndots:2 edns0\n";
        check(json!({"dnsConfig": own, "containers": []}), expected);
    }

    #[test]
    fn while_the_nodes_server_does_not_listen_pods_ask_whom_the_host_does() {
        check_with(HOST, false, json!({"containers": []}), HOST);
    }

    #[test]
    fn a_stub_on_the_hosts_loopback_is_for_the_hosts_network_only() {
        let stub = "nameserver 127.0.0.1\n";
        check_with(stub, true, json!({"dnsPolicy": "Default", "containers": []}), "nameserver 10.244.1.1\n");
        check_with(stub, true, json!({"dnsPolicy": "Default", "hostNetwork": true, "containers": []}), stub);
        check_with(stub, false, json!({"containers": []}), "");
    }

    #[test]
    fn it_is_mounted_where_the_pod_mounts_nothing_else() {
        let container = |extra: serde_json::Value| -> Container {
            let mut container = json!({"name": "c"});
            container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(container).unwrap()
        };
        let mount = |path: &str| container(json!({"volumeMounts": [{"name": "v", "mountPath": path}]}));
        assert!(is_mounted(&mount("/etc/resolv.conf")) && is_mounted(&mount("/etc//resolv.conf/")));
        assert!(!is_mounted(&mount("/etc")));
        let path = Path::new("/p/resolv.conf");
        assert_eq!(bind(path, &container(json!({}))).unwrap(), "/p/resolv.conf:/etc/resolv.conf");
        let read_only = container(json!({"securityContext": {"readOnlyRootFilesystem": true}}));
        assert_eq!(bind(path, &read_only).unwrap(), "/p/resolv.conf:/etc/resolv.conf:ro");
        assert!(bind(Path::new("/a:b"), &read_only).is_err());
    }

    #[test]
    fn no_list_is_longer_than_resolvers_read() {
        let searches: Vec<String> = (0..40).map(|i| format!("d{i}.example")).collect();
        let around = Resolvers { cluster: None, domain: "cluster.local", host: &ResolvConf::default() };
        let conf = |searches: &[String]| {
            resolv_conf(&pod(json!({"dnsConfig": {"searches": searches}, "containers": []})), around)
        };
        assert_eq!(conf(&searches).search, searches[..SEARCH_MAX]);
        let long: Vec<String> = (0..10).map(|i| format!("{i}{}", "x".repeat(250))).collect();
        assert_eq!(conf(&long).search, long[..8]);
    }
}
