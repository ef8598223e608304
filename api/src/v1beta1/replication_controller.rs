//! Replication controllers.

use serde::{Deserialize, Serialize};

use super::{
    manifest::{self, ContainerManifest, VERSIONS},
    metadata::hide,
    pod::PodState,
    wire::{Wire, is_zero, narrow, non_zero},
};
use crate::{FieldErrors, StringMap, core, meta::ObjectMeta};

/// Hidden annotation by which the replication manager knows that pods are named by a bare UUID.
const UUID_NAMES: &str = "uuid-names";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ReplicationController {
    desired_state: State,
    /// Only `replicas` means something, and only when printed.
    current_state: State,
    #[serde(skip_serializing_if = "is_zero")]
    labels: StringMap,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct State {
    replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    replica_selector: StringMap,
    pod_template: PodTemplate,
}

/// Of the state only the manifest is used. There is no place for a node selector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodTemplate {
    desired_state: PodState,
    #[serde(skip_serializing_if = "is_zero")]
    labels: StringMap,
}

impl Wire for ReplicationController {
    type Hub = core::ReplicationController;

    fn from_hub(hub: &core::ReplicationController) -> Self {
        let (no_spec, no_pod) = (Default::default(), Default::default());
        let spec = hub.spec.as_ref().unwrap_or(&no_spec);
        let template = spec.template.as_ref();
        let pod = template.and_then(|t| t.spec.as_ref()).unwrap_or(&no_pod);
        let template_labels = template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
        // Templates came back as the newer version and without id, whatever was sent.
        let manifest = ContainerManifest::from_hub(VERSIONS[1], "", String::new(), pod);
        Self {
            desired_state: State {
                replicas: spec.replicas.unwrap_or(1).into(),
                replica_selector: spec.selector.clone().unwrap_or_default(),
                pod_template: PodTemplate {
                    desired_state: PodState { manifest, ..PodState::default() },
                    labels: template_labels.unwrap_or_default(),
                },
            },
            current_state: State {
                replicas: hub.status.as_ref().map(|s| s.replicas).unwrap_or_default().into(),
                ..State::default()
            },
            labels: hub.metadata.labels.clone().unwrap_or_default(),
        }
    }

    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> core::ReplicationController {
        const MANIFEST: &str = "desiredState.podTemplate.desiredState.manifest";
        let State { replicas, replica_selector, pod_template } = self.desired_state;
        let pod = pod_template.desired_state.manifest.into_hub(MANIFEST, errors);
        let template = core::PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: non_zero(pod_template.labels), ..Default::default() }),
            spec: Some(pod),
        };
        let mut meta = ObjectMeta { labels: non_zero(self.labels), ..meta };
        hide(&mut meta, UUID_NAMES, "true".into());
        core::ReplicationController {
            metadata: meta,
            spec: Some(core::ReplicationControllerSpec {
                replicas: Some(narrow(replicas, "desiredState.replicas".into(), errors)),
                selector: non_zero(replica_selector),
                template: Some(template),
                min_ready_seconds: None,
            }),
            status: None,
        }
    }

    fn align(
        stored: &core::ReplicationController,
        last: &mut core::ReplicationController,
        next: &mut core::ReplicationController,
    ) {
        fn pod(rc: &mut core::ReplicationController) -> Option<&mut core::PodSpec> {
            rc.spec.as_mut()?.template.as_mut()?.spec.as_mut()
        }
        let stored = stored.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref());
        manifest::align(stored, pod(last), pod(next));
    }
}
