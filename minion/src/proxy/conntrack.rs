//! Cuts flows that the kernel would go on with as they began: it asks the rules about the first packet
//! of a flow only. UDP has no end of a connection, so a client would be sent to a backend that is gone
//! for as long as it keeps talking; and what began while nothing served its portal stays untranslated,
//! also when the client tries again from the same port.
//!
//! Best effort: where it fails the flows end by time, 30 s after the last packet of UDP and 2 minutes after that of
//! TCP; but a client that does not fall silent goes on.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, PoisonError},
};

use ipnet::Ipv4Net;

use super::{
    driver::Spared,
    table::{Backends, Forward, Portal, Protocol, Stale, Table},
};
use crate::conntrack::{Flow, forget};

/// Cuts these. `table` is in force but at portals that are `spared`, `range` is the service range.
pub(super) fn cut(
    flows: &[Stale],
    table: &Table,
    spared: Spared,
    range: Ipv4Net,
) -> impl Future<Output = ()> + Send + use<> {
    let wanted = Wanted::new(flows, table, spared, range);
    async move {
        match forget(|flow| wanted.holds(flow)).await {
            Ok(cut) => tracing::debug!(cut, "flows were cut that went elsewhere than the table says"),
            Err(error) => tracing::debug!(%error, "flows can't be cut; what clients began elsewhere goes on"),
        }
    }
}

/// A portal as a flow shows it. No address: any.
type Place = (u8, Option<Ipv4Addr>, u16);

fn place(portal: &Portal) -> Place {
    (portal.protocol.number(), portal.at.address(), portal.port)
}

/// The flows to cut, to be asked about each flow of the host.
struct Wanted {
    lost: HashSet<(Place, SocketAddrV4)>,
    unserved: HashSet<Place>,
    unruled: Option<Unruled>,
}

/// What began under other rules, or none.
struct Unruled {
    /// All that is untranslated there is to go.
    range: Ipv4Net,
    /// Portals of UDP, and whom their flows may go on with.
    backends: HashMap<Place, (Portal, Backends)>,
    spared: Spared,
}

impl Wanted {
    fn new(flows: &[Stale], table: &Table, spared: Spared, range: Ipv4Net) -> Self {
        let mut wanted = Self { lost: HashSet::new(), unserved: HashSet::new(), unruled: None };
        for flow in flows {
            match flow {
                Stale::Lost(portal, backend) => drop(wanted.lost.insert((place(portal), *backend))),
                Stale::Unserved(portal) => drop(wanted.unserved.insert(place(portal))),
                Stale::Unruled => {
                    let portals = table.portals().iter().filter(|(portal, _)| portal.protocol == Protocol::Udp);
                    let row = |(portal, forward): (&Portal, &Forward)| {
                        (place(portal), (*portal, Arc::clone(&forward.backends)))
                    };
                    let (backends, spared) = (portals.map(row).collect(), Arc::clone(&spared));
                    wanted.unruled = Some(Unruled { range, backends, spared });
                }
            }
        }
        wanted
    }

    fn holds(&self, flow: &Flow) -> bool {
        let to = [Some(*flow.to.ip()), None].map(|ip| (flow.protocol, ip, flow.to.port()));
        if flow.is_untranslated() {
            to.iter().any(|place| self.unserved.contains(place))
                || self.unruled.as_ref().is_some_and(|unruled| unruled.range.contains(flow.to.ip()))
        } else {
            to.iter().any(|place| self.lost.contains(&(*place, flow.answering)))
                || self.unruled.as_ref().is_some_and(|unruled| unruled.is_astray(flow))
        }
    }
}

impl Unruled {
    /// Whether a translated flow goes to what is no backend of its portal, or comes from a service's portal that is no more.
    fn is_astray(&self, flow: &Flow) -> bool {
        let in_range = self.range.contains(flow.to.ip());
        let here = self.backends.get(&(flow.protocol, Some(*flow.to.ip()), flow.to.port()));
        // Any address but a service's may be the node's.
        let of_node = || self.backends.get(&(flow.protocol, None, flow.to.port())).filter(|_| !in_range);
        match here.or_else(of_node) {
            Some((portal, backends)) => backends.binary_search(&flow.answering).is_err() && !self.is_spared(portal),
            None if in_range && flow.protocol == Protocol::Udp.number() => {
                let at = Portal::of_service(*flow.to.ip(), Protocol::Udp, flow.to.port());
                !self.is_spared(&at)
            }
            None => false,
        }
    }

    fn is_spared(&self, portal: &Portal) -> bool {
        self.spared.lock().unwrap_or_else(PoisonError::into_inner).contains(portal)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{super::table::Frontend, *};

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    /// Those of all these flows that are cut.
    fn cut(stale: &[Stale], table: &Table, spared: &[Portal]) -> Vec<&'static str> {
        let flows = [
            ("to the first backend", "10.0.0.5:53", "10.244.0.2:5353"),
            ("to the second backend", "10.0.0.5:53", "10.244.0.3:5353"),
            ("to another portal", "10.0.0.6:53", "10.244.0.2:5353"),
            ("to the node's port", "192.0.2.1:53", "10.244.0.2:5353"),
            ("to no portal", "10.0.0.5:53", "10.0.0.5:53"),
            ("to the node itself", "192.0.2.1:53", "192.0.2.1:53"),
            ("to a neighbour", "192.0.2.2:99", "192.0.2.2:99"),
        ];
        let spared = Spared::new(spared.iter().copied().collect::<BTreeSet<_>>().into());
        let wanted = Wanted::new(stale, table, spared, "10.0.0.0/16".parse().unwrap());
        let udp =
            |(name, to, answering): (_, _, _)| (name, Flow { protocol: 17, to: at(to), answering: at(answering) });
        let tcp = |flow: &Flow| wanted.holds(&Flow { protocol: 6, ..*flow });
        let all: Vec<_> = flows.into_iter().map(udp).filter(|(_, flow)| wanted.holds(flow)).collect();
        let unruled = stale.contains(&Stale::Unruled);
        assert!(all.iter().all(|(_, flow)| tcp(flow) == (unruled && flow.is_untranslated())));
        all.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn only_what_goes_elsewhere_than_the_table_says_is_cut() {
        let cut = |stale: &[Stale]| cut(stale, &Table::default(), &[]);
        let portal = |at| Portal { at, protocol: Protocol::Udp, port: 53 };
        let service = portal(Frontend::Service(Ipv4Addr::new(10, 0, 0, 5)));
        let backend = at("10.244.0.2:5353");
        assert_eq!(cut(&[Stale::Lost(service, backend)]), ["to the first backend"]);
        let node = ["to the first backend", "to another portal", "to the node's port"];
        assert_eq!(cut(&[Stale::Lost(portal(Frontend::Node), backend)]), node);
        assert_eq!(cut(&[Stale::Unserved(service)]), ["to no portal"]);
        assert_eq!(cut(&[Stale::Unserved(portal(Frontend::Node))]), ["to no portal", "to the node itself"]);
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn after_a_time_without_a_proxy_flows_go_on_with_the_backends_that_there_are() {
        let table = |portals: &[(Frontend, &[&str])]| {
            let forward = |backends: &[&str]| Forward::to(backends.iter().map(|b| at(b)).collect());
            let portal = |at| Portal { at, protocol: Protocol::Udp, port: 53 };
            Table::from(
                portals.iter().map(|(at, backends)| (portal(*at), forward(backends))).collect::<BTreeMap<_, _>>(),
            )
        };
        let service = |host| Frontend::Service(Ipv4Addr::new(10, 0, 0, host));
        let (first, both) = (&["10.244.0.2:5353"][..], &["10.244.0.2:5353", "10.244.0.3:5353"][..]);
        let check = |portals: &[(Frontend, &[&str])], expected: &[&str]| {
            assert_eq!(cut(&[Stale::Unruled], &table(portals), &[]), expected);
        };
        check(&[(service(5), both), (service(6), first)], &["to no portal"]);
        check(&[(service(5), first), (service(6), both)], &["to the second backend", "to no portal"]);
        check(&[(service(5), both)], &["to another portal", "to no portal"]);
        check(&[(service(5), both), (service(6), first), (Frontend::Node, first)], &["to no portal"]);
        let elsewhere = &["10.244.0.9:5353"][..];
        let astray = &["to the node's port", "to no portal"];
        check(&[(service(5), both), (service(6), first), (Frontend::Node, elsewhere)], astray);
        // Changed since: what was in force when this was asked for is not any more.
        let changed = [5, 6].map(|host| Portal { at: service(host), protocol: Protocol::Udp, port: 53 });
        assert_eq!(cut(&[Stale::Unruled], &table(&[(service(5), first)]), &changed), ["to no portal"]);
    }
}
