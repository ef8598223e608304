//! What a pod asks of a node, read off once for all nodes.

use std::hash::{BuildHasher, Hash};

use compact_str::CompactString;
use coracle_api::{
    StringMap,
    core::{NodeSelector, Pod, Toleration},
    objects::pod::{self, Requests},
};

use crate::registry::{HostPort, PodFacts};

/// The demands of a pod.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Cpu and memory.
    pub requests: Requests,
    /// Ports of the node.
    pub host_ports: Box<[HostPort]>,
    /// The only node that does; the manifest of a pod can name one.
    pub node_name: Option<CompactString>,
    /// Labels that the node must have.
    pub node_selector: StringMap,
    /// Required node affinity.
    pub affinity: Option<NodeSelector>,
    /// Taints it bears.
    pub tolerations: Vec<Toleration>,
    /// See [`PodFacts::siblings`].
    pub siblings: u64,
    /// Its images as [`image_hash`]es.
    pub images: Vec<u64>,
    /// Breaks ties: any value that differs from pod to pod.
    pub tie: u64,
}

impl Wanted {
    /// Reads the demands off a pod.
    pub fn of(pod: &Pod, facts: &PodFacts) -> Self {
        let spec = pod.spec.as_ref();
        Self {
            requests: facts.requests,
            host_ports: facts.host_ports.clone(),
            node_name: facts.node.clone(),
            node_selector: spec.and_then(|s| s.node_selector.clone()).unwrap_or_default(),
            affinity: spec.and_then(pod::required_node_affinity).cloned(),
            tolerations: spec.and_then(|s| s.tolerations.clone()).unwrap_or_default(),
            siblings: facts.siblings,
            images: spec
                .into_iter()
                .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
                .filter_map(|c| c.image.as_deref().map(image_hash))
                .collect(),
            tie: hash(&pod.metadata.uid),
        }
    }

    /// What decides whether a node fits, as a text: pods with the same text fit on the same nodes.
    pub(super) fn class(&self) -> String {
        let Self { requests, host_ports, node_name, node_selector, affinity, tolerations, .. } = self;
        format!("{requests:?}{host_ports:?}{node_name:?}{node_selector:?}{affinity:?}{tolerations:?}")
    }
}

pub(super) fn hash(value: impl Hash) -> u64 {
    foldhash::fast::FixedState::default().hash_one(value)
}

/// An image by its name: with the tag that no tag means, and without the registry that no registry
/// means.
pub(super) fn image_hash(name: &str) -> u64 {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let tagged = name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if tagged { hash(name) } else { hash(format!("{name}:latest").as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_hash_whatever_it_is_called() {
        for (a, b, same) in [
            ("nginx", "docker.io/library/nginx:latest", true),
            ("nginx:1", "library/nginx:1", true),
            ("host:5000/nginx", "host:5000/nginx:latest", true),
            ("nginx", "nginx:1", false),
            ("a/nginx", "nginx", false),
        ] {
            assert_eq!(image_hash(a) == image_hash(b), same, "{a} {b}");
        }
    }
}
