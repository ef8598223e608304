//! Which nodes a pod allows and bears: required node affinity, and taints with their tolerations.
//!
//! Owns the matching and the rules on how it is written. What a scheduler makes of the answers is
//! not known here.

use crate::{
    StringMap,
    core::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration},
    error::FieldErrors,
    objects::{
        names::{QUALIFIED_NAME, Shown},
        ports::check_one_of,
    },
};

/// The only field of a node that affinity may ask about.
const NAME_FIELD: &str = "metadata.name";

/// Whether one of the tolerations bears the taint.
pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn set(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|t| !t.is_empty())
    }
    let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    // An empty key bears every key; validation allows it with `Exists` only.
    let key = set(&toleration.key).is_none_or(|key| key == taint.key);
    let value = set(&toleration.operator) == Some("Exists")
        || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    effect && key && value
}

/// What the pod's affinity requires of its node, if anything.
pub fn required_node_affinity(spec: &PodSpec) -> Option<&NodeSelector> {
    let node = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    node.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether a node with this name and these labels is among those selected: one term that holds is
/// enough, in a term everything must hold, and an empty term holds nowhere.
pub fn node_is_selected(selector: &NodeSelector, name: &str, labels: &StringMap) -> bool {
    selector.node_selector_terms.iter().any(|term| term_holds(term, name, labels))
}

fn term_holds(term: &NodeSelectorTerm, name: &str, labels: &StringMap) -> bool {
    let labelled = term.match_expressions.iter().flatten();
    let named = term.match_fields.iter().flatten();
    if labelled.clone().chain(named.clone()).next().is_none() {
        return false;
    }
    labelled.clone().all(|r| requirement_holds(r, labels.get(&r.key).map(String::as_str)))
        && named.clone().all(|r| r.key == NAME_FIELD && requirement_holds(r, Some(name)))
}

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = || requirement.values.iter().flatten().any(|v| Some(v.as_str()) == value);
    let numbers = || {
        let limit = requirement.values.as_deref()?.first()?.parse::<i64>().ok()?;
        Some((value?.parse::<i64>().ok()?, limit))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(is, limit)| is > limit),
        "Lt" => numbers().is_some_and(|(is, limit)| is < limit),
        _ => false,
    }
}

pub(super) fn validate_affinity(path: &str, affinity: &Affinity, errors: &mut FieldErrors) {
    let node = affinity.node_affinity.as_ref();
    let Some(required) = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref()) else {
        return;
    };
    let path = format!("{path}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    if required.node_selector_terms.is_empty() {
        return errors.required(path, "at least one term");
    }
    for (i, term) in required.node_selector_terms.iter().enumerate() {
        for (n, requirement) in term.match_expressions.iter().flatten().enumerate() {
            let path = format!("{path}[{i}].matchExpressions[{n}]");
            QUALIFIED_NAME.check(format!("{path}.key"), &requirement.key, errors);
            let operators = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
            check_one_of(format!("{path}.operator"), Some(&requirement.operator), &operators, errors);
            check_values(&path, requirement, errors);
        }
        for (n, requirement) in term.match_fields.iter().flatten().enumerate() {
            let path = format!("{path}[{i}].matchFields[{n}]");
            if requirement.key != NAME_FIELD {
                errors.not_supported(format!("{path}.key"), Shown(&requirement.key), &[NAME_FIELD]);
            }
            check_one_of(format!("{path}.operator"), Some(&requirement.operator), &["In", "NotIn"], errors);
            if requirement.values.as_ref().map_or(0, Vec::len) != 1 {
                errors.required(format!("{path}.values"), "one name of a node");
            }
        }
    }
}

fn check_values(path: &str, requirement: &NodeSelectorRequirement, errors: &mut FieldErrors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let path = format!("{path}.values");
    match requirement.operator.as_str() {
        "" => errors.required(path.replace(".values", ".operator"), "such as In or Exists"),
        "In" | "NotIn" if values.is_empty() => errors.required(path, "at least one value"),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(path, format!("{} compares no values: remove them", requirement.operator));
        }
        "Gt" | "Lt" => match values {
            [one] if one.parse::<i64>().is_ok() => {}
            [one] => errors.invalid(path, Shown(one), "must be a whole number"),
            _ => errors.required(path, "one whole number"),
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tolerated(taint: Value, toleration: Value) -> bool {
        is_tolerated(&serde_json::from_value(taint).unwrap(), &[serde_json::from_value(toleration).unwrap()])
    }

    #[test]
    fn a_toleration_bears_taints_of_its_key_value_and_effect() {
        let taint = json!({"key": "for", "value": "db", "effect": "NoSchedule"});
        for (toleration, borne) in [
            (json!({"key": "for", "value": "db"}), true),
            (json!({"key": "for", "operator": "Equal", "value": "db", "effect": "NoSchedule"}), true),
            (json!({"key": "for", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "for", "value": "web"}), false),
            (json!({"key": "for"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "for", "operator": "Exists", "effect": "NoExecute"}), false),
        ] {
            assert_eq!(tolerated(taint.clone(), toleration.clone()), borne, "{toleration}");
        }
        assert!(tolerated(json!({"key": "k", "effect": "NoExecute"}), json!({"key": "k"})), "no value is an empty one");
    }

    fn selected(terms: Value) -> bool {
        let selector = serde_json::from_value(json!({"nodeSelectorTerms": terms})).unwrap();
        let labels = [("zone".to_owned(), "a".to_owned()), ("cores".to_owned(), "8".to_owned())].into();
        node_is_selected(&selector, "n1", &labels)
    }

    #[test]
    fn a_term_holds_where_all_its_requirements_do() {
        let zone = |operator: &str, values: Value| json!([{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]);
        let rack = |operator: &str, values: Value| json!([{"matchExpressions": [{"key": "rack", "operator": operator, "values": values}]}]);
        let cores = |operator: &str, values: Value| json!([{"matchExpressions": [{"key": "cores", "operator": operator, "values": values}]}]);
        let name = |operator: &str, values: Value| json!([{"matchFields": [{"key": "metadata.name", "operator": operator, "values": values}]}]);
        for (terms, holds) in [
            (zone("In", json!(["b", "a"])), true),
            (zone("In", json!(["b"])), false),
            (zone("NotIn", json!(["b"])), true),
            (zone("NotIn", json!(["a"])), false),
            (rack("NotIn", json!(["a"])), true),
            (zone("Exists", Value::Null), true),
            (rack("Exists", Value::Null), false),
            (rack("DoesNotExist", Value::Null), true),
            (cores("Gt", json!(["7"])), true),
            (cores("Gt", json!(["8"])), false),
            (cores("Lt", json!(["9"])), true),
            (zone("Gt", json!(["1"])), false),
            (rack("Lt", json!(["1"])), false),
            (name("In", json!(["n1"])), true),
            (name("NotIn", json!(["n1"])), false),
            (json!([]), false),
            (json!([{}]), false),
            (json!([{}, zone("In", json!(["a"]))[0]]), true),
            (
                json!([{"matchExpressions": [zone("In", json!(["a"]))[0]["matchExpressions"][0],
                rack("Exists", Value::Null)[0]["matchExpressions"][0]]}]),
                false,
            ),
        ] {
            assert_eq!(selected(terms.clone()), holds, "{terms}");
        }
    }
}
