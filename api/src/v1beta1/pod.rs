//! Pods: a desired and a current state around one manifest.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    manifest::{self, ContainerManifest, VERSIONS},
    pod_status::{self, Info},
    wire::{Wire, is_zero, non_empty, non_zero},
};
use crate::{FieldErrors, StringMap, core, error::FieldErrorKind, meta::ObjectMeta};

/// The bits in which a manifest's uuid differs from its pod's uid. In 2014 two draws from one
/// clock, they were as close; deriving one from the other keeps it stable without storing it.
const UUID_DISTANCE: u128 = 0x18c << 96;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Pod {
    #[serde(skip_serializing_if = "is_zero")]
    labels: StringMap,
    desired_state: PodState,
    /// Never read from a body: it is the cluster's to say.
    current_state: PodState,
    #[serde(skip_serializing_if = "is_zero")]
    node_selector: StringMap,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodState {
    pub(super) manifest: ContainerManifest,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) status: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) message: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) host: String,
    #[serde(rename = "hostIP", skip_serializing_if = "is_zero")]
    pub(super) host_ip: String,
    #[serde(rename = "podIP", skip_serializing_if = "is_zero")]
    pub(super) pod_ip: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) info: Info,
}

impl Wire for Pod {
    type Hub = core::Pod;

    fn from_hub(hub: &core::Pod) -> Self {
        let (meta, no_spec) = (&hub.metadata, core::PodSpec::default());
        let spec = hub.spec.as_ref().unwrap_or(&no_spec);
        // Pods made by a controller came back as the version that templates have.
        let made = meta.owner_references.iter().flatten().any(|o| o.controller == Some(true));
        let version = VERSIONS[usize::from(made)];
        let id = meta.name.as_deref().unwrap_or_default();
        let manifest = ContainerManifest::from_hub(version, id, manifest_uuid(meta), spec);
        let host = spec.node_name.clone().unwrap_or_default();
        Self {
            labels: meta.labels.clone().unwrap_or_default(),
            desired_state: PodState { manifest, status: "Running".into(), host: host.clone(), ..Default::default() },
            current_state: current_state(hub, host),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
        }
    }

    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> core::Pod {
        let (manifest, host) = (self.desired_state.manifest, self.desired_state.host);
        check_version(&manifest.version, errors);
        let spec = core::PodSpec {
            node_name: non_empty(host),
            node_selector: non_zero(self.node_selector),
            ..manifest.into_hub("desiredState.manifest", errors)
        };
        core::Pod { metadata: ObjectMeta { labels: non_zero(self.labels), ..meta }, spec: Some(spec), status: None }
    }

    fn align(stored: &core::Pod, last: &mut core::Pod, next: &mut core::Pod) {
        manifest::align(stored.spec.as_ref(), last.spec.as_mut(), next.spec.as_mut());
    }
}

fn current_state(hub: &core::Pod, host: String) -> PodState {
    let status = hub.status.as_ref();
    let text = |value: Option<&Option<String>>| value.cloned().flatten().unwrap_or_default();
    PodState {
        manifest: ContainerManifest::default(),
        status: pod_status::status_word(hub).into(),
        message: text(status.map(|s| &s.message)),
        host,
        host_ip: text(status.map(|s| &s.host_ip)),
        pod_ip: text(status.map(|s| &s.pod_ip)),
        info: status.map(pod_status::info).unwrap_or_default(),
    }
}

fn manifest_uuid(meta: &ObjectMeta) -> String {
    let uid = meta.uid.as_deref().and_then(|uid| Uuid::parse_str(uid).ok());
    uid.map(|uid| Uuid::from_u128(uid.as_u128() ^ UUID_DISTANCE).to_string()).unwrap_or_default()
}

fn check_version(version: &str, errors: &mut FieldErrors) {
    const PATH: &str = "desiredState.manifest.version";
    if version.is_empty() {
        errors.push(PATH, FieldErrorKind::Required, "must be v1beta1 or v1beta2");
    } else if !VERSIONS.iter().any(|v| v.eq_ignore_ascii_case(version)) {
        errors.not_supported(PATH, version, &VERSIONS);
    }
}
