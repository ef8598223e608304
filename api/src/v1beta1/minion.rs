//! Minions: the hub's nodes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::wire::{IntOrString, Wire, is_zero, non_empty, non_zero};
use crate::{
    FieldErrors, StringMap, core,
    meta::ObjectMeta,
    quantity::{self, Amount},
};

/// The resource that counts in thousandths.
const CPU: &str = "cpu";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Minion {
    #[serde(rename = "hostIP", skip_serializing_if = "is_zero")]
    host_ip: String,
    resources: Resources,
    #[serde(skip_serializing_if = "is_zero")]
    labels: StringMap,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(skip_serializing_if = "is_zero")]
    capacity: BTreeMap<String, IntOrString>,
}

impl Wire for Minion {
    type Hub = core::Node;

    fn from_hub(hub: &core::Node) -> Self {
        let addresses = hub.status.iter().flat_map(|s| s.addresses.iter().flatten());
        let capacity = hub.status.iter().flat_map(|s| s.capacity.iter().flatten());
        Self {
            host_ip: addresses
                .filter(|a| a.type_ == "InternalIP")
                .map(|a| a.address.clone())
                .next()
                .unwrap_or_default(),
            resources: Resources { capacity: capacity.map(|(name, q)| (name.clone(), number(name, q))).collect() },
            labels: hub.metadata.labels.clone().unwrap_or_default(),
        }
    }

    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> core::Node {
        let mut capacity = BTreeMap::new();
        for (name, value) in self.resources.capacity {
            let amount = amount(&name, &value).filter(|a| a.nano() >= 0);
            match amount {
                Some(amount) => drop(capacity.insert(name, Quantity(amount.to_string()))),
                None => {
                    let text = match value {
                        IntOrString::Int(n) => n.to_string(),
                        IntOrString::String(s) => s,
                    };
                    errors.invalid(format!("resources.capacity.{name}"), text, "must be a number, zero or more");
                }
            }
        }
        let address = |ip| core::NodeAddress { type_: "InternalIP".into(), address: ip };
        let status = core::NodeStatus {
            addresses: non_empty(self.host_ip).map(|ip| vec![address(ip)]),
            capacity: non_zero(capacity),
            ..Default::default()
        };
        core::Node {
            metadata: ObjectMeta { labels: non_zero(self.labels), ..meta },
            spec: None,
            status: non_zero(status),
        }
    }
}

/// Thousandths of cores, bytes, pieces; what is no quantity stays text.
fn number(name: &str, quantity: &Quantity) -> IntOrString {
    let number = if name == CPU { quantity::milli(quantity) } else { quantity::bytes(quantity) };
    number.map_or_else(|| IntOrString::String(quantity.0.clone()), IntOrString::Int)
}

fn amount(name: &str, value: &IntOrString) -> Option<Amount> {
    let number = match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(s) => s.parse().ok(),
    };
    match (number, value) {
        (Some(n), _) if name == CPU => Some(Amount::from_milli(n)),
        (Some(n), _) => Some(Amount::from_bytes(n)),
        (None, IntOrString::String(s)) => Amount::parse(s).ok(),
        (None, IntOrString::Int(_)) => None,
    }
}
