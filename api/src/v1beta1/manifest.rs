//! Container manifests: what a pod, or a template, runs.

use serde::{Deserialize, Serialize};

use super::{
    container::{Container, align_commands},
    volume::Volume,
    wire::{is_zero, non_zero, null_when_empty},
};
use crate::{FieldErrors, core};

/// Seconds between SIGTERM and SIGKILL in 0.5.4, which pods made through this version keep.
const GRACE_SECONDS: i64 = 10;

/// Versions of the manifest that 0.5.4 reads.
pub(super) const VERSIONS: [&str; 2] = ["v1beta1", "v1beta2"];

/// The zero value is the shape that an object's `currentState` always has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerManifest {
    pub(super) version: String,
    pub(super) id: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) uuid: String,
    #[serde(serialize_with = "null_when_empty")]
    volumes: Vec<Volume>,
    #[serde(serialize_with = "null_when_empty")]
    containers: Vec<Container>,
    restart_policy: RestartPolicy,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RestartPolicy {
    #[serde(skip_serializing_if = "is_zero")]
    always: Option<Chosen>,
    #[serde(skip_serializing_if = "is_zero")]
    on_failure: Option<Chosen>,
    #[serde(skip_serializing_if = "is_zero")]
    never: Option<Chosen>,
}

/// `{}`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Chosen {}

impl RestartPolicy {
    fn from_hub(hub: Option<&str>) -> Self {
        match hub {
            Some("OnFailure") => Self { on_failure: Some(Chosen {}), ..Self::default() },
            Some("Never") => Self { never: Some(Chosen {}), ..Self::default() },
            _ => Self { always: Some(Chosen {}), ..Self::default() },
        }
    }

    fn into_hub(self, at: &str, errors: &mut FieldErrors) -> String {
        let policy = match (self.always, self.on_failure, self.never) {
            (_, None, None) => "Always",
            (None, Some(_), None) => "OnFailure",
            (None, None, Some(_)) => "Never",
            _ => {
                errors.invalid(format!("{at}.restartPolicy"), "several", "only one of always, onFailure, never");
                "Always"
            }
        };
        policy.to_owned()
    }
}

impl ContainerManifest {
    pub(super) fn from_hub(version: &str, id: &str, uuid: String, hub: &core::PodSpec) -> Self {
        Self {
            version: version.to_owned(),
            id: id.to_owned(),
            uuid,
            volumes: hub.volumes.iter().flatten().map(Volume::from_hub).collect(),
            containers: hub.containers.iter().map(Container::from_hub).collect(),
            restart_policy: RestartPolicy::from_hub(hub.restart_policy.as_deref()),
        }
    }

    /// `at` is the 2014 path of the manifest.
    pub(super) fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::PodSpec {
        let (volumes, containers) = (self.volumes.into_iter().enumerate(), self.containers.into_iter().enumerate());
        let volumes: Vec<_> = volumes.map(|(i, v)| v.into_hub(&format!("{at}.volumes[{i}]"), errors)).collect();
        core::PodSpec {
            volumes: non_zero(volumes),
            containers: containers.map(|(i, c)| c.into_hub(&format!("{at}.containers[{i}]"), errors)).collect(),
            restart_policy: Some(self.restart_policy.into_hub(at, errors)),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            ..Default::default()
        }
    }
}

/// Refits the pod specs of an update to the stored one: see [`align_commands`]. A host that the
/// caller left out is kept, since only a binding assigns it.
pub(super) fn align(
    stored: Option<&core::PodSpec>,
    last: Option<&mut core::PodSpec>,
    next: Option<&mut core::PodSpec>,
) {
    let (Some(stored), Some(last), Some(next)) = (stored, last, next) else { return };
    align_commands(&stored.containers, &mut last.containers, &mut next.containers);
    if next.node_name.is_none() {
        next.node_name.clone_from(&last.node_name);
    }
}
