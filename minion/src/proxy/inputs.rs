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
        let (claimed, key) = self.claims.range((*portal, Key::default())..).next()?;
        self.forward_of(portal, key).filter(|_| claimed == portal)
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
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{
        super::table::{Table, diff},
        *,
    };

    fn site() -> Site {
        let external = vec!["203.0.113.0/24".parse().unwrap()];
        Site { node: "n1".into(), service_cidr: "10.0.0.0/16".parse().unwrap(), external }
    }

    fn inputs(services: Vec<serde_json::Value>, endpoints: Vec<serde_json::Value>) -> Inputs {
        let mut inputs = Inputs::new(site());
        let parse = |v: Vec<serde_json::Value>| v.into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
        inputs.apply_service(Change::replaced(parse(services)));
        let endpoints = endpoints.into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
        inputs.apply_endpoints(Change::replaced(endpoints));
        inputs
    }

    fn service(name: &str, spec: serde_json::Value) -> serde_json::Value {
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"namespace": "default", "name": name}, "spec": spec})
    }

    fn endpoints(name: &str, subsets: serde_json::Value) -> serde_json::Value {
        let meta = json!({"namespace": "default", "name": name});
        json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": meta, "subsets": subsets})
    }

    fn check(inputs: &Inputs, expected: &[(&str, &[&str])]) {
        let table = Table::build(inputs);
        let got: Vec<_> = table
            .portals()
            .iter()
            .map(|(p, f)| {
                let backends: Vec<_> = f.backends.iter().map(ToString::to_string).collect();
                let at = p.at.address().map_or_else(|| "node".into(), |ip| ip.to_string());
                (format!("{}/{at}:{}", p.protocol.as_str(), p.port), backends)
            })
            .collect();
        let expected: Vec<_> =
            expected.iter().map(|(p, b)| (p.to_string(), b.iter().map(ToString::to_string).collect())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn ports_find_their_backends_by_name_and_protocol() {
        let spec = json!({"clusterIP": "10.0.0.5", "ports": [
            {"name": "web", "port": 80, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]});
        let subsets = json!([
            {"addresses": [{"ip": "10.244.0.3"}, {"ip": "10.244.0.2"}],
             "ports": [{"name": "web", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]},
            {"addresses": [{"ip": "10.244.0.4"}, {"ip": "10.244.0.2"}], "ports": [{"name": "web", "port": 8080}]}]);
        let inputs = inputs(vec![service("a", spec)], vec![endpoints("a", subsets)]);
        check(
            &inputs,
            &[
                ("tcp/10.0.0.5:53", &[]),
                ("tcp/10.0.0.5:80", &["10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080"]),
                ("udp/10.0.0.5:53", &["10.244.0.2:5353", "10.244.0.3:5353"]),
            ],
        );
    }

    #[test]
    fn services_without_a_portal_are_skipped() {
        let ports = json!([{"port": 80}]);
        let specs = [
            json!({"clusterIP": "None", "ports": ports}),
            json!({"clusterIP": "", "ports": ports}),
            json!({"ports": ports}),
            json!({"clusterIP": "10.0.0.6", "type": "ExternalName", "externalName": "x", "ports": ports}),
            json!({"clusterIP": "10.9.0.6", "ports": ports}),
            json!({"clusterIP": "fd00::1", "ports": ports}),
            json!({"clusterIP": "10.0.0.7", "ports": [{"port": 0}, {"port": 70000}, {"port": 1, "protocol": "GRE"}]}),
        ];
        let services = specs.into_iter().enumerate().map(|(i, s)| service(&i.to_string(), s)).collect();
        check(&inputs(services, vec![]), &[]);
    }

    #[test]
    fn unready_and_dangerous_addresses_are_no_backends() {
        let spec = json!({"clusterIP": "10.0.0.5", "ports": [{"port": 80}]});
        let bad = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.0.1", "10.0.0.9", "fd00::1", "x"];
        let addresses: Vec<_> = bad.iter().map(|ip| json!({"ip": ip})).collect();
        let subsets = json!([{"addresses": addresses, "notReadyAddresses": [{"ip": "10.244.0.2"}],
                              "ports": [{"port": 80}]}]);
        check(&inputs(vec![service("a", spec)], vec![endpoints("a", subsets)]), &[("tcp/10.0.0.5:80", &[])]);
    }

    #[test]
    fn services_of_one_name_in_two_namespaces_have_nothing_in_common() {
        let there = |mut object: serde_json::Value| {
            object["metadata"]["namespace"] = "team".into();
            object
        };
        let spec = |ip: &str| json!({"clusterIP": ip, "ports": [{"port": 80}]});
        let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
        let inputs = inputs(
            vec![service("a", spec("10.0.0.5")), there(service("a", spec("10.0.0.6")))],
            vec![endpoints("a", subsets("10.244.0.5")), there(endpoints("a", subsets("10.244.0.6")))],
        );
        check(&inputs, &[("tcp/10.0.0.5:80", &["10.244.0.5:80"]), ("tcp/10.0.0.6:80", &["10.244.0.6:80"])]);
    }

    #[test]
    fn the_first_service_by_name_has_a_portal_that_two_claim() {
        let spec = json!({"clusterIP": "10.0.0.5", "ports": [{"port": 80}]});
        let subsets = |ip| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
        let inputs = inputs(
            vec![service("b", spec.clone()), service("a", spec)],
            vec![endpoints("b", subsets("10.244.0.9")), endpoints("a", subsets("10.244.0.2"))],
        );
        check(&inputs, &[("tcp/10.0.0.5:80", &["10.244.0.2:80"])]);
    }

    #[test]
    fn node_ports_and_allowed_external_addresses_are_portals_too() {
        let spec = json!({"clusterIP": "10.0.0.5", "type": "NodePort", "externalTrafficPolicy": "Local",
            "externalIPs": ["203.0.113.7", "198.51.100.7", "10.0.0.9"], "ports": [{"port": 80, "nodePort": 30080}]});
        let subsets = json!([{"addresses": [{"ip": "10.244.0.2", "nodeName": "n1"}, {"ip": "10.244.1.2", "nodeName": "n2"}],
                              "ports": [{"port": 8080}]}]);
        let inputs = inputs(vec![service("a", spec)], vec![endpoints("a", subsets)]);
        check(
            &inputs,
            &[
                ("tcp/10.0.0.5:80", &["10.244.0.2:8080", "10.244.1.2:8080"]),
                ("tcp/203.0.113.7:80", &["10.244.0.2:8080"]),
                ("tcp/node:30080", &["10.244.0.2:8080"]),
            ],
        );
    }

    #[test]
    fn a_local_service_has_the_backends_of_its_node_only() {
        let spec = json!({"clusterIP": "10.0.0.5", "internalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
        let subsets = json!([{"addresses": [{"ip": "10.244.1.2", "nodeName": "n2"}, {"ip": "10.244.1.3"}],
                              "ports": [{"port": 8080}]}]);
        check(&inputs(vec![service("a", spec)], vec![endpoints("a", subsets)]), &[("tcp/10.0.0.5:80", &[])]);
    }

    #[test]
    fn affinity_lasts_three_hours_unless_the_service_says_otherwise() {
        for (config, expected) in [(json!(null), 10_800), (json!({"clientIP": {"timeoutSeconds": 60}}), 60)] {
            let spec = json!({"clusterIP": "10.0.0.5", "sessionAffinity": "ClientIP", "sessionAffinityConfig": config,
                              "ports": [{"port": 80}]});
            let table = Table::build(&inputs(vec![service("a", spec)], vec![]));
            assert_eq!(table.portals().values().next().unwrap().sticky, Some(expected));
        }
    }

    #[test]
    fn events_change_what_a_list_showed() {
        let mut inputs = Inputs::new(site());
        assert!(!inputs.listed());
        inputs.apply_service(Change::replaced(vec![]));
        inputs.apply_service(Change::Interrupted("x".into()));
        assert!(!inputs.listed());
        inputs.apply_endpoints(Change::replaced(vec![]));
        assert!(inputs.listed());

        let spec = json!({"clusterIP": "10.0.0.5", "ports": [{"port": 80}]});
        let subsets = json!([{"addresses": [{"ip": "10.244.0.2"}], "ports": [{"port": 80}]}]);
        let a: Service = serde_json::from_value(service("a", spec)).unwrap();
        let ep: Endpoints = serde_json::from_value(endpoints("a", subsets)).unwrap();
        inputs.apply_endpoints(Change::applied(ep.clone()));
        check(&inputs, &[]);
        inputs.apply_service(Change::applied(a.clone()));
        check(&inputs, &[("tcp/10.0.0.5:80", &["10.244.0.2:80"])]);
        inputs.apply_endpoints(Change::deleted(ep));
        check(&inputs, &[("tcp/10.0.0.5:80", &[])]);
        inputs.apply_service(Change::deleted(a));
        check(&inputs, &[]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Service(Change<Service>),
        Endpoints(Change<Endpoints>),
    }

    /// Few names, addresses and ports, so that services claim the same portals and lose them.
    fn step() -> impl Strategy<Value = Step> {
        let named = || (prop::sample::select(vec!["a", "b", "c"]), 1u8..3, 80u16..82, any::<bool>());
        let service = || {
            named().prop_map(|(name, host, port, node)| {
                let (kind, node_port) = if node { ("NodePort", 30_000 + port) } else { ("ClusterIP", 0) };
                let ports = json!([{"name": "x", "port": port, "nodePort": node_port}, {"name": "y", "port": 90}]);
                let spec = json!({"clusterIP": format!("10.0.0.{host}"), "type": kind, "ports": ports});
                serde_json::from_value::<Service>(service(name, spec)).unwrap()
            })
        };
        let of_service = || {
            named().prop_map(|(name, host, port, more)| {
                let ports = json!([{"name": if more { "x" } else { "y" }, "port": port}]);
                let subsets = json!([{"addresses": [{"ip": format!("10.244.0.{host}")}], "ports": ports}]);
                serde_json::from_value::<Endpoints>(endpoints(name, subsets)).unwrap()
            })
        };
        prop_oneof![
            6 => service().prop_map(|s| Step::Service(Change::applied(s))),
            3 => service().prop_map(|s| Step::Service(Change::deleted(s))),
            1 => prop::collection::vec(service(), 0..3).prop_map(|all| Step::Service(Change::replaced(all))),
            6 => of_service().prop_map(|e| Step::Endpoints(Change::applied(e))),
            3 => of_service().prop_map(|e| Step::Endpoints(Change::deleted(e))),
            1 => of_service().prop_map(|e| Step::Endpoints(Change::replaced(vec![e]))),
        ]
    }

    proptest! {
        #[test]
        fn what_was_touched_is_all_that_changes(runs in prop::collection::vec(prop::collection::vec(step(), 0..3), 1..12)) {
            let mut inputs = Inputs::new(site());
            let mut table = Table::default();
            for steps in runs {
                for step in steps {
                    match step {
                        Step::Service(change) => inputs.apply_service(change),
                        Step::Endpoints(change) => inputs.apply_endpoints(change),
                    }
                }
                let touched = inputs.take_touched();
                let whole = Table::build(&inputs);
                let delta = table.changes(&inputs, &touched);
                prop_assert_eq!(&delta, &diff(&table, &whole));
                table.apply(delta);
                prop_assert!(diff(&table, &whole).is_empty());
                let mut wanted = BTreeMap::new();
                for (key, facts) in &inputs.services {
                    for portal in facts.portals() {
                        wanted.entry(portal).or_insert_with(|| inputs.forward_of(&portal, key).unwrap());
                    }
                }
                prop_assert_eq!(whole.portals(), &wanted);
            }
        }
    }
}
