//! Metadata: flat in 2014, nested in the hub.
//!
//! Annotations under [`HIDDEN`] keep what the hub has no field for. They never show in the 2014
//! form, where the fields they stand for do, and a 2014 body cannot set them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use super::wire::{API_VERSION, is_zero, kind_name, non_empty, non_zero};
use crate::{ApiError, StringMap, kinds::Kind, meta::ObjectMeta};

/// Prefix of the annotations that stand for 2014 fields.
pub(super) const HIDDEN: &str = "io.coracle.v1beta1/";

/// The fields in front of every object, in wire order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) kind: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) id: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) uid: String,
    /// Printed even when unset.
    #[serde(serialize_with = "seconds")]
    pub(super) creation_timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) self_link: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) resource_version: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) api_version: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) annotations: StringMap,
}

/// RFC 3339 in UTC with whole seconds, or `null`.
pub(super) fn seconds<S: Serializer>(time: &Option<Timestamp>, out: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(t) => out.serialize_str(&t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        None => out.serialize_none(),
    }
}

impl Meta {
    /// The metadata of an object of this kind, without kind and apiVersion, as in lists.
    pub(super) fn of_item(meta: &ObjectMeta, row: &Kind) -> Self {
        let id = meta.name.clone().unwrap_or_default();
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            creation_timestamp: meta.creation_timestamp.as_ref().map(|t| t.0),
            self_link: if id.is_empty() { String::new() } else { format!("{}/{id}", collection(row)) },
            resource_version: meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            annotations: meta
                .annotations
                .iter()
                .flatten()
                .filter(|(key, _)| !key.starts_with(HIDDEN))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            id,
            ..Self::default()
        }
    }

    /// The metadata of an object that stands alone.
    pub(super) fn of_object(meta: &ObjectMeta, row: &Kind) -> Self {
        Self::of_item(meta, row).typed(kind_name(row))
    }

    /// The metadata of a list.
    pub(super) fn of_list(row: &Kind, resource_version: u64) -> Self {
        Self { self_link: collection(row), resource_version, ..Self::default() }
            .typed(&format!("{}List", kind_name(row)))
    }

    /// Adds kind and apiVersion.
    pub(super) fn typed(self, kind: &str) -> Self {
        Self { kind: kind.to_owned(), api_version: API_VERSION.into(), ..self }
    }

    /// The hub metadata of a body sent to `namespace`; an empty one leaves the body's own.
    pub(super) fn into_hub(self, row: &Kind, namespace: &str) -> Result<ObjectMeta, ApiError> {
        if row.namespaced && !self.namespace.is_empty() && !namespace.is_empty() && self.namespace != namespace {
            let why = format!(
                "Namespace does not match the provided context: the body says '{}', the request '{namespace}'",
                self.namespace
            );
            return Err(ApiError::conflict(row.error_name, &self.id, why));
        }
        let namespace = if self.namespace.is_empty() { namespace.to_owned() } else { self.namespace };
        let annotations: StringMap = self.annotations.into_iter().filter(|(key, _)| !key.starts_with(HIDDEN)).collect();
        Ok(ObjectMeta {
            name: non_empty(self.id),
            namespace: non_empty(namespace).filter(|_| row.namespaced),
            uid: non_empty(self.uid),
            creation_timestamp: self.creation_timestamp.map(Into::into),
            resource_version: (self.resource_version != 0).then(|| self.resource_version.to_string()),
            annotations: non_zero(annotations),
            ..ObjectMeta::default()
        })
    }
}

fn collection(row: &Kind) -> String {
    format!("/api/{API_VERSION}/{}", row.v1beta1_plural.unwrap_or(row.plural))
}

/// The value of a hidden annotation.
pub(super) fn hidden<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(&format!("{HIDDEN}{name}")).map(String::as_str)
}

/// Sets a hidden annotation.
pub(super) fn hide(meta: &mut ObjectMeta, name: &str, value: String) {
    meta.annotations.get_or_insert_default().insert(format!("{HIDDEN}{name}"), value);
}
