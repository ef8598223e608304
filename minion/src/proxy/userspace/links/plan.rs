//! What must be, what is, and the steps from one to the other.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use crate::{
    network::{self, bridge_name},
    proxy::ProxyConfig,
};

/// Of the pair between the node's clients and the portals: nothing goes further on it, so that packets may be as large
/// as on the loopback, the most that such a link takes.
const NODE_MTU: u32 = 65_535;

/// Whose packets a pair of links is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// Pods', and whoever else comes by the pod bridge.
    Pods,
    /// The node's own, which need no bridge.
    Node,
}

/// What must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Desired {
    pub(super) cluster_id: String,
    pub(super) gateway: Ipv4Addr,
    pub(super) services: Ipv4Net,
    /// External addresses that this node answers for.
    pub(in super::super) external: BTreeSet<Ipv4Addr>,
}

impl Desired {
    pub(in super::super) fn new(config: &ProxyConfig) -> Self {
        Self {
            cluster_id: config.cluster_id.clone(),
            gateway: network::gateway(config.pod_cidr).addr(),
            services: config.service_cidr.trunc(),
            external: BTreeSet::new(),
        }
    }

    /// The pod bridge.
    pub(in super::super) fn bridge(&self) -> String {
        bridge_name(&self.cluster_id)
    }

    /// An address in the service range that no service has.
    pub(super) fn next_hop(&self) -> Ipv4Addr {
        self.services.network()
    }

    /// The device that the host sends to portals by.
    pub(super) fn device(&self, way: Way) -> String {
        match way {
            Way::Pods => self.bridge(),
            Way::Node => outer_name(&self.cluster_id, way),
        }
    }

    /// Of the end in the namespace.
    pub(super) fn inner_mac(&self, way: Way) -> [u8; 6] {
        inner_mac(&self.cluster_id, way)
    }
}

/// Name of the host's end; with an id of 8 digits it fits the kernel's 15 characters.
pub(super) fn outer_name(cluster_id: &str, way: Way) -> String {
    match way {
        Way::Pods => format!("corp-{cluster_id}"),
        Way::Node => format!("corn-{cluster_id}"),
    }
}

/// Name of the namespace's end.
pub(super) fn inner_name(way: Way) -> &'static str {
    match way {
        Way::Pods => "eth0",
        Way::Node => "eth1",
    }
}

/// Given, and not left to chance, at both ends: udev replaces by its own what the kernel has thrown dice for, at a
/// time when the other end may already know it.
pub(super) fn outer_mac(cluster_id: &str, way: Way) -> [u8; 6] {
    mac(cluster_id, if way == Way::Pods { 0xc2 } else { 0xc3 })
}

pub(super) fn inner_mac(cluster_id: &str, way: Way) -> [u8; 6] {
    mac(cluster_id, if way == Way::Pods { 0xc0 } else { 0xc1 })
}

/// Locally administered, and the cluster's own.
fn mac(cluster_id: &str, kind: u8) -> [u8; 6] {
    let [a, b, c, d] = digits(cluster_id);
    [0x02, kind, a, b, c, d]
}

/// A cluster's id is 8 hexadecimal digits.
fn digits(cluster_id: &str) -> [u8; 4] {
    u32::from_str_radix(cluster_id, 16).unwrap_or_default().to_be_bytes()
}

/// What the node's clients come from. It must not be the pod network's, which Docker translates wherever it leaves
/// the bridge, nor an address that answers could also take another way to. Those for one link alone
/// (RFC 3927) are nobody else's here.
pub(super) fn own_address(cluster_id: &str) -> Ipv4Addr {
    let [.., high, low] = digits(cluster_id);
    Ipv4Addr::new(169, 254, 64 + high % 64, 1 + low % 254)
}

/// Routing table of what the node's clients send to portals; the kernel's own have numbers below 256.
pub(super) fn table(cluster_id: &str) -> u32 {
    u32::from_be_bytes(digits(cluster_id)).max(256)
}

/// What is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Observed {
    pub(super) bridge: Option<Bridge>,
    pub(super) loopback: Option<(u32, bool)>,
    /// In the namespace, the service range is its own.
    pub(super) local: bool,
    pub(super) pods: Pair,
    pub(super) node: Pair,
    pub(super) rule: Rule,
    pub(super) external: BTreeSet<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) index: u32,
    pub(super) mtu: u32,
}

/// What leads the node's clients to their table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Rule {
    Present,
    #[default]
    Absent,
    /// This kernel knows no rules. The node's clients go by the bridge.
    Unknown,
}

/// A pair of links and the routes through it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) outer: Option<Outer>,
    pub(super) inner: Option<Inner>,
    /// What clients come from where the range is routed to the next hop.
    pub(super) routed: Option<Ipv4Addr>,
    /// The next hop's address is known.
    pub(super) next_hop: bool,
    /// The namespace knows the way back.
    pub(super) back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outer {
    pub(super) index: u32,
    pub(super) up: bool,
    /// It is the bridge's, or has the clients' address.
    pub(super) settled: bool,
    /// Whoever has it sends packets to it.
    pub(super) forwards: bool,
    pub(super) has_mac: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) index: u32,
    pub(super) up: bool,
    /// The other end's index.
    pub(super) pair: Option<u32>,
    pub(super) has_mac: bool,
}

impl Pair {
    fn is_paired(&self) -> bool {
        let (Some(outer), Some(inner)) = (self.outer, self.inner) else { return false };
        inner.pair == Some(outer.index) && inner.has_mac && outer.has_mac
    }
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Step {
    RemoveOuter(u32),
    RemoveInner(u32),
    MakePair(Way, u32),
    /// Attaches it to the bridge, or gives it the clients' address, and raises it.
    SettleOuter(Way),
    RaiseInner(Way),
    AwaitPort,
    RaiseLoopback(u32),
    RouteInside,
    RouteBack(Way),
    SetNextHop(Way),
    /// With the address that clients come from.
    RouteServices(Way, Ipv4Addr),
    AddRule,
    AddExternal(u32, Ipv4Addr),
    RemoveExternal(u32, Ipv4Addr),
}

/// What must change, in an order that the kernel accepts. `None` without a bridge.
pub(in super::super) fn plan(desired: &Desired, observed: &Observed) -> Option<Vec<Step>> {
    let bridge = observed.bridge?;
    let mut steps = Vec::new();
    if let Some((index, false)) = observed.loopback {
        steps.push(Step::RaiseLoopback(index));
    }
    if !observed.local {
        steps.push(Step::RouteInside);
    }
    let (mut pods, mut source) = (observed.pods, desired.gateway);
    if observed.rule != Rule::Unknown {
        source = own_address(&desired.cluster_id);
        steps.extend(plan_pair(Way::Node, &observed.node, NODE_MTU, source));
        if observed.rule == Rule::Absent {
            steps.push(Step::AddRule);
        }
        // The address goes with its link, and with it the route that names it.
        pods.routed = pods.routed.filter(|_| observed.node.is_paired());
    }
    steps.extend(plan_pair(Way::Pods, &pods, bridge.mtu, source));
    steps.extend(desired.external.difference(&observed.external).map(|ip| Step::AddExternal(bridge.index, *ip)));
    steps.extend(observed.external.difference(&desired.external).map(|ip| Step::RemoveExternal(bridge.index, *ip)));
    Some(steps)
}

fn plan_pair(way: Way, pair: &Pair, mtu: u32, source: Ipv4Addr) -> Vec<Step> {
    let mut steps = Vec::new();
    let Pair { outer, inner, routed, next_hop, back } = *pair;
    let paired = pair.is_paired();
    if !paired {
        steps.extend(outer.map(|outer| Step::RemoveOuter(outer.index)));
        // The other end goes along, if it was one.
        let stray = inner.filter(|inner| outer.is_none_or(|outer| inner.pair != Some(outer.index)));
        steps.extend(stray.map(|inner| Step::RemoveInner(inner.index)));
        steps.push(Step::MakePair(way, mtu));
    }
    if !paired || outer.is_none_or(|outer| !outer.up || !outer.settled) {
        steps.push(Step::SettleOuter(way));
    }
    let raised = paired && inner.is_some_and(|inner| inner.up);
    if !raised {
        steps.push(Step::RaiseInner(way));
    }
    // The kernel takes up to a second to notice that both ends are up; until then, packets are lost.
    if way == Way::Pods && (!steps.is_empty() || outer.is_none_or(|outer| !outer.forwards)) {
        steps.push(Step::AwaitPort);
    }
    // Taking a link down has removed its routes too.
    if !back || !raised {
        steps.push(Step::RouteBack(way));
    }
    let kept = paired || way == Way::Pods;
    if !next_hop || !kept {
        steps.push(Step::SetNextHop(way));
    }
    if routed != Some(source) || !kept {
        steps.push(Step::RouteServices(way, source));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0a1b2c3d";
    const OWN: Ipv4Addr = Ipv4Addr::new(169, 254, 108, 62);

    fn desired() -> Desired {
        Desired {
            cluster_id: ID.into(),
            gateway: Ipv4Addr::new(10, 244, 3, 1),
            services: "10.0.0.0/16".parse().unwrap(),
            external: BTreeSet::from([Ipv4Addr::new(203, 0, 113, 7)]),
        }
    }

    fn pair(outer: u32, inner: u32) -> Pair {
        Pair {
            outer: Some(Outer { index: outer, up: true, settled: true, forwards: true, has_mac: true }),
            inner: Some(Inner { index: inner, up: true, pair: Some(outer), has_mac: true }),
            routed: Some(OWN),
            next_hop: true,
            back: true,
        }
    }

    fn settled() -> Observed {
        Observed {
            bridge: Some(Bridge { index: 7, mtu: 1500 }),
            loopback: Some((1, true)),
            local: true,
            pods: pair(9, 2),
            node: pair(11, 3),
            rule: Rule::Present,
            external: desired().external,
        }
    }

    fn check(observed: Observed, expected: &[Step]) {
        assert_eq!(plan(&desired(), &observed).as_deref(), Some(expected), "{observed:?}");
    }

    #[test]
    fn what_is_settled_needs_nothing_and_without_a_bridge_nothing_can_be_done() {
        assert_eq!(plan(&desired(), &settled()), Some(vec![]));
        assert_eq!(plan(&desired(), &Observed::default()), None);
    }

    #[test]
    fn names_and_addresses_are_the_clusters_own() {
        assert!([Way::Pods, Way::Node].iter().all(|way| outer_name(ID, *way).len() <= 15));
        assert_eq!(inner_mac(ID, Way::Pods), [0x02, 0xc0, 0x0a, 0x1b, 0x2c, 0x3d]);
        let macs = [Way::Pods, Way::Node].map(|way| [inner_mac(ID, way)[1], outer_mac(ID, way)[1]]);
        assert_eq!(macs, [[0xc0, 0xc2], [0xc1, 0xc3]]);
        assert_eq!(own_address(ID), OWN);
        assert_eq!((table(ID), table("000000fe")), (0x0a1b_2c3d, 256));
    }

    #[test]
    fn each_missing_part_of_the_pods_way_is_restored_in_the_order_the_kernel_accepts() {
        use Way::Pods;
        let with = |pods| Observed { pods, ..settled() };
        let steps = [
            Step::MakePair(Pods, 1500),
            Step::SettleOuter(Pods),
            Step::RaiseInner(Pods),
            Step::AwaitPort,
            Step::RouteBack(Pods),
        ];
        let whole = settled().pods;
        check(with(Pair { outer: None, inner: None, back: false, ..whole }), &steps);
        // Ends of different pairs: one was left by a namespace that somebody still holds.
        let stray = Inner { pair: Some(5), ..whole.inner.unwrap() };
        let removals = [Step::RemoveOuter(9), Step::RemoveInner(2)];
        check(with(Pair { inner: Some(stray), ..whole }), &[&removals[..], &steps[..]].concat());
        let wrong = Inner { has_mac: false, ..whole.inner.unwrap() };
        check(with(Pair { inner: Some(wrong), ..whole }), &[&removals[..1], &steps[..]].concat());
        let loose = Outer { settled: false, ..whole.outer.unwrap() };
        check(with(Pair { outer: Some(loose), ..whole }), &[Step::SettleOuter(Pods), Step::AwaitPort]);
        let down = Inner { up: false, ..whole.inner.unwrap() };
        let raised = [Step::RaiseInner(Pods), Step::AwaitPort, Step::RouteBack(Pods)];
        check(with(Pair { inner: Some(down), ..whole }), &raised);
        check(with(Pair { routed: None, ..whole }), &[Step::RouteServices(Pods, OWN)]);
        check(with(Pair { next_hop: false, ..whole }), &[Step::SetNextHop(Pods)]);
        check(
            Observed { loopback: Some((1, false)), local: false, ..settled() },
            &[Step::RaiseLoopback(1), Step::RouteInside],
        );
        let (old, new) = (Ipv4Addr::new(203, 0, 113, 9), Ipv4Addr::new(203, 0, 113, 7));
        check(
            Observed { external: BTreeSet::from([old]), ..settled() },
            &[Step::AddExternal(7, new), Step::RemoveExternal(7, old)],
        );
    }

    #[test]
    fn the_nodes_own_way_comes_with_all_that_hangs_on_it() {
        use Way::Node;
        let with = |node| Observed { node, ..settled() };
        let steps = [
            Step::MakePair(Node, NODE_MTU),
            Step::SettleOuter(Node),
            Step::RaiseInner(Node),
            Step::RouteBack(Node),
            Step::SetNextHop(Node),
            Step::RouteServices(Node, OWN),
            Step::RouteServices(Way::Pods, OWN),
        ];
        let whole = settled().node;
        check(with(Pair { outer: None, inner: None, ..whole }), &steps);
        let wrong = Inner { has_mac: false, ..whole.inner.unwrap() };
        check(with(Pair { inner: Some(wrong), ..whole }), &[&[Step::RemoveOuter(11)], &steps[..]].concat());
        let bare = Outer { settled: false, ..whole.outer.unwrap() };
        check(with(Pair { outer: Some(bare), ..whole }), &[Step::SettleOuter(Node)]);
        check(with(Pair { routed: None, ..whole }), &[Step::RouteServices(Node, OWN)]);
        // Without the rule, what has the clients' address takes the pods' way and is answered by the other.
        check(
            Observed { rule: Rule::Absent, pods: Pair { routed: None, ..settled().pods }, ..settled() },
            &[Step::AddRule, Step::RouteServices(Way::Pods, OWN)],
        );
    }

    #[test]
    fn a_kernel_without_rules_has_the_nodes_clients_go_by_the_bridge() {
        let gateway = desired().gateway;
        let pods = Pair { routed: Some(gateway), ..settled().pods };
        let without = Observed { rule: Rule::Unknown, node: Pair::default(), pods, ..settled() };
        check(without.clone(), &[]);
        check(Observed { pods: settled().pods, ..without }, &[Step::RouteServices(Way::Pods, gateway)]);
    }
}
