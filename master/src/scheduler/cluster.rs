//! What each node has and what its pods ask of it, kept up to date change by change: placing a
//! pod never scans the pods.

use std::collections::{BTreeMap, HashMap};

use compact_str::CompactString;
use coracle_api::{StringMap, core::Node, objects::pod::Requests, quantity};

use crate::registry::{HostPort, Key, PodFacts};

/// A node and the sum of its pods.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeState {
    pub(super) labels: StringMap,
    pub(super) ready: bool,
    pub(super) cordoned: bool,
    /// What pods may use; `None` is unlimited.
    pub(super) cpu_milli: Option<i64>,
    pub(super) memory_bytes: Option<i64>,
    pub(super) pods_max: Option<i64>,
    pub(super) used: Requests,
    pub(super) pods: i64,
    pub(super) host_ports: Vec<HostPort>,
    /// Pods per controller.
    pub(super) siblings: HashMap<CompactString, u32>,
}

impl NodeState {
    /// Takes over what the node offers. Returns whether that changed.
    fn describe(&mut self, node: &Node) -> bool {
        let before = self.offer();
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let amount = |name: &str| allocatable.and_then(|a| a.get(name));
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.cpu_milli = amount("cpu").and_then(quantity::milli);
        self.memory_bytes = amount("memory").and_then(quantity::bytes);
        self.pods_max = amount("pods").and_then(quantity::bytes);
        self.cordoned = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default()
            || node.metadata.deletion_timestamp.is_some();
        let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        self.ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
        self.offer() != before
    }

    fn offer(&self) -> impl PartialEq + use<> {
        let amounts = (self.cpu_milli, self.memory_bytes, self.pods_max);
        (self.ready, self.cordoned, amounts, self.labels.clone())
    }

    fn add(&mut self, pod: &PodFacts) {
        self.used.milli_cpu += pod.requests.milli_cpu;
        self.used.memory_bytes += pod.requests.memory_bytes;
        self.pods += 1;
        self.host_ports.extend_from_slice(&pod.host_ports);
        if let Some(owner) = &pod.owner {
            *self.siblings.entry(owner.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, pod: &PodFacts) {
        self.used.milli_cpu -= pod.requests.milli_cpu;
        self.used.memory_bytes -= pod.requests.memory_bytes;
        self.pods -= 1;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
        if let Some(owner) = &pod.owner
            && let Some(count) = self.siblings.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.siblings.remove(owner);
            }
        }
    }
}

/// All nodes, and the pods that are placed.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    nodes: BTreeMap<CompactString, NodeState>,
    placed: HashMap<Key, PodFacts>,
}

impl Cluster {
    /// The nodes by name.
    pub(super) fn nodes(&self) -> &BTreeMap<CompactString, NodeState> {
        &self.nodes
    }

    /// Takes a node in, or out with `None`. Returns whether a waiting pod could fit now.
    pub(super) fn set_node(&mut self, name: &str, node: Option<&Node>) -> bool {
        let Some(node) = node else {
            self.nodes.remove(name);
            return false;
        };
        if let Some(state) = self.nodes.get_mut(name) {
            return state.describe(node);
        }
        let mut state = NodeState::default();
        state.describe(node);
        self.placed.values().filter(|p| p.node.as_deref() == Some(name)).for_each(|p| state.add(p));
        self.nodes.insert(name.into(), state);
        true
    }

    /// Forgets the nodes: they are about to be told again.
    pub(super) fn clear_nodes(&mut self) {
        self.nodes.clear();
    }

    /// Forgets the pods: they are about to be told again.
    pub(super) fn clear_pods(&mut self) {
        for pod in std::mem::take(&mut self.placed).values() {
            if let Some(state) = pod.node.as_ref().and_then(|n| self.nodes.get_mut(n)) {
                state.remove(pod);
            }
        }
    }

    /// Takes a pod in, or out with `None`. Returns whether something became free.
    pub(super) fn set_pod(&mut self, key: &Key, pod: Option<&PodFacts>) -> bool {
        let pod = pod.filter(|p| p.node.is_some());
        let freed = match self.placed.get(key) {
            Some(old) if Some(old) == pod => return false,
            Some(old) => {
                if let Some(state) = old.node.as_ref().and_then(|n| self.nodes.get_mut(n)) {
                    state.remove(old);
                }
                pod.is_none_or(|new| new.node != old.node || new.requests != old.requests)
            }
            None => false,
        };
        match pod {
            Some(pod) => {
                if let Some(state) = pod.node.as_ref().and_then(|n| self.nodes.get_mut(n)) {
                    state.add(pod);
                }
                self.placed.insert(key.clone(), pod.clone());
            }
            None => drop(self.placed.remove(key)),
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::PodPhase;

    pub(crate) fn facts(node: Option<u8>, cpu: i64, port: u16, owner: u8) -> PodFacts {
        PodFacts {
            node: node.map(|n| format!("n{n}").into()),
            phase: PodPhase::Running,
            ready: true,
            terminating: false,
            lost: false,
            ip: None,
            owner: Some(format!("o{owner}").into()),
            created_at: None,
            requests: Requests { milli_cpu: cpu, memory_bytes: cpu * 1000 },
            host_ports: [HostPort { protocol: "TCP".into(), ip: None, port }].into(),
        }
    }

    proptest! {
        /// Whatever the order of changes, the totals equal a fresh sum.
        #[test]
        fn totals_are_the_sum_of_the_pods(
            steps in prop::collection::vec((0u8..6, prop::option::of(0u8..3), 0i64..9, 1u16..5, 0u8..3, 0u8..5), 0..80)
        ) {
            let mut cluster = Cluster::default();
            for (pod, node, cpu, port, owner, action) in steps {
                let key = Key::new("n", &format!("p{pod}"));
                match action {
                    0 if port == 1 => cluster.clear_pods(),
                    0 => drop(cluster.set_pod(&key, None)),
                    1 => drop(cluster.set_node(&format!("n{}", node.unwrap_or(0)), Some(&Node::default()))),
                    2 => drop(cluster.set_node(&format!("n{}", node.unwrap_or(0)), None)),
                    _ => drop(cluster.set_pod(&key, Some(&facts(node, cpu, port, owner)))),
                }
            }
            for (name, state) in cluster.nodes() {
                let mut fresh = NodeState::default();
                cluster.placed.values().filter(|p| p.node.as_deref() == Some(name)).for_each(|p| fresh.add(p));
                prop_assert_eq!(&fresh.used, &state.used);
                prop_assert_eq!(fresh.pods, state.pods);
                prop_assert_eq!(&fresh.siblings, &state.siblings);
                let sorted = |ports: &[HostPort]| { let mut p = ports.to_vec(); p.sort(); p };
                prop_assert_eq!(sorted(&fresh.host_ports), sorted(&state.host_ports));
            }
        }
    }
}
