//! Services: flat, with one port.
//!
//! An unset `containerPort` meant the first port of the pod's first container, which a hub
//! `targetPort` cannot say: it becomes the hidden annotation [`CONTAINER_PORT`], which the
//! endpoints controller honours. Of a hub service with several ports the first one shows.

use serde::{Deserialize, Serialize};

use super::{
    metadata::{hidden, hide},
    wire::{IntOrString, Wire, is_zero, narrow, non_empty, non_zero, protocol},
};
use crate::{FieldErrors, StringMap, core, meta::ObjectMeta};

/// Hidden annotation with the one value `first`.
const CONTAINER_PORT: &str = "container-port";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Service {
    port: i64,
    #[serde(skip_serializing_if = "is_zero")]
    protocol: String,
    #[serde(skip_serializing_if = "is_zero")]
    labels: StringMap,
    #[serde(skip_serializing_if = "is_zero")]
    selector: StringMap,
    #[serde(skip_serializing_if = "is_zero")]
    create_external_load_balancer: bool,
    #[serde(rename = "publicIPs", skip_serializing_if = "is_zero")]
    public_ips: Vec<String>,
    container_port: IntOrString,
    #[serde(rename = "portalIP", skip_serializing_if = "is_zero")]
    portal_ip: String,
    /// Reset by the master, so read from no body.
    #[serde(skip_serializing_if = "is_zero")]
    proxy_port: i64,
}

impl Wire for Service {
    type Hub = core::Service;

    fn from_hub(hub: &core::Service) -> Self {
        let no_spec = Default::default();
        let spec = hub.spec.as_ref().unwrap_or(&no_spec);
        let port = spec.ports.as_ref().and_then(|p| p.first());
        let target =
            port.and_then(|p| p.target_port.as_ref()).filter(|_| hidden(&hub.metadata, CONTAINER_PORT).is_none());
        Self {
            port: port.map(|p| p.port).unwrap_or_default().into(),
            protocol: protocol(port.and_then(|p| p.protocol.as_deref()).unwrap_or_default()),
            labels: hub.metadata.labels.clone().unwrap_or_default(),
            selector: spec.selector.clone().unwrap_or_default(),
            create_external_load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
            public_ips: spec.external_ips.clone().unwrap_or_default(),
            container_port: target.map(IntOrString::from_hub).unwrap_or_default(),
            portal_ip: spec.cluster_ip.clone().unwrap_or_default(),
            proxy_port: 0,
        }
    }

    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> core::Service {
        let mut meta = ObjectMeta { labels: non_zero(self.labels), ..meta };
        let target_port = if self.container_port.is_unset() {
            hide(&mut meta, CONTAINER_PORT, "first".into());
            None
        } else {
            Some(self.container_port.into_hub("containerPort".into(), errors))
        };
        let port = core::ServicePort {
            port: narrow(self.port, "port".into(), errors),
            protocol: Some(protocol(&self.protocol)),
            target_port,
            ..Default::default()
        };
        core::Service {
            metadata: meta,
            spec: Some(core::ServiceSpec {
                ports: Some(vec![port]),
                selector: non_zero(self.selector),
                type_: self.create_external_load_balancer.then(|| "LoadBalancer".into()),
                external_ips: non_zero(self.public_ips),
                cluster_ip: non_empty(self.portal_ip),
                ..Default::default()
            }),
            status: None,
        }
    }

    /// A portal address that the caller left out is kept, since the master assigned it.
    fn align(_stored: &core::Service, last: &mut core::Service, next: &mut core::Service) {
        let (Some(last), Some(next)) = (&last.spec, &mut next.spec) else { return };
        if next.cluster_ip.is_none() {
            next.cluster_ip.clone_from(&last.cluster_ip);
        }
    }
}
