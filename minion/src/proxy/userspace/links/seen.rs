//! What the kernel told, and what it means.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::{BridgePortState, InfoBridgePort, LinkAttribute, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteMessage, RouteType},
    rule::{RuleAttribute, RuleMessage},
};

use super::{
    LOOPBACK, PRIORITY, PROTOCOL,
    plan::{
        Bridge, Desired, Inner, Observed, Outer, Pair, Rule, Way, inner_name, outer_mac, outer_name, own_address, table,
    },
};
use crate::rtnl::{gateway_of, interface_of, is_port, is_up, mtu_of, named, range_of, source_of, table_of};

/// Links and what hangs on them: of the host (outer), and of the namespace (inner).
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) outer: Vec<LinkMessage>,
    pub(super) inner: Vec<LinkMessage>,
    pub(super) outer_routes: Vec<RouteMessage>,
    pub(super) inner_routes: Vec<RouteMessage>,
    pub(super) addresses: Vec<AddressMessage>,
    pub(super) neighbours: Vec<NeighbourMessage>,
    /// `None` where the kernel knows no rules.
    pub(super) rules: Option<Vec<RuleMessage>>,
}

impl Seen {
    pub(super) fn observed(&self, desired: &Desired) -> Observed {
        let Some(bridge) = named(&self.outer, &desired.bridge()) else { return Observed::default() };
        let index = bridge.header.index;
        let loopback = named(&self.inner, LOOPBACK).map(|l| (l.header.index, is_up(l)));
        let external = |r: &&RouteMessage| r.header.kind == RouteType::Local && r.header.protocol == PROTOCOL;
        let leads = |rule: &RuleMessage| {
            is_own_rule(rule, &desired.cluster_id)
                && rule.attributes.contains(&RuleAttribute::Destination(desired.services.network().into()))
                && rule.header.dst_len == desired.services.prefix_len()
        };
        Observed {
            bridge: Some(Bridge { index, mtu: mtu_of(bridge) }),
            loopback,
            local: through(&self.inner_routes, loopback.map(|(index, _)| index))
                .any(|r| r.header.kind == RouteType::Local && range_of(r) == Some(desired.services)),
            pods: self.pair(desired, Way::Pods),
            node: self.pair(desired, Way::Node),
            rule: match &self.rules {
                None => Rule::Unknown,
                Some(rules) if rules.iter().any(leads) => Rule::Present,
                Some(_) => Rule::Absent,
            },
            external: through(&self.outer_routes, Some(index))
                .filter(external)
                .filter_map(|r| Some(range_of(r)?.addr()))
                .collect(),
        }
    }

    fn pair(&self, desired: &Desired, way: Way) -> Pair {
        let id = &desired.cluster_id;
        let device = named(&self.outer, &desired.device(way)).map(|l| l.header.index);
        let outer = named(&self.outer, &outer_name(id, way)).map(|link| {
            let index = link.header.index;
            let attached = || has(link, |a| matches!(a, LinkAttribute::Controller(bridge) if Some(*bridge) == device));
            let addressed = || self.addresses.iter().any(|a| a.header.index == index && is_of(a, own_address(id)));
            Outer {
                index,
                up: is_up(link),
                settled: if way == Way::Pods { attached() } else { addressed() },
                forwards: way == Way::Node || forwards(link),
                has_mac: has_mac(link, outer_mac(id, way)),
            }
        });
        let inner = named(&self.inner, inner_name(way)).map(|link| Inner {
            index: link.header.index,
            up: is_up(link),
            pair: link.attributes.iter().find_map(|a| match a {
                LinkAttribute::Link(index) => Some(*index),
                _ => None,
            }),
            has_mac: has_mac(link, desired.inner_mac(way)),
        });
        let to_portals = |r: &&RouteMessage| {
            range_of(r) == Some(desired.services)
                && gateway_of(r) == Some(desired.next_hop())
                && (way == Way::Pods || table_of(r) == table(id))
        };
        let back = match way {
            Way::Pods => (Some(Ipv4Net::default()), Some(desired.gateway)),
            Way::Node => (Some(own_address(id).into()), None),
        };
        let hop = |n: &NeighbourMessage| {
            let is_it = |a: &NeighbourAttribute| matches!(a, NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) if *ip == desired.next_hop());
            device.is_some_and(|device| is_next_hop(n, device, desired.inner_mac(way)))
                && n.attributes.iter().any(is_it)
        };
        Pair {
            outer,
            inner,
            next_hop: self.neighbours.iter().any(hop),
            routed: through(&self.outer_routes, device).find(to_portals).and_then(source_of),
            back: through(&self.inner_routes, inner.map(|i| i.index)).any(|r| (range_of(r), gateway_of(r)) == back),
        }
    }
}

/// Whether this is a rule of the cluster. Its protocol is not asked for: kernels before 4.17 forget it.
pub(super) fn is_own_rule(rule: &RuleMessage, cluster_id: &str) -> bool {
    let own = [
        RuleAttribute::Source(own_address(cluster_id).into()),
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Table(table(cluster_id)),
    ];
    own.iter().all(|a| rule.attributes.contains(a))
}

/// Whether this is a port that its bridge sends frames to.
pub(super) fn forwards(link: &LinkMessage) -> bool {
    is_port(link, |info| matches!(info, InfoBridgePort::State(BridgePortState::Forwarding)))
}

/// Whether this is a permanent neighbour with that address of a link.
pub(super) fn is_next_hop(neighbour: &NeighbourMessage, device: u32, mac: [u8; 6]) -> bool {
    let is_it = |a: &NeighbourAttribute| matches!(a, NeighbourAttribute::LinkLayerAddress(found) if *found == mac);
    let header = &neighbour.header;
    header.ifindex == device && header.state == NeighbourState::Permanent && neighbour.attributes.iter().any(is_it)
}

fn through(routes: &[RouteMessage], link: Option<u32>) -> impl Iterator<Item = &RouteMessage> {
    routes.iter().filter(move |r| link.is_some() && interface_of(r) == link)
}

fn has(link: &LinkMessage, attribute: impl Fn(&LinkAttribute) -> bool) -> bool {
    link.attributes.iter().any(attribute)
}

fn has_mac(link: &LinkMessage, mac: [u8; 6]) -> bool {
    has(link, |a| matches!(a, LinkAttribute::Address(found) if *found == mac))
}

fn is_of(message: &AddressMessage, ip: Ipv4Addr) -> bool {
    message.attributes.contains(&AddressAttribute::Local(IpAddr::V4(ip)))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkFlags;

    use super::{
        super::plan::{Rule, plan},
        *,
    };

    const ID: &str = "0a1b2c3d";

    fn desired() -> Desired {
        Desired {
            cluster_id: ID.into(),
            gateway: Ipv4Addr::new(10, 244, 3, 1),
            services: "10.0.0.0/16".parse().unwrap(),
            external: Default::default(),
        }
    }

    fn link(name: String, index: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags) = (index, LinkFlags::Up);
        link.attributes = vec![LinkAttribute::IfName(name)];
        link
    }

    fn rule(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut rule = RuleMessage::default();
        (rule.header.dst_len, rule.attributes) = (16, attributes);
        rule
    }

    fn own_rule() -> Vec<RuleAttribute> {
        vec![
            RuleAttribute::Source(own_address(ID).into()),
            RuleAttribute::Destination(desired().services.network().into()),
            RuleAttribute::Priority(PRIORITY),
            RuleAttribute::Table(table(ID)),
        ]
    }

    #[test]
    fn a_rule_is_ours_by_all_that_it_has() {
        assert!(is_own_rule(&rule(own_rule()), ID));
        for other in 0..own_rule().len() {
            let mut attributes = own_rule();
            let gone = attributes.remove(other);
            let counts = !matches!(gone, RuleAttribute::Destination(_));
            assert_eq!(is_own_rule(&rule(attributes), ID), !counts, "without {gone:?}");
        }
        assert!(!is_own_rule(&rule(own_rule()), "0a1b2c3e"), "of another cluster");
    }

    #[test]
    fn rules_are_present_absent_or_unknown() {
        let seen = |rules| {
            let seen = Seen { outer: vec![link(desired().bridge(), 7)], rules, ..Seen::default() };
            seen.observed(&desired()).rule
        };
        assert_eq!(seen(None), Rule::Unknown);
        assert_eq!(seen(Some(vec![])), Rule::Absent);
        assert_eq!(seen(Some(vec![rule(own_rule())])), Rule::Present);
        let mut narrow = rule(own_rule());
        narrow.header.dst_len = 24;
        assert_eq!(seen(Some(vec![narrow])), Rule::Absent, "of a part of the range");
    }

    #[test]
    fn a_link_that_others_gave_an_address_is_made_again() {
        let mut outer = link(outer_name(ID, Way::Node), 9);
        outer.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        let mut inner = link(inner_name(Way::Node).into(), 3);
        inner.attributes.push(LinkAttribute::Link(9));
        inner.attributes.push(LinkAttribute::Address(desired().inner_mac(Way::Node).to_vec()));
        let seen = Seen {
            outer: vec![link(desired().bridge(), 7), outer],
            inner: vec![inner],
            rules: Some(vec![rule(own_rule())]),
            ..Seen::default()
        };
        let observed = seen.observed(&desired());
        assert!(observed.node.inner.is_some_and(|i| i.has_mac && i.pair == Some(9)));
        assert!(observed.node.outer.is_some_and(|o| o.up && !o.has_mac && !o.settled));
        assert!(plan(&desired(), &observed).unwrap().contains(&super::super::plan::Step::RemoveOuter(9)));
    }
}
