//! The table of kinds, and the two faces of an object: typed inside, erased outside.
//!
//! A kind is one file in [`crate::objects`] that implements [`TypedObject`], and one row in
//! [`KINDS`]. The server, the registry and the client handle [`Object`]s through their row and
//! never name a kind.

use std::any::Any;

use k8s_openapi::{Metadata, Resource};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{ApiError, FieldErrorKind, FieldErrors},
    meta::ObjectMeta,
    objects,
};

/// Parts of an object that have their own path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: what the cluster observed; everything else is kept as stored.
    Status,
    /// `scale`: replicas only.
    Scale,
    /// `binding`: assigns a pod to a node.
    Binding,
    /// `log`: the output of a container.
    Log,
    /// `exec`: a command inside a container.
    Exec,
    /// `eviction`: removes a pod from its node without an outage, as far as that is possible.
    Eviction,
}

impl Subresource {
    /// The last segment of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Eviction => "eviction",
        }
    }
}

/// One row of the table.
pub struct Kind {
    /// `Pod`
    pub kind: &'static str,
    /// `pods`: the path segment in `v1`, always lower case.
    pub plural: &'static str,
    /// `pod`
    pub singular: &'static str,
    /// How errors name it, as spec §1.6: `pod`, `replicationController`.
    pub error_name: &'static str,
    /// `po`
    pub short_names: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// The path segment in `v1beta1`, if the kind existed there: `replicationControllers`, `minions`.
    pub v1beta1_plural: Option<&'static str>,
    /// The kind's name in `v1beta1` if it differs: `Minion`.
    pub v1beta1_kind: Option<&'static str>,
    /// Subresources that have a path.
    pub subresources: &'static [Subresource],
    /// Whether objects are stored. A `Binding` is an order, not an object.
    pub stored: bool,
    /// Whether one request may delete all that a selector picks.
    pub delete_collection: bool,
    /// Field selectors supported besides `metadata.name` and `metadata.namespace`.
    pub fields: &'static [&'static str],
    /// Whether objects claim names; see [`TypedObject::claims`].
    pub claims: bool,
    /// The one of `fields` that many watches select by one value each: `spec.nodeName`.
    pub watch_index: Option<&'static str>,
    /// JSON → typed, defaults not applied. `Err` names the field by its JSON path.
    pub decode: Decode,
}

/// Reads `v1` JSON as an object of one kind.
pub type Decode = fn(&[u8]) -> Result<Box<dyn Object>, ApiError>;

impl Kind {
    /// The part of a row that follows from the type. Rows override what differs:
    /// `Kind { short_names: &["po"], ..Kind::of::<Pod>("pods", "pod") }`.
    pub const fn of<T: TypedObject>(plural: &'static str, singular: &'static str) -> Self {
        Self {
            kind: T::KIND,
            plural,
            singular,
            error_name: singular,
            short_names: &[],
            namespaced: true,
            v1beta1_plural: Some(plural),
            v1beta1_kind: None,
            subresources: &[],
            stored: true,
            delete_collection: true,
            fields: &[],
            claims: false,
            watch_index: None,
            decode: decode::<T>,
        }
    }

    /// Whether the kind has this subresource.
    pub fn has(&self, sub: Subresource) -> bool {
        self.subresources.contains(&sub)
    }

    /// The row a user means by `pods`, `pod`, `po` or `Pod` (any case), or a `v1beta1` name.
    pub fn by_any_name(name: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|k| {
            k.plural.eq_ignore_ascii_case(name)
                || k.singular.eq_ignore_ascii_case(name)
                || k.short_names.contains(&name)
                || k.v1beta1_plural.is_some_and(|p| p.eq_ignore_ascii_case(name))
                || k.v1beta1_kind.is_some_and(|p| p.eq_ignore_ascii_case(name))
        })
    }

    /// The row of a `v1` path segment. Exact.
    pub fn by_plural(plural: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|k| k.plural == plural)
    }

    /// The row of a `v1beta1` path segment. Exact, as in 0.5.4.
    pub fn by_v1beta1_plural(plural: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|k| k.v1beta1_plural == Some(plural))
    }

    /// The row of a `kind` field in `v1`.
    pub fn by_kind(kind: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|k| k.kind == kind)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}
impl Eq for Kind {}

/// Every kind, in the order in which listings of all kinds show them.
pub static KINDS: &[&Kind] = &[
    &objects::pod::KIND,
    &objects::replication_controller::KIND,
    &objects::service::KIND,
    &objects::endpoints::KIND,
    &objects::node::KIND,
    &objects::namespace::KIND,
    &objects::event::KIND,
    &objects::binding::KIND,
];

/// What a kind's file says about its type. Pure: no clock, no randomness, no I/O.
pub trait TypedObject:
    Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static
{
    /// The kind's row.
    fn row() -> &'static Kind;

    /// Fills in what the user left out, as current Kubernetes does. Idempotent.
    fn set_defaults(&mut self) {}

    /// Checks the object on its own. Paths are `v1` JSON paths.
    fn validate(&self, errors: &mut FieldErrors);

    /// Checks what may not change. `self` is the new object.
    fn validate_update(&self, _old: &Self, _errors: &mut FieldErrors) {}

    /// Removes what a creator may not set (the status).
    fn prepare_create(&mut self) {}

    /// Carries over from the stored object what an update may not change (the status).
    fn prepare_update(&mut self, _old: &Self) {}

    /// Whether spec differs, which moves `metadata.generation`.
    fn spec_changed(&self, _old: &Self) -> bool {
        false
    }

    /// The value of one of the row's `fields` (never `metadata.*`). Absent reads as "".
    fn field(&self, _field: &str) -> Option<&str> {
        None
    }

    /// What the object has that no other object in the cluster may have at the same time, such as
    /// an address: `portals/10.0.0.9`. Two segments, the first naming what is claimed.
    fn claims(&self) -> Vec<String> {
        Vec::new()
    }

    /// Stored but not enforced fields that the user should hear about, one sentence each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An object of any kind in the table. Implemented for every [`TypedObject`].
pub trait Object: Any + Send + Sync + std::fmt::Debug {
    /// Its row.
    fn kind(&self) -> &'static Kind;
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Its metadata.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// Compact JSON with `kind` and `apiVersion`.
    fn to_json(&self) -> Vec<u8>;
    /// A copy.
    fn clone_box(&self) -> Box<dyn Object>;
    /// For downcasts to the type.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts to the type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// See [`TypedObject::set_defaults`].
    fn set_defaults(&mut self);
    /// Metadata rules of all kinds plus [`TypedObject::validate`].
    fn validate(&self) -> Result<(), ApiError>;
    /// [`TypedObject::validate`] and [`TypedObject::validate_update`].
    fn validate_update(&self, old: &dyn Object) -> Result<(), ApiError>;
    /// See [`TypedObject::prepare_create`].
    fn prepare_create(&mut self);
    /// See [`TypedObject::prepare_update`].
    fn prepare_update(&mut self, old: &dyn Object);
    /// See [`TypedObject::spec_changed`].
    fn spec_changed(&self, old: &dyn Object) -> bool;
    /// See [`TypedObject::field`]; also answers `metadata.name` and `metadata.namespace`.
    fn field(&self, field: &str) -> Option<&str>;
    /// See [`TypedObject::claims`].
    fn claims(&self) -> Vec<String>;
    /// See [`TypedObject::warnings`].
    fn warnings(&self) -> Vec<String>;
}

impl dyn Object {
    /// The typed object, if it is a `T`.
    pub fn downcast_ref<T: TypedObject>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }

    /// The typed object, if it is a `T`.
    pub fn downcast_mut<T: TypedObject>(&mut self) -> Option<&mut T> {
        self.as_any_mut().downcast_mut()
    }

    /// `metadata.name`, or "".
    pub fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, or "" for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
}

fn old_of<T: TypedObject>(old: &dyn Object) -> Option<&T> {
    debug_assert!(old.kind() == T::row(), "an update compares objects of one kind");
    old.downcast_ref::<T>()
}

/// Bytes that most objects fit in.
const JSON_USUAL: usize = 2048;

impl<T: TypedObject> Object for T {
    fn kind(&self) -> &'static Kind {
        T::row()
    }
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    fn to_json(&self) -> Vec<u8> {
        // Hub types hold strings, numbers and string-keyed maps only: writing them cannot fail.
        let mut json = Vec::with_capacity(JSON_USUAL);
        if serde_json::to_writer(&mut json, self).is_err() {
            json.clear();
        }
        json
    }
    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn set_defaults(&mut self) {
        TypedObject::set_defaults(self);
    }
    fn validate(&self) -> Result<(), ApiError> {
        let mut errors = FieldErrors::default();
        objects::metadata::validate(self.metadata(), T::row(), &mut errors);
        TypedObject::validate(self, &mut errors);
        finish::<T>(self.metadata(), errors)
    }
    fn validate_update(&self, old: &dyn Object) -> Result<(), ApiError> {
        let mut errors = FieldErrors::default();
        objects::metadata::validate(self.metadata(), T::row(), &mut errors);
        TypedObject::validate(self, &mut errors);
        if let Some(old) = old_of::<T>(old) {
            TypedObject::validate_update(self, old, &mut errors);
        }
        finish::<T>(self.metadata(), errors)
    }
    fn prepare_create(&mut self) {
        TypedObject::prepare_create(self);
    }
    fn prepare_update(&mut self, old: &dyn Object) {
        if let Some(old) = old_of::<T>(old) {
            TypedObject::prepare_update(self, old);
        }
    }
    fn spec_changed(&self, old: &dyn Object) -> bool {
        old_of::<T>(old).is_some_and(|old| TypedObject::spec_changed(self, old))
    }
    fn field(&self, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => self.metadata().name.as_deref(),
            "metadata.namespace" => self.metadata().namespace.as_deref(),
            _ => TypedObject::field(self, field),
        }
    }
    fn claims(&self) -> Vec<String> {
        TypedObject::claims(self)
    }
    fn warnings(&self) -> Vec<String> {
        TypedObject::warnings(self)
    }
}

fn finish<T: TypedObject>(meta: &ObjectMeta, errors: FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(T::row().error_name, meta.name.as_deref().unwrap_or_default(), errors.into_vec()))
}

fn decode<T: TypedObject>(json: &[u8]) -> Result<Box<dyn Object>, ApiError> {
    Ok(Box::new(decode_typed::<T>(json)?))
}

/// Decodes `v1` JSON. A type fault is reported as `Invalid` with the field's JSON path, broken
/// JSON or another kind as `BadRequest`.
pub fn decode_typed<T: TypedObject>(json: &[u8]) -> Result<T, ApiError> {
    // Keeping track of the path costs more than the decoding itself: only faults pay for it.
    if let Ok(value) = serde_json::from_slice(json) {
        return Ok(value);
    }
    let mut de = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut de).map_err(|e| decode_error(T::row(), json, e))?;
    de.end().map_err(|e| ApiError::bad_request(format!("the body is not one JSON document: {e}")))?;
    Ok(value)
}

/// The name of an object that does not decode, if it has one.
fn name_in(json: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    body["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn decode_error(kind: &Kind, json: &[u8], e: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = e.path().to_string();
    let inner = e.into_inner();
    match inner.classify() {
        serde_json::error::Category::Data if path != "." && path != "kind" && path != "apiVersion" => {
            let mut errors = FieldErrors::default();
            // The path says where; a line and column would be of the JSON that the sender never saw.
            let text = inner.to_string();
            let (what, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
            errors.push(path, FieldErrorKind::TypeInvalid, what);
            ApiError::invalid(kind.error_name, &name_in(json), errors.into_vec())
        }
        serde_json::error::Category::Data => {
            ApiError::bad_request(format!("the body is not a {} of apiVersion v1: {inner}", kind.kind))
        }
        _ => ApiError::bad_request(format!("the body is not valid JSON: {inner}")),
    }
}
