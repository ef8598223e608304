//! Cuts flows that the kernel would go on with as they began: it asks the rules about the first packet
//! of a flow only. UDP has no end of a connection, so a client would be sent to a backend that is gone
//! for as long as it keeps talking; and what began while nothing served its portal stays untranslated,
//! also when the client tries again from the same port.
//!
//! Best effort: where it fails the flows end by time, 30 s after the last packet for UDP, 2 minutes for
//! TCP.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;

use super::table::{Portal, Stale};
use crate::conntrack::{Flow, forget};

/// Cuts these. `range` is the service range.
pub(super) async fn cut(flows: Vec<Stale>, range: Ipv4Net) {
    let wanted = Wanted::new(&flows, range);
    match forget(|flow| wanted.holds(flow)).await {
        Ok(cut) => tracing::debug!(cut, "flows were cut that went elsewhere than the table says"),
        Err(error) => tracing::debug!(%error, "flows can't be cut; what clients began elsewhere goes on"),
    }
}

/// A portal as a flow shows it. No address: any.
type Place = (u8, Option<Ipv4Addr>, u16);

/// The flows to cut, to be asked about each flow of the host.
struct Wanted {
    lost: HashSet<(Place, SocketAddrV4)>,
    unserved: HashSet<Place>,
    /// The service range, if all that is untranslated there is to go.
    unruled: Option<Ipv4Net>,
}

impl Wanted {
    fn new(flows: &[Stale], range: Ipv4Net) -> Self {
        let place = |portal: &Portal| (portal.protocol.number(), portal.at.address(), portal.port);
        let mut wanted = Self { lost: HashSet::new(), unserved: HashSet::new(), unruled: None };
        for flow in flows {
            match flow {
                Stale::Lost(portal, backend) => drop(wanted.lost.insert((place(portal), *backend))),
                Stale::Unserved(portal) => drop(wanted.unserved.insert(place(portal))),
                Stale::Unruled => wanted.unruled = Some(range),
            }
        }
        wanted
    }

    fn holds(&self, flow: &Flow) -> bool {
        let to = [Some(*flow.to.ip()), None].map(|ip| (flow.protocol, ip, flow.to.port()));
        if flow.is_untranslated() {
            to.iter().any(|place| self.unserved.contains(place))
                || self.unruled.is_some_and(|range| range.contains(flow.to.ip()))
        } else {
            to.iter().any(|place| self.lost.contains(&(*place, flow.answering)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::table::{Frontend, Protocol},
        *,
    };

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    /// Those of all these flows that are cut.
    fn cut(stale: &[Stale]) -> Vec<&'static str> {
        let flows = [
            ("to the first backend", "10.0.0.5:53", "10.244.0.2:5353"),
            ("to the second backend", "10.0.0.5:53", "10.244.0.3:5353"),
            ("to another portal", "10.0.0.6:53", "10.244.0.2:5353"),
            ("to the node's port", "192.0.2.1:53", "10.244.0.2:5353"),
            ("to no portal", "10.0.0.5:53", "10.0.0.5:53"),
            ("to the node itself", "192.0.2.1:53", "192.0.2.1:53"),
            ("to a neighbour", "192.0.2.2:99", "192.0.2.2:99"),
        ];
        let wanted = Wanted::new(stale, "10.0.0.0/16".parse().unwrap());
        let udp =
            |(name, to, answering): (_, _, _)| (name, Flow { protocol: 17, to: at(to), answering: at(answering) });
        let tcp = |flow: &Flow| wanted.holds(&Flow { protocol: 6, ..*flow });
        let all: Vec<_> = flows.into_iter().map(udp).filter(|(_, flow)| wanted.holds(flow)).collect();
        let of_udp_only = stale.iter().all(|stale| *stale != Stale::Unruled);
        assert!(all.iter().all(|(_, flow)| tcp(flow) != of_udp_only));
        all.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn only_what_goes_elsewhere_than_the_table_says_is_cut() {
        let portal = |at| Portal { at, protocol: Protocol::Udp, port: 53 };
        let service = portal(Frontend::Service(Ipv4Addr::new(10, 0, 0, 5)));
        let backend = at("10.244.0.2:5353");
        assert_eq!(cut(&[Stale::Lost(service, backend)]), ["to the first backend"]);
        let node = ["to the first backend", "to another portal", "to the node's port"];
        assert_eq!(cut(&[Stale::Lost(portal(Frontend::Node), backend)]), node);
        assert_eq!(cut(&[Stale::Unserved(service)]), ["to no portal"]);
        assert_eq!(cut(&[Stale::Unserved(portal(Frontend::Node))]), ["to no portal", "to the node itself"]);
        assert_eq!(cut(&[Stale::Unruled]), ["to no portal"]);
        assert!(cut(&[]).is_empty());
    }
}
