//! Three-way merge of JSON: what the user last applied, what the user wants, what is there.
//!
//! What the user removed since is removed, what the user set is set, what others set stays. Lists
//! of objects with a known key (containers by name, ports by number) are merged entry by entry;
//! all other lists are the user's as a whole.
//! Invariant: merging what is already there changes nothing.

use serde_json::{Map, Value};

/// Keys of list entries by the list's field name; the first that all entries have is used.
const MERGE_KEYS: [(&str, &[&str]); 11] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("ports", &["containerPort", "port"]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("conditions", &["type"]),
    ("addresses", &["type", "ip"]),
    ("secrets", &["name"]),
];

/// The object to store.
pub(crate) fn three_way(last: &Value, wanted: &Value, live: &Value) -> Value {
    merge("", last, wanted, live)
}

fn merge(field: &str, last: &Value, wanted: &Value, live: &Value) -> Value {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => Value::Object(merge_maps(last, wanted, live)),
        (Value::Array(wanted), Value::Array(live)) => match merge_key(field, wanted, live) {
            Some(key) => Value::Array(merge_lists(key, last, wanted, live)),
            // Defaults that the master filled into entries are no change.
            None if last.as_array() == Some(wanted) && covers_list(live, wanted) => Value::Array(live.clone()),
            None => Value::Array(wanted.clone()),
        },
        _ => wanted.clone(),
    }
}

fn merge_maps(last: &Value, wanted: &Map<String, Value>, live: &Map<String, Value>) -> Map<String, Value> {
    let mut out = live.clone();
    if let Value::Object(last) = last {
        out.retain(|k, _| wanted.contains_key(k) || !last.contains_key(k));
    }
    for (key, value) in wanted {
        if value.is_null() {
            // null in a manifest means unset; a null that is there stays, it is the same.
            if !live.get(key).is_some_and(Value::is_null) {
                out.remove(key);
            }
            continue;
        }
        let merged = match live.get(key) {
            Some(live) => merge(key, last.get(key).unwrap_or(&Value::Null), value, live),
            None => value.clone(),
        };
        out.insert(key.clone(), merged);
    }
    out
}

fn merge_key(field: &str, wanted: &[Value], live: &[Value]) -> Option<&'static str> {
    let (_, keys) = MERGE_KEYS.iter().find(|(f, _)| *f == field)?;
    keys.iter().copied().find(|key| {
        let unique = |list: &[Value]| (1..list.len()).all(|i| list[..i].iter().all(|e| e[key] != list[i][key]));
        let keyed = |list: &[Value]| list.iter().all(|e| e.get(key).is_some_and(|v| !v.is_null()));
        keyed(wanted) && keyed(live) && unique(wanted) && unique(live)
    })
}

/// The entries in the live order, new ones last.
fn merge_lists(key: &str, last: &Value, wanted: &[Value], live: &[Value]) -> Vec<Value> {
    let last = last.as_array().map_or(&[][..], Vec::as_slice);
    let find = |list: &'_ [Value], id: &Value| list.iter().position(|e| e[key] == *id);
    let mut out = Vec::new();
    for entry in live {
        let before = find(last, &entry[key]).map_or(&Value::Null, |i| &last[i]);
        match find(wanted, &entry[key]) {
            Some(i) => out.push(merge("", before, &wanted[i], entry)),
            None if before.is_null() => out.push(entry.clone()),
            None => {}
        }
    }
    out.extend(wanted.iter().filter(|e| find(live, &e[key]).is_none()).cloned());
    out
}

fn covers_list(live: &[Value], wanted: &[Value]) -> bool {
    live.len() == wanted.len() && live.iter().zip(wanted).all(|(l, w)| covers(l, w))
}

/// Whether everything of `wanted` is in `live` with the same value.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(k, w)| live.get(k).map_or(w.is_null(), |l| covers(l, w)))
        }
        (Value::Array(live), Value::Array(wanted)) => covers_list(live, wanted),
        _ => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(last: Value, wanted: Value, live: Value, expected: Value) {
        assert_eq!(three_way(&last, &wanted, &live), expected);
    }

    #[test]
    fn removed_fields_go_set_fields_come_and_foreign_fields_stay() {
        check(
            json!({"a": 1, "b": 2, "m": {"x": 1}}),
            json!({"a": 3, "m": {}}),
            json!({"a": 1, "b": 2, "m": {"x": 1, "y": 2}, "default": true}),
            json!({"a": 3, "m": {"y": 2}, "default": true}),
        );
    }

    #[test]
    fn containers_are_merged_by_name_and_keep_their_defaults() {
        check(
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "old", "image": "1"}]}),
            json!({"containers": [{"name": "new", "image": "1"}, {"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "a", "image": "1", "imagePullPolicy": "Always"},
                {"name": "old", "image": "1"}, {"name": "injected", "image": "9"}]}),
            json!({"containers": [{"name": "a", "image": "2", "imagePullPolicy": "Always"},
                {"name": "injected", "image": "9"}, {"name": "new", "image": "1"}]}),
        );
    }

    #[test]
    fn plain_lists_are_replaced_and_null_unsets() {
        check(json!({"l": [1]}), json!({"l": [2, 3]}), json!({"l": [1, 9]}), json!({"l": [2, 3]}));
        check(json!({}), json!({"a": null}), json!({"a": 1, "b": null}), json!({"b": null}));
        check(
            json!({"p": [{"port": 1}]}),
            json!({"p": [{"port": 1}]}),
            json!({"p": [{"port": 1, "d": "x"}]}),
            json!({"p": [{"port": 1, "d": "x"}]}),
        );
        check(
            json!({"ports": [{"port": 1}, {"port": 1}]}),
            json!({"ports": [{"port": 1}, {"port": 1}]}),
            json!({"ports": [{"port": 2}]}),
            json!({"ports": [{"port": 1}, {"port": 1}]}),
        );
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]|containers|name", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_what_is_there_changes_nothing(live in json_value()) {
            prop_assert_eq!(&three_way(&live, &live, &live), &live);
        }

        #[test]
        fn merging_twice_is_merging_once(last in json_value(), wanted in json_value(), live in json_value()) {
            let once = three_way(&last, &wanted, &live);
            prop_assert_eq!(&three_way(&wanted, &wanted, &once), &once);
        }
    }
}
