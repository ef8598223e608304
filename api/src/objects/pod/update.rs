//! What may change in a pod that exists.

use serde_json::Value;

use crate::{
    core::{Pod, PodSpec},
    error::FieldErrors,
    objects::names::Shown,
};

/// Most differing fields that an error names.
const MAX_NAMED: usize = 5;

pub(super) fn validate_update(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
    check_deadline(new, old, errors);
    let kept = old.tolerations.iter().flatten();
    let lost = kept.filter(|t| new.tolerations.as_ref().is_none_or(|n| !n.contains(t))).count();
    if lost > 0 {
        errors.forbidden("spec.tolerations", "tolerations may be added, not changed or removed");
    }
    let allowed = with_allowed_changes(old, new);
    if allowed == *new {
        return;
    }
    let json = |spec: &PodSpec| serde_json::to_value(spec).unwrap_or_default();
    let mut changed = Vec::new();
    differences("", &json(&allowed), &json(new), &mut changed);
    let more = changed.len().saturating_sub(MAX_NAMED);
    changed.truncate(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    errors.forbidden(
        "spec",
        format!(
            "only containers[*].image, initContainers[*].image, activeDeadlineSeconds and added tolerations may change \
             in a pod, besides labels and annotations; to change {}{more}, delete the pod and create it again",
            changed.join(", ")
        ),
    );
}

/// A deadline may be set or brought forward.
fn check_deadline(new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let Some(before) = old.active_deadline_seconds else { return };
    match new.active_deadline_seconds {
        Some(now) if now <= before => {}
        Some(now) => {
            let rule = format_args!("must be at most the present value, {before}");
            errors.invalid("spec.activeDeadlineSeconds", now, rule);
        }
        None => errors.forbidden("spec.activeDeadlineSeconds", "may be lowered, not removed"),
    }
}

/// The old spec with those parts of the new one that may change.
fn with_allowed_changes(old: &PodSpec, new: &PodSpec) -> PodSpec {
    let mut allowed = old.clone();
    let containers = allowed.containers.iter_mut().zip(&new.containers);
    let init = allowed.init_containers.iter_mut().flatten().zip(new.init_containers.iter().flatten());
    for (container, wanted) in containers.chain(init) {
        container.image.clone_from(&wanted.image);
    }
    allowed.active_deadline_seconds = new.active_deadline_seconds;
    allowed.tolerations.clone_from(&new.tolerations);
    allowed
}

/// The JSON paths at which two values differ.
fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            for key in keys {
                let dot = if path.is_empty() { "" } else { "." };
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differences(&format!("{path}{dot}{}", Shown(key)), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), a, b, found);
            }
        }
        _ if old == new => {}
        _ => found.push(path.to_owned()),
    }
}
