//! Short ways into JSON: text, numbers and lists by pointer; absent reads as empty.

use jiff::Timestamp;
use serde_json::Value;

/// Text at a JSON pointer, or "".
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Entries of an array at a JSON pointer, or none.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A number at a JSON pointer, or 0.
pub fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// A time at a JSON pointer.
pub fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    value.pointer(pointer)?.as_str()?.parse().ok()
}

/// `k=v,k=v` of a map at a JSON pointer, sorted by key, or "".
pub fn pairs(value: &Value, pointer: &str) -> String {
    let map = value.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    map.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}
