//! What the proxy must do, as a value: which portal leads to which backends.
//!
//! Invariant: a [`Table`] is a function of its [`Inputs`] alone, and a [`Delta`] of two tables.

use std::{
    collections::{BTreeMap, BTreeSet},
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
}

/// One port of a service's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Portal {
    /// The service's address.
    pub ip: Ipv4Addr,
    /// The protocol.
    pub protocol: Protocol,
    /// The service's port.
    pub port: u16,
}

/// Ready backends of one portal: sorted, each once. Empty: the portal refuses.
pub type Backends = Arc<[SocketAddrV4]>;

/// Where every portal leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    portals: BTreeMap<Portal, Backends>,
    sizes: BTreeSet<usize>,
    addresses: BTreeSet<Ipv4Addr>,
}

impl Table {
    /// The table of these services and endpoints. Where two services claim a portal, the first by
    /// namespace and name has it.
    pub fn build(inputs: &Inputs) -> Self {
        let mut portals = BTreeMap::new();
        for (portal, backends) in inputs.portals() {
            portals.entry(portal).or_insert(backends);
        }
        Self::from(portals)
    }

    /// Every portal and its backends.
    pub fn portals(&self) -> &BTreeMap<Portal, Backends> {
        &self.portals
    }

    /// How many portals lead nowhere and refuse.
    pub fn refusing(&self) -> usize {
        self.portals.values().filter(|b| b.is_empty()).count()
    }

    /// The numbers of backends that portals have; without 0.
    pub fn sizes(&self) -> &BTreeSet<usize> {
        &self.sizes
    }

    /// The most backends of a portal.
    pub fn widest(&self) -> usize {
        self.sizes.last().copied().unwrap_or(0)
    }

    /// The addresses of all backends.
    pub fn addresses(&self) -> &BTreeSet<Ipv4Addr> {
        &self.addresses
    }
}

impl From<BTreeMap<Portal, Backends>> for Table {
    fn from(portals: BTreeMap<Portal, Backends>) -> Self {
        let sizes = portals.values().map(|b| b.len()).filter(|n| *n > 0).collect();
        let addresses = portals.values().flat_map(|b| b.iter().map(|a| *a.ip())).collect();
        Self { portals, sizes, addresses }
    }
}

/// What changes from one table to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Portals whose backends differ: before, after. Absent counts as empty.
    pub portals: BTreeMap<Portal, (Backends, Backends)>,
    /// [`Table::sizes`] that appear.
    pub sizes_added: Vec<usize>,
    /// [`Table::sizes`] that disappear.
    pub sizes_removed: Vec<usize>,
    /// [`Table::widest`]: before, after.
    pub widest: (usize, usize),
    /// [`Table::addresses`] that appear.
    pub addresses_added: Vec<Ipv4Addr>,
    /// [`Table::addresses`] that disappear.
    pub addresses_removed: Vec<Ipv4Addr>,
}

impl Delta {
    /// Whether nothing changes for any packet.
    pub fn is_empty(&self) -> bool {
        self.portals.is_empty()
    }

    /// UDP portals and the backends that they lose. UDP has no end of a connection, so the flows
    /// there must be cut.
    pub fn lost_udp(&self) -> Vec<(Portal, SocketAddrV4)> {
        let udp = self.portals.iter().filter(|(portal, _)| portal.protocol == Protocol::Udp);
        udp.flat_map(|(portal, (old, new))| {
            let lost = old.iter().filter(|b| new.binary_search(b).is_err());
            lost.map(|backend| (*portal, *backend))
        })
        .collect()
    }
}

/// What must change so that `old` becomes `new`.
pub fn diff(old: &Table, new: &Table) -> Delta {
    let empty = Backends::from([]);
    let mut portals = BTreeMap::new();
    for (portal, after) in &new.portals {
        let before = old.portals.get(portal).unwrap_or(&empty);
        if !Arc::ptr_eq(before, after) && before != after {
            portals.insert(*portal, (before.clone(), after.clone()));
        }
    }
    for (portal, before) in old.portals.iter().filter(|(p, b)| !b.is_empty() && !new.portals.contains_key(p)) {
        portals.insert(*portal, (before.clone(), empty.clone()));
    }
    Delta {
        portals,
        sizes_added: new.sizes.difference(&old.sizes).copied().collect(),
        sizes_removed: old.sizes.difference(&new.sizes).copied().collect(),
        widest: (old.widest(), new.widest()),
        addresses_added: new.addresses.difference(&old.addresses).copied().collect(),
        addresses_removed: old.addresses.difference(&new.addresses).copied().collect(),
    }
}

#[cfg(test)]
pub(super) mod strategies {
    //! Random tables, small enough to collide.

    use proptest::prelude::*;

    use super::*;

    pub(in crate::proxy) fn portal() -> impl Strategy<Value = Portal> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        (1u8..6, protocol, 80u16..82).prop_map(|(host, protocol, port)| Portal {
            ip: Ipv4Addr::new(10, 0, 0, host),
            protocol,
            port,
        })
    }

    pub(in crate::proxy) fn table() -> impl Strategy<Value = Table> {
        let backend = (1u8..9, 8080u16..8082).prop_map(|(h, p)| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, h), p));
        let backends = prop::collection::btree_set(backend, 0..6).prop_map(|b| b.into_iter().collect::<Backends>());
        prop::collection::btree_map(portal(), backends, 0..8).prop_map(Table::from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{strategies::table, *};

    fn without_refusing(table: &Table) -> BTreeMap<Portal, Backends> {
        table.portals.iter().filter(|(_, b)| !b.is_empty()).map(|(p, b)| (*p, b.clone())).collect()
    }

    #[test]
    fn only_lost_udp_backends_are_cut() {
        let portal = |protocol| Portal { ip: Ipv4Addr::new(10, 0, 0, 1), protocol, port: 53 };
        let backend = |h| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, h), 53);
        let table = |hosts: &[u8]| {
            let backends: Backends = hosts.iter().map(|h| backend(*h)).collect();
            let both = [Protocol::Udp, Protocol::Tcp].map(|p| (portal(p), backends.clone()));
            Table::from(BTreeMap::from(both))
        };
        assert_eq!(diff(&table(&[1, 2]), &table(&[2, 3])).lost_udp(), [(portal(Protocol::Udp), backend(1))]);
        assert_eq!(diff(&table(&[]), &table(&[1])).lost_udp(), []);
        assert_eq!(diff(&table(&[1]), &Table::default()).lost_udp(), [(portal(Protocol::Udp), backend(1))]);
    }

    proptest! {
        #[test]
        fn a_delta_holds_exactly_what_differs(old in table(), new in table()) {
            let delta = diff(&old, &new);
            let mut patched = without_refusing(&old);
            for (portal, (before, after)) in &delta.portals {
                prop_assert_ne!(before, after);
                prop_assert_eq!(patched.get(portal).map_or(&[][..], |b| b), &before[..]);
                if after.is_empty() { patched.remove(portal); } else { patched.insert(*portal, after.clone()); }
            }
            prop_assert_eq!(patched, without_refusing(&new));
            prop_assert!(diff(&new, &new).is_empty());
        }
    }
}
