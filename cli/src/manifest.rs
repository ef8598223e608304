//! One object of a file, ready to be sent: its kind, version, name, namespace and paths.
//!
//! Both wire versions are handled here and nowhere else in the modern grammar: `v1` nests its
//! metadata, `v1beta1` is flat and names its namespace in the query.

use coracle_api::{
    Kind,
    client::{encode, object_path},
};
use serde_json::{Value, json};

use crate::{
    documents::Document,
    failure::{Failure, Outcome},
    json::text,
    target,
};

/// The wire version of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V1beta1,
}

/// An object to create, apply or delete.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The file it comes from.
    pub(crate) origin: String,
    pub(crate) kind: &'static Kind,
    pub(crate) version: Version,
    pub(crate) namespace: String,
    /// The document, with its namespace filled in.
    pub(crate) object: Value,
}

impl Manifest {
    /// Reads kind and version of a document; the namespace is the document's, else the given one.
    pub(crate) fn new(document: Document, namespace: &str) -> Outcome<Self> {
        let Document { origin, mut value } = document;
        let wrong = |why: String| Failure::Usage(format!("{origin}: {why}"));
        let (kind, version) = (text(&value, "/kind").to_owned(), text(&value, "/apiVersion").to_owned());
        if kind.is_empty() || version.is_empty() {
            return Err(wrong("not an object: kind and apiVersion must be set".to_owned()));
        }
        let unknown = |known: Option<&str>| {
            wrong(match known {
                Some(known) => format!("{kind} is no kind of {version}; write apiVersion {known}"),
                None => format!("there is no kind {kind} in {version}; see coracle api-resources"),
            })
        };
        let (kind, version) = match version.as_str() {
            "v1" => (Kind::by_kind(&kind).ok_or_else(|| unknown(None))?, Version::V1),
            "v1beta1" => {
                let row = v1beta1_kind(&kind).ok_or_else(|| unknown(Kind::by_kind(&kind).map(|_| "v1")))?;
                (row, Version::V1beta1)
            }
            _ => return Err(wrong(format!("apiVersion {version} of {kind} is not served; there are v1 and v1beta1"))),
        };
        if !kind.stored {
            return Err(wrong(format!("a {} is not kept, so it can't be managed from a file", kind.kind)));
        }
        let pointer = if version == Version::V1 { "/metadata/namespace" } else { "/namespace" };
        let own = text(&value, pointer);
        let namespace = if own.is_empty() { namespace } else { own }.to_owned();
        if kind.namespaced && version == Version::V1 {
            if !value["metadata"].is_object() {
                value["metadata"] = json!({});
            }
            value["metadata"]["namespace"] = namespace.as_str().into();
        }
        Ok(Self { origin, kind, version, namespace, object: value })
    }

    /// The object's name, or "".
    pub(crate) fn name(&self) -> &str {
        self.name_of(&self.object)
    }

    fn name_of<'a>(&self, object: &'a Value) -> &'a str {
        text(object, if self.version == Version::V1 { "/metadata/name" } else { "/id" })
    }

    /// `pod/jenkins`, of this object or of the master's answer.
    pub(crate) fn display_of(&self, object: &Value) -> String {
        target::display(self.kind, self.name_of(object))
    }

    /// The name, which must be set.
    pub(crate) fn require_name(&self) -> Outcome<&str> {
        match self.name() {
            "" => Err(Failure::Usage(format!("{}: the {} has no name", self.origin, self.kind.singular))),
            name => Ok(name),
        }
    }

    /// Where objects of this kind are created.
    pub(crate) fn collection(&self) -> String {
        self.path(None)
    }

    /// Where the object of this name is.
    pub(crate) fn path_of(&self, name: &str) -> String {
        self.path(Some(name))
    }

    fn path(&self, name: Option<&str>) -> String {
        match self.version {
            Version::V1 => object_path(self.kind, Some(&self.namespace), name, None),
            Version::V1beta1 => {
                let plural = self.kind.v1beta1_plural.unwrap_or(self.kind.plural);
                let name = name.map(|n| format!("/{}", encode(n))).unwrap_or_default();
                format!("/api/v1beta1/{plural}{name}?namespace={}", encode(&self.namespace))
            }
        }
    }

    /// The annotations of an object in this version, made if missing.
    pub(crate) fn annotations_mut<'a>(&self, object: &'a mut Value) -> &'a mut Value {
        let annotations = match self.version {
            Version::V1 => &mut object["metadata"]["annotations"],
            Version::V1beta1 => &mut object["annotations"],
        };
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations
    }

    /// One annotation of an object in this version.
    pub(crate) fn annotation<'a>(&self, object: &'a Value, key: &str) -> Option<&'a str> {
        let annotations = match self.version {
            Version::V1 => object.pointer("/metadata/annotations"),
            Version::V1beta1 => object.get("annotations"),
        };
        annotations?.get(key)?.as_str()
    }

    /// The object's resourceVersion in this version, as text.
    pub(crate) fn resource_version(&self, object: &Value) -> String {
        match self.version {
            Version::V1 => text(object, "/metadata/resourceVersion").to_owned(),
            Version::V1beta1 => object["resourceVersion"].to_string(),
        }
    }
}

fn v1beta1_kind(kind: &str) -> Option<&'static Kind> {
    let matches = |k: &&&'static Kind| k.v1beta1_plural.is_some() && k.v1beta1_kind.unwrap_or(k.kind) == kind;
    coracle_api::kinds::KINDS.iter().find(matches).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(value: Value) -> Outcome<Manifest> {
        Manifest::new(Document { origin: "f".into(), value }, "default")
    }

    #[test]
    fn both_versions_find_their_paths() {
        let pod = manifest(json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}})).unwrap();
        assert_eq!(pod.path_of("a"), "/api/v1/namespaces/default/pods/a");
        assert_eq!(pod.object["metadata"]["namespace"], "default");
        let pod = manifest(json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "x"}}));
        assert_eq!(pod.unwrap().collection(), "/api/v1/namespaces/x/pods");
        let rc = manifest(json!({"kind": "ReplicationController", "apiVersion": "v1beta1", "id": "r"})).unwrap();
        assert_eq!(
            (rc.name(), rc.path_of("r").as_str()),
            ("r", "/api/v1beta1/replicationControllers/r?namespace=default")
        );
        let minion = manifest(json!({"kind": "Minion", "apiVersion": "v1beta1", "id": "m"})).unwrap();
        assert_eq!(minion.collection(), "/api/v1beta1/minions?namespace=default");
        assert_eq!(minion.display_of(&minion.object), "node/m");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_the_file_and_the_remedy() {
        for (value, words) in [
            (json!({"kind": "Pod"}), "kind and apiVersion"),
            (json!({"kind": "Bogus", "apiVersion": "v1"}), "no kind Bogus"),
            (json!({"kind": "Deployment", "apiVersion": "apps/v1"}), "apps/v1"),
            (json!({"kind": "Namespace", "apiVersion": "v1beta1"}), "write apiVersion v1"),
            (json!({"kind": "Binding", "apiVersion": "v1"}), "not kept"),
        ] {
            let error = manifest(value).unwrap_err().to_string();
            assert!(error.starts_with("f: ") && error.contains(words), "{error}");
        }
    }
}
