//! What each node has and what its pods ask of it, kept up to date change by change: placing a
//! pod never scans the pods.
//!
//! Nodes are numbered. A number stays with a name as long as the node is there or pods are on it,
//! so that the totals of a node that comes back are there already.

use std::{collections::BTreeSet, sync::OnceLock};

use compact_str::CompactString;
use coracle_api::{
    StringMap, TypedObject,
    core::{Node, Pod, Taint},
    objects::pod::Requests,
    quantity,
};

use super::{
    index::{Hot, Index},
    wanted::image_hash,
};
use crate::registry::{HostPort, Key, PodFacts, Registry};

/// Number of a node.
pub(super) type NodeId = u32;

/// What is left of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) milli_cpu: i64,
    pub(super) memory_bytes: i64,
    pub(super) pods: i64,
}

impl Room {
    pub(super) const NONE: Self = Self { milli_cpu: i64::MIN, memory_bytes: i64::MIN, pods: i64::MIN };

    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.max(other.milli_cpu),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            pods: self.pods.max(other.pods),
        }
    }

    /// Whether one amount of `other` is as large as here.
    pub(super) fn is_reached_by(self, other: Self) -> bool {
        other.milli_cpu >= self.milli_cpu || other.memory_bytes >= self.memory_bytes || other.pods >= self.pods
    }

    /// Whether no amount is larger than in `other`.
    pub(super) fn is_within(self, other: Self) -> bool {
        self.max(other) == other
    }
}

/// A node and the sum of its pods.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeState {
    pub(super) name: CompactString,
    /// Whether there is a Node; pods may be on one that is not there yet, or not any more.
    pub(super) present: bool,
    pub(super) labels: StringMap,
    pub(super) taints: Vec<Taint>,
    pub(super) ready: bool,
    pub(super) cordoned: bool,
    /// What pods may use; `None` is unlimited.
    pub(super) cpu_milli: Option<i64>,
    pub(super) memory_bytes: Option<i64>,
    pub(super) pods_max: Option<i64>,
    /// The images that are there, as [`image_hash`]es.
    pub(super) images: foldhash::HashSet<u64>,
    used: Used,
    pods: i64,
    pub(super) host_ports: Vec<HostPort>,
}

/// A sum of requests: wide enough for any number of the largest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    milli_cpu: i128,
    memory_bytes: i128,
}

impl NodeState {
    /// What is left; less than nothing where pods were bound by hand.
    pub(super) fn room(&self) -> Room {
        let left = |has: Option<i64>, used: i128| {
            has.map_or(i64::MAX, |has| i64::try_from(i128::from(has) - used).unwrap_or(i64::MIN))
        };
        Room {
            milli_cpu: left(self.cpu_milli, self.used.milli_cpu),
            memory_bytes: left(self.memory_bytes, self.used.memory_bytes),
            pods: left(self.pods_max, i128::from(self.pods)),
        }
    }

    /// Takes over what a Node says. Returns whether a pod may fit now that did not before.
    fn describe(&mut self, node: &Node) -> bool {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let amount = |name: &str| allocatable.and_then(|a| a.get(name));
        let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let images = node.status.iter().flat_map(|s| s.images.iter().flatten()).flat_map(|i| i.names.iter().flatten());
        let new = Self {
            name: self.name.clone(),
            present: true,
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default(),
            ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
            cordoned: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default()
                || node.metadata.deletion_timestamp.is_some(),
            cpu_milli: amount("cpu").and_then(quantity::milli),
            memory_bytes: amount("memory").and_then(quantity::bytes),
            pods_max: amount("pods").and_then(quantity::bytes),
            images: images.map(|name| image_hash(name)).collect(),
            used: self.used,
            pods: self.pods,
            host_ports: std::mem::take(&mut self.host_ports),
        };
        let old = std::mem::replace(self, new);
        let opened = (self.ready && !old.ready) || (!self.cordoned && old.cordoned);
        let welcomes = self.labels != old.labels || self.taints != old.taints;
        !old.present || opened || welcomes || !self.room().is_within(old.room())
    }

    fn add(&mut self, pod: &Placed) {
        self.used.milli_cpu += i128::from(pod.requests.milli_cpu);
        self.used.memory_bytes += i128::from(pod.requests.memory_bytes);
        self.pods += 1;
        self.host_ports.extend_from_slice(&pod.host_ports);
    }

    fn remove(&mut self, pod: &Placed) {
        self.used.milli_cpu -= i128::from(pod.requests.milli_cpu);
        self.used.memory_bytes -= i128::from(pod.requests.memory_bytes);
        self.pods -= 1;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }
}

/// What a pod takes of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    node: NodeId,
    requests: Requests,
    siblings: u64,
    host_ports: Box<[HostPort]>,
}

/// The pods that are to be kept apart, and where they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Siblings {
    pub(super) total: u32,
    on: foldhash::HashMap<NodeId, u32>,
}

impl Siblings {
    pub(super) fn on(&self, node: NodeId) -> u32 {
        self.on.get(&node).copied().unwrap_or_default()
    }
}

/// All nodes, and the pods that are placed.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeState>,
    ids: foldhash::HashMap<CompactString, NodeId>,
    /// Numbers that are free.
    vacant: Vec<NodeId>,
    placed: foldhash::HashMap<Key, Placed>,
    siblings: foldhash::HashMap<u64, Siblings>,
    index: OnceLock<Index>,
    /// Where a pod may fit now that did not before.
    improved: BTreeSet<NodeId>,
}

impl Cluster {
    /// What the registry knows now. Reads all nodes and pods: for a question, not for a loop.
    pub fn of(registry: &Registry) -> Self {
        let mut cluster = Self::default();
        for entry in registry.snapshot(Node::row()).entries.values() {
            cluster.set_node(&entry.key.name, entry.typed().as_ref());
        }
        for entry in registry.snapshot(Pod::row()).entries.values() {
            cluster.set_pod(&entry.key, entry.pod().filter(|pod| !pod.phase.is_terminal()));
        }
        cluster
    }

    /// Takes a node in, or out with `None`.
    pub fn set_node(&mut self, name: &str, node: Option<&Node>) {
        let Some(node) = node else {
            if let Some(id) = self.ids.get(name).copied() {
                self.nodes[id as usize].present = false;
                self.index = OnceLock::new();
                self.improved.remove(&id);
                self.release(id);
            }
            return;
        };
        let id = self.id_of(name);
        let state = &mut self.nodes[id as usize];
        let (was_present, labels) = (state.present, state.labels.clone());
        if state.describe(node) {
            self.improved.insert(id);
        }
        match self.index.get_mut() {
            Some(index) if was_present => {
                index.set_node(id, state);
                if state.labels != labels {
                    index.forget_labels();
                }
            }
            _ => self.index = OnceLock::new(),
        }
    }

    /// Forgets the nodes: they are about to be told again.
    pub(super) fn clear_nodes(&mut self) {
        self.index = OnceLock::new();
        for id in 0..self.nodes.len() as NodeId {
            self.nodes[id as usize].present = false;
            self.release(id);
        }
    }

    /// Forgets the pods: they are about to be told again.
    pub(super) fn clear_pods(&mut self) {
        self.index = OnceLock::new();
        self.placed.clear();
        self.siblings.clear();
        for id in 0..self.nodes.len() as NodeId {
            let state = &mut self.nodes[id as usize];
            (state.used, state.pods) = (Used::default(), 0);
            state.host_ports.clear();
            self.release(id);
        }
    }

    /// Takes a pod in, or out with `None`. One without a node is out.
    pub fn set_pod(&mut self, key: &Key, pod: Option<&PodFacts>) {
        let node = pod.and_then(|pod| pod.node.as_deref());
        self.put(key, node, pod);
    }

    /// Takes a pod in as if it were on a node.
    pub fn assume(&mut self, key: &Key, pod: &PodFacts, node: &str) {
        self.put(key, Some(node), Some(pod));
    }

    fn put(&mut self, key: &Key, node: Option<&str>, pod: Option<&PodFacts>) {
        if let (Some(node), Some(pod), Some(old)) = (node, pod, self.placed.get(key))
            && self.nodes[old.node as usize].name == node
            && (old.requests, old.siblings) == (pod.requests, pod.siblings)
            && old.host_ports == pod.host_ports
        {
            return;
        }
        let old = self.placed.remove(key);
        if let Some(old) = &old {
            let state = &mut self.nodes[old.node as usize];
            state.remove(old);
            if state.present {
                self.improved.insert(old.node);
            }
            self.count_sibling(old, false);
        }
        if let (Some(node), Some(pod)) = (node, pod) {
            let host_ports = pod.host_ports.clone();
            let (node, requests, siblings) = (self.id_of(node), pod.requests, pod.siblings);
            let new = Placed { node, requests, siblings, host_ports };
            self.nodes[node as usize].add(&new);
            self.count_sibling(&new, true);
            self.refresh(node);
            self.placed.insert(key.clone(), new);
        }
        if let Some(old) = old {
            self.refresh(old.node);
            self.release(old.node);
        }
    }

    fn refresh(&mut self, id: NodeId) {
        if let Some(index) = self.index.get_mut() {
            index.set_room(id, &self.nodes[id as usize]);
        }
    }

    fn count_sibling(&mut self, pod: &Placed, here: bool) {
        if pod.siblings == 0 {
            return;
        }
        let siblings = self.siblings.entry(pod.siblings).or_default();
        let on = siblings.on.entry(pod.node).or_default();
        if here {
            siblings.total += 1;
            *on += 1;
            return;
        }
        siblings.total -= 1;
        *on -= 1;
        if *on == 0 {
            siblings.on.remove(&pod.node);
        }
        if siblings.total == 0 {
            self.siblings.remove(&pod.siblings);
        }
    }

    fn id_of(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let state = NodeState { name: name.into(), ..Default::default() };
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id as usize] = state;
                id
            }
            None => {
                self.nodes.push(state);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.ids.insert(name.into(), id);
        id
    }

    /// Gives the number of a node back that nothing speaks of any more.
    fn release(&mut self, id: NodeId) {
        let state = &mut self.nodes[id as usize];
        if !state.present && state.pods == 0 && self.ids.remove(&state.name).is_some() {
            *state = NodeState::default();
            self.vacant.push(id);
        }
    }

    /// The nodes on which a pod may fit now that did not when this was asked last.
    pub(super) fn take_improved(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.improved).into_iter().collect()
    }

    pub(super) fn node(&self, id: NodeId) -> &NodeState {
        &self.nodes[id as usize]
    }

    pub(super) fn nodes(&self) -> &[NodeState] {
        &self.nodes
    }

    /// One node, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<&Hot> {
        self.index().get(*self.ids.get(name)?)
    }

    pub(super) fn siblings(&self, group: u64) -> Option<&Siblings> {
        self.siblings.get(&group)
    }

    pub(super) fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(&self.nodes))
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.index().hot().len()
    }

    /// How many pods are on a node.
    pub fn pods_on(&self, node: &str) -> usize {
        self.ids.get(node).map_or(0, |id| usize::try_from(self.nodes[*id as usize].pods).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::scheduler::tests::facts;

    fn offer(cpu: i64, closed: bool) -> Node {
        let allocatable = json!({"cpu": cpu.to_string(), "memory": "1Ki", "pods": "5"});
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        serde_json::from_value(json!({"spec": {"unschedulable": closed},
            "metadata": {"labels": {"cpu": cpu.to_string()}},
            "status": {"allocatable": allocatable, "conditions": conditions}}))
        .unwrap()
    }

    proptest! {
        /// Whatever the order of changes, the totals and the index equal those made anew.
        #[test]
        fn totals_are_the_sum_of_the_pods(
            steps in prop::collection::vec((0u8..9, 0u8..4, 0i64..9, 1u16..5, 0u8..3, 0u8..7), 0..120)
        ) {
            let mut cluster = Cluster::default();
            for (pod, node, cpu, port, owner, action) in steps {
                let key = Key::new("n", &format!("p{pod}"));
                let name = format!("n{node}");
                match action {
                    0 if port == 1 => cluster.clear_pods(),
                    0 if port == 2 => cluster.clear_nodes(),
                    0 => cluster.set_pod(&key, None),
                    1 | 2 => cluster.set_node(&name, Some(&offer(cpu, port == 1))),
                    3 => cluster.set_node(&name, None),
                    _ => cluster.set_pod(&key, Some(&facts((owner < 2).then_some(name.as_str()), cpu, port, owner))),
                }
                // Made now, it has to follow the steps to come.
                cluster.index();
            }
            for (id, state) in cluster.nodes.iter().enumerate().filter(|(_, s)| !s.name.is_empty()) {
                let mut fresh = NodeState::default();
                let on = cluster.placed.values().filter(|p| p.node == id as NodeId);
                on.for_each(|p| fresh.add(p));
                prop_assert_eq!((fresh.used, fresh.pods), (state.used, state.pods));
                let sorted = |ports: &[HostPort]| { let mut p = ports.to_vec(); p.sort(); p };
                prop_assert_eq!(sorted(&fresh.host_ports), sorted(&state.host_ports));
                prop_assert_eq!(cluster.ids.get(&state.name), Some(&(id as NodeId)));
                prop_assert!(state.present || state.pods > 0, "a number is given back");
            }
            let mut siblings = foldhash::HashMap::<u64, Siblings>::default();
            for pod in cluster.placed.values().filter(|p| p.siblings != 0) {
                let group = siblings.entry(pod.siblings).or_default();
                group.total += 1;
                *group.on.entry(pod.node).or_default() += 1;
            }
            prop_assert_eq!(&siblings, &cluster.siblings);
            cluster.index().assert_is_like(&Index::of(&cluster.nodes));
        }
    }

    #[test]
    fn only_what_helps_is_an_improvement() {
        let mut cluster = Cluster::default();
        let key = Key::new("n", "p");
        let mut improves = |what: &str, change: &dyn Fn(&mut Cluster), expected: bool| {
            change(&mut cluster);
            assert_eq!(!cluster.take_improved().is_empty(), expected, "{what}");
        };
        improves("a node joins", &|c| c.set_node("a", Some(&offer(2, false))), true);
        improves("nothing changes", &|c| c.set_node("a", Some(&offer(2, false))), false);
        improves("it is cordoned", &|c| c.set_node("a", Some(&offer(2, true))), false);
        improves("it is opened", &|c| c.set_node("a", Some(&offer(2, false))), true);
        improves("a pod is placed", &|c| c.set_pod(&key, Some(&facts(Some("a"), 1, 1, 1))), false);
        improves("its status changes", &|c| c.set_pod(&key, Some(&facts(Some("a"), 1, 1, 1))), false);
        improves("it goes", &|c| c.set_pod(&key, None), true);
        improves("the node goes", &|c| c.set_node("a", None), false);
    }
}
