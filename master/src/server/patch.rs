//! The patch languages: JSON Patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch.
//! Pure: a document and a patch in, the new document out.

use coracle_api::{
    ApiError,
    error::{FieldErrorKind, FieldErrors, Reason},
};
use http::{HeaderMap, header};
use json_patch::PatchOperation;
use serde_json::Value;

use super::strategic;

/// Operations of one JSON Patch, as in current Kubernetes.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes that the operations of one patch may copy and move: doubling copies would grow without end.
const COPIED_BYTES_MAX: usize = 3 << 20;
/// Levels of objects and lists, as in a body that is read: what is nested by moving it into itself would have no end.
const DEPTH_MAX: usize = 128;

/// A patch of any of the three languages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Patch {
    Operations(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch of the request's content type.
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media = content_type.split(';').next().unwrap_or_default().trim();
        let unsupported = |message: String| Err(ApiError::new(Reason::UnsupportedMediaType, message));
        let fault = |e: serde_json::Error| ApiError::bad_request(format!("the patch is not valid: {e}"));
        match media {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(fault)?;
                if patch.0.len() > OPERATIONS_MAX {
                    let message = format!("a JSON patch of {} operations exceeds {OPERATIONS_MAX}", patch.0.len());
                    return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
                }
                Ok(Self::Operations(patch))
            }
            "application/merge-patch+json" => map(body).map(Self::Merge),
            "application/strategic-merge-patch+json" => map(body).map(Self::Strategic),
            "application/apply-patch+yaml" => unsupported(
                "server-side apply is not supported: use kubectl apply without --server-side, or one of the \
                 patch types json, merge and strategic"
                    .into(),
            ),
            other => unsupported(format!(
                "the patch type '{other}' is not supported: use application/json-patch+json, \
                 application/merge-patch+json or application/strategic-merge-patch+json"
            )),
        }
    }

    /// Whether it holds for one version of the object only.
    pub(crate) fn names_version(&self) -> bool {
        match self {
            Patch::Merge(patch) | Patch::Strategic(patch) => patch["metadata"].get("resourceVersion").is_some(),
            Patch::Operations(patch) => {
                patch.0.iter().any(|operation| operation.path().as_str() == "/metadata/resourceVersion")
            }
        }
    }

    /// Applies the patch. `kind` and `name` are for the error.
    pub(crate) fn apply(&self, kind: &str, name: &str, mut document: Value) -> Result<Value, ApiError> {
        match self {
            Patch::Merge(patch) => json_patch::merge(&mut document, patch),
            Patch::Strategic(patch) => strategic::merge(&mut document, patch)?,
            Patch::Operations(patch) => {
                let mut copied = 0;
                for operation in &patch.0 {
                    let (placed, carried) = match operation {
                        PatchOperation::Add(add) => (Some(&add.value), false),
                        PatchOperation::Replace(replace) => (Some(&replace.value), false),
                        PatchOperation::Copy(copy) => (document.pointer(copy.from.as_str()), true),
                        PatchOperation::Move(moving) => (document.pointer(moving.from.as_str()), true),
                        PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, false),
                    };
                    if operation.path().tokens().count() + placed.map_or(0, depth) > DEPTH_MAX {
                        let message = format!("the patch nests more than {DEPTH_MAX} levels, at {}", operation.path());
                        return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
                    }
                    copied += placed.filter(|_| carried).map_or(0, |value| value.to_string().len());
                    if copied > COPIED_BYTES_MAX {
                        let message = format!("what the patch copies and moves exceeds {COPIED_BYTES_MAX} bytes");
                        return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
                    }
                    json_patch::patch(&mut document, std::slice::from_ref(operation)).map_err(|e| {
                        let mut errors = FieldErrors::default();
                        errors.push(operation.path().to_string(), FieldErrorKind::Invalid, e.kind.to_string());
                        ApiError::invalid(kind, name, errors.into_vec())
                    })?;
                }
            }
        }
        Ok(document)
    }
}

/// Levels of objects and lists; 0 for a plain value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn map(body: &[u8]) -> Result<Value, ApiError> {
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(ApiError::bad_request("the patch is not a JSON object")),
        Err(e) => Err(ApiError::bad_request(format!("the patch is not valid JSON: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply(media: &str, patch: &Value, document: Value) -> Result<Value, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        Patch::parse(&headers, patch.to_string().as_bytes())?.apply("pod", "x", document)
    }

    #[test]
    fn each_language_does_its_own() {
        let document = json!({"a":[1],"containers":[{"name":"c"}]});
        let check = |media: &str, patch: Value, expected: Value| {
            assert_eq!(apply(media, &patch, document.clone()).unwrap(), expected);
        };
        check(
            "application/json-patch+json",
            json!([{"op":"add","path":"/a/-","value":2}]),
            json!({"a":[1,2],"containers":[{"name":"c"}]}),
        );
        check("application/merge-patch+json; charset=utf-8", json!({"containers":null}), json!({"a":[1]}));
        check(
            "application/strategic-merge-patch+json",
            json!({"containers":[{"name":"c","image":"i"}]}),
            json!({"a":[1],"containers":[{"name":"c","image":"i"}]}),
        );
    }

    #[test]
    fn faulty_patches_are_refused_with_the_right_code() {
        let check = |media: &str, patch: Value, code: u16| {
            assert_eq!(apply(media, &patch, json!({"a":1})).unwrap_err().code(), code, "{media} {patch}");
        };
        check("application/apply-patch+yaml", json!({}), 415);
        check("application/json", json!({}), 415);
        check("application/json-patch+json", json!({"op":"add"}), 400);
        check("application/json-patch+json", json!([{"op":"bogus","path":"/a"}]), 400);
        check("application/json-patch+json", json!([{"op":"remove","path":"/zz"}]), 422);
        check("application/json-patch+json", json!([{"op":"test","path":"/a","value":2}]), 422);
        check("application/merge-patch+json", json!([1]), 400);
        check("application/strategic-merge-patch+json", json!("x"), 400);
    }

    #[test]
    fn what_is_moved_into_itself_again_and_again_is_stopped() {
        let nested = (0..100).fold(json!([]), |inner, _| json!([inner]));
        let inside = format!("/w{}", "/0".repeat(100));
        let round = [
            json!({"op":"add","path":"/w","value":nested}),
            json!({"op":"move","from":"/x","path":inside}),
            json!({"op":"move","from":"/w","path":"/x"}),
        ];
        let patch = |rounds| json!(vec![round.to_vec(); rounds].concat());
        let media = "application/json-patch+json";
        assert!(apply(media, &patch(1), json!({"x":1})).is_ok());
        let error = apply(media, &patch(3000), json!({"x":1})).unwrap_err();
        assert_eq!((error.code(), error.message.contains("128 levels")), (413, true), "{error}");
    }

    #[test]
    fn copies_that_double_without_end_are_stopped() {
        let doubling: Vec<_> = (0..40).map(|i| json!({"op":"copy","from":"","path":format!("/c{i}")})).collect();
        let error = apply("application/json-patch+json", &json!(doubling), json!({"a":"0123456789"})).unwrap_err();
        assert_eq!(error.code(), 413);
    }
}
