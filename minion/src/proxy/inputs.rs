//! The facts of services and endpoints that matter to the proxy, kept from their watches.
//!
//! Invariant: holds one entry for each object that the last list or event showed, reduced to
//! portals and addresses; an object that means nothing to the proxy leaves an empty entry.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use coracle_api::{
    TypedObject,
    client::Change,
    core::{Endpoints, Service},
};
use ipnet::Ipv4Net;

use super::table::{Backends, Portal, Protocol};

type Key = (String, String);
/// Name and protocol: what a port of a service and a port of its endpoints have in common.
type PortKey = (String, Protocol);

/// Services and endpoints as last seen.
#[derive(Debug, Default)]
pub struct Inputs {
    service_cidr: Ipv4Net,
    services: BTreeMap<Key, Vec<(Portal, PortKey)>>,
    endpoints: BTreeMap<Key, BTreeMap<PortKey, Backends>>,
    services_listed: bool,
    endpoints_listed: bool,
}

impl Inputs {
    /// Nothing seen yet. Portals outside of `service_cidr` are not served.
    pub fn new(service_cidr: Ipv4Net) -> Self {
        Self { service_cidr, ..Self::default() }
    }

    /// Whether both kinds have been listed; before that an empty table would cut everybody off.
    pub fn listed(&self) -> bool {
        self.services_listed && self.endpoints_listed
    }

    /// Takes in a change of services.
    pub fn apply_service(&mut self, change: Change<Service>) {
        let cidr = self.service_cidr;
        self.services_listed |= matches!(change, Change::Replaced(_));
        apply("services", &mut self.services, change, |s| portals_of(s, cidr));
    }

    /// Takes in a change of endpoints.
    pub fn apply_endpoints(&mut self, change: Change<Endpoints>) {
        let cidr = self.service_cidr;
        self.endpoints_listed |= matches!(change, Change::Replaced(_));
        apply("endpoints", &mut self.endpoints, change, |e| backends_of(e, cidr));
    }

    /// Every portal with its backends, by namespace and name of the service.
    pub fn portals(&self) -> impl Iterator<Item = (Portal, Backends)> {
        self.services.iter().flat_map(|(key, ports)| {
            let endpoints = self.endpoints.get(key);
            ports.iter().map(move |(portal, port)| {
                let backends = endpoints.and_then(|e| e.get(port)).cloned();
                (*portal, backends.unwrap_or_else(|| Backends::from([])))
            })
        })
    }
}

fn apply<T: TypedObject, F>(kind: &str, facts: &mut BTreeMap<Key, F>, change: Change<T>, facts_of: impl Fn(&T) -> F) {
    match change {
        Change::Replaced(all) => *facts = all.iter().map(|o| (key_of(o), facts_of(o))).collect(),
        Change::Applied(object) => {
            facts.insert(key_of(&object), facts_of(&object));
        }
        Change::Deleted(object) => {
            facts.remove(&key_of(&object));
        }
        Change::Interrupted(error) => tracing::debug!(kind, error, "the proxy keeps what it knows"),
    }
}

fn key_of<T: TypedObject>(object: &T) -> Key {
    let meta = object.metadata();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Portals of a service: none without an address of its own in the service range (headless,
/// ExternalName).
fn portals_of(service: &Service, cidr: Ipv4Net) -> Vec<(Portal, PortKey)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let Some(ip) = address.filter(|ip| cidr.contains(ip) && spec.type_.as_deref() != Some("ExternalName")) else {
        return Vec::new();
    };
    let ports = spec.ports.as_deref().unwrap_or_default().iter();
    ports
        .filter_map(|p| {
            let protocol = Protocol::parse(p.protocol.as_deref())?;
            let portal = Portal { ip, protocol, port: port_number(p.port)? };
            Some((portal, (p.name.clone().unwrap_or_default(), protocol)))
        })
        .collect()
}

/// Ready addresses by port. Addresses that a packet must never be sent to on behalf of a client
/// (loopback, multicast, another portal) are left out.
fn backends_of(endpoints: &Endpoints, cidr: Ipv4Net) -> BTreeMap<PortKey, Backends> {
    let mut all: BTreeMap<PortKey, Vec<SocketAddrV4>> = BTreeMap::new();
    for subset in endpoints.subsets.as_deref().unwrap_or_default() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let addresses: Vec<Ipv4Addr> =
            addresses.iter().filter_map(|a| a.ip.parse().ok()).filter(|ip| is_backend(ip, cidr)).collect();
        for port in subset.ports.as_deref().unwrap_or_default() {
            let (Some(protocol), Some(number)) = (Protocol::parse(port.protocol.as_deref()), port_number(port.port))
            else {
                continue;
            };
            let key = (port.name.clone().unwrap_or_default(), protocol);
            all.entry(key).or_default().extend(addresses.iter().map(|ip| SocketAddrV4::new(*ip, number)));
        }
    }
    let sorted = all.into_iter().map(|(key, mut backends)| {
        backends.sort_unstable();
        backends.dedup();
        (key, Backends::from(backends))
    });
    sorted.collect()
}

fn is_backend(ip: &Ipv4Addr, service_cidr: Ipv4Net) -> bool {
    let reserved = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
    !reserved && !ip.is_link_local() && !service_cidr.contains(ip)
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::table::Table, *};

    fn inputs(services: Vec<serde_json::Value>, endpoints: Vec<serde_json::Value>) -> Inputs {
        let mut inputs = Inputs::new("10.0.0.0/16".parse().unwrap());
        let parse = |v: Vec<serde_json::Value>| v.into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
        inputs.apply_service(Change::Replaced(parse(services)));
        let endpoints = endpoints.into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
        inputs.apply_endpoints(Change::Replaced(endpoints));
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
            .map(|(p, b)| {
                let backends: Vec<_> = b.iter().map(ToString::to_string).collect();
                (format!("{}/{}:{}", p.protocol.as_str(), p.ip, p.port), backends)
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
    fn events_change_what_a_list_showed() {
        let mut inputs = Inputs::new("10.0.0.0/16".parse().unwrap());
        assert!(!inputs.listed());
        inputs.apply_service(Change::Replaced(vec![]));
        inputs.apply_service(Change::Interrupted("x".into()));
        assert!(!inputs.listed());
        inputs.apply_endpoints(Change::Replaced(vec![]));
        assert!(inputs.listed());

        let spec = json!({"clusterIP": "10.0.0.5", "ports": [{"port": 80}]});
        let subsets = json!([{"addresses": [{"ip": "10.244.0.2"}], "ports": [{"port": 80}]}]);
        let a: Service = serde_json::from_value(service("a", spec)).unwrap();
        let ep: Endpoints = serde_json::from_value(endpoints("a", subsets)).unwrap();
        inputs.apply_endpoints(Change::Applied(ep.clone()));
        check(&inputs, &[]);
        inputs.apply_service(Change::Applied(a.clone()));
        check(&inputs, &[("tcp/10.0.0.5:80", &["10.244.0.2:80"])]);
        inputs.apply_endpoints(Change::Deleted(ep));
        check(&inputs, &[("tcp/10.0.0.5:80", &[])]);
        inputs.apply_service(Change::Deleted(a));
        check(&inputs, &[]);
    }
}
