//! The Status object: answers that are no other object, and errors.

use serde::Serialize;

use super::metadata::Meta;
use crate::{ApiError, error::Reason};

#[derive(Serialize)]
struct Status<'a> {
    #[serde(flatten)]
    meta: Meta,
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Details<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause<'a>>,
}

#[derive(Serialize)]
struct Cause<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    field: &'a str,
}

/// The answer to a delete or a binding.
pub fn success_status() -> Vec<u8> {
    let status = Status { meta: meta(), status: "Success", message: "", reason: "", details: None, code: None };
    print(&status)
}

/// An error in its 2014 form, which names the object by `details.id`. The paths in it are taken
/// as they are: see [`super::translate_error`].
///
/// For a bad request 0.5.4 gave the text as the first cause and no message; here it is in both.
pub fn encode_error(error: &ApiError) -> Vec<u8> {
    let mut causes: Vec<_> = error
        .causes
        .iter()
        .map(|c| Cause { reason: c.kind.as_str(), message: c.to_string(), field: &c.path })
        .collect();
    if error.reason == Reason::BadRequest && causes.is_empty() {
        causes.push(Cause { reason: "", message: error.message.clone(), field: "" });
    }
    let details = Details { id: error.name.as_deref(), kind: error.kind.as_deref(), causes };
    let some = details.id.is_some() || details.kind.is_some() || !details.causes.is_empty();
    print(&Status {
        meta: meta(),
        status: "Failure",
        message: &error.message,
        reason: error.reason.as_str(),
        details: some.then_some(details),
        code: Some(error.code()),
    })
}

fn meta() -> Meta {
    Meta::default().typed("Status")
}

fn print(status: &Status<'_>) -> Vec<u8> {
    // Strings and numbers only: writing them cannot fail.
    serde_json::to_vec(status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FieldErrors;

    fn check(error: &ApiError, expected: &str) {
        assert_eq!(String::from_utf8(encode_error(error)).unwrap(), expected);
    }

    #[test]
    fn success_is_printed_as_0_5_4_did() {
        let expected = r#"{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Success"}"#;
        assert_eq!(String::from_utf8(success_status()).unwrap(), expected);
    }

    #[test]
    fn errors_name_the_object_by_id() {
        check(
            &ApiError::not_found("pod", "nope"),
            concat!(
                r#"{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","#,
                r#""message":"pod \"nope\" not found","reason":"NotFound","#,
                r#""details":{"id":"nope","kind":"pod"},"code":404}"#
            ),
        );
    }

    #[test]
    fn causes_carry_reason_message_and_field() {
        let mut errors = FieldErrors::default();
        errors.required("desiredState.manifest.version", "");
        check(
            &ApiError::invalid("pod", "x", errors.into_vec()),
            concat!(
                r#"{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","#,
                r#""message":"pod \"x\" is invalid: desiredState.manifest.version: required value","#,
                r#""reason":"Invalid","details":{"id":"x","kind":"pod","causes":[{"reason":"FieldValueRequired","#,
                r#""message":"desiredState.manifest.version: required value","#,
                r#""field":"desiredState.manifest.version"}]},"code":422}"#
            ),
        );
    }

    #[test]
    fn a_bad_request_has_its_text_where_old_clients_look_too() {
        check(
            &ApiError::bad_request("no"),
            concat!(
                r#"{"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Failure","#,
                r#""message":"no","reason":"BadRequest","details":{"causes":[{"message":"no"}]},"code":400}"#
            ),
        );
    }
}
