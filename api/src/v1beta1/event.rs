//! Events. Their `status` word has no field in the hub: a hidden annotation keeps it, and for
//! events that never had one it follows from the reason as in 0.5.4.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    metadata::{hidden, hide, seconds},
    wire::{API_VERSION, Wire, is_zero, kind_name, non_empty, reference_kind},
};
use crate::{FieldErrors, core, kinds::KINDS, meta::ObjectMeta};

/// Hidden annotation with the status word.
const STATUS: &str = "status";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Event {
    involved_object: ObjectReference,
    #[serde(skip_serializing_if = "is_zero")]
    status: String,
    #[serde(skip_serializing_if = "is_zero")]
    reason: String,
    #[serde(skip_serializing_if = "is_zero")]
    message: String,
    #[serde(skip_serializing_if = "is_zero")]
    source: String,
    #[serde(serialize_with = "seconds")]
    timestamp: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectReference {
    #[serde(skip_serializing_if = "is_zero")]
    kind: String,
    #[serde(skip_serializing_if = "is_zero")]
    namespace: String,
    #[serde(skip_serializing_if = "is_zero")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    uid: String,
    #[serde(skip_serializing_if = "is_zero")]
    api_version: String,
    /// A string here, unlike in metadata.
    #[serde(skip_serializing_if = "is_zero")]
    resource_version: String,
    #[serde(skip_serializing_if = "is_zero")]
    field_path: String,
}

impl ObjectReference {
    fn from_hub(hub: &core::ObjectReference) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let version = hub.api_version.as_deref().unwrap_or_default();
        Self {
            kind: reference_kind(hub),
            namespace: text(&hub.namespace),
            name: text(&hub.name),
            uid: text(&hub.uid),
            api_version: if version == "v1" { API_VERSION } else { version }.to_owned(),
            resource_version: text(&hub.resource_version),
            field_path: text(&hub.field_path),
        }
    }

    fn into_hub(self) -> core::ObjectReference {
        let row = KINDS.iter().find(|k| kind_name(k) == self.kind);
        let version = if self.api_version == API_VERSION { "v1".into() } else { self.api_version };
        core::ObjectReference {
            kind: non_empty(row.map_or(self.kind, |k| k.kind.to_owned())),
            namespace: non_empty(self.namespace),
            name: non_empty(self.name),
            uid: non_empty(self.uid),
            api_version: non_empty(version),
            resource_version: non_empty(self.resource_version),
            field_path: non_empty(self.field_path),
        }
    }
}

impl Wire for Event {
    type Hub = core::Event;

    fn from_hub(hub: &core::Event) -> Self {
        let reason = hub.reason.clone().unwrap_or_default();
        let component = hub.source.as_ref().and_then(|s| s.component.as_ref());
        let seen = hub.last_timestamp.as_ref().or(hub.first_timestamp.as_ref()).map(|t| t.0);
        Self {
            involved_object: ObjectReference::from_hub(&hub.involved_object),
            status: hidden(&hub.metadata, STATUS).unwrap_or(status_of(&reason)).to_owned(),
            message: hub.message.clone().unwrap_or_default(),
            source: component.or(hub.reporting_component.as_ref()).cloned().unwrap_or_default(),
            timestamp: seen.or(hub.event_time.as_ref().map(|t| t.0)),
            reason,
        }
    }

    fn into_hub(self, meta: ObjectMeta, _errors: &mut FieldErrors) -> core::Event {
        let involved_object = self.involved_object.into_hub();
        // The object's namespace decides, as it did when keys of events were global.
        let namespace = involved_object.namespace.clone().or(meta.namespace);
        let mut meta = ObjectMeta { namespace, ..meta };
        if self.status != status_of(&self.reason) {
            hide(&mut meta, STATUS, self.status);
        }
        let time = self.timestamp.map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time);
        core::Event {
            metadata: meta,
            involved_object,
            reason: non_empty(self.reason),
            message: non_empty(self.message),
            source: non_empty(self.source)
                .map(|component| core::EventSource { component: Some(component), host: None }),
            first_timestamp: time.clone(),
            last_timestamp: time,
            ..Default::default()
        }
    }
}

/// The status that 0.5.4 reported along with what is now this reason.
fn status_of(reason: &str) -> &'static str {
    match reason {
        "Scheduled" | "FailedScheduling" => "Pending",
        "Pulling" | "Pulled" | "Created" => "waiting",
        "Started" => "running",
        "Killing" => "terminated",
        "Failed" | "BackOff" => "failed",
        _ => "",
    }
}
