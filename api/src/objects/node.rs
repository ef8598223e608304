//! Nodes, called minions in 2014: the machines that run pods.
//!
//! A node's status is written by its minion and the node controller through the status path only;
//! an update carries it over.

use ipnet::IpNet;

use super::{
    names::{QUALIFIED_NAME, Shown},
    ports::check_one_of,
};
use crate::{
    core::Node,
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    error_name: "minion",
    short_names: &["no"],
    namespaced: false,
    v1beta1_plural: Some("minions"),
    v1beta1_kind: Some("Minion"),
    subresources: &[Subresource::Status],
    fields: &["spec.unschedulable"],
    ..Kind::of::<Node>("nodes", "node")
};

impl TypedObject for Node {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            let first = spec.pod_cidrs.as_ref().and_then(|c| c.first()).cloned();
            match (&spec.pod_cidr, first) {
                (Some(one), None) => spec.pod_cidrs = Some(vec![one.clone()]),
                (None, Some(first)) => spec.pod_cidr = Some(first),
                _ => {}
            }
        }
        if let Some(status) = &mut self.status
            && status.allocatable.is_none()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let Some(spec) = &self.spec else { return };
        if let Some(cidr) = spec.pod_cidr.as_deref().filter(|c| !c.is_empty()) {
            check_cidr("spec.podCIDR".into(), cidr, errors);
        }
        for (i, cidr) in spec.pod_cidrs.iter().flatten().enumerate() {
            if i == 0 && spec.pod_cidr.as_deref() != Some(cidr) {
                errors.invalid("spec.podCIDRs[0]", Shown(cidr), "must be equal to spec.podCIDR");
            } else if i > 0 {
                check_cidr(format!("spec.podCIDRs[{i}]"), cidr, errors);
            }
        }
        for (i, taint) in spec.taints.iter().flatten().enumerate() {
            let path = format!("spec.taints[{i}]");
            QUALIFIED_NAME.check(format!("{path}.key"), &taint.key, errors);
            if taint.effect.is_empty() {
                errors.required(format!("{path}.effect"), "NoSchedule, PreferNoSchedule or NoExecute");
            }
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            check_one_of(format!("{path}.effect"), Some(&taint.effect), &effects, errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let cidr = |node: &Node| node.spec.as_ref().and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty());
        if let Some(had) = cidr(old)
            && cidr(self).as_ref() != Some(&had)
        {
            let detail = format!("may not change from {had} while the node exists: its pods have addresses of it");
            errors.forbidden("spec.podCIDR", detail);
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        // A manifest that never named the allotted range keeps it.
        if let Some(old) = &old.spec {
            let spec = self.spec.get_or_insert_default();
            if spec.pod_cidr.as_deref().unwrap_or_default().is_empty() {
                spec.pod_cidr.clone_from(&old.pod_cidr);
                spec.pod_cidrs.clone_from(&old.pod_cidrs);
            }
        }
    }

    fn spec_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn field(&self, field: &str) -> Option<&str> {
        match field {
            "spec.unschedulable" => {
                Some(if self.spec.as_ref()?.unschedulable == Some(true) { "true" } else { "false" })
            }
            _ => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let taints = self.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let evicting = taints.enumerate().filter(|(_, taint)| taint.effect == "NoExecute");
        let sentence = |(i, _)| {
            format!(
                "spec.taints[{i}].effect: NoExecute keeps new pods away as NoSchedule does; pods that run there stay"
            )
        };
        evicting.map(sentence).collect()
    }
}

fn check_cidr(path: String, cidr: &str, errors: &mut FieldErrors) {
    match cidr.parse::<IpNet>() {
        Ok(net) if net.addr() == net.network() => {}
        Ok(net) => {
            let rule = format_args!("must be the network's own address, {}", net.trunc());
            errors.invalid(path, Shown(cidr), rule);
        }
        Err(_) => errors.invalid(path, Shown(cidr), "must be an address range, such as 10.244.1.0/24"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Object;

    fn node(spec: serde_json::Value) -> Node {
        let json = serde_json::json!({"metadata": {"name": "n1"}, "spec": spec, "status": {"capacity": {"cpu": "2"}}});
        serde_json::from_value(json).unwrap()
    }

    fn check(spec: serde_json::Value, expected: &str) {
        let error = Object::validate(&node(spec.clone())).unwrap_err();
        assert!(error.message.contains(expected), "{spec}: {}", error.message);
    }

    #[test]
    fn bad_ranges_and_taints_are_refused() {
        check(
            serde_json::json!({"podCIDR": "10.244.1.0"}),
            "spec.podCIDR: invalid value: '10.244.1.0': must be an address",
        );
        check(serde_json::json!({"podCIDR": "10.244.1.7/24"}), "must be the network's own address, 10.244.1.0/24");
        check(serde_json::json!({"podCIDRs": ["10.244.1.0/24"]}), "spec.podCIDRs[0]");
        check(serde_json::json!({"taints": [{"key": "a", "effect": ""}]}), "spec.taints[0].effect: required");
        check(serde_json::json!({"taints": [{"key": "a", "effect": "No"}]}), "supported values: NoSchedule");
    }

    #[test]
    fn only_the_eviction_by_a_taint_is_not_enforced() {
        let taint = |effect: &str| serde_json::json!({"taints": [{"key": "a", "effect": effect}]});
        assert!(Object::warnings(&node(taint("NoSchedule"))).is_empty());
        let all = Object::warnings(&node(taint("NoExecute")));
        assert!(all[0].starts_with("spec.taints[0].effect: NoExecute keeps new pods away"), "{all:?}");
    }

    #[test]
    fn an_update_keeps_status_and_range() {
        let old = node(serde_json::json!({"podCIDR": "10.244.1.0/24"}));
        let mut new = node(serde_json::json!({"unschedulable": true}));
        new.status = None;
        TypedObject::prepare_update(&mut new, &old);
        assert_eq!(new.status, old.status);
        TypedObject::set_defaults(&mut new);
        assert_eq!(Object::validate_update(&new, &old), Ok(()));
        assert_eq!(TypedObject::field(&new, "spec.unschedulable"), Some("true"));
        let moved = node(serde_json::json!({"podCIDR": "10.244.2.0/24"}));
        let error = Object::validate_update(&moved, &old).unwrap_err();
        assert!(error.message.contains("spec.podCIDR: forbidden: may not change from 10.244.1.0/24"));
    }
}
