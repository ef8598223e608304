//! The table as text for `nft -f`.
//!
//! ```text
//! nat prerouting, output ──portals──> pick-N ──random──> to-I ──backends-I──> dnat
//!   (first packet of a flow)            one for each       one for each slot of the
//!                                       number of backends widest portal
//!                        ──portals──> to-0, where there is only one backend
//!                        ──portals──> stick-PORTAL ──held, or random──> to-PORTAL-BACKEND ──> dnat
//!                                       session affinity: chains and sets of its own
//!                        ──to the service range, but to no portal──> refuse
//! nat postrouting        ──translated──> dnatted: who must come back through this node ──> translate
//! ```
//!
//! Every service is elements of maps, never chains of its own (unless it has session affinity, which
//! nftables can keep only in a set for each backend): with 2,000 services of 3 backends a full load
//! takes 0.1 s (chains: 1.3 s) and a change 6 ms (chains: 47 ms), and a packet meets at most
//! three hash look-ups however many services there are.
//!
//! There are two lanes of the same shape, since the keys differ: portals with an address, and node
//! ports, which have any address of the node.
//!
//! A transaction is atomic for rules, but not for a packet on its way while it commits: that one meets
//! the rules of before and, from some look-up on, the elements of after. It must find its way
//! nevertheless, for where it finds none its connection is recorded as untranslated and lost. So
//! whatever an element leads to is there in a transaction before it, and goes in a transaction after
//! it: with the next change, since it harms nobody. Most changes are one transaction, those that need
//! new chains two. Every look-up is also written twice: before Linux 6.17 the first can miss an
//! element that is being replaced, and the second then sees the new one.
//!
//! Invariants: a full load is the base plus the change from the empty table; after any change the
//! kernel holds exactly what a full load of the new table would make, and the leftovers; and a packet
//! on its way during a transaction reaches a backend of before or of after if there was one both
//! times.

mod sticky;

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    net::{Ipv4Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;

pub use self::sticky::Remembered;
use self::sticky::Sticky;
use super::table::{Delta, Forward, Frontend, Portal, Protocol, Table, backends as of_side, diff};

/// What a portal's first packet carries; the keys of all maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Portals that have an address.
    Address,
    /// Node ports.
    Node,
}

impl Lane {
    const ALL: [Lane; 2] = [Lane::Address, Lane::Node];

    fn of(portal: &Portal) -> Self {
        match portal.at {
            Frontend::Service(_) | Frontend::External(_) => Lane::Address,
            Frontend::Node => Lane::Node,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Lane::Address => "",
            Lane::Node => "node-",
        }
    }

    /// The key of a packet.
    fn key(self) -> &'static str {
        match self {
            Lane::Address => "ip daddr . meta l4proto . th dport",
            Lane::Node => "meta l4proto . th dport",
        }
    }

    fn key_type(self) -> &'static str {
        match self {
            Lane::Address => "ipv4_addr . inet_proto . inet_service",
            Lane::Node => "inet_proto . inet_service",
        }
    }

    fn portals(self) -> String {
        format!("{}portals", self.prefix())
    }

    /// The chain that looks the portal up.
    fn find(self) -> String {
        format!("{}find", self.prefix())
    }

    /// The chain that picks one of this many backends, where there is a choice.
    fn pick(self, size: usize) -> Option<String> {
        (size > 1).then(|| format!("{}pick-{size}", self.prefix()))
    }

    fn to(self, slot: usize) -> String {
        format!("{}to-{slot}", self.prefix())
    }

    fn backends(self, slot: usize) -> String {
        format!("{}backends-{slot}", self.prefix())
    }
}

/// Which connections to a portal must leave with the node's address as their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masquerade {
    /// A pod that reaches itself: it would drop packets from its own address. All others keep the
    /// client's address; the bridge shows its frames to netfilter, which undoes the translation.
    Loops,
    /// Every pod of the bridge: the bridge delivers answers directly, past netfilter, and the client
    /// would not know the answering address.
    Bridge,
}

/// Where packets of others to the service range are refused when no portal answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Before routing. The kernel can since 5.9.
    Prerouting,
    /// When forwarded. Routing has then sent the pod an ICMP redirect first (the range is routed
    /// back onto its own bridge), which uses up the kernel's rate of ICMP errors to that pod: UDP
    /// clients may hear of a refusal late.
    Forward,
}

impl Refusal {
    /// The best that a kernel of this release can do: `6.1.0-13-amd64`.
    pub fn of_kernel(release: &str) -> Self {
        let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (5, 9) { Self::Prerouting } else { Self::Forward }
    }
}

/// What the rules depend on besides the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Name of the nftables table.
    pub table: String,
    /// The service range.
    pub service_cidr: Ipv4Net,
    /// The cluster's pod range.
    pub pods_cidr: Ipv4Net,
    /// The node's part of it.
    pub pod_cidr: Ipv4Net,
    /// The node's address in that part.
    pub gateway: Ipv4Addr,
    /// Who is masqueraded.
    pub masquerade: Masquerade,
    /// Where is refused.
    pub refusal: Refusal,
}

/// Name of the cluster's nftables table.
pub fn table_name(cluster_id: &str) -> String {
    format!("coracle-{cluster_id}")
}

/// Removes our table; no error where there is none.
pub fn remove(table: &str) -> String {
    format!("add table ip {table}\ndelete table ip {table}\n")
}

/// Protocols with ports, each with a set of node ports of its own: nftables can't look up the
/// original port of a connection together with its protocol.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The kernel's rules as they follow from what was written so far.
#[derive(Debug, Clone)]
pub struct Ruleset {
    /// What the rules depend on besides the table.
    pub frame: Frame,
    /// Portals without affinity, by number of backends.
    sizes: Tally<(Lane, usize)>,
    /// Backends of all portals.
    loops: Tally<Ipv4Addr>,
    /// External addresses.
    externals: Tally<Ipv4Addr>,
    /// Removes what nothing leads to any more.
    leftovers: String,
}

impl Ruleset {
    /// Nothing written yet.
    pub fn new(frame: Frame) -> Self {
        Self {
            frame,
            sizes: Tally::default(),
            loops: Tally::default(),
            externals: Tally::default(),
            leftovers: String::new(),
        }
    }

    /// Replaces our table, whatever is in it, in one transaction. Established connections go on:
    /// their translation is in the connection's own record. So do affinities that are remembered.
    pub fn full(&mut self, table: &Table, remembered: &Remembered) -> String {
        *self = Self::new(self.frame.clone());
        let mut base = Script::new(&self.frame.table);
        self.frame.base(&mut base);
        let all = diff(&Table::default(), table);
        let mut reminder = Script::new(&self.frame.table);
        let sticky = all.portals.iter().filter_map(|(portal, change)| Sticky::of(portal, change));
        sticky.for_each(|sticky| sticky.remind(remembered, &mut reminder));
        let (base, reminder) = (base.text, reminder.text);
        base + &self.update(&all).concat() + &reminder
    }

    /// Carries one table over into the next: the transactions to run, in this order.
    pub fn update(&mut self, delta: &Delta) -> Vec<String> {
        let table = self.frame.table.clone();
        let [mut prepare, mut switch, mut clear] = [(); 3].map(|()| Script::new(&table));
        let plain = |side: &Option<Forward>| side.clone().filter(|f| f.sticky.is_none() && !f.refuses());
        let size = |portal: &Portal, side: &Option<Forward>| Some((Lane::of(portal), plain(side)?.backends.len()));
        let widest = Lane::ALL.map(|lane| self.widest(lane));
        let (sizes_added, sizes_removed) = self.sizes.change(
            delta.portals.iter().filter_map(|(p, (old, _))| size(p, old)),
            delta.portals.iter().filter_map(|(p, (_, new))| size(p, new)),
        );
        let slots = Lane::ALL.map(|lane| (lane, widest[lane as usize], self.widest(lane)));
        for (lane, before, now) in slots {
            for slot in before..now {
                let (map, chain) = (lane.backends(slot), lane.to(slot));
                prepare.add("map", &map, format_args!("{{ type {} : ipv4_addr . inet_service; }}", lane.key_type()));
                prepare.add("chain", &chain, "");
                prepare.twice(&chain, format_args!("dnat to {} map @{map}", lane.key()));
            }
        }
        for (lane, size) in sizes_added {
            let Some(chain) = lane.pick(size) else { continue };
            prepare.add("chain", &chain, "");
            prepare.rule(&chain, choice((0..size).map(|slot| lane.to(slot))));
        }
        let sticky: Vec<_> = delta.portals.iter().filter_map(|(p, change)| Sticky::of(p, change)).collect();
        sticky.iter().for_each(|sticky| sticky.build(&mut prepare, &mut switch));

        for (lane, before, now) in slots {
            let portals = || delta.portals.iter().filter(move |(p, _)| Lane::of(p) == lane);
            for slot in 0..before.max(now) {
                let (mut gone, mut old_values, mut new_values) = (Vec::new(), Vec::new(), Vec::new());
                for (portal, (old, new)) in portals() {
                    let at = |side: &Option<Forward>| plain(side).and_then(|f| f.backends.get(slot).copied());
                    match (at(old), at(new)) {
                        (before, after) if before == after => {}
                        (Some(_), None) => gone.push(key(portal)),
                        (before, after) => {
                            old_values.extend(before.map(|_| key(portal)));
                            new_values.extend(after.map(|backend| format!("{} : {}", key(portal), value(&backend))));
                        }
                    }
                }
                let map = lane.backends(slot);
                switch.elements("delete", &map, &old_values);
                switch.elements("add", &map, &new_values);
                if slot < now {
                    clear.elements("delete", &map, &gone);
                }
            }
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for (portal, (old, new)) in portals() {
                let (before, after) = (verdict(portal, old), verdict(portal, new));
                if before != after {
                    gone.extend(before.map(|_| key(portal)));
                    come.extend(after.map(|chain| format!("{} : goto {chain}", key(portal))));
                }
            }
            switch.elements("delete", &lane.portals(), &gone);
            switch.elements("add", &lane.portals(), &come);
        }
        self.around(&mut switch, delta);

        sticky.iter().for_each(|sticky| sticky.clear(&mut clear));
        let picks = sizes_removed.into_iter().filter_map(|(lane, size)| lane.pick(size));
        picks.for_each(|chain| clear.delete("chain", &chain));
        for (lane, before, now) in slots {
            for slot in now..before {
                clear.delete("chain", &lane.to(slot));
                clear.delete("map", &lane.backends(slot));
            }
        }
        let leftovers = std::mem::replace(&mut self.leftovers, clear.text);
        let mut transactions: Vec<_> = [prepare.text, switch.text].into_iter().filter(|s| !s.is_empty()).collect();
        if let Some(first) = transactions.first_mut() {
            first.insert_str(0, &leftovers);
        } else {
            self.leftovers.insert_str(0, &leftovers);
        }
        transactions
    }

    /// The sets beside the portals: who may reach itself, what is translated, what is refused.
    fn around(&mut self, s: &mut Script, delta: &Delta) {
        let addresses = |side| of_side(side).iter().map(|backend| *backend.ip());
        let (come, gone) = self.loops.change(
            delta.portals.values().flat_map(|(old, _)| addresses(old)),
            delta.portals.values().flat_map(|(_, new)| addresses(new)),
        );
        let pairs = |all: &[Ipv4Addr]| all.iter().map(|a| format!("{a} . {a}")).collect::<Vec<_>>();
        s.elements("delete", "loops", &pairs(&gone));
        s.elements("add", "loops", &pairs(&come));

        let external = |portal: &Portal, side: &Option<Forward>| match portal.at {
            Frontend::External(ip) if side.is_some() => Some(ip),
            _ => None,
        };
        let (come, gone) = self.externals.change(
            delta.portals.iter().filter_map(|(p, (old, _))| external(p, old)),
            delta.portals.iter().filter_map(|(p, (_, new))| external(p, new)),
        );
        let texts = |all: &[Ipv4Addr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        s.elements("delete", "externals", &texts(&gone));
        s.elements("add", "externals", &texts(&come));

        let refused = |portal: &Portal, side: &Option<Forward>| {
            (external(portal, side).is_some() && of_side(side).is_empty()).then(|| key(portal))
        };
        s.difference("refused", delta.portals.iter().map(|(p, (old, new))| (refused(p, old), refused(p, new))));
        for protocol in PROTOCOLS {
            let ports = delta.portals.iter().filter(|(p, _)| p.at == Frontend::Node && p.protocol == protocol);
            let served = |portal: &Portal, side: &Option<Forward>| side.as_ref().map(|_| portal.port.to_string());
            s.difference(&node_ports(protocol), ports.map(|(p, (old, new))| (served(p, old), served(p, new))));
        }
    }

    /// The most backends of a portal without affinity.
    fn widest(&self, lane: Lane) -> usize {
        let sizes = self.sizes.counts.range((lane, 0)..=(lane, usize::MAX));
        sizes.last().map_or(0, |((_, size), _)| *size)
    }
}

impl Frame {
    /// Chains, sets and rules that every table has.
    fn base(&self, s: &mut Script) {
        let Frame { table, service_cidr, pods_cidr, pod_cidr, gateway, masquerade, refusal } = self;
        s.raw(format_args!("add table ip {table}"));
        s.raw(format_args!("delete table ip {table}"));
        s.raw(format_args!("add table ip {table}"));
        for lane in Lane::ALL {
            s.add("map", &lane.portals(), format_args!("{{ type {} : verdict; }}", lane.key_type()));
        }
        for lane in Lane::ALL {
            s.add("chain", &lane.find(), "");
            s.twice(&lane.find(), format_args!("{} vmap @{}", lane.key(), lane.portals()));
        }
        s.add("set", "loops", "{ type ipv4_addr . ipv4_addr; }");
        s.add("set", "externals", "{ type ipv4_addr; }");
        s.add("set", "refused", format_args!("{{ type {}; }}", Lane::Address.key_type()));
        for protocol in PROTOCOLS {
            s.add("set", &node_ports(protocol), "{ type inet_service; }");
        }
        s.add("chain", "refuse", "");
        s.rule("refuse", "meta l4proto tcp reject with tcp reset");
        s.rule("refuse", "reject with icmp type port-unreachable");
        let [by_address, by_port] = Lane::ALL.map(Lane::find);
        // What is addressed to the service range and no portal answers goes no further. (A UDP client on
        // the node itself gets EPERM from `send` first, as from any drop on the output hook, then
        // ECONNREFUSED.)
        let refused = format!("{} @refused goto refuse", Lane::Address.key());
        let unanswered = [format!("ip daddr {service_cidr} goto refuse"), refused];
        // `priority dstnat` is refused on the output hook, so it is written as a number. The kernel asks
        // these chains about the first packet of a flow only, so refusing here costs the others nothing.
        for hook in ["prerouting", "output"] {
            s.add("chain", hook, format_args!("{{ type nat hook {hook} priority -100; policy accept; }}"));
            s.rule(hook, format_args!("ip daddr {service_cidr} jump {by_address}"));
            s.rule(hook, format_args!("ip daddr @externals jump {by_address}"));
            if hook == "output" || *refusal == Refusal::Prerouting {
                unanswered.iter().for_each(|rule| s.rule(hook, rule));
            }
            if hook == "prerouting" && *refusal == Refusal::Prerouting {
                // The route refuses too, but with an ICMP error, of which the kernel sends a pod few: it counts
                // each twice, and the redirects that a pod gets for portals as well.
                s.rule(
                    hook,
                    format_args!("ip daddr {pods_cidr} fib daddr type unicast fib daddr oif missing goto refuse"),
                );
            }
            // The kernel takes no packet of loopback elsewhere.
            s.rule(hook, format_args!("ip daddr != 127.0.0.0/8 fib daddr type local jump {by_port}"));
        }
        if *refusal == Refusal::Forward {
            let chain = "refuse-forward";
            s.add("chain", chain, "{ type filter hook forward priority -90; policy accept; }");
            unanswered.iter().for_each(|rule| s.rule(chain, rule));
        }

        // Who comes from outside through this node must go back through it.
        s.add("chain", "translate", "");
        s.rule("translate", format_args!("ip daddr {pod_cidr} return"));
        s.rule("translate", "fib daddr type local return");
        // Nodes know the way to this address, and let it pass to their pods.
        s.rule("translate", format_args!("ip daddr {pods_cidr} snat to {gateway}"));
        s.rule("translate", "masquerade");
        s.add("chain", "dnatted", "");
        let whom = match masquerade {
            Masquerade::Loops => "ip saddr . ip daddr @loops".to_owned(),
            Masquerade::Bridge => format!("ip saddr {pod_cidr} ip daddr {pod_cidr}"),
        };
        // Also of one that reaches itself through a portal address, so before what follows.
        s.rule("dnatted", format_args!("{whom} masquerade"));
        // Nobody outside has a way to these: clients keep their address, whatever the port.
        s.rule("dnatted", format_args!("ct original ip daddr {service_cidr} return"));
        for protocol in PROTOCOLS {
            let (name, ports) = (protocol.as_str(), node_ports(protocol));
            s.rule("dnatted", format_args!("meta l4proto {name} ct original proto-dst @{ports} jump translate"));
        }
        s.rule("dnatted", "ct original ip daddr @externals jump translate");
        // Before Docker's own, which would hide pods from each other behind their nodes.
        s.add("chain", "postrouting", "{ type nat hook postrouting priority 90; policy accept; }");
        s.rule("postrouting", "ct status dnat jump dnatted");
        // To itself: nothing is translated, by anybody.
        s.rule("postrouting", format_args!("ip saddr {pod_cidr} ip daddr {pods_cidr} snat to ip saddr"));
    }
}

/// How often each key is in use.
#[derive(Debug, Clone)]
struct Tally<K> {
    counts: BTreeMap<K, usize>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { counts: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Tally<K> {
    /// Takes in uses that end and begin; returns the keys that come into use and that go out of it.
    fn change(&mut self, ended: impl Iterator<Item = K>, begun: impl Iterator<Item = K>) -> (Vec<K>, Vec<K>) {
        let mut before: BTreeMap<K, bool> = BTreeMap::new();
        for key in begun {
            let count = self.counts.entry(key).or_default();
            before.entry(key).or_insert(*count > 0);
            *count += 1;
        }
        for key in ended {
            let count = self.counts.entry(key).or_default();
            before.entry(key).or_insert(*count > 0);
            *count = count.saturating_sub(1);
        }
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (key, was) in before {
            match (was, self.counts.get(&key).is_some_and(|count| *count > 0)) {
                (false, true) => come.push(key),
                (true, false) => gone.push(key),
                _ => {}
            }
            if self.counts.get(&key) == Some(&0) {
                self.counts.remove(&key);
            }
        }
        (come, gone)
    }
}

/// The chain that a portal's element leads to.
fn verdict(portal: &Portal, side: &Option<Forward>) -> Option<String> {
    let forward = side.as_ref().filter(|f| !f.refuses())?;
    Some(match forward.sticky {
        Some(_) => Sticky::chain(portal),
        None => {
            let lane = Lane::of(portal);
            lane.pick(forward.backends.len()).unwrap_or_else(|| lane.to(0))
        }
    })
}

/// Any of these chains, each as likely.
fn choice(chains: impl Iterator<Item = String>) -> String {
    let all: Vec<_> = chains.enumerate().map(|(i, chain)| format!("{i} : goto {chain}")).collect();
    format!("numgen random mod {} vmap {{ {} }}", all.len(), all.join(", "))
}

fn node_ports(protocol: Protocol) -> String {
    format!("node-{}", protocol.as_str())
}

fn key(portal: &Portal) -> String {
    let port = format!("{} . {}", portal.protocol.as_str(), portal.port);
    portal.at.address().map_or_else(|| port.clone(), |ip| format!("{ip} . {port}"))
}

/// Part of a chain's name.
fn name(portal: &Portal) -> String {
    let at = portal.at.address().map_or_else(|| "node".to_owned(), |ip| ip.to_string());
    format!("{at}-{}-{}", portal.protocol.as_str(), portal.port)
}

fn value(backend: &SocketAddrV4) -> String {
    format!("{} . {}", backend.ip(), backend.port())
}

/// Statements, one a line. Writing to a string can't fail.
struct Script<'a> {
    table: &'a str,
    text: String,
}

impl<'a> Script<'a> {
    fn new(table: &'a str) -> Self {
        Self { table, text: String::new() }
    }

    fn raw(&mut self, statement: impl Display) {
        let _ = writeln!(self.text, "{statement}");
    }

    fn add(&mut self, what: &str, name: &str, body: impl Display) {
        let table = self.table;
        self.raw(format_args!("add {what} ip {table} {name} {body}"));
    }

    fn delete(&mut self, what: &str, name: &str) {
        let table = self.table;
        self.raw(format_args!("delete {what} ip {table} {name}"));
    }

    fn flush(&mut self, chain: &str) {
        let table = self.table;
        self.raw(format_args!("flush chain ip {table} {chain}"));
    }

    /// Elements before and after, of which some are the same.
    fn difference(&mut self, set: &str, changes: impl Iterator<Item = (Option<String>, Option<String>)>) {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (before, after) in changes.filter(|(before, after)| before != after) {
            gone.extend(before);
            come.extend(after);
        }
        self.elements("delete", set, &gone);
        self.elements("add", set, &come);
    }

    fn rule(&mut self, chain: &str, rule: impl Display) {
        let table = self.table;
        self.raw(format_args!("add rule ip {table} {chain} {rule}"));
    }

    /// A look-up, and again for a packet that missed an element which was being replaced.
    fn twice(&mut self, chain: &str, rule: impl Display) {
        self.rule(chain, &rule);
        self.rule(chain, rule);
    }

    fn elements(&mut self, verb: &str, set: &str, elements: &[String]) {
        if !elements.is_empty() {
            let table = self.table;
            self.raw(format_args!("{verb} element ip {table} {set} {{ {} }}", elements.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests;
