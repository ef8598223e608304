//! The answer to a question, from what the zone knows. Pure; the order of addresses is the only
//! thing left to chance, which is passed in.
//!
//! Names and records follow version 1.1.0 of Kubernetes' DNS specification. Invariant: a name that
//! does not exist is answered NXDOMAIN and one that has no record of the type asked for is not,
//! since resolvers go on with their search list after the one and stop after the other.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, PTR, SOA, SRV, TXT},
    },
};
use ipnet::Ipv4Net;
use rand::{Rng, seq::SliceRandom};

use super::zone::{Address, Place, Port, ServiceFacts, Site, Subset, Zone, dashed};

/// Seconds for which a resolver may keep an answer, or that there is none.
const TTL: u32 = 5;
/// The version of the specification.
const SCHEMA: &str = "1.1.0";
/// Records of one answer; a service with more endpoints shows a random part of them.
const RECORDS_MAX: usize = 500;
/// Aliases of aliases.
const ALIASES_MAX: usize = 8;

/// What is known, and what is left to ask somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// How it went.
    pub(super) code: ResponseCode,
    /// Whether the names are the cluster's own.
    pub(super) authoritative: bool,
    /// The records asked for, with the aliases that lead to them.
    pub(super) answers: Vec<Record>,
    /// Whose word it is that there is nothing.
    pub(super) authorities: Vec<Record>,
    /// Addresses of names in the answers.
    pub(super) additionals: Vec<Record>,
    /// What the host's resolvers must be asked to complete the answer.
    pub(super) upstream: Option<Query>,
}

impl Answer {
    /// No more than a code.
    pub(super) fn only(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            upstream: None,
        }
    }

    fn ask(query: Query) -> Self {
        Self { upstream: Some(query), ..Self::only(ResponseCode::NoError) }
    }
}

/// Answers a question of class IN.
pub(super) fn answer(zone: &Zone, question: &Query, rng: &mut impl Rng) -> Answer {
    let (mut name, kind) = (question.name().clone(), question.query_type());
    let mut answer = Answer { authoritative: true, ..Answer::only(ResponseCode::NoError) };
    for _ in 0..ALIASES_MAX {
        let lower = name.to_lowercase();
        // A label that is no text is in no name of ours, but may be below one.
        let labels: Vec<_> = lower.iter().map(String::from_utf8_lossy).collect();
        let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
        let Some((apex, whose)) = whose(zone.site(), &labels) else {
            let query = Query::query(name, kind);
            if answer.answers.is_empty() {
                return Answer::ask(query);
            }
            answer.upstream = Some(query);
            return answer;
        };
        if !zone.listed() {
            return Answer::only(ResponseCode::ServFail);
        }
        let found = match whose {
            Whose::Forward(path) => find(zone, path, rng),
            Whose::Reverse(Reversed::Range) => Found::empty(),
            Whose::Reverse(Reversed::Address(ip)) => pointers(zone, ip),
            Whose::Reverse(Reversed::Inside) => Found::Missing,
        };
        match found {
            Found::Alias(target) => {
                answer.answers.push(record(name, RData::CNAME(CNAME(target.clone()))));
                if matches!(kind, RecordType::CNAME | RecordType::ANY) {
                    return answer;
                }
                name = target;
            }
            Found::Missing => {
                answer.code = ResponseCode::NXDomain;
                answer.authorities.extend(soa(zone.site(), &apex));
                return answer;
            }
            Found::Node { data, additionals } => {
                let before = answer.answers.len();
                let asked = |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
                answer.answers.extend(data.into_iter().filter(asked).map(|data| record(name.clone(), data)));
                if answer.answers.len() == before {
                    answer.authorities.extend(soa(zone.site(), &apex));
                } else {
                    answer.additionals = additionals;
                }
                return answer;
            }
        }
    }
    Answer::only(ResponseCode::ServFail)
}

/// Which part of the cluster's names a name is in.
enum Whose<'a> {
    /// Below the domain, at these labels.
    Forward(&'a [&'a str]),
    /// Below `in-addr.arpa`, at an address of the cluster.
    Reverse(Reversed),
}

/// What octets before `in-addr.arpa` mean.
enum Reversed {
    /// Less than an address.
    Range,
    Address(Ipv4Addr),
    /// More than one; nothing is there.
    Inside,
}

/// `None` for a name that is not the cluster's; otherwise with the top of its zone.
fn whose<'a>(site: &Site, labels: &'a [&'a str]) -> Option<(String, Whose<'a>)> {
    let domain = site.domain.split('.').filter(|label| !label.is_empty());
    if let Some(path) = strip_suffix(labels, domain) {
        return Some((site.domain.clone(), Whose::Forward(path)));
    }
    let octets = strip_suffix(labels, ["in-addr", "arpa"].into_iter())?;
    let (range, reversed) = reversed(octets)?;
    let zone = [site.service_cidr, site.pods_cidr].into_iter().find(|zone| zone.contains(&range))?;
    Some((reverse_apex(zone), Whose::Reverse(reversed)))
}

fn strip_suffix<'a, 's>(
    labels: &'a [&'a str],
    suffix: impl DoubleEndedIterator<Item = &'s str>,
) -> Option<&'a [&'a str]> {
    let mut rest = labels;
    for label in suffix.rev() {
        let (last, before) = rest.split_last()?;
        if *last != label {
            return None;
        }
        rest = before;
    }
    Some(rest)
}

/// What labels before `in-addr.arpa` mean, and the range that they are in: that of the last octets.
fn reversed(labels: &[&str]) -> Option<(Ipv4Net, Reversed)> {
    let octet = |text: &&str| text.parse().ok().filter(|number: &u8| number.to_string() == *text);
    let (mut bytes, mut count) = ([0; 4], 0);
    for (byte, read) in bytes.iter_mut().zip(labels.iter().rev().map_while(octet)) {
        *byte = read;
        count += 1;
    }
    let reversed = match count {
        _ if usize::from(count) < labels.len() => Reversed::Inside,
        4 => Reversed::Address(bytes.into()),
        _ => Reversed::Range,
    };
    Some((Ipv4Net::new(bytes.into(), count * 8).ok()?, reversed))
}

/// The name of the smallest range of whole octets around a range.
fn reverse_apex(range: Ipv4Net) -> String {
    let whole = usize::from(range.prefix_len() / 8);
    let octets = range.network().octets();
    let labels = octets[..whole].iter().rev().map(|octet| format!("{octet}."));
    labels.chain(["in-addr.arpa".to_owned()]).collect()
}

/// What is at a name of the cluster.
enum Found {
    /// No such name, nor any below it.
    Missing,
    /// The records at it, of all types.
    Node { data: Vec<RData>, additionals: Vec<Record> },
    /// Another name.
    Alias(Name),
}

impl Found {
    fn empty() -> Self {
        Self::records(Vec::new())
    }

    fn records(data: Vec<RData>) -> Self {
        Self::Node { data, additionals: Vec::new() }
    }

    /// A name exists for its records only.
    fn some(data: Vec<RData>) -> Self {
        if data.is_empty() { Self::Missing } else { Self::records(data) }
    }

    fn exists(exists: bool) -> Self {
        if exists { Self::empty() } else { Self::Missing }
    }
}

/// What is at a path below the domain.
fn find(zone: &Zone, path: &[&str], rng: &mut impl Rng) -> Found {
    match *path {
        [] => Found::records(soa(zone.site(), &zone.site().domain).map(|record| record.data).into_iter().collect()),
        ["dns-version"] => Found::records(vec![RData::TXT(TXT::new(vec![SCHEMA.to_owned()]))]),
        ["svc" | "pod"] | [_, "pod"] => Found::empty(),
        [ip, _, "pod"] => {
            let inside = |ip: &Ipv4Addr| zone.site().pods_cidr.contains(ip);
            Found::some(undashed(ip).filter(inside).map(|ip| RData::A(A(ip))).into_iter().collect())
        }
        [namespace, "svc"] => Found::exists(zone.has_namespace(namespace)),
        [.., name, namespace, "svc"] => match Target::of(zone, namespace, name) {
            Some(service) => service.find(&path[..path.len() - 3], rng),
            None => Found::Missing,
        },
        _ => Found::Missing,
    }
}

/// A service with what belongs to it.
struct Target<'a> {
    site: &'a Site,
    namespace: &'a str,
    name: &'a str,
    facts: &'a ServiceFacts,
    subsets: &'a [Subset],
}

impl<'a> Target<'a> {
    fn of(zone: &'a Zone, namespace: &'a str, name: &'a str) -> Option<Self> {
        let facts = zone.service(namespace, name)?;
        Some(Self { site: zone.site(), namespace, name, facts, subsets: zone.subsets(namespace, name) })
    }

    fn find(&self, path: &[&str], rng: &mut impl Rng) -> Found {
        match (path, &self.facts.place) {
            ([], Place::Alias(target)) => Found::Alias(Name::clone(target)),
            (_, Place::Alias(_)) => Found::Missing,
            ([], Place::Portal(ip)) => Found::records(vec![RData::A(A(*ip))]),
            ([], Place::Headless) => Found::some(self.addresses(rng, |_| true)),
            ([label], _) => match label.strip_prefix('_') {
                Some(protocol) => Found::exists(self.ports().any(|port| &*port.protocol == protocol)),
                None => Found::some(self.addresses(rng, |address| address.label() == *label)),
            },
            ([port, protocol], _) => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => self.servers(port, protocol, rng),
                _ => Found::Missing,
            },
            _ => Found::Missing,
        }
    }

    /// Endpoints that are there for clients.
    fn visible(&self, address: &Address) -> bool {
        address.ready || self.facts.unready_too
    }

    /// Ports with a name: a headless service's are those of its endpoints.
    fn ports(&self) -> impl Iterator<Item = &Port> {
        let own = if self.facts.place == Place::Headless { &[][..] } else { &self.facts.ports };
        let subsets = if self.facts.place == Place::Headless { self.subsets } else { &[] };
        let used = subsets.iter().filter(|subset| subset.addresses.iter().any(|address| self.visible(address)));
        own.iter().chain(used.flat_map(|subset| &subset.ports))
    }

    fn addresses(&self, rng: &mut impl Rng, wanted: impl Fn(&Address) -> bool) -> Vec<RData> {
        let addresses = self.subsets.iter().flat_map(|subset| &subset.addresses);
        let addresses = addresses.filter(|address| self.visible(address) && wanted(address));
        let mut ips: Vec<Ipv4Addr> = addresses.map(|address| address.ip).collect();
        ips.sort_unstable();
        ips.dedup();
        let (chosen, _) = ips.partial_shuffle(rng, RECORDS_MAX);
        chosen.iter().map(|ip| RData::A(A(*ip))).collect()
    }

    /// Where a named port is served, with the addresses of the servers.
    fn servers(&self, port: &str, protocol: &str, rng: &mut impl Rng) -> Found {
        let is = |p: &&Port| *p.name == *port && *p.protocol == *protocol;
        let mut servers: Vec<(u16, String, Ipv4Addr)> = match self.facts.place {
            Place::Portal(ip) => {
                self.facts.ports.iter().filter(is).map(|port| (port.number, String::new(), ip)).collect()
            }
            _ => {
                let ports = self.subsets.iter().flat_map(|subset| subset.ports.iter().map(move |port| (subset, port)));
                let servers = ports.filter(|(_, port)| is(port)).flat_map(|(subset, port)| {
                    let addresses = subset.addresses.iter().filter(|address| self.visible(address));
                    addresses.map(|address| (port.number, format!("{}.", address.label()), address.ip))
                });
                servers.collect()
            }
        };
        servers.sort_unstable();
        servers.dedup();
        let (chosen, _) = servers.partial_shuffle(rng, RECORDS_MAX);
        if chosen.is_empty() {
            return Found::Missing;
        }
        let (mut data, mut additionals) = (Vec::new(), Vec::new());
        for (number, label, ip) in chosen {
            let Some(target) = service_name(self.site, self.namespace, self.name, label) else { continue };
            let srv = RData::SRV(SRV::new(0, 100, *number, target.clone()));
            // Endpoints that share a host name share a server.
            if !data.contains(&srv) {
                data.push(srv);
            }
            additionals.push(record(target, RData::A(A(*ip))));
        }
        Found::Node { data, additionals }
    }
}

/// The names of an address of the cluster.
fn pointers(zone: &Zone, ip: Ipv4Addr) -> Found {
    let site = zone.site();
    if let Some((namespace, name)) = zone.service_at(ip) {
        return Found::some(service_name(site, namespace, name, "").map(|n| RData::PTR(PTR(n))).into_iter().collect());
    }
    let mut names = Vec::new();
    for (namespace, name) in zone.endpoints_at(ip).take(RECORDS_MAX) {
        let Some(service) = Target::of(zone, namespace, name) else { continue };
        let addresses = service.subsets.iter().flat_map(|subset| &subset.addresses);
        for address in addresses.filter(|address| address.ip == ip && service.visible(address)) {
            let pointer = service_name(site, namespace, name, &format!("{}.", address.label()));
            let pointer = pointer.map(|name| RData::PTR(PTR(name)));
            names.extend(pointer.filter(|pointer| !names.contains(pointer)));
        }
    }
    names.truncate(RECORDS_MAX);
    Found::some(names)
}

/// `<label.>name.namespace.svc.<domain>.`; `None` where that is longer than names can be.
fn service_name(site: &Site, namespace: &str, name: &str, label: &str) -> Option<Name> {
    Name::from_ascii(format!("{label}{name}.{namespace}.svc.{}.", site.domain)).ok()
}

/// The address that a label means, in the one form that is written.
fn undashed(label: &str) -> Option<Ipv4Addr> {
    let ip: Ipv4Addr = label.replace('-', ".").parse().ok()?;
    (dashed(ip) == label).then_some(ip)
}

fn record(name: Name, data: RData) -> Record {
    Record::from_rdata(name, TTL, data)
}

/// The record that says for how long to believe that there is nothing.
fn soa(site: &Site, apex: &str) -> Option<Record> {
    let name = |text: String| Name::from_ascii(text).ok();
    let (server, mailbox) = (format!("ns.dns.{}.", site.domain), format!("hostmaster.{}.", site.domain));
    let soa = SOA::new(name(server)?, name(mailbox)?, 1, 7200, 1800, 86_400, TTL);
    Some(record(name(format!("{apex}."))?, RData::SOA(soa)))
}

#[cfg(test)]
mod tests;
