//! Selectors with the field names of 2014 (spec §1.7), turned into those of the hub.

use super::wire::kind_name;
use crate::{
    ApiError,
    kinds::{KINDS, Kind},
    selector::FieldSelector,
};

/// Field of 2014 → field of the hub, for all kinds. Names that are the same in both are missing.
const RENAMED: &[(&str, &str)] = &[("name", "metadata.name"), ("namespace", "metadata.namespace")];

const HOST: &str = "DesiredState.Host";
const STATUS: &str = "DesiredState.Status";
const OBJECT_KIND: &str = "involvedObject.kind";
const PHASE: &str = "status.phase";

/// Parses a 2014 field selector. `Err` is a 400 that names the field and the supported ones.
///
/// `DesiredState.Status` selects by the stored phase, as it did: a pod whose containers just died
/// shows as Terminated while its phase is still Running.
pub fn field_selector(kind: &Kind, text: &str) -> Result<FieldSelector, ApiError> {
    // Parsed once as it stands, so that errors quote the caller's text.
    FieldSelector::parse(text)?;
    let mut terms = Vec::new();
    for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let Some((field, operator, value)) = split(term) else { continue };
        match field {
            HOST if kind.kind == "Pod" => terms.push(format!("spec.nodeName{operator}{value}")),
            STATUS if kind.kind == "Pod" => terms.extend(phase_terms(operator, value)),
            OBJECT_KIND if kind.kind == "Event" => {
                let value = KINDS.iter().find(|k| kind_name(k) == value).map_or(value, |k| k.kind);
                terms.push(format!("{field}{operator}{value}"));
            }
            _ => terms.push(format!("{}{operator}{value}", hub_field(kind, field)?)),
        }
    }
    FieldSelector::parse(&terms.join(","))
}

fn hub_field<'a>(kind: &Kind, field: &'a str) -> Result<&'a str, ApiError> {
    if let Some((_, hub)) = RENAMED.iter().find(|(old, _)| *old == field) {
        return Ok(hub);
    }
    if kind.fields.contains(&field) || RENAMED.iter().any(|(_, hub)| *hub == field) {
        return Ok(field);
    }
    let mut supported = vec!["name"];
    match kind.kind {
        "Pod" => supported.extend([HOST, STATUS]),
        _ => supported.extend(kind.fields),
    }
    Err(ApiError::bad_request(format!(
        "field selector: '{field}' is no field of a {}; supported: {}",
        kind_name(kind),
        supported.join(", ")
    )))
}

/// Two phases were one word, so a word is told by the phases it excludes.
fn phase_terms(operator: &str, word: &str) -> Vec<String> {
    let phases: &[&str] = match (word, operator) {
        ("Terminated", "!=") => &["Failed", "Succeeded"],
        ("Terminated", _) => return ["Pending", "Running", "Unknown", ""].map(|p| format!("{PHASE}!={p}")).into(),
        ("Waiting", _) => &["Pending"],
        _ => &[word],
    };
    phases.iter().map(|phase| format!("{PHASE}{operator}{phase}")).collect()
}

/// (field, operator, value)
fn split(term: &str) -> Option<(&str, &'static str, &str)> {
    ["!=", "==", "="].into_iter().find_map(|operator| {
        let (field, value) = term.split_once(operator)?;
        Some((field.trim(), if operator == "!=" { "!=" } else { "=" }, value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects;

    fn check(kind: &Kind, text: &str, fields: &[(&str, &str)], expected: bool) {
        let selector = field_selector(kind, text).unwrap();
        let value = |f: &str| fields.iter().find(|(k, _)| *k == f).map(|(_, v)| *v);
        assert_eq!(selector.matches_with(value), expected, "{text} on {fields:?}");
    }

    #[test]
    fn pods_are_selected_by_the_names_of_2014() {
        let pod = &objects::pod::KIND;
        check(pod, "", &[], true);
        check(pod, "name=x", &[("metadata.name", "x")], true);
        check(pod, "DesiredState.Host=", &[], true);
        check(pod, "DesiredState.Host!=", &[("spec.nodeName", "n")], true);
        check(pod, "DesiredState.Host==n", &[("spec.nodeName", "m")], false);
        check(pod, "DesiredState.Status=Waiting", &[("status.phase", "Pending")], true);
        for phase in ["Failed", "Succeeded", "Running", "Pending"] {
            let over = matches!(phase, "Failed" | "Succeeded");
            check(pod, "DesiredState.Status=Terminated", &[("status.phase", phase)], over);
            check(pod, "DesiredState.Status!=Terminated", &[("status.phase", phase)], !over);
        }
        assert_eq!(field_selector(pod, "DesiredState.Host=n").unwrap().exact("spec.nodeName"), Some("n"));
    }

    #[test]
    fn minions_in_events_are_nodes() {
        check(&objects::event::KIND, "involvedObject.kind=Minion", &[("involvedObject.kind", "Node")], true);
        check(&objects::event::KIND, "source=scheduler", &[("source", "kubelet")], false);
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        for (kind, text) in [(&objects::pod::KIND, "image=x"), (&objects::service::KIND, "DesiredState.Host=x")] {
            let error = field_selector(kind, text).unwrap_err();
            assert_eq!(error.code(), 400);
            assert!(error.message.contains("supported: name"), "{}", error.message);
        }
        assert_eq!(field_selector(&objects::pod::KIND, "name").unwrap_err().code(), 400);
    }
}
