//! The scripts against a model of what nftables holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::prelude::*;

use super::{
    super::table::{Backends, Protocol, strategies::table},
    *,
};

fn frame() -> Frame {
    Frame {
        table: table_name("0a1b2c3d"),
        service_cidr: "10.0.0.0/16".parse().unwrap(),
        pod_cidr: "10.244.0.0/24".parse().unwrap(),
        masquerade: Masquerade::Loops,
        refusal: Refusal::Prerouting,
    }
}

/// What nftables holds after scripts like ours; refuses what the kernel refuses.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kernel {
    chains: BTreeMap<String, (String, Vec<String>)>,
    sets: BTreeMap<String, (String, BTreeMap<String, String>)>,
}

impl Kernel {
    fn run(&mut self, script: &str) {
        for line in script.lines() {
            self.statement(line);
        }
        for (_, elements) in self.sets.values() {
            for verdict in elements.values().filter_map(|v| v.strip_prefix("goto ")) {
                assert!(self.chains.contains_key(verdict), "an element leads to {verdict}, which does not exist");
            }
        }
    }

    fn statement(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [verb, what, "ip", table, rest @ ..] = words.as_slice() else { panic!("{line}") };
        assert_eq!(*table, "coracle-0a1b2c3d", "{line}");
        let body = rest.get(1..).unwrap_or_default().join(" ");
        match (*verb, *what, rest.first().copied()) {
            ("add", "table", None) => {}
            ("delete", "table", None) => *self = Self::default(),
            ("add", "chain", Some(name)) => {
                assert!(self.chains.insert(name.to_owned(), (body, Vec::new())).is_none(), "{line}");
            }
            ("add", "rule", Some(name)) => {
                for word in body.split(|c: char| c == ',' || c.is_whitespace()).collect::<Vec<_>>().windows(2) {
                    assert!(word[0] != "goto" || self.chains.contains_key(word[1]), "{line}");
                }
                for set in body.split_whitespace().filter_map(|w| w.strip_prefix('@')) {
                    assert!(self.sets.contains_key(set), "{line}");
                }
                self.chains.get_mut(name).expect(line).1.push(body);
            }
            ("add", "map" | "set", Some(name)) => {
                assert!(self.sets.insert(name.to_owned(), (body, BTreeMap::new())).is_none(), "{line}");
            }
            ("delete", "chain", Some(name)) => {
                self.chains.remove(name).expect(line);
                let used = |text: &str| text.split([' ', ',']).any(|w| w == name);
                assert!(!self.chains.values().any(|(_, rules)| rules.iter().any(|r| used(r))), "{name} is in use");
                let mut elements = self.sets.values().flat_map(|(_, e)| e.values());
                assert!(!elements.any(|v| used(v)), "{name} is in use");
            }
            ("delete", "map", Some(name)) => {
                self.sets.remove(name).expect(line);
                let used = format!("@{name}");
                assert!(!self.chains.values().any(|(_, rules)| rules.iter().any(|r| r.ends_with(&used))), "{line}");
            }
            (verb @ ("add" | "delete"), "element", Some(name)) => {
                let (_, elements) = self.sets.get_mut(name).expect(line);
                for element in body.trim_matches(['{', '}', ' ']).split(", ") {
                    let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                    if verb == "add" {
                        assert!(elements.insert(key.to_owned(), value.to_owned()).is_none(), "{key} exists: {line}");
                    } else {
                        elements.remove(key).unwrap_or_else(|| panic!("{key} does not exist: {line}"));
                    }
                }
            }
            _ => panic!("{line}"),
        }
    }

    /// Every backend that a first packet to `portal` can reach.
    fn reach(&self, portal: &str) -> BTreeSet<String> {
        let Some(pick) = self.sets["portals"].1.get(portal).and_then(|v| v.strip_prefix("goto ")) else {
            return BTreeSet::new();
        };
        let rule = &self.chains[pick].1[0];
        let size: usize = rule.split_whitespace().nth(3).unwrap().parse().unwrap();
        (0..size).map(|slot| self.sets[&format!("backends-{slot}")].1[portal].clone()).collect()
    }
}

fn loaded(table: &Table) -> Kernel {
    let mut kernel = Kernel::default();
    kernel.run(&full(&frame(), table));
    kernel
}

fn example() -> Table {
    let portal = |port, protocol| Portal { ip: Ipv4Addr::new(10, 0, 0, 5), protocol, port };
    let backends = |hosts: &[u8]| -> Backends {
        hosts.iter().map(|h| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, *h), 8080)).collect()
    };
    Table::from(BTreeMap::from([
        (portal(53, Protocol::Udp), backends(&[2])),
        (portal(80, Protocol::Tcp), backends(&[2, 3])),
        (portal(81, Protocol::Tcp), backends(&[])),
    ]))
}

#[test]
fn the_full_script_replaces_our_table_and_no_other() {
    let expected = "\
add table ip coracle-0a1b2c3d
delete table ip coracle-0a1b2c3d
add table ip coracle-0a1b2c3d
add map ip coracle-0a1b2c3d portals { type ipv4_addr . inet_proto . inet_service : verdict; }
add set ip coracle-0a1b2c3d loops { type ipv4_addr . ipv4_addr; }
add chain ip coracle-0a1b2c3d prerouting { type nat hook prerouting priority -100; policy accept; }
add rule ip coracle-0a1b2c3d prerouting ip daddr 10.0.0.0/16 ip daddr . meta l4proto . th dport vmap @portals
add chain ip coracle-0a1b2c3d output { type nat hook output priority -100; policy accept; }
add rule ip coracle-0a1b2c3d output ip daddr 10.0.0.0/16 ip daddr . meta l4proto . th dport vmap @portals
add chain ip coracle-0a1b2c3d postrouting { type nat hook postrouting priority 100; policy accept; }
add rule ip coracle-0a1b2c3d postrouting ct original ip daddr 10.0.0.0/16 ip saddr . ip daddr @loops masquerade
add chain ip coracle-0a1b2c3d refuse 
add rule ip coracle-0a1b2c3d refuse meta l4proto tcp reject with tcp reset
add rule ip coracle-0a1b2c3d refuse reject with icmp type port-unreachable
add chain ip coracle-0a1b2c3d refuse-prerouting { type filter hook prerouting priority -90; policy accept; }
add rule ip coracle-0a1b2c3d refuse-prerouting ip daddr 10.0.0.0/16 goto refuse
add chain ip coracle-0a1b2c3d refuse-output { type filter hook output priority -90; policy accept; }
add rule ip coracle-0a1b2c3d refuse-output ip daddr 10.0.0.0/16 goto refuse
add map ip coracle-0a1b2c3d backends-0 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip coracle-0a1b2c3d to-0 
add rule ip coracle-0a1b2c3d to-0 dnat to ip daddr . meta l4proto . th dport map @backends-0
add map ip coracle-0a1b2c3d backends-1 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip coracle-0a1b2c3d to-1 
add rule ip coracle-0a1b2c3d to-1 dnat to ip daddr . meta l4proto . th dport map @backends-1
add chain ip coracle-0a1b2c3d pick-1 
add rule ip coracle-0a1b2c3d pick-1 numgen random mod 1 vmap { 0 : goto to-0 }
add chain ip coracle-0a1b2c3d pick-2 
add rule ip coracle-0a1b2c3d pick-2 numgen random mod 2 vmap { 0 : goto to-0, 1 : goto to-1 }
add element ip coracle-0a1b2c3d backends-0 { 10.0.0.5 . tcp . 80 : 10.244.0.2 . 8080, 10.0.0.5 . udp . 53 : 10.244.0.2 . 8080 }
add element ip coracle-0a1b2c3d backends-1 { 10.0.0.5 . tcp . 80 : 10.244.0.3 . 8080 }
add element ip coracle-0a1b2c3d portals { 10.0.0.5 . tcp . 80 : goto pick-2, 10.0.0.5 . udp . 53 : goto pick-1 }
add element ip coracle-0a1b2c3d loops { 10.244.0.2 . 10.244.0.2, 10.244.0.3 . 10.244.0.3 }
";
    assert_eq!(full(&frame(), &example()), expected);
}

#[test]
fn a_change_of_one_backend_touches_one_element() {
    let mut portals = example().portals().clone();
    let web = portals.values_mut().find(|b| b.len() == 2).unwrap();
    *web = web.iter().map(|b| SocketAddrV4::new(*b.ip(), if b.ip().octets()[3] == 3 { 9090 } else { 8080 })).collect();
    let script = update(&frame(), &diff(&example(), &Table::from(portals)));
    let expected = "\
delete element ip coracle-0a1b2c3d backends-1 { 10.0.0.5 . tcp . 80 }
add element ip coracle-0a1b2c3d backends-1 { 10.0.0.5 . tcp . 80 : 10.244.0.3 . 9090 }
";
    assert_eq!(script, expected);
    assert_eq!(update(&frame(), &diff(&example(), &example())), "");
}

#[test]
fn without_bridge_netfilter_the_whole_bridge_is_masqueraded() {
    let script = full(&Frame { masquerade: Masquerade::Bridge, ..frame() }, &Table::default());
    let rule = "postrouting ct original ip daddr 10.0.0.0/16 ip saddr 10.244.0.0/24 ip daddr 10.244.0.0/24 masquerade";
    assert!(script.contains(rule), "{script}");
    assert!(!script.contains("@loops"), "{script}");
}

#[test]
fn kernels_before_5_9_refuse_when_forwarding() {
    let check = |release: &str, expected| assert_eq!(Refusal::of_kernel(release), expected, "{release}");
    check("6.1.0-13-amd64", Refusal::Prerouting);
    check("5.10", Refusal::Prerouting);
    check("5.9-rc1", Refusal::Prerouting);
    check("5.8.0-63-generic", Refusal::Forward);
    check("4.18.0-553.el8.x86_64", Refusal::Forward);
    check("", Refusal::Forward);
    let script = full(&Frame { refusal: Refusal::Forward, ..frame() }, &Table::default());
    assert!(script.contains("refuse-forward { type filter hook forward priority -90; policy accept; }"), "{script}");
}

proptest! {
    #[test]
    fn deltas_one_by_one_make_what_a_full_load_makes(tables in prop::collection::vec(table(), 1..8)) {
        let mut kernel = loaded(&Table::default());
        let mut held = Table::default();
        for next in tables {
            kernel.run(&update(&frame(), &diff(&held, &next)));
            held = next;
            prop_assert_eq!(&kernel, &loaded(&held));
        }
    }

    #[test]
    fn a_portal_reaches_its_backends_and_nothing_else(table in table()) {
        let kernel = loaded(&table);
        for (portal, backends) in table.portals() {
            let expected: BTreeSet<_> = backends.iter().map(value).collect();
            prop_assert_eq!(kernel.reach(&key(portal)), expected);
        }
        prop_assert_eq!(kernel.sets["portals"].1.len(), table.portals().len() - table.refusing());
    }

    #[test]
    fn the_same_table_makes_the_same_script(table in table()) {
        prop_assert_eq!(full(&frame(), &table), full(&frame(), &table.clone()));
    }
}
