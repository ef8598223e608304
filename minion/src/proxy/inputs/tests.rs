//! The facts of services and endpoints, one by one, and any row of changes of them.

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
    let spec =
        json!({"clusterIP": "10.0.0.5", "internalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
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
    let placed = |mut object: serde_json::Value, elsewhere: bool| {
        object["metadata"]["namespace"] = if elsewhere { "team" } else { "default" }.into();
        object
    };
    let service = move || {
        let more = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        (named(), more).prop_map(move |((name, host, port, node), (external, sticky, local, elsewhere))| {
            let (kind, node_port) = if node { ("NodePort", 30_000 + port) } else { ("ClusterIP", 0) };
            let ports = json!([{"name": "x", "port": port, "nodePort": node_port}, {"name": "y", "port": 90}]);
            let spec = json!({"clusterIP": format!("10.0.0.{host}"), "type": kind, "ports": ports,
                "externalIPs": if external { vec!["203.0.113.1"] } else { vec![] },
                "sessionAffinity": if sticky { "ClientIP" } else { "None" },
                "externalTrafficPolicy": if local { "Local" } else { "Cluster" }});
            serde_json::from_value::<Service>(placed(service(name, spec), elsewhere)).unwrap()
        })
    };
    let of_service = move || {
        (named(), any::<bool>()).prop_map(move |((name, host, port, more), elsewhere)| {
            let ports = json!([{"name": if more { "x" } else { "y" }, "port": port}]);
            let node = if host == 1 { "n1" } else { "n2" };
            let addresses = json!([{"ip": format!("10.244.0.{host}"), "nodeName": node}]);
            let subsets = json!([{"addresses": addresses, "ports": ports}]);
            serde_json::from_value::<Endpoints>(placed(endpoints(name, subsets), elsewhere)).unwrap()
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
