//! What must be, what is, and the steps from one to the other.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use crate::{
    network::{self, bridge_name},
    proxy::ProxyConfig,
};

/// Whose packets a pair of links is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// Pods', and whoever else comes by the pod bridge.
    Bridge,
    /// The node's own, which need no bridge.
    Node,
}

/// What must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Desired {
    pub(super) id: u32,
    pub(super) bridge: String,
    /// The host's ends of both pairs.
    pub(super) port: String,
    pub(super) node: String,
    pub(super) gateway: Ipv4Addr,
    pub(super) services: Ipv4Net,
    /// External addresses that this node answers for.
    pub(in super::super) external: BTreeSet<Ipv4Addr>,
}

impl Desired {
    pub(in super::super) fn new(config: &ProxyConfig) -> Self {
        Self {
            id: number(&config.cluster_id),
            bridge: bridge_name(&config.cluster_id),
            port: outer_name(&config.cluster_id, Way::Bridge),
            node: outer_name(&config.cluster_id, Way::Node),
            gateway: network::gateway(config.pod_cidr).addr(),
            services: config.service_cidr.trunc(),
            external: BTreeSet::new(),
        }
    }

    /// An address in the service range that no service has.
    pub(super) fn next_hop(&self) -> Ipv4Addr {
        self.services.network()
    }

    /// The host's end of a pair.
    pub(super) fn outer(&self, way: Way) -> &str {
        match way {
            Way::Bridge => &self.port,
            Way::Node => &self.node,
        }
    }

    /// The device that the host sends to portals by.
    pub(super) fn device(&self, way: Way) -> &str {
        match way {
            Way::Bridge => &self.bridge,
            Way::Node => &self.node,
        }
    }

    /// Of the end in the namespace.
    pub(super) fn mac(&self, way: Way) -> [u8; 6] {
        mac(self.id, way)
    }

    /// The node's clients' own. It must not be the pod network's, which Docker translates wherever it leaves
    /// the bridge, nor an address that answers could also take another way to; link-local addresses (RFC 3927)
    /// never leave their link.
    pub(super) fn address(&self) -> Ipv4Addr {
        let [.., high, low] = self.id.to_be_bytes();
        Ipv4Addr::new(169, 254, 64 + high % 64, 1 + low % 254)
    }

    pub(super) fn table(&self) -> u32 {
        table(self.id)
    }
}

/// A cluster's id as a number; it is one of 8 hexadecimal digits.
pub(super) fn number(cluster_id: &str) -> u32 {
    u32::from_str_radix(cluster_id, 16).unwrap_or_default()
}

/// Name of the host's end; with an id of 8 digits it fits the kernel's 15 characters.
pub(super) fn outer_name(cluster_id: &str, way: Way) -> String {
    match way {
        Way::Bridge => format!("corp-{cluster_id}"),
        Way::Node => format!("corn-{cluster_id}"),
    }
}

/// Name of the namespace's end.
pub(super) fn inner_name(way: Way) -> &'static str {
    match way {
        Way::Bridge => "eth0",
        Way::Node => "eth1",
    }
}

/// Locally administered, and the cluster's own.
pub(super) fn mac(id: u32, way: Way) -> [u8; 6] {
    let [a, b, c, d] = id.to_be_bytes();
    let kind = if way == Way::Bridge { 0xc0 } else { 0xc1 };
    [0x02, kind, a, b, c, d]
}

/// Routing table of what the node's clients send to portals; the kernel's own have numbers below 256.
pub(super) fn table(id: u32) -> u32 {
    id.max(256)
}

/// What is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Observed {
    pub(super) bridge: Option<Bridge>,
    pub(super) loopback: Option<(u32, bool)>,
    /// In the namespace, the service range is its own.
    pub(super) local: bool,
    pub(super) pods: Pair,
    pub(super) own: Pair,
    /// The node's clients use their table.
    pub(super) rule: bool,
    pub(super) external: BTreeSet<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) index: u32,
    pub(super) mtu: u32,
}

/// A pair of links and the routes through it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) outer: Option<Outer>,
    pub(super) inner: Option<Inner>,
    /// The range is routed to the next hop; the next hop's address is known.
    pub(super) routed: bool,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) index: u32,
    pub(super) up: bool,
    /// The other end's index.
    pub(super) pair: Option<u32>,
    pub(super) mac: bool,
}

impl Pair {
    fn is_paired(&self) -> bool {
        matches!((self.outer, self.inner), (Some(outer), Some(inner)) if inner.pair == Some(outer.index) && inner.mac)
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
    RouteServices(Way),
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
    // The address of the node's clients goes with its link, and with it the route that names it.
    let routed = observed.pods.routed && observed.own.is_paired();
    steps.extend(plan_pair(Way::Node, &observed.own, bridge.mtu));
    if !observed.rule {
        steps.push(Step::AddRule);
    }
    steps.extend(plan_pair(Way::Bridge, &Pair { routed, ..observed.pods }, bridge.mtu));
    steps.extend(desired.external.difference(&observed.external).map(|ip| Step::AddExternal(bridge.index, *ip)));
    steps.extend(observed.external.difference(&desired.external).map(|ip| Step::RemoveExternal(bridge.index, *ip)));
    Some(steps)
}

fn plan_pair(way: Way, pair: &Pair, mtu: u32) -> Vec<Step> {
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
    if way == Way::Bridge && (!steps.is_empty() || outer.is_none_or(|outer| !outer.forwards)) {
        steps.push(Step::AwaitPort);
    }
    // Taking a link down has removed its routes too.
    if !back || !raised {
        steps.push(Step::RouteBack(way));
    }
    let kept = paired || way == Way::Bridge;
    if !next_hop || !kept {
        steps.push(Step::SetNextHop(way));
    }
    if !routed || !kept {
        steps.push(Step::RouteServices(way));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired() -> Desired {
        Desired {
            id: number("0a1b2c3d"),
            bridge: "cor-1".into(),
            port: "corp-1".into(),
            node: "corn-1".into(),
            gateway: Ipv4Addr::new(10, 244, 3, 1),
            services: "10.0.0.0/16".parse().unwrap(),
            external: BTreeSet::from([Ipv4Addr::new(203, 0, 113, 7)]),
        }
    }

    fn pair(outer: u32, inner: u32) -> Pair {
        Pair {
            outer: Some(Outer { index: outer, up: true, settled: true, forwards: true }),
            inner: Some(Inner { index: inner, up: true, pair: Some(outer), mac: true }),
            routed: true,
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
            own: pair(11, 3),
            rule: true,
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
        assert!([Way::Bridge, Way::Node].iter().all(|way| outer_name("0a1b2c3d", *way).len() <= 15));
        assert_eq!(desired().mac(Way::Bridge), [0x02, 0xc0, 0x0a, 0x1b, 0x2c, 0x3d]);
        assert_eq!(desired().mac(Way::Node), [0x02, 0xc1, 0x0a, 0x1b, 0x2c, 0x3d]);
        assert_eq!(desired().address(), Ipv4Addr::new(169, 254, 108, 62));
        assert_eq!((table(number("0a1b2c3d")), table(number("000000fe"))), (0x0a1b_2c3d, 256));
    }

    #[test]
    fn each_missing_part_of_the_pods_way_is_restored_in_the_order_the_kernel_accepts() {
        use Way::Bridge as Pods;
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
        let wrong = Inner { mac: false, ..whole.inner.unwrap() };
        check(with(Pair { inner: Some(wrong), ..whole }), &[&removals[..1], &steps[..]].concat());
        let loose = Outer { settled: false, ..whole.outer.unwrap() };
        check(with(Pair { outer: Some(loose), ..whole }), &[Step::SettleOuter(Pods), Step::AwaitPort]);
        let down = Inner { up: false, ..whole.inner.unwrap() };
        let raised = [Step::RaiseInner(Pods), Step::AwaitPort, Step::RouteBack(Pods)];
        check(with(Pair { inner: Some(down), ..whole }), &raised);
        check(with(Pair { routed: false, ..whole }), &[Step::RouteServices(Pods)]);
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
        use Way::Node as Own;
        let with = |own| Observed { own, ..settled() };
        let steps = [
            Step::MakePair(Own, 1500),
            Step::SettleOuter(Own),
            Step::RaiseInner(Own),
            Step::RouteBack(Own),
            Step::SetNextHop(Own),
            Step::RouteServices(Own),
            Step::RouteServices(Way::Bridge),
        ];
        let whole = settled().own;
        check(with(Pair { outer: None, inner: None, ..whole }), &steps);
        let wrong = Inner { mac: false, ..whole.inner.unwrap() };
        check(with(Pair { inner: Some(wrong), ..whole }), &[&[Step::RemoveOuter(11)], &steps[..]].concat());
        let bare = Outer { settled: false, ..whole.outer.unwrap() };
        check(with(Pair { outer: Some(bare), ..whole }), &[Step::SettleOuter(Own)]);
        check(with(Pair { routed: false, ..whole }), &[Step::RouteServices(Own)]);
        // Without the rule, what has the clients' address takes the pods' way and is answered by the other.
        check(
            Observed { rule: false, pods: Pair { routed: false, ..settled().pods }, ..settled() },
            &[Step::AddRule, Step::RouteServices(Way::Bridge)],
        );
    }
}
