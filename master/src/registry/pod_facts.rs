//! What the scheduler and the controllers ask about a pod, read off once when it is written, so
//! that no control loop decodes pods.

use std::{hash::BuildHasher, net::IpAddr};

use compact_str::CompactString;
use coracle_api::{
    core::Pod,
    objects::{
        pod::{self, Requests},
        replacement::{self, Replace},
    },
};
use jiff::Timestamp;

/// Where a pod is in its life. Only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Not all containers were started yet.
    Pending,
    /// At least one container was started.
    Running,
    /// All ended well and stay ended.
    Succeeded,
    /// All ended, at least one badly, and stay ended.
    Failed,
}

impl PodPhase {
    /// Whether the pod will never run again.
    pub fn is_terminal(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// A port of the node that a pod claims.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `TCP` or `UDP`.
    pub protocol: CompactString,
    /// The address on the node; `None` claims all.
    pub ip: Option<IpAddr>,
    /// The port on the node.
    pub port: u16,
}

impl HostPort {
    /// Whether both can't be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }
}

/// A port that a container of a pod says it listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// For services that refer to it; "" for none.
    pub name: CompactString,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: CompactString,
    /// Its number.
    pub port: i32,
}

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The node it is bound to.
    pub node: Option<CompactString>,
    /// Its phase.
    pub phase: PodPhase,
    /// Whether the condition `Ready` is true.
    pub ready: bool,
    /// When its minion last changed that condition.
    pub ready_changed_at: Option<Timestamp>,
    /// It is to be replaced.
    pub replace: Option<Replace>,
    /// What it was made of: the hash of its controller's template.
    pub template: Option<CompactString>,
    /// Whether deletion was asked for.
    pub terminating: bool,
    /// Its address.
    pub ip: Option<CompactString>,
    /// UID of its controller.
    pub owner: Option<CompactString>,
    /// Which pods are to be kept apart from it: those with the same number; 0 for none. One number
    /// is the pods of one controller, or, of those without one, the pods of a namespace with the
    /// same labels, which are what a service selects.
    pub siblings: u64,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// Whether its minion fell silent.
    pub lost: bool,
    /// What it asks of a node.
    pub requests: Requests,
    /// The node's ports it claims.
    pub host_ports: Box<[HostPort]>,
    /// The ports of its containers, in their order.
    pub ports: Box<[ContainerPort]>,
    /// Its own name and that of the service below which it has it.
    pub hostname: Option<Box<(CompactString, CompactString)>>,
}

impl PodFacts {
    /// Reads the facts off a pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let controller = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let owner = controller.map(|o| o.uid.as_str());
        let facts = Self {
            siblings: siblings(pod, owner),
            node: spec.and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()).map(Into::into),
            phase: PodPhase::Pending,
            ready: false,
            ready_changed_at: None,
            replace: Replace::of(&pod.metadata),
            template: replacement::made_of(pod).map(Into::into),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ip: None,
            owner: owner.map(Into::into),
            created_at: pod.metadata.creation_timestamp.as_ref().map(|t| t.0),
            lost: false,
            requests: pod::requests(pod),
            host_ports: pod::host_ports(pod)
                .into_iter()
                .map(|(protocol, ip, port)| HostPort { protocol: protocol.into(), ip, port })
                .collect(),
            ports: spec
                .into_iter()
                .flat_map(|s| s.containers.iter().flat_map(|c| c.ports.iter().flatten()))
                .map(|p| ContainerPort {
                    name: p.name.as_deref().unwrap_or_default().into(),
                    protocol: p.protocol.as_deref().unwrap_or("TCP").into(),
                    port: p.container_port,
                })
                .collect(),
            hostname: spec
                .and_then(|s| Some((s.hostname.as_deref()?, s.subdomain.as_deref()?)))
                .filter(|(hostname, _)| !hostname.is_empty())
                .map(|(hostname, subdomain)| Box::new((hostname.into(), subdomain.into()))),
        };
        facts.with_status(pod)
    }

    /// The same of a pod that differs in its status only.
    pub(super) fn with_status(self, pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = match status.and_then(|s| s.phase.as_deref()) {
            Some("Running") => PodPhase::Running,
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            _ => PodPhase::Pending,
        };
        Self {
            phase,
            ready: pod::is_ready(pod),
            ready_changed_at: ready_changed_at(pod),
            ip: status.and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty()).map(Into::into),
            lost: status.and_then(|s| s.reason.as_deref()) == Some("NodeLost"),
            ..self
        }
    }

    /// Whether it counts as a replica: neither over nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.terminating && !self.phase.is_terminal()
    }
}

fn ready_changed_at(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")?.last_transition_time.as_ref().map(|at| at.0)
}

fn siblings(pod: &Pod, owner: Option<&str>) -> u64 {
    let labels = pod.metadata.labels.as_ref().filter(|l| !l.is_empty());
    let hasher = foldhash::fast::FixedState::default();
    match (owner, labels) {
        (Some(uid), _) => hasher.hash_one(uid).max(1),
        (None, Some(labels)) => hasher.hash_one((&pod.metadata.namespace, labels)).max(1),
        (None, None) => 0,
    }
}
