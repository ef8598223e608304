//! Session affinity: the one thing that nftables can't keep in elements of maps alone.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

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

    /// Has the backends of the new state remember whom they remembered.
    pub(super) fn remind(&self, remembered: &Remembered, s: &mut Script) {
        let Some(new) = self.new else { return };
        let seconds = u64::from(new.sticky.unwrap_or_default());
        for set in new.backends.iter().map(|backend| self.held(backend)) {
            // Since Linux 6.12 nobody may have more time left than there is.
            let element = |(client, left): &(Ipv4Addr, u64)| {
                format!("{client} timeout {seconds}s expires {}s", seconds.min(*left))
            };
            let elements: Vec<_> = remembered.0.get(&set).into_iter().flatten().map(element).collect();
            s.elements("add", &set, &elements);
        }
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

/// Who is remembered: the clients in each backend's set, and for how many seconds from now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered(BTreeMap<String, Vec<(Ipv4Addr, u64)>>);

impl Remembered {
    /// Reads what `nft list sets` says of a table. What it does not understand is forgotten.
    pub fn read(table: &str, listing: &str) -> Self {
        let mut all = BTreeMap::<String, Vec<_>>::new();
        let (mut in_table, mut set, mut open) = (false, None, false);
        for line in listing.lines().map(str::trim) {
            let opened = |what: &str| line.strip_prefix(what)?.strip_suffix(" {");
            if let Some(name) = opened("table ip ") {
                (in_table, set, open) = (name == table, None, false);
            } else if let Some(name) = opened("set ") {
                (set, open) = (Some(name).filter(|name| in_table && name.starts_with("held-")), false);
            } else if let Some(set) = set {
                let first = line.strip_prefix("elements = {");
                if first.is_some() || open {
                    let elements = first.unwrap_or(line);
                    open = !elements.ends_with('}');
                    let read = elements.trim_end_matches('}').split(',').filter_map(element);
                    all.entry(set.to_owned()).or_default().extend(read);
                }
            }
        }
        Self(all)
    }
}

/// An element as it is listed, `10.244.0.7 timeout 3h expires 2h59m58s944ms`. `None` for what is about to go.
fn element(listed: &str) -> Option<(Ipv4Addr, u64)> {
    let words: Vec<&str> = listed.split_whitespace().collect();
    let [client, "timeout", _, "expires", left] = words.as_slice() else { return None };
    Some((client.parse().ok()?, seconds(left).filter(|left| *left > 0)?))
}

/// The whole seconds of a time as nft writes it: `1d2h3m4s5ms`.
fn seconds(mut time: &str) -> Option<u64> {
    let mut sum: u64 = 0;
    while !time.is_empty() {
        let digits = time.find(|c: char| !c.is_ascii_digit())?;
        let (number, rest) = time.split_at(digits);
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit);
        let factor = match unit {
            "d" => 86_400,
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            "ms" => 0,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        time = rest;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_lists_is_read_as_what_it_takes() {
        // As version 1.0.6 writes it.
        let listing = "table ip nat {\n}\ntable ip coracle-1 {\n\tset loops {\n\t\ttype ipv4_addr . ipv4_addr\n\
            \t\telements = { 10.244.0.2 . 10.244.0.2 }\n\t}\n\tset held-a {\n\t\ttype ipv4_addr\n\t\tsize 65535\n\
            \t\tflags dynamic,timeout\n\t\telements = { 10.1.1.1 timeout 10m expires 9m59s992ms, 10.1.1.2 timeout 3h expires 5m,\n\
            \t\t\t     10.1.1.4 timeout 3h expires 936ms, 10.1.1.5 timeout 1s expires 0s,\n\
            \t\t\t     10.1.1.6 timeout 1d expires 23h }\n\t}\n\tset held-b {\n\t\ttype ipv4_addr\n\t}\n}\n\
            table ip coracle-2 {\n\tset held-a {\n\t\telements = { 10.1.1.9 timeout 1m expires 59s }\n\t}\n}\n";
        let client = |host| Ipv4Addr::new(10, 1, 1, host);
        let expected = vec![(client(1), 599), (client(2), 300), (client(6), 82_800)];
        assert_eq!(Remembered::read("coracle-1", listing), Remembered(BTreeMap::from([("held-a".into(), expected)])));
        assert_eq!(Remembered::read("coracle-3", listing), Remembered::default());
        for odd in [
            "",
            "10.1.1.1",
            "x timeout 1m expires 1s",
            "10.1.1.1 timeout 1m expires s",
            "10.1.1.1 timeout 1m expires 1",
            "10.1.1.1 timeout 1m expires 99999999999999999999d",
            "10.1.1.1 timeout expires 1s",
        ] {
            assert_eq!(element(odd), None, "{odd}");
        }
    }
}
