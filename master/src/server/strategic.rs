//! Strategic merge patch: a merge patch that knows which lists are maps by a key. Pure.
//!
//! The keys are those of the `patchMergeKey` marks in current Kubernetes. They are found by the
//! list's field name, which is unambiguous among the kinds in the table: lists that have the name
//! but not the mark (such as the ports inside endpoints) lie below a list that is replaced whole.

use coracle_api::ApiError;
use serde_json::{Map, Value};

const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Merge keys by field name. Of several, the first that an element has is used: container ports
/// merge by `containerPort`, service ports by `port`.
const MERGE_KEYS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("ports", &["containerPort", "port"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
    ("hostAliases", &["ip"]),
    ("podIPs", &["ip"]),
    ("hostIPs", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey"]),
    ("conditions", &["type"]),
    ("addresses", &["type"]),
    ("ownerReferences", &["uid"]),
];

/// Lists of plain values that are sets.
const SETS: &[&str] = &["finalizers", "podCIDRs"];

/// Applies `patch` to `target`. `Err` is a 400.
pub(crate) fn merge(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_map(target, patch),
        _ => Err(ApiError::bad_request("a strategic merge patch is an object")),
    }
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), ApiError> {
    match directive(patch)? {
        Some(Directive::Delete) => {
            target.clear();
            return Ok(());
        }
        Some(Directive::Replace) => target.clear(),
        None => {}
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        target.retain(|key, _| keep.iter().any(|k| k.as_str() == Some(key)));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (target.get_mut(field), value) {
                list.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            merge_field(target, key, value)?;
        }
    }
    for (key, order) in patch {
        if let (Some(field), Value::Array(order)) = (key.strip_prefix(ORDER), order)
            && let Some(Value::Array(list)) = target.get_mut(field)
        {
            reorder(list, order, merge_keys(field));
        }
    }
    Ok(())
}

fn merge_field(target: &mut Map<String, Value>, key: &str, value: &Value) -> Result<(), ApiError> {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Object(patch) => {
            let field = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !field.is_object() {
                *field = Value::Object(Map::new());
            }
            if let Value::Object(field) = field {
                merge_map(field, patch)?;
            }
        }
        Value::Array(patch) => {
            let field = target.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if !field.is_array() {
                *field = Value::Array(Vec::new());
            }
            if let Value::Array(list) = field {
                merge_list(key, list, patch)?;
            }
        }
        plain => {
            target.insert(key.to_owned(), plain.clone());
        }
    }
    Ok(())
}

fn merge_list(field: &str, list: &mut Vec<Value>, patch: &[Value]) -> Result<(), ApiError> {
    let is_replace = |item: &&Value| item.get("$patch").and_then(Value::as_str) == Some("replace");
    let keys = merge_keys(field);
    if patch.iter().any(|item| is_replace(&item)) {
        *list = patch.iter().filter(|item| !is_replace(item)).cloned().collect();
    } else if SETS.contains(&field) {
        let new: Vec<_> = patch.iter().filter(|item| !list.contains(item)).cloned().collect();
        list.extend(new);
    } else if keys.is_empty() {
        *list = patch.to_vec();
    } else {
        patch.iter().try_for_each(|item| merge_element(field, keys, list, item))?;
    }
    Ok(())
}

fn merge_element(field: &str, keys: &[&str], list: &mut Vec<Value>, item: &Value) -> Result<(), ApiError> {
    let found = item.as_object().and_then(|map| Some((map, *keys.iter().find(|k| map.contains_key(**k))?)));
    let Some((patch, key)) = found else {
        let message = format!("an element of {field} does not contain its merge key {}", keys.join(" or "));
        return Err(ApiError::bad_request(message));
    };
    let same = |other: &Value| other.get(key) == patch.get(key);
    if directive(patch)? == Some(Directive::Delete) {
        list.retain(|other| !same(other));
        return Ok(());
    }
    let at = list.iter().position(same).unwrap_or_else(|| {
        list.push(Value::Object(Map::new()));
        list.len() - 1
    });
    match &mut list[at] {
        Value::Object(target) => merge_map(target, patch),
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, ApiError> {
    match patch.get("$patch").map(|v| v.as_str().unwrap_or_default()) {
        None | Some("merge") => Ok(None),
        Some("replace") => Ok(Some(Directive::Replace)),
        Some("delete") => Ok(Some(Directive::Delete)),
        Some(other) => {
            Err(ApiError::bad_request(format!("$patch: '{other}' is not a directive: use replace, merge or delete")))
        }
    }
}

fn merge_keys(field: &str) -> &'static [&'static str] {
    MERGE_KEYS.iter().find(|(name, _)| *name == field).map_or(&[], |(_, keys)| keys)
}

/// Puts the elements that `order` names first and in its order; the others follow as they were.
fn reorder(list: &mut [Value], order: &[Value], keys: &[&str]) {
    let place = |item: &Value| {
        let named = |wanted: &&Value| match keys.iter().find(|k| wanted.get(**k).is_some()) {
            Some(key) => wanted.get(key) == item.get(key),
            None => **wanted == *item,
        };
        order.iter().position(|wanted| named(&wanted)).unwrap_or(usize::MAX)
    };
    list.sort_by_key(place);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut target: Value, patch: Value, expected: Value) {
        merge(&mut target, &patch).unwrap();
        assert_eq!(target, expected, "by {patch}");
    }

    #[test]
    fn maps_merge_and_null_removes() {
        check(json!({"a":1,"b":{"c":2,"d":3}}), json!({"a":null,"b":{"c":4},"e":5}), json!({"b":{"c":4,"d":3},"e":5}));
        check(json!({"a":1}), json!({"a":{"b":{"c":null}}}), json!({"a":{"b":{}}}));
        check(json!({"a":{"x":1}}), json!({"a":{"$patch":"replace","y":2}}), json!({"a":{"y":2}}));
        check(json!({"a":{"x":1}}), json!({"a":{"$patch":"delete"}}), json!({"a":{}}));
        check(json!({"s":{"x":1,"y":2}}), json!({"s":{"$retainKeys":["y"],"y":3}}), json!({"s":{"y":3}}));
    }

    #[test]
    fn keyed_lists_merge_by_their_key() {
        let pod =
            json!({"containers":[{"name":"a","image":"1","ports":[{"containerPort":80,"name":"web"}]},{"name":"b"}]});
        check(
            pod.clone(),
            json!({"containers":[{"name":"a","image":"2","ports":[{"containerPort":80,"hostPort":8080}]},{"name":"c"}]}),
            json!({"containers":[
                {"name":"a","image":"2","ports":[{"containerPort":80,"name":"web","hostPort":8080}]},
                {"name":"b"},{"name":"c"}]}),
        );
        check(
            pod.clone(),
            json!({"containers":[{"name":"a","$patch":"delete"}]}),
            json!({"containers":[{"name":"b"}]}),
        );
        check(pod, json!({"containers":[{"$patch":"replace"},{"name":"z"}]}), json!({"containers":[{"name":"z"}]}));
        check(
            json!({"ports":[{"port":1,"name":"x"}]}),
            json!({"ports":[{"port":1,"targetPort":9},{"port":2}]}),
            json!({"ports":[{"port":1,"name":"x","targetPort":9},{"port":2}]}),
        );
    }

    #[test]
    fn other_lists_are_replaced_and_sets_grow() {
        check(json!({"command":["a","b"]}), json!({"command":["c"]}), json!({"command":["c"]}));
        // The key alone does not name a taint: `kubectl taint` sends all that are to stay.
        check(
            json!({"taints":[{"key":"a","effect":"NoSchedule"},{"key":"b","effect":"NoSchedule"}]}),
            json!({"taints":[{"key":"b","effect":"NoSchedule"},{"key":"b","effect":"NoExecute"}]}),
            json!({"taints":[{"key":"b","effect":"NoSchedule"},{"key":"b","effect":"NoExecute"}]}),
        );
        check(json!({"finalizers":["a"]}), json!({"finalizers":["b","a"]}), json!({"finalizers":["a","b"]}));
        check(
            json!({"finalizers":["a","b"]}),
            json!({"$deleteFromPrimitiveList/finalizers":["a"]}),
            json!({"finalizers":["b"]}),
        );
    }

    #[test]
    fn the_order_asked_for_is_kept() {
        check(
            json!({"env":[{"name":"a"},{"name":"b"}]}),
            json!({"$setElementOrder/env":[{"name":"c"},{"name":"b"}],"env":[{"name":"c","value":"1"}]}),
            json!({"env":[{"name":"c","value":"1"},{"name":"b"},{"name":"a"}]}),
        );
    }

    #[test]
    fn elements_without_their_key_and_unknown_directives_are_refused() {
        for patch in
            [json!({"containers":[{"image":"x"}]}), json!({"containers":["x"]}), json!({"$patch":"x"}), json!([])]
        {
            assert_eq!(merge(&mut json!({"containers":[]}), &patch).unwrap_err().code(), 400, "{patch}");
        }
    }
}
