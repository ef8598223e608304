//! Endpoints: the addresses behind a service. Loopback addresses are allowed, since a master on
//! one machine serves there.

use std::collections::BTreeSet;

use super::{
    names::{DNS_LABEL, Shown},
    ports::{check_ip, check_port, check_protocol},
};
use crate::{
    core::{EndpointSubset, Endpoints},
    error::FieldErrors,
    kinds::{Kind, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind { short_names: &["ep"], ..Kind::of::<Endpoints>("endpoints", "endpoints") };

impl TypedObject for Endpoints {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        for port in self.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            if port.protocol.as_deref().unwrap_or_default().is_empty() {
                port.protocol = Some("TCP".into());
            }
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        for (i, subset) in self.subsets.iter().flatten().enumerate() {
            validate_subset(&format!("subsets[{i}]"), subset, errors);
        }
    }
}

fn validate_subset(path: &str, subset: &EndpointSubset, errors: &mut FieldErrors) {
    let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
    if lists.iter().all(|(_, list)| list.as_ref().is_none_or(Vec::is_empty)) {
        errors.required(path, "at least one of addresses and notReadyAddresses");
    }
    for (field, list) in lists {
        for (i, address) in list.iter().flatten().enumerate() {
            check_ip(format!("{path}.{field}[{i}].ip"), &address.ip, errors);
            if let Some(name) = address.hostname.as_deref().filter(|h| !h.is_empty()) {
                DNS_LABEL.check(format!("{path}.{field}[{i}].hostname"), name, errors);
            }
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => errors.required(format!("{path}.name"), "each of several ports needs a name"),
            "" => {}
            name => {
                DNS_LABEL.check(format!("{path}.name"), name, errors);
                if !names.insert(name) {
                    errors.duplicate(format!("{path}.name"), Shown(name));
                }
            }
        }
        check_port(format!("{path}.port"), port.port, errors);
        check_protocol(format!("{path}.protocol"), port.protocol.as_deref(), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Object;

    fn verdict(subset: serde_json::Value) -> String {
        let json = serde_json::json!({"metadata": {"name": "web", "namespace": "default"}, "subsets": [subset]});
        let mut endpoints: Endpoints = serde_json::from_value(json).unwrap();
        TypedObject::set_defaults(&mut endpoints);
        Object::validate(&endpoints).map_or_else(|e| e.message, |()| String::new())
    }

    fn check(subset: serde_json::Value, expected: &str) {
        let text = verdict(subset.clone());
        assert!(text.contains(expected), "{subset}: {text}");
    }

    #[test]
    fn addresses_and_ports_are_checked() {
        let good = serde_json::json!({"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 8080}]});
        assert_eq!(verdict(good), "");
        check(serde_json::json!({}), "subsets[0]: required value: at least one of addresses");
        check(
            serde_json::json!({"addresses": [{"ip": "x"}]}),
            "subsets[0].addresses[0].ip: invalid value: 'x': must be an IP",
        );
        let one = serde_json::json!([{"ip": "10.0.0.1"}]);
        check(
            serde_json::json!({"addresses": one, "ports": [{"port": 0}]}),
            "subsets[0].ports[0].port: invalid value: '0'",
        );
        check(serde_json::json!({"addresses": one, "ports": [{"port": 1}, {"port": 2}]}), "ports[0].name: required");
        check(
            serde_json::json!({"addresses": one, "ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}),
            "ports[1].name: duplicate value: 'a'",
        );
    }
}
