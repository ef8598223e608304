//! What must hold for a pod to be put on a node, one after the other; the first that does not is
//! the reason, with the figures that a user needs.
//!
//! Volumes keep no pod from any node: those that there are (`emptyDir`, `hostPath`) may be mounted
//! by any number of pods.

use std::fmt;

use coracle_api::{core::Taint, objects::pod};

use super::{
    cluster::{NodeState, Room},
    wanted::Wanted,
};
use crate::registry::HostPort;

/// Why a node does not do. In the order in which the predicates are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The pod names another.
    NodeName {
        /// The one it names.
        wanted: String,
    },
    /// Its condition `Ready` is not true.
    NotReady,
    /// It takes no new pods: `spec.unschedulable`, or it is about to go.
    Cordoned,
    /// It has a taint that the pod does not tolerate.
    Taint {
        /// The taint as `key=value:effect`.
        taint: String,
    },
    /// Different taints, too many to be told one by one.
    OtherTaints,
    /// It lacks labels of the pod's nodeSelector.
    NodeSelector {
        /// The selector as `key=value,...`.
        wanted: String,
    },
    /// The pod's required node affinity leaves it out.
    NodeAffinity,
    /// Another pod has a host port that this one needs.
    HostPort {
        /// The port that the pod needs.
        port: HostPort,
    },
    /// It has as many pods as it may have.
    Pods,
    /// Too little cpu is left.
    Cpu {
        /// Thousandths of a core that the pod needs.
        needs: i64,
        /// Thousandths that are left.
        free: i64,
    },
    /// Too little memory is left.
    Memory {
        /// Bytes that the pod needs.
        needs: i64,
        /// Bytes that are left.
        free: i64,
    },
}

impl Misfit {
    /// One word, for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NodeName { .. } => "NodeName",
            Self::NotReady => "NotReady",
            Self::Cordoned => "Cordoned",
            Self::Taint { .. } | Self::OtherTaints => "Taint",
            Self::NodeSelector { .. } => "NodeSelector",
            Self::NodeAffinity => "NodeAffinity",
            Self::HostPort { .. } => "HostPort",
            Self::Pods => "Pods",
            Self::Cpu { .. } => "Cpu",
            Self::Memory { .. } => "Memory",
        }
    }

    /// The place of its predicate among the others.
    pub(super) fn rank(&self) -> usize {
        match self {
            Self::NodeName { .. } => 0,
            Self::NotReady => 1,
            Self::Cordoned => 2,
            Self::Taint { .. } => 3,
            Self::OtherTaints => 4,
            Self::NodeSelector { .. } => 5,
            Self::NodeAffinity => 6,
            Self::HostPort { .. } => 7,
            Self::Pods => 8,
            Self::Cpu { .. } => 9,
            Self::Memory { .. } => 10,
        }
    }

    /// Whether both are the same but for what is left.
    pub(super) fn is_same_cause(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu { .. }, Self::Cpu { .. }) | (Self::Memory { .. }, Self::Memory { .. }) => true,
            _ => self == other,
        }
    }

    /// Takes over what is left on another node, if that is more.
    pub(super) fn take_in(&mut self, other: &Self) {
        match (self, other) {
            (Self::Cpu { free, .. }, Self::Cpu { free: more, .. })
            | (Self::Memory { free, .. }, Self::Memory { free: more, .. }) => *free = (*free).max(*more),
            _ => {}
        }
    }
}

/// What is wrong with several nodes; with `{:#}`, with one.
impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = if f.alternate() { "free" } else { "largest free" };
        match self {
            Self::NodeName { wanted } => write!(f, "other than the named minion {wanted}"),
            Self::NotReady => f.write_str("not ready"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Taint { taint } => write!(f, "with the taint {taint} that the pod does not tolerate"),
            Self::OtherTaints => f.write_str("with other taints that the pod does not tolerate"),
            Self::NodeSelector { wanted } => write!(f, "without the labels {wanted}"),
            Self::NodeAffinity => f.write_str("outside the pod's node affinity"),
            Self::HostPort { port } => {
                f.write_str("with host port ")?;
                match port.ip {
                    Some(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
                    Some(ip) => write!(f, "{ip}:")?,
                    None => {}
                }
                write!(f, "{}/{} taken", port.port, port.protocol)
            }
            Self::Pods => f.write_str("full of pods"),
            Self::Cpu { needs, free } => write!(f, "too little cpu (needs {needs}m, {left} {free}m)"),
            Self::Memory { needs, free } => {
                write!(f, "too little memory (needs {}, {left} {})", bytes(*needs), bytes(*free))
            }
        }
    }
}

fn bytes(bytes: i64) -> String {
    match bytes {
        b if b % (1 << 30) == 0 && b > 0 => format!("{}Gi", b >> 30),
        b if b >= 1 << 20 => format!("{}Mi", b >> 20),
        b => format!("{}Ki", b >> 10),
    }
}

/// The first predicate that fails.
pub(super) fn misfit(node: &NodeState, wanted: &Wanted) -> Option<Misfit> {
    if let Some(name) = &wanted.node_name
        && *name != node.name
    {
        return Some(Misfit::NodeName { wanted: name.to_string() });
    }
    if !node.ready {
        return Some(Misfit::NotReady);
    }
    if node.cordoned {
        return Some(Misfit::Cordoned);
    }
    if let Some(taint) = node.taints.iter().find(|t| keeps_away(t) && !pod::is_tolerated(t, &wanted.tolerations)) {
        return Some(Misfit::Taint { taint: taint_text(taint) });
    }
    if !has_labels(node, wanted) {
        let pairs: Vec<_> = wanted.node_selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        return Some(Misfit::NodeSelector { wanted: pairs.join(",") });
    }
    if wanted.affinity.as_ref().is_some_and(|affinity| !pod::node_is_selected(affinity, &node.name, &node.labels)) {
        return Some(Misfit::NodeAffinity);
    }
    if let Some(port) = taken_port(node, wanted) {
        return Some(Misfit::HostPort { port: port.clone() });
    }
    let (room, needs) = (node.room(), wanted.requests);
    if room.pods < 1 {
        return Some(Misfit::Pods);
    }
    if lacks(needs.milli_cpu, room.milli_cpu) {
        return Some(Misfit::Cpu { needs: needs.milli_cpu, free: room.milli_cpu.max(0) });
    }
    lacks(needs.memory_bytes, room.memory_bytes)
        .then(|| Misfit::Memory { needs: needs.memory_bytes, free: room.memory_bytes.max(0) })
}

/// The predicates on amounts alone, which [`misfit`] checks too: most nodes that do not fit are told
/// by them.
pub(super) fn has_room(room: Room, wanted: &Wanted) -> bool {
    let needs = wanted.requests;
    room.pods >= 1 && !lacks(needs.milli_cpu, room.milli_cpu) && !lacks(needs.memory_bytes, room.memory_bytes)
}

/// Who asks for nothing gets it on a full node too.
fn lacks(needs: i64, free: i64) -> bool {
    needs > 0 && needs > free
}

pub(super) fn has_labels(node: &NodeState, wanted: &Wanted) -> bool {
    wanted.node_selector.iter().all(|(k, v)| node.labels.get(k) == Some(v))
}

fn taken_port<'a>(node: &NodeState, wanted: &'a Wanted) -> Option<&'a HostPort> {
    wanted.host_ports.iter().find(|port| node.host_ports.iter().any(|taken| port.conflicts(taken)))
}

/// Whether new pods need a toleration. `NoExecute` says more about pods that are there already, and
/// the same about new ones.
pub(super) fn keeps_away(taint: &Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

fn taint_text(taint: &Taint) -> String {
    match taint.value.as_deref().unwrap_or_default() {
        "" => format!("{}:{}", taint.key, taint.effect),
        value => format!("{}={value}:{}", taint.key, taint.effect),
    }
}
