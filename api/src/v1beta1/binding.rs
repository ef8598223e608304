//! Bindings: run this pod on that host.

use serde::{Deserialize, Serialize};

use super::wire::{Wire, non_empty};
use crate::{FieldErrors, core, meta::ObjectMeta};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Binding {
    #[serde(rename = "podID")]
    pod_id: String,
    host: String,
}

impl Wire for Binding {
    type Hub = core::Binding;

    fn from_hub(hub: &core::Binding) -> Self {
        Self {
            pod_id: hub.metadata.name.clone().unwrap_or_default(),
            host: hub.target.name.clone().unwrap_or_default(),
        }
    }

    /// The hub names a binding after its pod.
    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> core::Binding {
        for (path, value) in [("podID", &self.pod_id), ("host", &self.host)] {
            if value.is_empty() {
                errors.required(path, "");
            }
        }
        core::Binding {
            metadata: ObjectMeta { name: non_empty(self.pod_id), ..meta },
            target: core::ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: non_empty(self.host),
                ..Default::default()
            },
        }
    }
}
