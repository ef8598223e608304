//! Events: what happened to an object, and why.

use crate::{
    core::Event,
    error::FieldErrors,
    kinds::{Kind, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["ev"],
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "source",
        "type",
    ],
    ..Kind::of::<Event>("events", "event")
};

impl TypedObject for Event {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}

    fn field(&self, field: &str) -> Option<&str> {
        let object = &self.involved_object;
        match field {
            "involvedObject.kind" => object.kind.as_deref(),
            "involvedObject.namespace" => object.namespace.as_deref(),
            "involvedObject.name" => object.name.as_deref(),
            "involvedObject.uid" => object.uid.as_deref(),
            "involvedObject.apiVersion" => object.api_version.as_deref(),
            "involvedObject.resourceVersion" => object.resource_version.as_deref(),
            "involvedObject.fieldPath" => object.field_path.as_deref(),
            "reason" => self.reason.as_deref(),
            "source" => self.source.as_ref()?.component.as_deref(),
            "type" => self.type_.as_deref(),
            _ => None,
        }
    }
}
