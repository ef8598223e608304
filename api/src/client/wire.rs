//! What lists and watches hand over: objects, or their JSON for those who keep many and look into few.

use std::{marker::PhantomData, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::ApiError,
    kinds::{Kind, TypedObject, decode_typed},
};

/// An object as it is received.
pub trait Received: Clone + Send + Sync + 'static {
    /// The kind's row.
    fn row() -> &'static Kind;

    /// Takes it from its `v1` JSON.
    fn receive(json: &[u8]) -> Result<Self, ApiError>;

    /// Its resourceVersion; empty if it has none.
    fn version(&self) -> &str;
}

impl<T: TypedObject> Received for T {
    fn row() -> &'static Kind {
        T::row()
    }

    fn receive(json: &[u8]) -> Result<Self, ApiError> {
        decode_typed(json)
    }

    fn version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }
}

/// An object that nobody has decoded yet. It takes a tenth of the memory that the object takes, and tells
/// which one it is.
#[derive(Debug, Clone)]
pub struct Wire<T> {
    json: Box<[u8]>,
    parts: Parts,
    marker: PhantomData<fn() -> T>,
}

/// Where the parts are that can be told without decoding; empty where the object has none.
#[derive(Debug, Clone, Default)]
struct Parts {
    status: Range<u32>,
    uid: Range<u32>,
    version: Range<u32>,
}

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    #[serde(borrow)]
    uid: Option<&'a str>,
    #[serde(borrow)]
    resource_version: Option<&'a str>,
}

impl<T> Wire<T> {
    /// `metadata.uid`; empty if it has none.
    pub fn uid(&self) -> &str {
        std::str::from_utf8(self.part(&self.parts.uid)).unwrap_or_default()
    }

    /// The status, in JSON; empty if it has none.
    pub fn status(&self) -> &[u8] {
        self.part(&self.parts.status)
    }

    /// Whether both are the same but for the status and the resourceVersion, byte for byte: what means the same and is
    /// written otherwise counts as different.
    pub fn differs_in_status_only(&self, other: &Self) -> bool {
        self.rest() == other.rest()
    }

    /// All but the status and the resourceVersion.
    fn rest(&self) -> [&[u8]; 3] {
        let (version, status) = (&self.parts.version, &self.parts.status);
        let (first, second) = if version.start <= status.start { (version, status) } else { (status, version) };
        let end = u32::try_from(self.json.len()).unwrap_or(u32::MAX);
        [0..first.start, first.end..second.start, second.end..end].map(|range| self.part(&range))
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        self.json.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

impl<T: TypedObject> Wire<T> {
    /// An object, written out.
    pub fn of(object: &T) -> Result<Self, ApiError> {
        Self::receive(&serde_json::to_vec(object).map_err(ApiError::internal)?)
    }

    /// The object.
    pub fn open(&self) -> Result<T, ApiError> {
        decode_typed(&self.json)
    }
}

impl<T: TypedObject> Received for Wire<T> {
    fn row() -> &'static Kind {
        T::row()
    }

    fn receive(json: &[u8]) -> Result<Self, ApiError> {
        let unreadable =
            |e: serde_json::Error| ApiError::bad_request(format!("a {} is no JSON object: {e}", T::row().kind));
        let outline: Outline<'_> = serde_json::from_slice(json).map_err(unreadable)?;
        // All of them point into `json`.
        let place = |text: Option<&str>| {
            let text = text.unwrap_or_default();
            let start = (text.as_ptr() as usize).wrapping_sub(json.as_ptr() as usize);
            let range = u32::try_from(start).ok().zip(u32::try_from(start.wrapping_add(text.len())).ok());
            range.filter(|_| !text.is_empty()).map(|(start, end)| start..end).unwrap_or_default()
        };
        let metadata = outline.metadata.map_or("{}", RawValue::get);
        let identity: Identity<'_> = serde_json::from_str(metadata).map_err(unreadable)?;
        let parts = Parts {
            status: place(outline.status.map(RawValue::get)),
            uid: place(identity.uid),
            version: place(identity.resource_version),
        };
        Ok(Self { json: json.into(), parts, marker: PhantomData })
    }

    fn version(&self) -> &str {
        std::str::from_utf8(self.part(&self.parts.version)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Pod;

    fn wire(json: &str) -> Wire<Pod> {
        Wire::receive(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_parts_are_those_of_the_object_wherever_they_stand() {
        let pod = wire(
            r#"{"status":{"phase":"Running"},"spec":{"containers":[]},"metadata":{"ownerReferences":[{"uid":"no"}],
            "labels":{"uid":"no","resourceVersion":"1"},"uid":"u1","resourceVersion":"7","name":"a"},"kind":"Pod"}"#,
        );
        assert_eq!((pod.uid(), pod.version()), ("u1", "7"));
        assert_eq!(pod.status(), br#"{"phase":"Running"}"#);
        assert_eq!(pod.open().unwrap().metadata.name.as_deref(), Some("a"));
        let bare = wire("{}");
        assert_eq!((bare.uid(), bare.version(), bare.status()), ("", "", &b""[..]));
        for json in ["", "[]", "{\"metadata\":[]}", "{\"metadata\":{\"uid\":7}}", "{} {}"] {
            assert!(Wire::<Pod>::receive(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn only_a_new_status_or_version_leaves_the_rest_the_same() {
        let text = |name: &str, version: &str, node: &str, phase: &str| {
            format!(
                r#"{{"metadata":{{"resourceVersion":"{version}","name":"{name}"}},"spec":{{"nodeName":"{node}"}},"status":{{"phase":"{phase}"}}}}"#
            )
        };
        let first = wire(&text("a", "7", "n", "Pending"));
        assert!(first.differs_in_status_only(&wire(&text("a", "1234", "n", "Running"))));
        assert!(!first.differs_in_status_only(&wire(&text("b", "7", "n", "Pending"))));
        assert!(!first.differs_in_status_only(&wire(&text("a", "7", "m", "Pending"))));
        assert!(!first.differs_in_status_only(&wire("{}")));
        let turned = |version: &str, kind: &str| {
            wire(&format!(
                r#"{{"status":{{"phase":"{version}"}},"metadata":{{"resourceVersion":"{version}"}},"kind":"{kind}"}}"#
            ))
        };
        assert!(turned("1", "Pod").differs_in_status_only(&turned("23", "Pod")));
        assert!(!turned("1", "Pod").differs_in_status_only(&turned("1", "Other")), "what follows counts too");
    }
}
