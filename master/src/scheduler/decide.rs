//! The choice of a node: filter, score, break ties. Pure.

use std::{collections::BTreeMap, fmt};

use compact_str::CompactString;
use coracle_api::{StringMap, core::Pod, objects::pod::Requests};

use super::cluster::{Cluster, NodeState};
use crate::registry::{HostPort, PodFacts};

/// Weight of least requested against spreading of siblings; each scores 0 to 1.
const WEIGHT_FREE: f64 = 1.0;
/// Siblings apart survive a minion's death, which matters more than an even load.
const WEIGHT_SPREAD: f64 = 2.0;

/// What a pod asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) requests: Requests,
    pub(super) host_ports: Vec<HostPort>,
    pub(super) node_selector: StringMap,
    pub(super) owner: Option<CompactString>,
    /// Breaks ties: any value that differs from pod to pod.
    pub(super) tie: u64,
}

impl Wanted {
    pub(super) fn of(pod: &Pod, facts: &PodFacts) -> Self {
        use std::hash::BuildHasher;
        let hasher = foldhash::fast::FixedState::default();
        Self {
            requests: facts.requests,
            host_ports: facts.host_ports.to_vec(),
            node_selector: pod.spec.as_ref().and_then(|s| s.node_selector.clone()).unwrap_or_default(),
            owner: facts.owner.clone(),
            tie: hasher.hash_one(&pod.metadata.uid),
        }
    }
}

/// Why one node does not do. In the order in which they are checked and told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Misfit {
    NotReady,
    Cordoned,
    NodeSelector,
    HostPort(u16),
    Pods,
    Cpu,
    Memory,
}

/// Why no node does: how many fail for each reason, and how close the best comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Explanation {
    nodes: usize,
    misfits: BTreeMap<Misfit, usize>,
    wanted: Requests,
    largest_free_milli: i64,
    largest_free_bytes: i64,
    selector: String,
}

impl Explanation {
    /// Whether both say the same but for amounts and numbers of nodes.
    pub(super) fn same_reasons(&self, other: &Self) -> bool {
        (self.nodes == 0) == (other.nodes == 0) && self.misfits.keys().eq(other.misfits.keys())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no minion has joined yet: start one with `coracle minion --master URL`");
        }
        write!(f, "0/{} minions fit", self.nodes)?;
        let mut separator = ": ";
        for (misfit, count) in &self.misfits {
            write!(f, "{separator}{count} ")?;
            separator = ", ";
            match misfit {
                Misfit::NotReady => f.write_str("not ready")?,
                Misfit::Cordoned => f.write_str("cordoned")?,
                Misfit::NodeSelector => write!(f, "without the labels {}", self.selector)?,
                Misfit::HostPort(port) => write!(f, "with host port {port} taken")?,
                Misfit::Pods => f.write_str("full of pods")?,
                Misfit::Cpu => {
                    let (needs, free) = (self.wanted.milli_cpu, self.largest_free_milli);
                    write!(f, "too little cpu (needs {needs}m, largest free {free}m)")?;
                }
                Misfit::Memory => {
                    let (needs, free) = (mebi(self.wanted.memory_bytes), mebi(self.largest_free_bytes));
                    write!(f, "too little memory (needs {needs}, largest free {free})")?;
                }
            }
        }
        Ok(())
    }
}

fn mebi(bytes: i64) -> String {
    match bytes {
        b if b % (1 << 30) == 0 && b > 0 => format!("{}Gi", b >> 30),
        b if b >= 1 << 20 => format!("{}Mi", b >> 20),
        b => format!("{}Ki", b >> 10),
    }
}

/// Where a pod goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Place { node: CompactString },
    Wait(Explanation),
}

/// Chooses a node for a pod: among those that fit, the one with most room and fewest siblings.
pub(super) fn decide(cluster: &Cluster, wanted: &Wanted) -> Decision {
    let mut explanation = Explanation { nodes: cluster.nodes().len(), wanted: wanted.requests, ..Default::default() };
    let most_siblings = cluster.nodes().values().map(|n| siblings(n, wanted)).max().unwrap_or_default();
    let mut best: Option<(f64, u64, &CompactString)> = None;
    for (name, node) in cluster.nodes() {
        if let Some(misfit) = misfit(node, wanted) {
            *explanation.misfits.entry(misfit).or_default() += 1;
            explanation.largest_free_milli =
                explanation.largest_free_milli.max(free(node.cpu_milli, node.used.milli_cpu));
            explanation.largest_free_bytes =
                explanation.largest_free_bytes.max(free(node.memory_bytes, node.used.memory_bytes));
            continue;
        }
        let candidate = (score(node, wanted, most_siblings), tie_break(wanted.tie, name), name);
        let better = |(score, tie, _): &(f64, u64, _)| (candidate.0, candidate.1) > (*score, *tie);
        if best.as_ref().is_none_or(better) {
            best = Some(candidate);
        }
    }
    match best {
        Some((_, _, node)) => Decision::Place { node: node.clone() },
        None => {
            let pairs: Vec<_> = wanted.node_selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
            Decision::Wait(Explanation { selector: pairs.join(","), ..explanation })
        }
    }
}

fn free(capacity: Option<i64>, used: i64) -> i64 {
    capacity.map_or(i64::MAX, |c| (c - used).max(0))
}

fn siblings(node: &NodeState, wanted: &Wanted) -> u32 {
    wanted.owner.as_ref().and_then(|o| node.siblings.get(o)).copied().unwrap_or_default()
}

fn misfit(node: &NodeState, wanted: &Wanted) -> Option<Misfit> {
    if !node.ready {
        return Some(Misfit::NotReady);
    }
    if node.cordoned {
        return Some(Misfit::Cordoned);
    }
    if !wanted.node_selector.iter().all(|(k, v)| node.labels.get(k) == Some(v)) {
        return Some(Misfit::NodeSelector);
    }
    if let Some(port) = wanted.host_ports.iter().find(|p| node.host_ports.iter().any(|taken| p.conflicts(taken))) {
        return Some(Misfit::HostPort(port.port));
    }
    if node.pods_max.is_some_and(|max| node.pods >= max) {
        return Some(Misfit::Pods);
    }
    if wanted.requests.milli_cpu > 0 && wanted.requests.milli_cpu > free(node.cpu_milli, node.used.milli_cpu) {
        return Some(Misfit::Cpu);
    }
    let needs = wanted.requests.memory_bytes;
    (needs > 0 && needs > free(node.memory_bytes, node.used.memory_bytes)).then_some(Misfit::Memory)
}

fn score(node: &NodeState, wanted: &Wanted, most_siblings: u32) -> f64 {
    let share_free = |capacity: Option<i64>, used: i64| match capacity {
        Some(capacity) if capacity > 0 => ((capacity - used) as f64 / capacity as f64).clamp(0.0, 1.0),
        _ => 1.0,
    };
    let cpu = share_free(node.cpu_milli, node.used.milli_cpu + wanted.requests.milli_cpu);
    let memory = share_free(node.memory_bytes, node.used.memory_bytes + wanted.requests.memory_bytes);
    // Pods that ask for nothing still weigh something.
    let room = share_free(node.pods_max, node.pods + 1);
    let spread = match most_siblings {
        0 => 1.0,
        most => 1.0 - f64::from(siblings(node, wanted)) / f64::from(most),
    };
    WEIGHT_FREE * (cpu + memory + room) / 3.0 + WEIGHT_SPREAD * spread
}

fn tie_break(tie: u64, node: &str) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::with_seed(tie).hash_one(node)
}

#[cfg(test)]
mod tests {
    use coracle_api::core::Node;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::registry::{Key, PodPhase};

    fn node(cpu: &str, memory: &str, ready: bool, cordoned: bool, zone: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "x", "labels": {"zone": zone}},
            "spec": {"unschedulable": cordoned},
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "10"},
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn cluster(nodes: &[Node]) -> Cluster {
        let mut cluster = Cluster::default();
        for (i, node) in nodes.iter().enumerate() {
            cluster.set_node(&format!("n{i}"), Some(node));
        }
        cluster
    }

    fn wanted(cpu: i64, memory: i64) -> Wanted {
        Wanted { requests: Requests { milli_cpu: cpu, memory_bytes: memory }, ..Default::default() }
    }

    fn place(cluster: &mut Cluster, name: &str, wanted: &Wanted) -> Option<CompactString> {
        let Decision::Place { node } = decide(cluster, wanted) else { return None };
        let facts = PodFacts {
            node: Some(node.clone()),
            phase: PodPhase::Pending,
            ready: false,
            terminating: false,
            lost: false,
            ip: None,
            owner: wanted.owner.clone(),
            created_at: None,
            requests: wanted.requests,
            host_ports: wanted.host_ports.clone().into(),
        };
        cluster.set_pod(&Key::new("n", name), Some(&facts));
        Some(node)
    }

    fn why(cluster: &Cluster, wanted: &Wanted) -> String {
        match decide(cluster, wanted) {
            Decision::Wait(why) => why.to_string(),
            Decision::Place { node } => panic!("placed on {node}"),
        }
    }

    #[test]
    fn every_reason_has_its_sentence() {
        assert!(why(&cluster(&[]), &wanted(0, 0)).contains("no minion has joined"));
        let nodes = [
            node("1", "1Gi", false, false, "a"),
            node("1", "1Gi", true, true, "a"),
            node("1", "1Gi", true, false, "b"),
            node("500m", "1Gi", true, false, "a"),
            node("4", "120Mi", true, false, "a"),
        ];
        let mut w = wanted(1000, 512 << 20);
        w.node_selector = [("zone".to_owned(), "a".to_owned())].into();
        assert_eq!(
            why(&cluster(&nodes), &w),
            "0/5 minions fit: 1 not ready, 1 cordoned, 1 without the labels zone=a, \
             1 too little cpu (needs 1000m, largest free 4000m), 1 too little memory (needs 512Mi, largest free 1Gi)"
        );
        let mut full = cluster(&[node("1", "1Gi", true, false, "a")]);
        let port = HostPort { protocol: "TCP".into(), ip: None, port: 8080 };
        let w = Wanted { host_ports: vec![port], ..Default::default() };
        place(&mut full, "p", &w).unwrap();
        assert_eq!(why(&full, &w), "0/1 minions fit: 1 with host port 8080 taken");
        (0..9).for_each(|i| drop(place(&mut full, &i.to_string(), &wanted(0, 0)).unwrap()));
        assert_eq!(why(&full, &wanted(0, 0)), "0/1 minions fit: 1 full of pods");
    }

    #[test]
    fn a_port_conflicts_only_on_the_same_protocol_and_address() {
        let mut c = cluster(&[node("1", "1Gi", true, false, "a")]);
        let port = |protocol: &str, ip: Option<&str>| Wanted {
            host_ports: vec![HostPort { protocol: protocol.into(), ip: ip.map(|i| i.parse().unwrap()), port: 53 }],
            ..Default::default()
        };
        place(&mut c, "a", &port("TCP", Some("127.0.0.1"))).unwrap();
        place(&mut c, "b", &port("UDP", None)).unwrap();
        place(&mut c, "c", &port("TCP", Some("127.0.0.2"))).unwrap();
        assert!(place(&mut c, "d", &port("TCP", None)).is_none());
    }

    #[test]
    fn siblings_are_spread_over_the_nodes() {
        let nodes: Vec<_> = (0..4).map(|_| node("8", "8Gi", true, false, "a")).collect();
        let mut c = cluster(&nodes);
        for i in 0..8u64 {
            let w = Wanted { owner: Some("rc".into()), tie: i, ..wanted(100, 1 << 20) };
            place(&mut c, &format!("p{i}"), &w).unwrap();
        }
        assert!(c.nodes().values().all(|n| n.pods == 2), "two each");
    }

    #[test]
    fn the_choice_counts_what_the_pod_itself_asks_for() {
        // All of the small one is free, and half of the large one; with the pod, a tenth and two fifths.
        let mut c = cluster(&[node("1", "8Gi", true, false, "a"), node("8", "8Gi", true, false, "b")]);
        let on_large = Wanted { node_selector: [("zone".to_owned(), "b".to_owned())].into(), ..wanted(4000, 0) };
        assert_eq!(place(&mut c, "first", &on_large).unwrap(), "n1");
        assert_eq!(place(&mut c, "second", &wanted(900, 0)).unwrap(), "n1");
    }

    proptest! {
        #[test]
        fn no_node_is_ever_overcommitted(
            nodes in prop::collection::vec((1i64..5, 1i64..5), 1..6),
            pods in prop::collection::vec((0i64..1500, 0i64..1500, 0u64..99, 0u8..3), 0..40),
        ) {
            let nodes: Vec<_> = nodes.iter()
                .map(|(cpu, memory)| node(&cpu.to_string(), &format!("{memory}Gi"), true, false, "a")).collect();
            let mut c = cluster(&nodes);
            for (i, (cpu, memory, tie, owner)) in pods.into_iter().enumerate() {
                let w = Wanted { tie, owner: Some(format!("o{owner}").into()), ..wanted(cpu, memory << 20) };
                let first = decide(&c, &w);
                prop_assert_eq!(&first, &decide(&c, &w), "the same input gives the same output");
                place(&mut c, &i.to_string(), &w);
            }
            for node in c.nodes().values() {
                prop_assert!(node.used.milli_cpu <= node.cpu_milli.unwrap());
                prop_assert!(node.used.memory_bytes <= node.memory_bytes.unwrap());
                prop_assert!(node.pods <= node.pods_max.unwrap());
            }
        }
    }
}
