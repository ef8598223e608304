//! Request bodies to objects: JSON or YAML, with the fields that the types do not know found by
//! comparing what came in with what the typed object writes.

use std::fmt;

use bytes::Bytes;
use coracle_api::{ApiError, Kind, Object, error::Reason};
use http::{HeaderMap, header};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{fields, query::Query};

/// Faults listed at most; a body of garbage has thousands.
const FAULTS_MAX: usize = 20;

/// What to do with unknown and duplicate fields: the parameter `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    Ignore,
    Warn,
    Strict,
}

impl Strictness {
    /// Reads the parameter; the default warns, as in current Kubernetes.
    pub(crate) fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation='{other}' is not supported: use Ignore, Warn or Strict"
            ))),
        }
    }
}

/// An object from a body, and what its author should hear.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) object: Box<dyn Object>,
    pub(crate) warnings: Vec<String>,
}

/// Decodes a body as an object of `kind`.
pub(crate) fn object(kind: &Kind, body: &[u8], strictness: Strictness) -> Result<Decoded, ApiError> {
    let object = (kind.decode)(body)?;
    if strictness == Strictness::Ignore {
        return Ok(Decoded { object, warnings: Vec::new() });
    }
    if fields::are_known(body, &object.to_json()) == Some(true) {
        return Ok(Decoded { object, warnings: Vec::new() });
    }
    let (input, mut faults) = parse_noting_duplicates(body)?;
    faults.extend(unknown_fields(&input, &*object));
    finish(object, faults, strictness)
}

/// Decodes a JSON value, such as the result of a patch, as an object of `kind`.
pub(crate) fn from_value(kind: &Kind, input: &Value, strictness: Strictness) -> Result<Decoded, ApiError> {
    // A value's text is valid JSON, so the only errors are the types'.
    let text = serde_json::to_vec(input).unwrap_or_default();
    let object = (kind.decode)(&text)?;
    let known = strictness == Strictness::Ignore || fields::are_known(&text, &object.to_json()) == Some(true);
    let faults = if known { Vec::new() } else { unknown_fields(input, &*object) };
    finish(object, faults, strictness)
}

fn finish(object: Box<dyn Object>, mut faults: Vec<String>, strictness: Strictness) -> Result<Decoded, ApiError> {
    if faults.len() > FAULTS_MAX {
        let more = faults.len() - FAULTS_MAX;
        faults.truncate(FAULTS_MAX);
        faults.push(format!("and {more} more"));
    }
    if strictness == Strictness::Strict && !faults.is_empty() {
        let kind = object.kind();
        let message =
            format!("{} in version \"v1\" cannot be handled: strict decoding error: {}", kind.kind, faults.join(", "));
        return Err(ApiError::bad_request(message));
    }
    Ok(Decoded { object, warnings: faults })
}

/// The media type that a body is said to have; 415 for those that are no text.
pub(crate) fn text_media(headers: &HeaderMap) -> Result<&str, ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if media.ends_with("protobuf") || media.ends_with("cbor") {
        let message = format!("the content type {media} is not supported: send application/json or application/yaml");
        return Err(ApiError::new(Reason::UnsupportedMediaType, message));
    }
    Ok(media)
}

/// A body as JSON text: itself, or converted when it is YAML.
pub(crate) async fn to_json(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
    let media = text_media(headers)?;
    let Some(first) = body.iter().find(|b| !b.is_ascii_whitespace()) else {
        return Err(ApiError::bad_request("the request body is empty: send the object as JSON or YAML"));
    };
    let is_yaml = media.ends_with("yaml");
    if *first == b'{' && !is_yaml && serde_json::from_slice::<IgnoredAny>(&body).is_ok() {
        return Ok(body);
    }
    // Large YAML takes long enough to hold others up.
    let converted = tokio::task::spawn_blocking(move || yaml_to_json(&body, is_yaml)).await;
    converted.map_err(ApiError::internal)?
}

fn yaml_to_json(body: &[u8], is_yaml: bool) -> Result<Bytes, ApiError> {
    let documents =
        coracle_api::yaml::parse_documents(body).map_err(|e| match serde_json::from_slice::<IgnoredAny>(body) {
            // Who sent JSON wants to hear where the JSON breaks.
            Err(json) if !is_yaml && body.trim_ascii_start().starts_with(b"{") => {
                ApiError::bad_request(format!("the body is not valid JSON: {json}"))
            }
            _ => e,
        })?;
    let [document] = documents.as_slice() else {
        let message = format!("the body holds {} documents: send one object a request", documents.len());
        return Err(ApiError::bad_request(message));
    };
    if !document.is_object() {
        return Err(ApiError::bad_request("the body is not an object: expected fields such as kind and metadata"));
    }
    serde_json::to_vec(document).map(Into::into).map_err(ApiError::internal)
}

/// The paths in `input` that the typed object does not write back.
fn unknown_fields(input: &Value, object: &dyn Object) -> Vec<String> {
    let typed: Value = serde_json::from_slice(&object.to_json()).unwrap_or_default();
    let mut unknown = Vec::new();
    compare(input, &typed, "", &mut unknown);
    unknown.into_iter().map(|path| format!("unknown field \"{path}\"")).collect()
}

fn compare(input: &Value, typed: &Value, path: &str, unknown: &mut Vec<String>) {
    match (input, typed) {
        (Value::Object(input), Value::Object(typed)) => {
            for (key, value) in input {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match typed.get(key) {
                    Some(typed) => compare(value, typed, &path, unknown),
                    // The types drop fields set to null, known or not.
                    None if value.is_null() => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(input), Value::Array(typed)) => {
            for (i, (input, typed)) in input.iter().zip(typed).enumerate() {
                compare(input, typed, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Parses JSON as [`Value`] does (the last duplicate wins), and says which fields came twice.
fn parse_noting_duplicates(json: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let mut duplicates = Vec::new();
    let mut de = serde_json::Deserializer::from_slice(json);
    let value = Noting { path: String::new(), duplicates: &mut duplicates }
        .deserialize(&mut de)
        .map_err(|e| ApiError::bad_request(format!("the body is not valid JSON: {e}")))?;
    Ok((value, duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")).collect()))
}

struct Noting<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, items.len());
            match seq.next_element_seed(Noting { path, duplicates: &mut *self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if fields.contains_key(&key) {
                self.duplicates.push(path.clone());
            }
            let value = map.next_value_seed(Noting { path, duplicates: &mut *self.duplicates })?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::{TypedObject, core::Pod};

    use super::*;

    const FAULTY: &str = r#"{"kind":"Pod","apiVersion":"v1","bogus":1,
        "metadata":{"name":"a","name":"b","labels":{"any":"x"},"creationTimestamp":null},
        "spec":{"containers":[{"name":"c","imagee":"i","resources":{"limits":{"cpu":1}}}],"nodeName":null}}"#;

    fn pod(json: &str, strictness: Strictness) -> Result<Decoded, ApiError> {
        object(Pod::row(), json.as_bytes(), strictness)
    }

    #[test]
    fn unknown_and_duplicate_fields_are_named_by_their_path() {
        let warnings = pod(FAULTY, Strictness::Warn).unwrap().warnings;
        assert_eq!(
            warnings,
            [
                "duplicate field \"metadata.name\"",
                "unknown field \"bogus\"",
                "unknown field \"spec.containers[0].imagee\""
            ]
        );
        let refused = pod(FAULTY, Strictness::Strict).unwrap_err();
        assert_eq!(refused.code(), 400);
        assert!(refused.message.contains("strict decoding error: duplicate field \"metadata.name\""));
        assert!(pod(FAULTY, Strictness::Ignore).unwrap().warnings.is_empty());
    }

    #[test]
    fn a_body_without_faults_passes_the_strict_way() {
        let good = r#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],
            "env":[],"livenessProbe":{"httpGet":{"port":"http"}}}]}}"#;
        assert_eq!(pod(good, Strictness::Strict).unwrap().object.name(), "a");
    }

    #[test]
    fn garbage_is_cut_short() {
        let many: Vec<_> = (0..100).map(|i| format!("\"x{i}\":1")).collect();
        let warnings = pod(&format!("{{{}}}", many.join(",")), Strictness::Warn).unwrap().warnings;
        assert_eq!(warnings.len(), FAULTS_MAX + 1);
        assert_eq!(warnings[FAULTS_MAX], "and 80 more");
    }

    #[tokio::test]
    async fn bodies_that_are_no_document_are_refused_with_the_reason() {
        let check = async |content_type: &'static str, body: &'static [u8], code: u16, part: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            let error = to_json(&headers, body.into()).await.unwrap_err();
            assert!(error.code() == code && error.message.contains(part), "{} {}", error.code(), error.message);
        };
        check("application/json", b" \n", 400, "is empty").await;
        check("application/json", b"{\"a\":", 400, "not valid JSON").await;
        check("application/json", b"{\"a\":\xff}", 400, "not valid JSON").await;
        check("application/yaml", b"a: \xff", 400, "UTF-8").await;
        check("application/vnd.kubernetes.protobuf", b"k8s\0", 415, "protobuf is not supported").await;
        check("application/yaml", b"a: 1\n---\nb: 2\n", 400, "2 documents").await;
        check("application/yaml", b"- 1\n", 400, "not an object").await;
    }

    #[tokio::test]
    async fn yaml_is_read_whatever_it_is_called() {
        let json = to_json(&HeaderMap::new(), "kind: Pod\nmetadata:\n  name: a\n".into()).await.unwrap();
        assert_eq!(object(Pod::row(), &json, Strictness::Strict).unwrap().object.name(), "a");
    }
}
