//! The wire form of 2014, converted at the edge.
//!
//! Owns the `v1beta1` types in wire field order and their conversion to and from the `v1` hub:
//! objects, lists, errors, field names and selectors. It sets no defaults of the hub and checks
//! only what the hub cannot know: the rest is the matter of [`crate::objects`], whose errors
//! [`translate_error`] retells.
//!
//! The invariant: nothing that `v1beta1` cannot express is lost by passing through it. An object
//! read and sent back unchanged is unchanged ([`decode_update`]).
//!
//! What does not survive a way from 2014 to the hub and back:
//! * what the master assigns or ignored anyway: `manifest.uuid`, `manifest.id`, `selfLink`,
//!   `currentState`, `proxyPort`, `mountType`, annotations under `io.coracle.v1beta1/`;
//! * `manifest.version`, which tells pods of a controller (`v1beta2`) from others (`v1beta1`);
//! * spelling: `protocol` in upper case and `TCP` when unset, `key` and `path` as `name` and
//!   `mountPath`, `restartPolicy` filled in, a hook without port as port 80, an unset
//!   `containerPort` as 0, and `imagePullPolicy` as "" where it says what "" means.

mod binding;
mod container;
mod endpoints;
mod event;
mod manifest;
mod merge;
mod metadata;
mod minion;
mod paths;
mod pod;
mod pod_status;
mod probe;
mod replication_controller;
mod selectors;
mod service;
mod status;
#[cfg(test)]
mod tests;
mod volume;
mod wire;

use serde::Serialize;
use serde_json::Value;

pub use paths::{field_path, translate_error};
pub use pod_status::status_word;
pub use selectors::field_selector;
pub use status::{encode_error, success_status};

use crate::{
    ApiError, FieldErrors,
    kinds::{Kind, Object},
    meta::ObjectMeta,
};
use metadata::Meta;
use wire::Wire;

/// Evaluates an expression with `$wire` as the 2014 type of a kind: the only list of them.
macro_rules! with_wire {
    ($kind:expr, $wire:ident => $body:expr, else $other:expr) => {
        match $kind.kind {
            "Pod" => {
                type $wire = pod::Pod;
                $body
            }
            "ReplicationController" => {
                type $wire = replication_controller::ReplicationController;
                $body
            }
            "Service" => {
                type $wire = service::Service;
                $body
            }
            "Endpoints" => {
                type $wire = endpoints::Endpoints;
                $body
            }
            "Node" => {
                type $wire = minion::Minion;
                $body
            }
            "Event" => {
                type $wire = event::Event;
                $body
            }
            "Binding" => {
                type $wire = binding::Binding;
                $body
            }
            _ => $other,
        }
    };
}

/// The hub object of a 2014 body, defaults not applied, for a request to `namespace` (empty: the
/// body's own stands). A missing kind or apiVersion is assumed, unknown fields are ignored, a
/// missing id stays missing.
///
/// Errors: `BadRequest` for another kind or version, `Conflict` for another namespace, `Invalid`
/// with 2014 paths for values of the wrong type or without a hub form.
pub fn decode(kind: &'static Kind, body: &Value, namespace: &str) -> Result<Box<dyn Object>, ApiError> {
    with_wire!(kind, W => Ok(Box::new(decode_as::<W>(body, namespace)?)), else Err(no_form(kind)))
}

/// The hub object of an update: `stored` with what the caller changed of the 2014 form they had
/// read. Everything this form cannot express stays, as does what only the cluster assigns (uid,
/// creation time, a pod's host, a service's portal address) where the body leaves it out. Id and
/// resourceVersion are the body's.
///
/// Errors: as for [`decode`].
pub fn decode_update(
    kind: &'static Kind,
    body: &Value,
    namespace: &str,
    stored: &dyn Object,
) -> Result<Box<dyn Object>, ApiError> {
    with_wire!(kind, W => {
        let Some(stored) = stored.downcast_ref::<<W as Wire>::Hub>() else {
            return Err(ApiError::internal(format!("the stored {} is not a {}", stored.kind().kind, kind.kind)));
        };
        Ok(Box::new(update_as::<W>(body, namespace, stored)?))
    }, else Err(no_form(kind)))
}

/// The 2014 form of an object, with kind and apiVersion, in wire field order. A kind that did not
/// exist in 2014 keeps its hub form.
pub fn encode_json(object: &dyn Object) -> Vec<u8> {
    let kind = object.kind();
    with_wire!(kind, W => match object.downcast_ref::<<W as Wire>::Hub>() {
        Some(hub) => print(&Item { meta: Meta::of_object(object.meta(), kind), body: W::from_hub(hub) }),
        None => object.to_json(),
    }, else object.to_json())
}

/// The 2014 form of a list read at `resource_version` (0 is not printed). Objects of another kind
/// are left out.
pub fn encode_list<'a>(
    kind: &'static Kind,
    items: impl IntoIterator<Item = &'a dyn Object>,
    resource_version: u64,
) -> Vec<u8> {
    let meta = Meta::of_list(kind, resource_version);
    let items = items.into_iter();
    with_wire!(kind, W => {
        let items: Vec<_> = items
            .filter_map(|object| {
                let hub = object.downcast_ref::<<W as Wire>::Hub>()?;
                Some(Item { meta: Meta::of_item(object.meta(), kind), body: W::from_hub(hub) })
            })
            .collect();
        // The list of minions was misnamed once, and keeps both names.
        let minions = (kind.kind == "Node" && !items.is_empty()).then_some(items.as_slice());
        print(&List { meta, minions, items: &items })
    }, else print(&List::<Value> { meta, minions: None, items: &[] }))
}

/// An object as it is printed.
#[derive(Serialize)]
struct Item<W> {
    #[serde(flatten)]
    meta: Meta,
    #[serde(flatten)]
    body: W,
}

#[derive(Serialize)]
struct List<'a, I> {
    #[serde(flatten)]
    meta: Meta,
    #[serde(skip_serializing_if = "Option::is_none")]
    minions: Option<&'a [I]>,
    items: &'a [I],
}

fn print(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and string-keyed maps only: writing them cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

fn no_form(kind: &Kind) -> ApiError {
    ApiError::bad_request(format!("{} do not exist in apiVersion v1beta1; use v1", kind.plural))
}

fn decode_as<W: Wire>(body: &Value, namespace: &str) -> Result<W::Hub, ApiError> {
    let (meta, wire) = wire::read::<W>(body)?;
    let id = meta.id.clone();
    let mut errors = FieldErrors::default();
    let row = row_of::<W>();
    let hub = wire.into_hub(meta.into_hub(row, namespace)?, &mut errors);
    if errors.is_empty() { Ok(hub) } else { Err(ApiError::invalid(row.error_name, &id, errors.into_vec())) }
}

fn update_as<W: Wire>(body: &Value, namespace: &str, stored: &W::Hub) -> Result<W::Hub, ApiError> {
    let mut next = decode_as::<W>(body, namespace)?;
    // What the caller had read. Faults in it are the stored object's own, and cancel out.
    let read = Meta::of_object(stored.meta(), row_of::<W>()).into_hub(row_of::<W>(), "")?;
    let mut last = W::from_hub(stored).into_hub(read, &mut FieldErrors::default());
    W::align(stored, &mut last, &mut next);
    let sent = take_identity(next.meta_mut());
    take_identity(last.meta_mut());

    let mut merged = value_of(stored)?;
    merge::three_way(&mut merged, &value_of(&last)?, &value_of(&next)?);
    let mut hub: W::Hub = serde_json::from_value(merged).map_err(ApiError::internal)?;
    let (meta, known) = (hub.meta_mut(), stored.meta());
    meta.name = sent.name.or_else(|| known.name.clone());
    meta.namespace = sent.namespace.or_else(|| known.namespace.clone());
    meta.uid = sent.uid.or_else(|| known.uid.clone());
    meta.creation_timestamp.clone_from(&known.creation_timestamp);
    meta.resource_version = sent.resource_version;
    Ok(hub)
}

/// Takes out the fields that say which object, and which state of it, is meant.
fn take_identity(meta: &mut ObjectMeta) -> ObjectMeta {
    meta.creation_timestamp = None;
    ObjectMeta {
        name: meta.name.take(),
        namespace: meta.namespace.take(),
        uid: meta.uid.take(),
        resource_version: meta.resource_version.take(),
        ..ObjectMeta::default()
    }
}

fn value_of(object: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(object).map_err(ApiError::internal)
}

fn row_of<W: Wire>() -> &'static Kind {
    <W::Hub as crate::TypedObject>::row()
}
