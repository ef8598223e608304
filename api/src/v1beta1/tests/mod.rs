//! Whole conversions: the wire form to the byte, round trips, and faults.

mod errors;
mod golden;
mod round_trip;
mod update;

use serde_json::Value;

use crate::{
    Object,
    kinds::{Kind, TypedObject},
};

/// A hub object written as `v1` JSON.
fn hub<T: TypedObject>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

/// The printed 2014 form, as text.
fn printed(object: &dyn Object) -> String {
    String::from_utf8(super::encode_json(object)).unwrap()
}

/// The printed 2014 form, as a client parses it.
fn sent(object: &dyn Object) -> Value {
    serde_json::from_slice(&super::encode_json(object)).unwrap()
}

/// The hub object of a 2014 body sent to the default namespace.
fn decode(kind: &'static Kind, body: &Value) -> Box<dyn Object> {
    super::decode(kind, body, "default").unwrap()
}
