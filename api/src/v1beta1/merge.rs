//! Three-way merge: what a caller changed, applied to an object that holds more than they saw.
//!
//! `last` is the object as the caller had read it, `next` as they sent it back, both in hub form.
//! Only what differs between these two changes in `stored`.

use serde_json::{Map, Value};

/// Objects whose hidden members outlive the visible ones: when the caller removes the last field
/// they can see, only that goes. Any other object is removed as a whole.
const SHARED: [&str; 10] = [
    "annotations",
    "capacity",
    "lifecycle",
    "limits",
    "metadata",
    "requests",
    "resources",
    "securityContext",
    "spec",
    "status",
];

/// Applies the difference from `last` to `next` on `stored`.
pub(super) fn three_way(stored: &mut Value, last: &Value, next: &Value) {
    if let (Value::Object(stored), Value::Object(last), Value::Object(next)) = (stored, last, next) {
        merge_object(stored, last, next);
    }
}

fn merge_object(stored: &mut Map<String, Value>, last: &Map<String, Value>, next: &Map<String, Value>) {
    for (key, new) in next {
        let old = last.get(key);
        if old == Some(new) {
            continue;
        }
        match stored.get_mut(key) {
            Some(known) => merge_value(key, known, old, new),
            None => drop(stored.insert(key.clone(), new.clone())),
        }
    }
    for (key, old) in last.iter().filter(|(key, _)| !next.contains_key(*key)) {
        let keep = match (stored.get_mut(key), old) {
            (Some(Value::Object(known)), Value::Object(old)) if SHARED.contains(&key.as_str()) => {
                merge_object(known, old, &Map::new());
                !known.is_empty()
            }
            _ => false,
        };
        if !keep {
            stored.remove(key);
        }
    }
}

fn merge_value(key: &str, stored: &mut Value, last: Option<&Value>, next: &Value) {
    let (no_fields, no_items) = (Map::new(), Vec::new());
    match (&mut *stored, next) {
        (Value::Object(known), Value::Object(new)) => {
            merge_object(known, last.and_then(Value::as_object).unwrap_or(&no_fields), new);
        }
        (Value::Array(known), Value::Array(new)) => {
            let old = last.and_then(Value::as_array).unwrap_or(&no_items);
            match merge_list(key, known, old, new) {
                Some(merged) => *known = merged,
                None => known.clone_from(new),
            }
        }
        (known, new) => known.clone_from(new),
    }
}

/// The list in the order of `next`, each item merged with the stored one of the same key, and
/// after them the items that the caller could not see. `None` if the items have no unique keys.
fn merge_list(field: &str, stored: &[Value], last: &[Value], next: &[Value]) -> Option<Vec<Value>> {
    let (stored, last, next) = (keyed(field, stored)?, keyed(field, last)?, keyed(field, next)?);
    let find = |list: &[(String, &Value)], key: &str| list.iter().find(|(k, _)| k == key).map(|(_, v)| (*v).clone());
    let mut merged = Vec::with_capacity(next.len());
    for (key, new) in &next {
        let mut item = find(&stored, key).unwrap_or_else(|| (*new).clone());
        three_way(&mut item, &find(&last, key).unwrap_or_else(|| Value::Object(Map::new())), new);
        merged.push(item);
    }
    let seen = |key: &str| last.iter().chain(&next).any(|(k, _)| k == key);
    merged.extend(stored.iter().filter(|(key, _)| !seen(key)).map(|(_, item)| (*item).clone()));
    Some(merged)
}

fn keyed<'a>(field: &str, list: &'a [Value]) -> Option<Vec<(String, &'a Value)>> {
    let mut items: Vec<(String, &Value)> = Vec::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let key = key_of(field, index, item)?;
        if items.iter().any(|(k, _)| *k == key) {
            return None;
        }
        items.push((key, item));
    }
    Some(items)
}

/// What makes an item of this list the same one in all three versions.
fn key_of(field: &str, index: usize, item: &Value) -> Option<String> {
    let text = |name: &str| item.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    match field {
        "containers" | "volumes" | "env" => text("name"),
        "volumeMounts" => text("mountPath"),
        "addresses" => text("type"),
        // A service shows its first port only, so that one may change its number and stay itself.
        "ports" if item.get("port").is_some() => Some(index.to_string()),
        "ports" => Some(format!("{}/{}", text("containerPort")?, text("protocol").unwrap_or_else(|| "TCP".into()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut stored: Value, last: Value, next: Value, expected: Value) {
        three_way(&mut stored, &last, &next);
        assert_eq!(stored, expected, "{last} -> {next}");
    }

    #[test]
    fn only_what_the_caller_changed_changes() {
        check(json!({"a": 1, "b": 2}), json!({"a": 7}), json!({"a": 7}), json!({"a": 1, "b": 2}));
        check(json!({"a": 1, "b": 2}), json!({"a": 1}), json!({"a": 3}), json!({"a": 3, "b": 2}));
        check(json!({"a": 1, "b": 2}), json!({"a": 1}), json!({}), json!({"b": 2}));
        check(json!({"b": 2}), json!({}), json!({"a": {"c": 1}}), json!({"a": {"c": 1}, "b": 2}));
    }

    #[test]
    fn keyed_lists_keep_what_is_hidden_in_their_items() {
        let stored = json!({"containers": [{"name": "a", "image": "1", "probe": 1}, {"name": "b", "image": "1"}]});
        let last = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        let next = json!({"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "2"}]});
        let expected = json!({"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "2", "probe": 1}]});
        check(stored, last, next, expected);
    }

    #[test]
    fn items_the_caller_could_not_see_stay_behind_the_others() {
        let stored = json!({"ports": [{"port": 1, "nodePort": 9}, {"port": 2}]});
        let (last, next) = (json!({"ports": [{"port": 1}]}), json!({"ports": [{"port": 3}]}));
        check(stored, last, next, json!({"ports": [{"port": 3, "nodePort": 9}, {"port": 2}]}));
    }

    #[test]
    fn lists_without_unique_keys_are_replaced() {
        let last = json!({"env": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]});
        let next = json!({"env": [{"name": "a", "value": "3"}]});
        check(last.clone(), last, next.clone(), next);
        check(json!({"args": [1, 2]}), json!({"args": [1, 2]}), json!({"args": [2]}), json!({"args": [2]}));
    }

    #[test]
    fn a_removed_object_goes_whole_unless_it_is_shared() {
        let stored =
            json!({"livenessProbe": {"exec": {}, "period": 1}, "securityContext": {"privileged": true, "user": 1}});
        let last = json!({"livenessProbe": {"exec": {}}, "securityContext": {"privileged": true}});
        check(stored, last, json!({}), json!({"securityContext": {"user": 1}}));
        check(json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "1"}}), json!({}), json!({}));
    }
}
