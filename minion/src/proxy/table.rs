//! What the proxy must do, as a value: which portal leads to which backends.
//!
//! Invariant: what clients meet at a [`Table`] is a function of its [`Inputs`] alone. A [`Delta`] is what differs
//! between two tables, whether it was found by [`diff`] or, where it is known what was touched, by
//! [`Table::changes`].

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use super::inputs::Inputs;

/// A transport protocol of a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// Reads the API's form; absent means TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// `tcp`, `udp`, `sctp`
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// `IPPROTO_*`
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// Where clients find a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// Its own address in the service range. What no portal answers there is refused.
    Service(Ipv4Addr),
    /// One of its external addresses, which some router sends here.
    External(Ipv4Addr),
    /// Any address of this node but loopback.
    Node,
}

impl Frontend {
    /// The address, where there is only one.
    pub fn address(self) -> Option<Ipv4Addr> {
        match self {
            Frontend::Service(ip) | Frontend::External(ip) => Some(ip),
            Frontend::Node => None,
        }
    }
}

/// One port of a service at one of the places where clients find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Portal {
    /// Where.
    pub at: Frontend,
    /// The protocol.
    pub protocol: Protocol,
    /// The service's port, or its node port.
    pub port: u16,
}

impl Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, protocol, port } = self;
        match at.address() {
            Some(ip) => write!(f, "{}/{ip}:{port}", protocol.as_str()),
            None => write!(f, "{}/node:{port}", protocol.as_str()),
        }
    }
}

impl Portal {
    /// A port of a service's own address.
    pub fn of_service(ip: Ipv4Addr, protocol: Protocol, port: u16) -> Self {
        Self { at: Frontend::Service(ip), protocol, port }
    }
}

/// Backends of one portal: sorted, each once. Empty: the portal refuses.
pub type Backends = Arc<[SocketAddrV4]>;

/// What a portal does with a connection.
#[derive(Debug, Clone, Eq)]
pub struct Forward {
    /// Where it may go.
    pub backends: Backends,
    /// Session affinity `ClientIP`: a client that was here within so many seconds meets the backend
    /// that it met then, as long as that is ready.
    pub sticky: Option<u32>,
}

impl PartialEq for Forward {
    fn eq(&self, other: &Self) -> bool {
        let same = Arc::ptr_eq(&self.backends, &other.backends) || self.backends == other.backends;
        same && self.sticky == other.sticky
    }
}

impl Forward {
    /// To any of these, every time anew.
    pub fn to(backends: Backends) -> Self {
        Self { backends, sticky: None }
    }

    /// To nobody: the client is refused.
    pub fn refuse() -> Self {
        Self::to(Backends::from([]))
    }

    /// Whether there is nobody to go to.
    pub fn refuses(&self) -> bool {
        self.backends.is_empty()
    }
}

/// Where every portal leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    portals: BTreeMap<Portal, Forward>,
}

impl Table {
    /// The table of these services and endpoints.
    pub fn build(inputs: &Inputs) -> Self {
        Self { portals: inputs.portals().collect() }
    }

    /// What must change so that this becomes the table of these inputs, which differ from those of
    /// before at these portals at most.
    pub fn changes(&self, inputs: &Inputs, touched: &BTreeSet<Portal>) -> Delta {
        let mut delta = Delta::default();
        for portal in touched {
            delta.note(portal, self.portals.get(portal), inputs.forward(portal).as_ref());
        }
        delta
    }

    /// Takes a change in. Clients then meet the same as with the table that it leads to.
    pub fn apply(&mut self, delta: Delta) {
        for (portal, (_, after)) in delta.portals {
            match after {
                Some(forward) => self.portals.insert(portal, forward),
                None => self.portals.remove(&portal),
            };
        }
    }

    /// Every portal and what it does.
    pub fn portals(&self) -> &BTreeMap<Portal, Forward> {
        &self.portals
    }

    /// How many portals lead nowhere and refuse.
    pub fn refusing(&self) -> usize {
        self.portals.values().filter(|f| f.refuses()).count()
    }
}

impl From<BTreeMap<Portal, Forward>> for Table {
    fn from(portals: BTreeMap<Portal, Forward>) -> Self {
        Self { portals }
    }
}

impl Table {
    /// The flows that may have begun when nothing of the table was in force.
    pub fn early(&self) -> impl Iterator<Item = Stale> {
        let unserved: Vec<_> = diff(&Table::default(), self).stale().collect();
        unserved.into_iter().chain([Stale::Unruled])
    }
}

/// A portal's effect before and after. [`Some`] with no backends only at external addresses.
pub type Change = (Option<Forward>, Option<Forward>);

/// What changes from one table to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Portals that do something else than before.
    pub portals: BTreeMap<Portal, Change>,
}

impl Delta {
    fn note(&mut self, portal: &Portal, before: Option<&Forward>, after: Option<&Forward>) {
        let (before, after) = (effect(portal, before), effect(portal, after));
        if before != after {
            self.portals.insert(*portal, (before.cloned(), after.cloned()));
        }
    }

    /// Whether nothing changes for any packet.
    pub fn is_empty(&self) -> bool {
        self.portals.is_empty()
    }

    /// The flows that would go on as before.
    pub fn stale(&self) -> impl Iterator<Item = Stale> {
        self.portals.iter().flat_map(|(portal, (old, new))| {
            let (old, new) = (backends(old), backends(new));
            let is_udp = portal.protocol == Protocol::Udp;
            let lost = old.iter().filter(move |b| is_udp && new.binary_search(b).is_err());
            let unrefused = match portal.at {
                Frontend::Service(_) => false,
                Frontend::External(_) => true,
                Frontend::Node => is_udp,
            };
            let begins = unrefused && old.is_empty() && !new.is_empty();
            lost.map(|backend| Stale::Lost(*portal, *backend)).chain(begins.then_some(Stale::Unserved(*portal)))
        })
    }
}

/// Flows that go on otherwise than the table says: where they go is settled with their first packet, and
/// they last as long as their client goes on asking, or asks again from the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// From a portal to a backend that it lost. Of UDP only, which has no end of a connection.
    Lost(Portal, SocketAddrV4),
    /// To a portal that nobody served, nor refused, when they began.
    Unserved(Portal),
    /// To any address of the service range while there were no rules; and of UDP from any portal that there is to what is
    /// none of its backends, and from what was one in the range: they may have gone while nobody looked.
    Unruled,
}

/// The backends of one side of a [`Change`].
pub fn backends(side: &Option<Forward>) -> &[SocketAddrV4] {
    side.as_ref().map_or(&[], |forward| &forward.backends)
}

/// What must change so that `old` becomes `new`. Goes through both side by side, since of tens of
/// thousands of portals nearly all are the same.
pub fn diff(old: &Table, new: &Table) -> Delta {
    let mut delta = Delta::default();
    let (mut olds, mut news) = (old.portals.iter().peekable(), new.portals.iter().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let before = if order.is_le() { olds.next() } else { None };
        let after = if order.is_ge() { news.next() } else { None };
        if let Some((portal, _)) = before.or(after) {
            delta.note(portal, before.map(|(_, forward)| forward), after.map(|(_, forward)| forward));
        }
    }
    delta
}

/// What a client at the portal meets: `None` where it makes no difference whether the portal exists.
/// Only an external address has a life of its own beyond its service.
fn effect<'a>(portal: &Portal, forward: Option<&'a Forward>) -> Option<&'a Forward> {
    forward.filter(|forward| !forward.refuses() || matches!(portal.at, Frontend::External(_)))
}

#[cfg(test)]
pub(super) mod strategies {
    //! Random tables, small enough to collide.

    use proptest::prelude::*;

    use super::*;

    fn portal() -> impl Strategy<Value = Portal> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        let at = prop_oneof![
            4 => (1u8..6).prop_map(|host| Frontend::Service(Ipv4Addr::new(10, 0, 0, host))),
            1 => (1u8..3).prop_map(|host| Frontend::External(Ipv4Addr::new(203, 0, 113, host))),
            1 => Just(Frontend::Node),
        ];
        (at, protocol, 80u16..82).prop_map(|(at, protocol, port)| Portal { at, protocol, port })
    }

    fn forward() -> impl Strategy<Value = Forward> {
        let backend = (1u8..9, 8080u16..8082).prop_map(|(h, p)| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, h), p));
        let backends = prop::collection::btree_set(backend, 0..6).prop_map(|b| b.into_iter().collect::<Backends>());
        let sticky = prop_oneof![4 => Just(None), 1 => Just(Some(600)), 1 => Just(Some(10_800))];
        (backends, sticky).prop_map(|(backends, sticky)| Forward { backends, sticky })
    }

    pub(in crate::proxy) fn table() -> impl Strategy<Value = Table> {
        prop::collection::btree_map(portal(), forward(), 0..8).prop_map(Table::from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{strategies::table, *};

    fn effects(table: &Table) -> BTreeMap<Portal, Forward> {
        table.portals.iter().filter_map(|(p, f)| Some((*p, effect(p, Some(f))?.clone()))).collect()
    }

    #[test]
    fn flows_to_what_nobody_refuses_are_stale_once_it_is_served() {
        let portal = |at, protocol| Portal { at, protocol, port: 53 };
        let (service, external) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(203, 0, 113, 1));
        let frontends = [Frontend::Service(service), Frontend::External(external), Frontend::Node];
        let all = frontends.iter().flat_map(|at| [Protocol::Tcp, Protocol::Udp].map(|p| portal(*at, p)));
        let table = |hosts: &[u8]| {
            let backends = hosts.iter().map(|h| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, *h), 53)).collect();
            let forward = Forward::to(backends);
            Table::from(all.clone().map(|portal| (portal, forward.clone())).collect::<BTreeMap<_, _>>())
        };
        let unserved = [
            portal(Frontend::External(external), Protocol::Tcp),
            portal(Frontend::External(external), Protocol::Udp),
            portal(Frontend::Node, Protocol::Udp),
        ]
        .map(Stale::Unserved);
        let stale = |from: &Table, to: &Table| diff(from, to).stale().collect::<Vec<_>>();
        assert_eq!(stale(&Table::default(), &table(&[1])), unserved);
        assert_eq!(stale(&table(&[]), &table(&[1])), unserved);
        assert_eq!(stale(&table(&[1]), &table(&[1, 2])), []);
        assert_eq!(stale(&Table::default(), &table(&[])), []);
        let early: Vec<_> = table(&[1]).early().collect();
        assert_eq!((&early[..3], &early[3..]), (&unserved[..], &[Stale::Unruled][..]));
    }

    #[test]
    fn only_lost_udp_backends_are_cut() {
        let portal = |protocol| Portal::of_service(Ipv4Addr::new(10, 0, 0, 1), protocol, 53);
        let backend = |h| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, h), 53);
        let table = |hosts: &[u8]| {
            let forward = Forward::to(hosts.iter().map(|h| backend(*h)).collect());
            let both = [Protocol::Udp, Protocol::Tcp].map(|p| (portal(p), forward.clone()));
            Table::from(BTreeMap::from(both))
        };
        let stale = |from: &Table, to: &Table| diff(from, to).stale().collect::<Vec<_>>();
        let lost = [Stale::Lost(portal(Protocol::Udp), backend(1))];
        assert_eq!(stale(&table(&[1, 2]), &table(&[2, 3])), lost);
        assert_eq!(stale(&table(&[]), &table(&[1])), []);
        assert_eq!(stale(&table(&[1]), &Table::default()), lost);
    }

    #[test]
    fn only_an_external_address_is_ours_without_backends() {
        let ip = Ipv4Addr::new(203, 0, 113, 1);
        for (at, differs) in [(Frontend::Service(ip), false), (Frontend::Node, false), (Frontend::External(ip), true)] {
            let portal = Portal { at, protocol: Protocol::Tcp, port: 80 };
            let table = Table::from(BTreeMap::from([(portal, Forward::refuse())]));
            assert_eq!(!diff(&Table::default(), &table).is_empty(), differs, "{at:?}");
        }
    }

    proptest! {
        #[test]
        fn a_delta_holds_exactly_what_differs(old in table(), new in table()) {
            let delta = diff(&old, &new);
            let mut patched = effects(&old);
            for (portal, (before, after)) in &delta.portals {
                prop_assert_ne!(before, after);
                prop_assert_eq!(patched.get(portal), before.as_ref());
                match after {
                    Some(after) => patched.insert(*portal, after.clone()),
                    None => patched.remove(portal),
                };
            }
            prop_assert_eq!(patched, effects(&new));
            prop_assert!(diff(&new, &new).is_empty());
        }
    }
}
