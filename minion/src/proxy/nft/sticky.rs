//! Session affinity: the one thing that nftables can't keep in elements of maps alone.

use std::net::SocketAddrV4;

use super::{Script, choice, name};
use crate::proxy::table::{Forward, Portal};

/// Clients that one backend of a service with session affinity remembers; beyond that, new ones get
/// none.
const HELD_MAX: u32 = 65_535;

/// A change of a portal with session affinity. Its chain tries the backends that remember the
/// client, then any; each backend has a set of clients and a chain that writes there.
pub(super) struct Sticky<'a> {
    portal: &'a Portal,
    /// Before and after, each only if sticky and served.
    old: Option<&'a Forward>,
    new: Option<&'a Forward>,
}

impl<'a> Sticky<'a> {
    pub(super) fn of(portal: &'a Portal, (old, new): &'a (Option<Forward>, Option<Forward>)) -> Option<Self> {
        let sticky = |side: &'a Option<Forward>| side.as_ref().filter(|f| f.sticky.is_some() && !f.refuses());
        let (old, new) = (sticky(old), sticky(new));
        (old.is_some() || new.is_some()).then_some(Self { portal, old, new })
    }

    pub(super) fn chain(portal: &Portal) -> String {
        format!("stick-{}", name(portal))
    }

    fn held(&self, backend: &SocketAddrV4) -> String {
        format!("held-{}-{}-{}", name(self.portal), backend.ip(), backend.port())
    }

    fn to(&self, backend: &SocketAddrV4) -> String {
        format!("to-{}-{}-{}", name(self.portal), backend.ip(), backend.port())
    }

    /// Makes what the new state needs. Clients keep their backends as long as these stay.
    pub(super) fn build<'s>(&self, prepare: &mut Script<'s>, switch: &mut Script<'s>) {
        let Some(new) = self.new else { return };
        let seconds = new.sticky.unwrap_or_default();
        let known = |backend| self.old.is_some_and(|old| old.backends.binary_search(backend).is_ok());
        for backend in new.backends.iter() {
            let (set, chain) = (self.held(backend), self.to(backend));
            let s = if !known(backend) {
                let body = format_args!("{{ type ipv4_addr; size {HELD_MAX}; flags dynamic,timeout; }}");
                prepare.add("set", &set, body);
                prepare.add("chain", &chain, "");
                &mut *prepare
            } else if self.old.is_some_and(|old| old.sticky != new.sticky) {
                switch.flush(&chain);
                &mut *switch
            } else {
                continue;
            };
            s.rule(&chain, format_args!("update @{set} {{ ip saddr timeout {seconds}s }}"));
            s.rule(&chain, format_args!("meta l4proto {} dnat to {backend}", self.portal.protocol.as_str()));
        }
        let chain = Self::chain(self.portal);
        let s = match self.old {
            None => {
                prepare.add("chain", &chain, "");
                prepare
            }
            Some(_) => {
                switch.flush(&chain);
                switch
            }
        };
        for backend in new.backends.iter() {
            s.rule(&chain, format_args!("ip saddr @{} goto {}", self.held(backend), self.to(backend)));
        }
        s.rule(&chain, choice(new.backends.iter().map(|backend| self.to(backend))));
        // Where the choice, whose elements go with it, is being replaced.
        new.backends.first().into_iter().for_each(|first| s.rule(&chain, format_args!("goto {}", self.to(first))));
    }

    /// Removes what only the old state needed.
    pub(super) fn clear(&self, s: &mut Script) {
        let Some(old) = self.old else { return };
        if self.new.is_none() {
            s.delete("chain", &Self::chain(self.portal));
        }
        let kept = |backend| self.new.is_some_and(|new| new.backends.binary_search(backend).is_ok());
        for backend in old.backends.iter().filter(|backend| !kept(backend)) {
            s.delete("chain", &self.to(backend));
            s.delete("set", &self.held(backend));
        }
    }
}
