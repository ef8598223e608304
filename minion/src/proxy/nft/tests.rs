//! The scripts against a model of what nftables holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::prelude::*;

use super::{
    super::table::{Backends, strategies::table},
    *,
};

fn frame() -> Frame {
    Frame {
        table: table_name("0a1b2c3d"),
        service_cidr: "10.0.0.0/16".parse().unwrap(),
        pods_cidr: "10.244.0.0/16".parse().unwrap(),
        pod_cidr: "10.244.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 244, 0, 1),
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
            ("flush", "chain", Some(name)) => self.chains.get_mut(name).expect(line).1.clear(),
            ("delete", "map" | "set", Some(name)) => {
                self.sets.remove(name).expect(line);
                let used = format!("@{name}");
                assert!(
                    !self.chains.values().any(|(_, rules)| rules.iter().any(|r| r.split(' ').any(|w| w == used))),
                    "{line}"
                );
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
    fn reach(&self, portal: &Portal) -> BTreeSet<String> {
        Walk::new(self, self, portal).outcomes.into_iter().flatten().collect()
    }

    fn element(&self, set: &str, key: &str) -> Option<&String> {
        self.sets.get(set)?.1.get(key)
    }
}

/// Where a packet can get to while a transaction commits: by the rules of before, each look-up
/// answered from before or after, but never from before once it was from after.
struct Walk<'a> {
    before: &'a Kernel,
    after: &'a Kernel,
    key: String,
    /// Backends; `None` where it leaves untranslated.
    outcomes: BTreeSet<Option<String>>,
}

impl<'a> Walk<'a> {
    fn new(before: &'a Kernel, after: &'a Kernel, portal: &Portal) -> Self {
        let mut walk = Self { before, after, key: key(portal), outcomes: BTreeSet::new() };
        walk.rules(&Lane::of(portal).find(), 0, false);
        walk
    }

    fn chain(&self, name: &str) -> &'a [String] {
        self.before.chains.get(name).map_or(&[], |(_, rules)| rules)
    }

    /// Goes on at a rule of a chain; `late` once a look-up was answered from after.
    fn rules(&mut self, name: &str, at: usize, late: bool) {
        let Some(rule) = self.chain(name).get(at) else {
            self.outcomes.insert(None);
            return;
        };
        if let Some((start, set)) = rule.split_once(" vmap @").or_else(|| rule.split_once(" map @")) {
            let (before, after) = (self.before.element(set, &self.key), self.after.element(set, &self.key));
            let mut answers = vec![(after, true)];
            if !late {
                answers.push((before, false));
                // Removed already, and its replacement not yet to be seen.
                answers.extend((before != after).then_some((None, true)));
            }
            for (answer, late) in answers {
                match answer {
                    None => self.rules(name, at + 1, late),
                    Some(value) if start.starts_with("dnat") => {
                        self.outcomes.insert(Some(value.replace(" . ", ":")));
                    }
                    Some(verdict) => self.rules(verdict.strip_prefix("goto ").unwrap(), 0, late),
                }
            }
        } else if let Some((_, choices)) = rule.split_once(" vmap {") {
            for target in choices.split("goto ").skip(1) {
                self.rules(target.split([',', ' ']).next().unwrap(), 0, late);
            }
            // The elements go with their rule.
            if !self.after.chains.get(name).is_some_and(|(_, rules)| rules.contains(rule)) {
                self.rules(name, at + 1, true);
            }
        } else if let Some((start, target)) = rule.split_once("goto ") {
            self.rules(target, 0, late);
            if start.contains('@') {
                self.rules(name, at + 1, late);
            }
        } else if let Some((_, backend)) = rule.split_once("dnat to ") {
            self.outcomes.insert(Some(backend.to_owned()));
        } else {
            assert!(rule.starts_with("update @"), "{rule}");
            self.rules(name, at + 1, late);
        }
    }
}

fn loaded(table: &Table) -> Kernel {
    let mut kernel = Kernel::default();
    kernel.run(&Ruleset::new(frame()).full(table, &Remembered::default()));
    kernel
}

fn full(frame: Frame, table: &Table) -> String {
    Ruleset::new(frame).full(table, &Remembered::default())
}

/// The transactions of a change, and what goes with the next.
fn updated(from: &Table, to: &Table) -> (Vec<String>, String) {
    let mut ruleset = Ruleset::new(frame());
    ruleset.full(from, &Remembered::default());
    (ruleset.update(&diff(from, to)), ruleset.leftovers)
}

fn backends(hosts: &[u8]) -> Backends {
    hosts.iter().map(|h| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, *h), 8080)).collect()
}

fn example() -> Table {
    let portal = |port, protocol| Portal::of_service(Ipv4Addr::new(10, 0, 0, 5), protocol, port);
    let forward = |hosts: &[u8]| Forward::to(backends(hosts));
    Table::from(BTreeMap::from([
        (portal(53, Protocol::Udp), forward(&[2])),
        (portal(80, Protocol::Tcp), forward(&[2, 3])),
        (portal(81, Protocol::Tcp), forward(&[])),
    ]))
}

#[test]
fn the_full_script_replaces_our_table_and_no_other() {
    let base = full(frame(), &Table::default());
    let own = |line: &str| line.split(' ').nth(3) == Some("coracle-0a1b2c3d");
    assert!(base.lines().all(own), "{base}");
    let expected = "\
add map ip coracle-0a1b2c3d backends-0 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip coracle-0a1b2c3d to-0 
add rule ip coracle-0a1b2c3d to-0 dnat to ip daddr . meta l4proto . th dport map @backends-0
add rule ip coracle-0a1b2c3d to-0 dnat to ip daddr . meta l4proto . th dport map @backends-0
add map ip coracle-0a1b2c3d backends-1 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip coracle-0a1b2c3d to-1 
add rule ip coracle-0a1b2c3d to-1 dnat to ip daddr . meta l4proto . th dport map @backends-1
add rule ip coracle-0a1b2c3d to-1 dnat to ip daddr . meta l4proto . th dport map @backends-1
add chain ip coracle-0a1b2c3d pick-2 
add rule ip coracle-0a1b2c3d pick-2 numgen random mod 2 vmap { 0 : goto to-0, 1 : goto to-1 }
add element ip coracle-0a1b2c3d backends-0 { 10.0.0.5 . tcp . 80 : 10.244.0.2 . 8080, 10.0.0.5 . udp . 53 : 10.244.0.2 . 8080 }
add element ip coracle-0a1b2c3d backends-1 { 10.0.0.5 . tcp . 80 : 10.244.0.3 . 8080 }
add element ip coracle-0a1b2c3d portals { 10.0.0.5 . tcp . 80 : goto pick-2, 10.0.0.5 . udp . 53 : goto to-0 }
add element ip coracle-0a1b2c3d loops { 10.244.0.2 . 10.244.0.2, 10.244.0.3 . 10.244.0.3 }
";
    assert_eq!(full(frame(), &example()), base + expected);
}

#[test]
fn a_change_of_one_backend_touches_one_element() {
    let mut portals = example().portals().clone();
    let web = &mut portals.values_mut().find(|f| f.backends.len() == 2).unwrap().backends;
    *web = web.iter().map(|b| SocketAddrV4::new(*b.ip(), if b.ip().octets()[3] == 3 { 9090 } else { 8080 })).collect();
    let change = updated(&example(), &Table::from(portals));
    let expected = "\
delete element ip coracle-0a1b2c3d backends-1 { 10.0.0.5 . tcp . 80 }
add element ip coracle-0a1b2c3d backends-1 { 10.0.0.5 . tcp . 80 : 10.244.0.3 . 9090 }
";
    assert_eq!(change, (vec![expected.to_owned()], String::new()));
    assert_eq!(updated(&example(), &example()), (vec![], String::new()));
}

#[test]
fn without_bridge_netfilter_the_whole_bridge_is_masqueraded() {
    let script = full(Frame { masquerade: Masquerade::Bridge, ..frame() }, &Table::default());
    let rule = "dnatted ip saddr 10.244.0.0/24 ip daddr 10.244.0.0/24 masquerade";
    assert!(script.contains(rule), "{script}");
    assert!(!script.contains("@loops"), "{script}");
}

#[test]
fn a_portal_address_is_asked_about_no_node_port() {
    let script = full(frame(), &Table::default());
    let rules = script.lines().filter_map(|line| line.strip_prefix("add rule ip coracle-0a1b2c3d dnatted "));
    let expected = [
        "ip saddr . ip daddr @loops masquerade",
        "ct original ip daddr 10.0.0.0/16 return",
        "meta l4proto tcp ct original proto-dst @node-tcp jump translate",
        "meta l4proto udp ct original proto-dst @node-udp jump translate",
        "meta l4proto sctp ct original proto-dst @node-sctp jump translate",
        "ct original ip daddr @externals jump translate",
    ];
    assert_eq!(rules.collect::<Vec<_>>(), expected);
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
    let script = full(Frame { refusal: Refusal::Forward, ..frame() }, &Table::default());
    assert!(script.contains("refuse-forward { type filter hook forward priority -90; policy accept; }"), "{script}");
}

#[test]
fn affinity_keeps_the_clients_of_backends_that_stay() {
    let portal = Portal::of_service(Ipv4Addr::new(10, 0, 0, 5), Protocol::Tcp, 80);
    let table =
        |hosts: &[u8], sticky| Table::from(BTreeMap::from([(portal, Forward { backends: backends(hosts), sticky })]));
    let (kept, leftovers) = updated(&table(&[2, 3], Some(60)), &table(&[3, 4], Some(60)));
    let kept = kept.concat();
    assert!(!kept.contains("set ip coracle-0a1b2c3d held-10.0.0.5-tcp-80-10.244.0.3-8080"), "{kept}");
    assert!(!kept.contains("portals"), "the element leads to the same chain: {kept}");
    assert!(
        leftovers.ends_with("delete set ip coracle-0a1b2c3d held-10.0.0.5-tcp-80-10.244.0.2-8080\n"),
        "{leftovers}"
    );
    let longer = updated(&table(&[2], Some(60)), &table(&[2], Some(90))).0.concat();
    assert!(longer.contains("{ ip saddr timeout 90s }") && !longer.contains("add set"), "{longer}");
}

proptest! {
    #[test]
    fn deltas_one_by_one_make_what_a_full_load_makes(tables in prop::collection::vec(table(), 1..8)) {
        let (mut kernel, mut ruleset) = (Kernel::default(), Ruleset::new(frame()));
        let mut held = Table::default();
        kernel.run(&ruleset.full(&held, &Remembered::default()));
        for next in tables {
            ruleset.update(&diff(&held, &next)).iter().for_each(|script| kernel.run(script));
            held = next;
            let mut tidied = kernel.clone();
            tidied.run(&ruleset.leftovers);
            prop_assert_eq!(tidied, loaded(&held));
        }
    }

    #[test]
    fn a_packet_on_its_way_during_a_change_reaches_a_backend(tables in prop::collection::vec(table(), 2..4)) {
        let (mut ruleset, mut kernel) = (Ruleset::new(frame()), Kernel::default());
        kernel.run(&ruleset.full(&tables[0], &Remembered::default()));
        for pair in tables.windows(2) {
            let [before, after] = pair else { unreachable!() };
            for script in ruleset.update(&diff(before, after)) {
                let was = kernel.clone();
                kernel.run(&script);
                for (portal, old) in before.portals() {
                    let served = |forward: &&Forward| !forward.refuses() && !old.refuses();
                    let Some(new) = after.portals().get(portal).filter(served) else { continue };
                    let either = old.backends.iter().chain(new.backends.iter()).map(|b| Some(b.to_string())).collect();
                    let outcomes = Walk::new(&was, &kernel, portal).outcomes;
                    prop_assert!(outcomes.is_subset(&either), "{outcomes:?} of {either:?} during\n{script}");
                }
            }
        }
    }

    #[test]
    fn a_portal_reaches_its_backends_and_nothing_else(table in table()) {
        let kernel = loaded(&table);
        for (portal, forward) in table.portals() {
            let expected: BTreeSet<_> = forward.backends.iter().map(ToString::to_string).collect();
            prop_assert_eq!(kernel.reach(portal), expected);
            let refused = matches!(portal.at, Frontend::External(_)) && forward.refuses();
            prop_assert_eq!(kernel.sets["refused"].1.contains_key(&key(portal)), refused);
        }
        let elements = kernel.sets["portals"].1.len() + kernel.sets["node-portals"].1.len();
        prop_assert_eq!(elements, table.portals().len() - table.refusing());
    }

    #[test]
    fn the_same_table_makes_the_same_script(table in table()) {
        prop_assert_eq!(full(frame(), &table), full(frame(), &table.clone()));
    }
}
