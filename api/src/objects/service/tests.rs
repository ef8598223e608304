//! Tables of good and bad services.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::Object;

fn service(spec: Value) -> Service {
    let json = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    let mut service: Service = serde_json::from_value(json).unwrap();
    TypedObject::set_defaults(&mut service);
    service
}

fn check(spec: Value, expected: &str) {
    let error = Object::validate(&service(spec.clone())).expect_err(&spec.to_string());
    assert!(error.message.contains(expected), "{spec}\nexpected {expected:?}\nin {:?}", error.message);
}

fn good(spec: Value) {
    assert_eq!(Object::validate(&service(spec.clone())), Ok(()), "{spec}");
}

#[test]
fn bad_services_are_refused_with_path_and_remedy() {
    let ports = |list: Value| json!({"ports": list});
    check(json!({}), "spec.ports: required value: at least one port, unless clusterIP is None");
    check(ports(json!([{"port": 0}])), "spec.ports[0].port: invalid value: '0': must be between 1 and 65535");
    check(ports(json!([{"port": 1}, {"port": 2}])), "spec.ports[1].name: required value: each of several ports");
    check(
        ports(json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}])),
        "spec.ports[1].name: duplicate value: 'a'",
    );
    check(
        ports(json!([{"name": "a", "port": 1}, {"name": "b", "port": 1}])),
        "spec.ports[1]: duplicate value: '1/TCP'",
    );
    check(ports(json!([{"name": "A", "port": 1}])), "spec.ports[0].name: invalid value: 'A'");
    check(ports(json!([{"port": 1, "protocol": "ICMP"}])), "spec.ports[0].protocol: unsupported value: 'ICMP'");
    check(
        ports(json!([{"port": 1, "targetPort": 70000}])),
        "spec.ports[0].targetPort: invalid value: '70000': must be",
    );
    check(ports(json!([{"port": 1, "targetPort": "80"}])), "spec.ports[0].targetPort: invalid value: '80': a number");
    check(ports(json!([{"port": 1, "nodePort": 30000}])), "spec.ports[0].nodePort: forbidden: only a service of type");
    let with = |field: &str, value: Value| {
        let mut spec = ports(json!([{"port": 80, "targetPort": "http"}]));
        spec[field] = value;
        spec
    };
    check(with("type", "x".into()), "spec.type: unsupported value: 'x': supported values: ClusterIP, NodePort");
    check(with("clusterIP", "x".into()), "spec.clusterIP: invalid value: 'x': must be an IPv4 address, None");
    check(with("clusterIPs", json!(["10.0.0.1", "10.0.0.2"])), "spec.clusterIPs: invalid value: '2'");
    check(with("selector", json!({"a b": "c"})), "spec.selector: invalid value: 'a b'");
    check(with("sessionAffinity", "x".into()), "spec.sessionAffinity: unsupported value");
    check(with("externalIPs", json!(["x"])), "spec.externalIPs[0]: invalid value: 'x': must be an IP address");
    check(with("ipFamilies", json!(["IPv6"])), "spec.ipFamilies[0]: unsupported value: 'IPv6': supported values: IPv4");
    check(json!({"type": "ExternalName"}), "spec.externalName: required value");
    good(with("selector", json!({})));
    good(with("clusterIP", "10.0.0.9".into()));
    good(json!({"clusterIP": "None"}));
    good(json!({"type": "ExternalName", "externalName": "db.example.com."}));
    good(ports(json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}])));
}

#[test]
fn a_fault_is_told_only_of_the_field_that_was_given() {
    let error = Object::validate(&service(json!({"ports": [{"port": 0}]}))).unwrap_err();
    assert_eq!(
        error.message,
        "service \"web\" is invalid: spec.ports[0].port: invalid value: '0': must be between 1 and 65535"
    );
}

#[test]
fn defaults_are_those_of_current_kubernetes() {
    let service = service(json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "clusterIP": "10.0.0.1"}));
    let expected = json!({
        "type": "ClusterIP",
        "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    });
    assert_eq!(serde_json::to_value(service.spec).unwrap(), expected);
}

#[test]
fn the_portal_address_stays_for_the_life_of_the_service() {
    let old = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1"}));
    let mut new = service(json!({"ports": [{"port": 81}]}));
    let error = Object::validate_update(&new, &old).unwrap_err();
    assert!(error.message.contains("spec.clusterIP: invalid value: '': may not change: keep '10.0.0.1'"));
    TypedObject::prepare_update(&mut new, &old);
    assert_eq!(Object::validate_update(&new, &old), Ok(()));
    assert_eq!(portal_ip(&new), Some(Ipv4Addr::new(10, 0, 0, 1)));
    let moved = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.2"}));
    assert!(Object::validate_update(&moved, &old).is_err());
}

#[test]
fn who_becomes_an_alias_or_ceases_to_be_one_leaves_what_is_of_no_use() {
    let of_type = |type_: &str, old: &Service| {
        let mut new = old.clone();
        new.spec.as_mut().unwrap().type_ = Some(type_.into());
        new
    };
    let change = |mut new: Service, old: &Service| {
        TypedObject::prepare_update(&mut new, old);
        TypedObject::set_defaults(&mut new);
        Object::validate_update(&new, old).map(|()| new)
    };
    let plain = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}));
    let mut alias = of_type("ExternalName", &plain);
    alias.spec.as_mut().unwrap().external_name = Some("db.example.com".into());
    let alias = change(alias, &plain).unwrap();
    let spec = alias.spec.as_ref().unwrap();
    assert_eq!((&spec.cluster_ip, &spec.cluster_ips, &spec.ip_families), (&None, &None, &None));
    let back = change(of_type("ClusterIP", &alias), &alias).unwrap();
    assert_eq!(back.spec.unwrap().external_name, None);

    let mut kept = of_type("ExternalName", &plain);
    let spec = kept.spec.as_mut().unwrap();
    (spec.external_name, spec.cluster_ip) = (Some("db.example.com".into()), Some("10.0.0.2".into()));
    let error = change(kept, &plain).unwrap_err();
    assert!(error.message.contains("spec.clusterIP: forbidden"), "what the caller asks for stays: {error}");
}

#[test]
fn headless_services_and_aliases_have_no_portal() {
    let headless = service(json!({"clusterIP": "None"}));
    assert!(is_headless(&headless) && !needs_portal(&headless));
    assert_eq!(portal_ip(&headless), None);
    assert!(!needs_portal(&service(json!({"type": "ExternalName", "externalName": "x"}))));
    let mut plain = service(json!({"ports": [{"port": 80}]}));
    assert!(needs_portal(&plain));
    set_portal_ip(&mut plain, Ipv4Addr::new(10, 0, 0, 7));
    assert_eq!(Object::validate(&plain), Ok(()));
    assert_eq!(TypedObject::field(&plain, "spec.clusterIP"), Some("10.0.0.7"));
}

#[test]
fn what_is_not_served_everywhere_is_told() {
    let check = |spec: serde_json::Value, expected: &[&str]| {
        let all = Object::warnings(&service(spec));
        assert_eq!(all.len(), expected.len(), "{all:?}");
        assert!(all.iter().zip(expected).all(|(told, start)| told.starts_with(start)), "{all:?}");
    };
    let ports = json!([{"port": 80}]);
    check(json!({"ports": ports}), &[]);
    check(
        json!({"ports": ports, "type": "NodePort", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
               "externalTrafficPolicy": "Local"}),
        &[],
    );
    check(json!({"ports": ports, "type": "LoadBalancer"}), &["spec.type LoadBalancer is stored but not enforced:"]);
    check(
        json!({"ports": ports, "trafficDistribution": "PreferClose", "externalIPs": ["203.0.113.7"]}),
        &[
            "spec.trafficDistribution is stored but not enforced:",
            "spec.externalIPs are served only by minions started with --external-ips RANGE",
        ],
    );
}

proptest! {
    #[test]
    fn defaults_filled_in_twice_change_nothing_more(
        type_ in proptest::option::of(proptest::sample::select(vec!["", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "x"])),
        affinity in proptest::option::of(proptest::sample::select(vec!["None", "ClientIP", "x"])),
        ip in proptest::option::of(proptest::sample::select(vec!["", "None", "10.0.0.1", "x"])),
        ips in proptest::option::of(proptest::collection::vec("(|None|10.0.0.1)", 0..3)),
        ports in proptest::collection::vec((any::<i32>(), proptest::option::of("[a-z0-9]{0,3}")), 0..3),
    ) {
        let ports: Vec<_> = ports.into_iter().map(|(p, target)| json!({"port": p, "targetPort": target})).collect();
        let once = service(json!({"type": type_, "sessionAffinity": affinity, "clusterIP": ip, "clusterIPs": ips, "ports": ports}));
        let mut twice = once.clone();
        TypedObject::set_defaults(&mut twice);
        prop_assert_eq!(&once, &twice);
        let _ = (Object::validate(&once), Object::warnings(&once), environment(&once));
    }
}
