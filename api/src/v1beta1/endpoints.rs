//! Endpoints: plain `ip:port` strings. Of a hub subset, the ready addresses with the first port.

use serde::{Deserialize, Serialize};

use super::wire::{Wire, is_zero, non_zero};
use crate::{FieldErrors, core, meta::ObjectMeta};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Endpoints {
    #[serde(skip_serializing_if = "is_zero")]
    endpoints: Vec<String>,
}

impl Wire for Endpoints {
    type Hub = core::Endpoints;

    fn from_hub(hub: &core::Endpoints) -> Self {
        let mut endpoints = Vec::new();
        for subset in hub.subsets.iter().flatten() {
            let Some(port) = subset.ports.as_ref().and_then(|p| p.first()).map(|p| p.port) else { continue };
            endpoints.extend(subset.addresses.iter().flatten().map(|a| match a.ip.contains(':') {
                true => format!("[{}]:{port}", a.ip),
                false => format!("{}:{port}", a.ip),
            }));
        }
        Self { endpoints }
    }

    /// One subset for each run of the same port, so that the order stays.
    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> core::Endpoints {
        let mut subsets: Vec<(u16, Vec<core::EndpointAddress>)> = Vec::new();
        for (i, text) in self.endpoints.iter().enumerate() {
            let Some((ip, port)) = split(text) else {
                errors.invalid(format!("endpoints[{i}]"), text, "must be address:port");
                continue;
            };
            let address = core::EndpointAddress { ip: ip.to_owned(), ..Default::default() };
            match subsets.last_mut() {
                Some((last, addresses)) if *last == port => addresses.push(address),
                _ => subsets.push((port, vec![address])),
            }
        }
        let subset = |(port, addresses)| core::EndpointSubset {
            addresses: Some(addresses),
            ports: Some(vec![core::EndpointPort {
                port: i32::from(port),
                protocol: Some("TCP".into()),
                ..Default::default()
            }]),
            not_ready_addresses: None,
        };
        core::Endpoints { metadata: meta, subsets: non_zero(subsets.into_iter().map(subset).collect::<Vec<_>>()) }
    }
}

fn split(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let ip = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|p| *p != 0)?;
    (!ip.is_empty()).then_some((ip, port))
}
