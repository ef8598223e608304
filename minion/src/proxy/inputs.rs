//! The facts of services and endpoints that matter to the proxy, kept from their watches.
//!
//! Invariants: holds one entry for each object that the last list or event showed, reduced to
//! portals and addresses; an object that means nothing to the proxy leaves an empty entry. `claims`
//! has every portal of every service, and `touched` every portal that may lead elsewhere than when it
//! was last taken, so that a change costs what it touches and not what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use coracle_api::{
    TypedObject,
    client::Change,
    core::{Endpoints, Service},
};
use ipnet::Ipv4Net;

use super::table::{Backends, Forward, Frontend, Portal, Protocol};

/// Seconds of session affinity when the service names none, as in core/v1.
const AFFINITY_SECONDS: u32 = 10_800;

/// Namespace and name.
type Key = Arc<(String, String)>;
/// Name and protocol: what a port of a service and a port of its endpoints have in common.
type PortKey = (String, Protocol);

/// What of the cluster this node's proxy serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// The node's name, for traffic policies `Local`.
    pub node: String,
    /// The cluster's service range. Portals outside of it are not served.
    pub service_cidr: Ipv4Net,
    /// The ranges in which services may have external addresses.
    pub external: Vec<Ipv4Net>,
}

/// A service, reduced.
#[derive(Debug, Default)]
struct Facts {
    ports: Vec<(Portal, PortKey)>,
    sticky: Option<u32>,
    /// Only to backends on this node: from pods and nodes, from outside.
    local: (bool, bool),
}

/// The ready backends of one port.
#[derive(Debug, Clone)]
struct Ready {
    all: Backends,
    /// Those on this node.
    local: Backends,
}

type Ports = BTreeMap<PortKey, Ready>;

/// Services and endpoints as last seen.
#[derive(Debug, Default)]
pub struct Inputs {
    site: Site,
    services: BTreeMap<Key, Facts>,
    endpoints: BTreeMap<Key, Ports>,
    /// Who wants to have which portal. The first one has it.
    claims: BTreeSet<(Portal, Key)>,
    touched: BTreeSet<Portal>,
    services_listed: bool,
    endpoints_listed: bool,
    endpoints_changes: u64,
}

impl Inputs {
    /// Nothing seen yet.
    pub fn new(site: Site) -> Self {
        Self { site, ..Self::default() }
    }

    /// Whether both kinds have been listed; before that an empty table would cut everybody off.
    pub fn listed(&self) -> bool {
        self.services_listed && self.endpoints_listed
    }

    /// Takes in a change of services.
    pub fn apply_service(&mut self, change: Change<Service>) {
        match change {
            Change::Replaced(all) => {
                self.services_listed = true;
                self.touched.extend(self.claims.iter().map(|(portal, _)| *portal));
                self.services = all.iter().map(|s| (key_of(&**s), facts_of(s, &self.site))).collect();
                self.claims = self.services.iter().flat_map(|(key, facts)| facts.claims(key)).collect();
                self.touched.extend(self.claims.iter().map(|(portal, _)| *portal));
            }
            Change::Applied(service) => {
                let key = key_of(&*service);
                self.withdraw(&key);
                let facts = facts_of(&service, &self.site);
                self.touched.extend(facts.portals());
                self.claims.extend(facts.claims(&key));
                self.services.insert(key, facts);
            }
            Change::Deleted(service) => self.withdraw(&key_of(&*service)),
            Change::Interrupted(error) => tracing::debug!(kind = "services", error, "the proxy keeps what it knows"),
        }
    }

    fn withdraw(&mut self, key: &Key) {
        let Some(facts) = self.services.remove(key) else { return };
        self.touched.extend(facts.portals());
        for claim in facts.claims(key) {
            self.claims.remove(&claim);
        }
    }

    /// How many changes of endpoints were taken in.
    pub fn endpoints_changes(&self) -> u64 {
        self.endpoints_changes
    }

    /// Takes in a change of endpoints.
    pub fn apply_endpoints(&mut self, change: Change<Endpoints>) {
        self.endpoints_changes += 1;
        let key = match change {
            Change::Replaced(all) => {
                self.endpoints_listed = true;
                self.endpoints = all.iter().map(|e| (key_of(&**e), ready_of(e, &self.site))).collect();
                self.touched.extend(self.claims.iter().map(|(portal, _)| *portal));
                return;
            }
            Change::Applied(endpoints) => {
                let key = key_of(&*endpoints);
                self.endpoints.insert(Arc::clone(&key), ready_of(&endpoints, &self.site));
                key
            }
            Change::Deleted(endpoints) => {
                let key = key_of(&*endpoints);
                self.endpoints.remove(&key);
                key
            }
            Change::Interrupted(error) => {
                tracing::debug!(kind = "endpoints", error, "the proxy keeps what it knows");
                return;
            }
        };
        self.touched.extend(self.services.get(&key).into_iter().flat_map(Facts::portals));
    }

    /// The portals that may lead elsewhere than at the last call.
    pub fn take_touched(&mut self) -> BTreeSet<Portal> {
        std::mem::take(&mut self.touched)
    }

    /// Every portal and what it does, in order. Where two services claim one, the first by namespace
    /// and name has it.
    pub fn portals(&self) -> impl Iterator<Item = (Portal, Forward)> {
        let mut last = None;
        let firsts = self.claims.iter().filter(move |(portal, _)| last.replace(*portal) != Some(*portal));
        firsts.filter_map(|(portal, key)| Some((*portal, self.forward_of(portal, key)?)))
    }

    /// What a portal does, if a service has it.
    pub fn forward(&self, portal: &Portal) -> Option<Forward> {
        let first = self.claims.range((*portal, Key::default())..).next();
        let (_, key) = first.filter(|(claimed, _)| claimed == portal)?;
        self.forward_of(portal, key)
    }

    fn forward_of(&self, portal: &Portal, key: &Key) -> Option<Forward> {
        let facts = self.services.get(key)?;
        let (_, port) = facts.ports.iter().find(|(own, _)| own == portal)?;
        let local = if matches!(portal.at, Frontend::Service(_)) { facts.local.0 } else { facts.local.1 };
        let ready = self.endpoints.get(key).and_then(|ports| ports.get(port));
        let backends = ready.map(|ready| if local { &ready.local } else { &ready.all }).cloned();
        Some(Forward { backends: backends.unwrap_or_else(|| Backends::from([])), sticky: facts.sticky })
    }
}

impl Facts {
    fn portals(&self) -> impl Iterator<Item = Portal> {
        self.ports.iter().map(|(portal, _)| *portal)
    }

    fn claims(&self, key: &Key) -> impl Iterator<Item = (Portal, Key)> {
        self.portals().map(|portal| (portal, Arc::clone(key)))
    }
}

fn key_of<T: TypedObject>(object: &T) -> Key {
    let meta = object.metadata();
    Arc::new((meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()))
}

/// Portals of a service: none without an address of its own in the service range (headless,
/// ExternalName).
fn facts_of(service: &Service, site: &Site) -> Facts {
    let Some(spec) = &service.spec else { return Facts::default() };
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let type_ = spec.type_.as_deref().unwrap_or_default();
    let Some(ip) = address.filter(|ip| site.service_cidr.contains(ip) && type_ != "ExternalName") else {
        return Facts::default();
    };
    let external = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse::<Ipv4Addr>().ok());
    let external = external.filter(|ip| site.external.iter().any(|range| range.contains(ip)) && is_backend(ip, site));
    let addresses: Vec<Frontend> =
        std::iter::once(Frontend::Service(ip)).chain(external.map(Frontend::External)).collect();
    let node_ports = matches!(type_, "NodePort" | "LoadBalancer");
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let key = || (port.name.clone().unwrap_or_default(), protocol);
        if let Some(number) = port_number(port.port) {
            ports.extend(addresses.iter().map(|at| (Portal { at: *at, protocol, port: number }, key())));
        }
        if let Some(number) = port.node_port.and_then(port_number).filter(|_| node_ports) {
            ports.push((Portal { at: Frontend::Node, protocol, port: number }, key()));
        }
    }
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    Facts {
        ports,
        sticky: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
            let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
            seconds.filter(|s| *s > 0).unwrap_or(AFFINITY_SECONDS)
        }),
        local: (is_local(&spec.internal_traffic_policy), is_local(&spec.external_traffic_policy)),
    }
}

/// Ready addresses by port. Addresses that a packet must never be sent to on behalf of a client
/// (loopback, multicast, another portal) are left out.
fn ready_of(endpoints: &Endpoints, site: &Site) -> Ports {
    let mut all: BTreeMap<PortKey, Vec<(SocketAddrV4, bool)>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let addresses: Vec<(Ipv4Addr, bool)> = (subset.addresses.iter().flatten())
            .filter_map(|a| Some((a.ip.parse().ok()?, a.node_name.as_deref() == Some(site.node.as_str()))))
            .filter(|(ip, _)| is_backend(ip, site))
            .collect();
        for port in subset.ports.iter().flatten() {
            let (Some(protocol), Some(number)) = (Protocol::parse(port.protocol.as_deref()), port_number(port.port))
            else {
                continue;
            };
            let key = (port.name.clone().unwrap_or_default(), protocol);
            let backends = addresses.iter().map(|(ip, local)| (SocketAddrV4::new(*ip, number), *local));
            all.entry(key).or_default().extend(backends);
        }
    }
    let sorted = all.into_iter().map(|(key, mut backends)| {
        backends.sort_unstable();
        backends.dedup_by_key(|(backend, _)| *backend);
        let local = backends.iter().filter(|(_, local)| *local).map(|(backend, _)| *backend).collect();
        (key, Ready { all: backends.iter().map(|(backend, _)| *backend).collect(), local })
    });
    sorted.collect()
}

fn is_backend(ip: &Ipv4Addr, site: &Site) -> bool {
    let reserved = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
    !reserved && !ip.is_link_local() && !site.service_cidr.contains(ip)
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}

#[cfg(test)]
mod tests;
