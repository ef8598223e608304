//! What all 2014 types share: how they are read, printed and paired with a hub type.
//!
//! The reader is as lenient as the one of 0.5.4: unknown fields are ignored, `null` reads as
//! absent, and a missing field reads as its zero value. The printer omits zero values except
//! where a type says otherwise.

use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;

use super::metadata::Meta;
use crate::{
    ApiError, FieldErrors,
    core::ObjectReference,
    error::FieldErrorKind,
    kinds::{Kind, TypedObject},
    meta::ObjectMeta,
};

/// The version's name on the wire.
pub(super) const API_VERSION: &str = "v1beta1";

/// A 2014 type without its metadata, and the hub type it stands for.
pub(super) trait Wire: Serialize + DeserializeOwned {
    /// The hub type.
    type Hub: TypedObject;

    /// The 2014 view of a hub object. Total: what the version cannot express is left out.
    fn from_hub(hub: &Self::Hub) -> Self;

    /// The hub object of a 2014 body. `errors` gets the faults that only the 2014 form can have.
    fn into_hub(self, meta: ObjectMeta, errors: &mut FieldErrors) -> Self::Hub;

    /// Before an update is compared with what the caller had read: refits both to `stored` where
    /// the two versions split a value differently, and fills in what only the cluster assigns.
    fn align(_stored: &Self::Hub, _last: &mut Self::Hub, _next: &mut Self::Hub) {}
}

/// The kind's name in 2014.
pub(super) fn kind_name(kind: &Kind) -> &'static str {
    kind.v1beta1_kind.unwrap_or(kind.kind)
}

/// Reads a body as metadata and type, after checking that it is one of `W`.
pub(super) fn read<W: Wire>(body: &Value) -> Result<(Meta, W), ApiError> {
    let row = W::Hub::row();
    let expected = kind_name(row);
    let Value::Object(fields) = body else {
        return Err(ApiError::bad_request(format!("the body is not a {expected}: it is not a JSON object")));
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
    let (kind, version) = (text("kind").unwrap_or(expected), text("apiVersion").unwrap_or(API_VERSION));
    if kind != expected || version != API_VERSION {
        return Err(ApiError::bad_request(format!(
            "the body is a {kind} of apiVersion {version}, but a {expected} of apiVersion {API_VERSION} belongs here"
        )));
    }
    let body = without_nulls(body);
    let id = text("id").unwrap_or_default();
    Ok((read_part(row, id, &body)?, read_part(row, id, &body)?))
}

fn read_part<T: DeserializeOwned>(row: &Kind, id: &str, body: &Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(body).map_err(|e| {
        let mut errors = FieldErrors::default();
        errors.push(e.path().to_string(), FieldErrorKind::TypeInvalid, e.inner().to_string());
        ApiError::invalid(row.error_name, id, errors.into_vec())
    })
}

/// A copy in which no object has a `null` member.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// Whether a field has its zero value and is therefore not printed.
pub(super) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Prints an empty list as `null`, the way Go prints a list that was never made.
pub(super) fn null_when_empty<T: Serialize, S: Serializer>(list: &[T], out: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { out.serialize_none() } else { list.serialize(out) }
}

/// A number or a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum IntOrString {
    Int(i64),
    String(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl IntOrString {
    /// Whether it says nothing: `0` or the empty name.
    pub(super) fn is_unset(&self) -> bool {
        match self {
            Self::Int(n) => *n == 0,
            Self::String(s) => s.is_empty(),
        }
    }

    pub(super) fn from_hub(value: &crate::IntOrString) -> Self {
        match value {
            crate::IntOrString::Int(n) => Self::Int(i64::from(*n)),
            crate::IntOrString::String(s) => Self::String(s.clone()),
        }
    }

    pub(super) fn into_hub(self, at: String, errors: &mut FieldErrors) -> crate::IntOrString {
        match self {
            Self::Int(n) => crate::IntOrString::Int(narrow(n, at, errors)),
            Self::String(s) => crate::IntOrString::String(s),
        }
    }
}

/// 2014 numbers are 64 bits wide, the hub's are 32.
pub(super) fn narrow(value: i64, at: String, errors: &mut FieldErrors) -> i32 {
    value.try_into().unwrap_or_else(|_| {
        errors.invalid(at, value, "must fit in 32 bits");
        0
    })
}

/// `None` for the empty string, which is how 2014 says unset.
pub(super) fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

/// `None` for an empty list or map.
pub(super) fn non_zero<T: Default + PartialEq>(value: T) -> Option<T> {
    Some(value).filter(|v| !is_zero(v))
}

/// An upper-case protocol, TCP when unset; any case was accepted.
pub(super) fn protocol(text: &str) -> String {
    if text.is_empty() { "TCP".into() } else { text.to_uppercase() }
}

/// The 2014 name of a kind in an object reference.
pub(super) fn reference_kind(hub: &ObjectReference) -> String {
    let kind = hub.kind.as_deref().unwrap_or_default();
    match Kind::by_kind(kind) {
        Some(row) => kind_name(row).to_owned(),
        None => kind.to_owned(),
    }
}
