//! The facts of services and endpoints that have names, kept from their watches.
//!
//! Invariant: one entry for each object that the last list or event showed, found by name and by
//! address; a change touches the entries of its object only. What a change means is worked out
//! before the zone is locked ([`Update`]), and what it replaces is dropped after.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    net::Ipv4Addr,
};

use coracle_api::{
    TypedObject,
    client::Change,
    core::{EndpointAddress, Endpoints, Service},
};
use hickory_proto::rr::Name;
use ipnet::Ipv4Net;

/// What of the cluster has names here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `cluster.local`, in lower case.
    pub domain: String,
    /// The cluster's service range.
    pub service_cidr: Ipv4Net,
    /// The cluster's pod range.
    pub pods_cidr: Ipv4Net,
}

/// Namespace and name of an object.
pub(super) type Key = (Box<str>, Box<str>);

/// A service's place in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It has an address.
    Portal(Ipv4Addr),
    /// Its endpoints have.
    Headless,
    /// It is another name for something.
    Alias(Box<Name>),
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: Box<str>,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: Box<str>,
    pub(super) number: u16,
}

/// A service, reduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    pub(super) place: Place,
    /// Endpoints have names before they are ready.
    pub(super) unready_too: bool,
    pub(super) ports: Box<[Port]>,
}

/// An address of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ip: Ipv4Addr,
    pub(super) hostname: Option<Box<str>>,
    pub(super) ready: bool,
}

impl Address {
    /// The endpoint's name below its service's: its host name, or its address with dashes.
    pub(super) fn label(&self) -> String {
        self.hostname.as_deref().map_or_else(|| dashed(self.ip), str::to_owned)
    }
}

/// Addresses that have the same ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subset {
    pub(super) addresses: Box<[Address]>,
    pub(super) ports: Box<[Port]>,
}

/// `a-b-c-d`
pub(super) fn dashed(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("{a}-{b}-{c}-{d}")
}

/// Values by namespace and name. A namespace is there as long as something is in it.
#[derive(Debug)]
struct ByName<T>(HashMap<Box<str>, HashMap<Box<str>, T>>);

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> ByName<T> {
    fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.0.get(namespace)?.get(name)
    }

    fn insert(&mut self, (namespace, name): Key, value: T) -> Option<T> {
        self.0.entry(namespace).or_default().insert(name, value)
    }

    fn remove(&mut self, (namespace, name): &Key) -> Option<T> {
        let inside = self.0.get_mut(namespace)?;
        let removed = inside.remove(name);
        if inside.is_empty() {
            self.0.remove(namespace);
        }
        removed
    }
}

/// All services, by name and by address.
#[derive(Debug, Default)]
pub(super) struct Services {
    listed: bool,
    named: ByName<ServiceFacts>,
    at: HashMap<Ipv4Addr, Key>,
}

impl Services {
    fn insert(&mut self, key: Key, facts: ServiceFacts) -> Option<ServiceFacts> {
        let address = address_of(&facts);
        let before = self.named.insert(key.clone(), facts);
        self.forget(&key, before.as_ref());
        if let Some(ip) = address {
            self.at.insert(ip, key);
        }
        before
    }

    fn remove(&mut self, key: &Key) -> Option<ServiceFacts> {
        let before = self.named.remove(key);
        self.forget(key, before.as_ref());
        before
    }

    /// An address may have gone to another service before this one's end was heard of.
    fn forget(&mut self, key: &Key, before: Option<&ServiceFacts>) {
        if let Some(ip) = before.and_then(address_of)
            && self.at.get(&ip) == Some(key)
        {
            self.at.remove(&ip);
        }
    }
}

fn address_of(facts: &ServiceFacts) -> Option<Ipv4Addr> {
    match facts.place {
        Place::Portal(ip) => Some(ip),
        Place::Headless | Place::Alias(_) => None,
    }
}

/// The endpoints of all services, by name and by address.
#[derive(Debug, Default)]
pub(super) struct EndpointSets {
    listed: bool,
    named: ByName<Box<[Subset]>>,
    /// A pod may serve several services.
    at: BTreeSet<(Ipv4Addr, Key)>,
}

impl EndpointSets {
    fn insert(&mut self, key: Key, subsets: Box<[Subset]>) -> Option<Box<[Subset]>> {
        let before = self.remove(&key);
        self.at.extend(addresses(&subsets).map(|ip| (ip, key.clone())));
        self.named.insert(key, subsets);
        before
    }

    fn remove(&mut self, key: &Key) -> Option<Box<[Subset]>> {
        let before = self.named.remove(key)?;
        for ip in addresses(&before) {
            self.at.remove(&(ip, key.clone()));
        }
        Some(before)
    }
}

fn addresses(subsets: &[Subset]) -> impl Iterator<Item = Ipv4Addr> {
    subsets.iter().flat_map(|s| s.addresses.iter().map(|a| a.ip))
}

/// What a change does to the zone. After [`Zone::apply`] it holds what was there before.
#[derive(Debug)]
pub(super) enum Update {
    /// A list of all services.
    Services(Services),
    /// One service; none where it has no name any more.
    Service(Key, Option<ServiceFacts>),
    /// A list of all endpoints.
    EndpointSets(EndpointSets),
    /// The endpoints of one service.
    Endpoints(Key, Option<Box<[Subset]>>),
}

impl Update {
    /// Of a change of services. Nothing where the zone stays as it is.
    pub(super) fn of_services(change: Change<Service>) -> Option<Self> {
        Some(match change {
            Change::Replaced(all) => {
                let mut services = Services { listed: true, ..Services::default() };
                for service in &all {
                    if let Some(facts) = service_facts(service) {
                        services.insert(key_of(&**service), facts);
                    }
                }
                Self::Services(services)
            }
            Change::Applied(service) => Self::Service(key_of(&*service), service_facts(&service)),
            Change::Deleted(service) => Self::Service(key_of(&*service), None),
            // What is known stays true for want of anything better.
            Change::Interrupted(_) => return None,
        })
    }

    /// Of a change of endpoints.
    pub(super) fn of_endpoints(change: Change<Endpoints>) -> Option<Self> {
        Some(match change {
            Change::Replaced(all) => {
                let mut sets = EndpointSets { listed: true, ..EndpointSets::default() };
                for endpoints in &all {
                    sets.insert(key_of(&**endpoints), subsets_of(endpoints));
                }
                Self::EndpointSets(sets)
            }
            Change::Applied(endpoints) => Self::Endpoints(key_of(&*endpoints), Some(subsets_of(&endpoints))),
            Change::Deleted(endpoints) => Self::Endpoints(key_of(&*endpoints), None),
            Change::Interrupted(_) => return None,
        })
    }
}

/// The names of a cluster.
#[derive(Debug)]
pub(super) struct Zone {
    site: Site,
    services: Services,
    endpoints: EndpointSets,
}

impl Zone {
    /// Nothing seen yet.
    pub(super) fn new(site: Site) -> Self {
        Self { site, services: Services::default(), endpoints: EndpointSets::default() }
    }

    /// Whether both kinds have been listed; before that nobody can tell what does not exist.
    pub(super) fn listed(&self) -> bool {
        self.services.listed && self.endpoints.listed
    }

    /// Takes in a change, and leaves in `update` what it replaced.
    pub(super) fn apply(&mut self, update: &mut Update) {
        match update {
            Update::Services(services) => mem::swap(&mut self.services, services),
            Update::EndpointSets(sets) => mem::swap(&mut self.endpoints, sets),
            Update::Service(key, facts) => {
                *facts = match facts.take() {
                    Some(facts) => self.services.insert(key.clone(), facts),
                    None => self.services.remove(key),
                };
            }
            Update::Endpoints(key, subsets) => {
                *subsets = match subsets.take() {
                    Some(subsets) => self.endpoints.insert(key.clone(), subsets),
                    None => self.endpoints.remove(key),
                };
            }
        }
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.services.named.0.contains_key(namespace)
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&ServiceFacts> {
        self.services.named.get(namespace, name)
    }

    /// The service that has an address.
    pub(super) fn service_at(&self, ip: Ipv4Addr) -> Option<&Key> {
        self.services.at.get(&ip)
    }

    pub(super) fn subsets(&self, namespace: &str, name: &str) -> &[Subset] {
        self.endpoints.named.get(namespace, name).map_or(&[], |subsets| subsets)
    }

    /// The services that have an endpoint at an address.
    pub(super) fn endpoints_at(&self, ip: Ipv4Addr) -> impl Iterator<Item = &Key> {
        let first = (ip, Key::default());
        self.endpoints.at.range(first..).take_while(move |(at, _)| *at == ip).map(|(_, key)| key)
    }
}

fn key_of<T: TypedObject>(object: &T) -> Key {
    let meta = object.metadata();
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    (text(&meta.namespace), text(&meta.name))
}

/// `None` for a service without a name: it has no address yet, or not one of the kind served here.
fn service_facts(service: &Service) -> Option<ServiceFacts> {
    let spec = service.spec.as_ref()?;
    let place = if spec.type_.as_deref() == Some("ExternalName") {
        let mut target = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
        target.set_fqdn(true);
        Place::Alias(target.into())
    } else {
        match spec.cluster_ip.as_deref()? {
            "None" => Place::Headless,
            ip => Place::Portal(ip.parse().ok()?),
        }
    };
    let ports = spec.ports.iter().flatten();
    Some(ServiceFacts {
        place,
        unready_too: spec.publish_not_ready_addresses == Some(true),
        ports: ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect(),
    })
}

fn subsets_of(endpoints: &Endpoints) -> Box<[Subset]> {
    let address = |a: &EndpointAddress, ready| {
        let hostname = a.hostname.as_deref().filter(|h| !h.is_empty()).map(Into::into);
        Some(Address { ip: a.ip.parse().ok()?, hostname, ready })
    };
    let subsets = endpoints.subsets.iter().flatten().map(|subset| {
        let ready = subset.addresses.iter().flatten().filter_map(|a| address(a, true));
        let unready = subset.not_ready_addresses.iter().flatten().filter_map(|a| address(a, false));
        let ports = subset.ports.iter().flatten();
        Subset {
            addresses: ready.chain(unready).collect(),
            ports: ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect(),
        }
    });
    subsets.collect()
}

/// A port without a name has no name in DNS either.
fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    let name = name.filter(|name| !name.is_empty())?;
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    Some(Port { name: name.into(), protocol: protocol.into(), number: u16::try_from(number).ok()? })
}
