//! One object as the registry keeps it: its wire form and the few facts that selectors and
//! indexes need. The typed object is decoded when someone asks for it.

use std::{
    any::Any,
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use super::{EventType, PodFacts, stored_kinds};
use crate::store::{StoreError, Stored};
use bytes::{BufMut, Bytes, BytesMut};
use compact_str::CompactString;
use coracle_api::{Kind, Object, StringMap, TypedObject, kinds::decode_typed, meta::ObjectMeta};
use imbl::OrdMap;
use serde_json::value::RawValue;

/// Objects by namespace and name. Copies are cheap and never change.
pub type Entries = OrdMap<Key, Arc<Entry>>;

/// Name of an object within its kind. Orders by namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// "" for cluster-scoped kinds.
    pub namespace: CompactString,
    /// The name.
    pub name: CompactString,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(object: &dyn Object) -> Self {
        let namespace = if object.kind().namespaced { object.namespace() } else { "" };
        Self::new(namespace, object.name())
    }

    /// The key in the store. Names hold no `/`: validation sees to that.
    pub(crate) fn stored(&self, kind: &Kind) -> String {
        format!("{}/{}/{}", kind.plural, self.namespace, self.name)
    }

    /// Reads [`Key::stored`] back: the kind's plural and the key. `None` for what is no object's.
    pub(crate) fn of_stored(text: &str) -> Option<(&str, Self)> {
        let (plural, rest) = text.split_once('/')?;
        let (namespace, name) = rest.split_once('/')?;
        Some((plural, Self::new(namespace, name)))
    }
}

/// An object that another one belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its row. `None`: a kind that this cluster does not know.
    pub kind: Option<&'static Kind>,
    /// Its name; its namespace is that of what it owns.
    pub name: CompactString,
    /// Tells it from a later namesake.
    pub uid: CompactString,
}

/// What selectors and indexes ask about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    uid: CompactString,
    owners: Box<[Owner]>,
    /// Asked to go, and still there.
    ending: bool,
    /// What no other object of the cluster may have meanwhile.
    claims: Box<[CompactString]>,
    labels: Box<[(CompactString, CompactString)]>,
    /// In the order of the row's `fields`; missing ones are "".
    fields: Box<[CompactString]>,
    /// For pods only.
    pod: Option<Box<PodFacts>>,
}

impl Facts {
    pub(super) fn claims(&self) -> &[CompactString] {
        &self.claims
    }

    /// Reads the facts off an object.
    pub fn of(object: &dyn Object) -> Self {
        let meta = object.meta();
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            owners: meta
                .owner_references
                .iter()
                .flatten()
                .map(|o| Owner {
                    kind: Kind::by_kind(&o.kind).filter(|kind| kind.stored && o.api_version == "v1"),
                    name: o.name.as_str().into(),
                    uid: o.uid.as_str().into(),
                })
                .collect(),
            ending: meta.deletion_timestamp.is_some(),
            claims: object.claims().into_iter().map(CompactString::from).collect(),
            labels: meta.labels.iter().flatten().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
            fields: object.kind().fields.iter().map(|field| object.field(field).unwrap_or_default().into()).collect(),
            pod: object.downcast_ref().map(|pod| Box::new(PodFacts::of(pod))),
        }
    }

    /// The same of an object that differs in its status only.
    pub(super) fn with_status(&self, object: &dyn Object) -> Self {
        let field = |(name, known): (&&str, &CompactString)| match name.starts_with("status.") {
            true => object.field(name).unwrap_or_default().into(),
            false => known.clone(),
        };
        let pod = self.pod.clone().zip(object.downcast_ref());
        Self {
            fields: object.kind().fields.iter().zip(&self.fields).map(field).collect(),
            pod: pod.map(|(facts, pod)| Box::new(facts.with_status(pod))),
            ..self.clone()
        }
    }
}

/// The group of the pods of a namespace that have no controller. No uid.
pub(super) fn uncontrolled(namespace: &str) -> String {
    format!("{namespace}/")
}

/// The first of the label sets of a namespace, and what comes after the last.
pub(super) fn label_sets(namespace: &str) -> (CompactString, CompactString) {
    (format!("{namespace}/").into(), format!("{namespace}0").into())
}

/// An object at one version.
#[derive(Debug)]
pub struct Entry {
    /// Its row.
    pub kind: &'static Kind,
    /// Its name.
    pub key: Key,
    /// Its resourceVersion.
    pub version: u64,
    /// Its `v1` JSON as it goes on the wire, resourceVersion included. A slice of `line`.
    pub json: Bytes,
    /// The watch line that announced it: `{"type":"...","object":...}` and a newline.
    line: Bytes,
    facts: Facts,
    /// The object, once somebody asked for it to be kept.
    kept: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

impl Entry {
    /// An entry from the stored JSON, which has no resourceVersion.
    pub(super) fn new(
        kind: &'static Kind,
        key: Key,
        version: u64,
        stored: &[u8],
        facts: Facts,
        event: EventType,
    ) -> Self {
        let (line, json) = event_line(event, stored, version);
        Self { kind, key, version, json, line, facts, kept: OnceLock::new() }
    }

    /// The last state of a deleted object, at the version of the deletion.
    pub(super) fn deleted(&self, version: u64) -> Self {
        let (line, json) = event_line(EventType::Deleted, &self.stored(), version);
        let (key, facts) = (self.key.clone(), self.facts.clone());
        Self { kind: self.kind, key, version, json, line, facts, kept: OnceLock::new() }
    }

    /// The JSON without the resourceVersion.
    pub(crate) fn stored(&self) -> Vec<u8> {
        let (before, after) = self.around_version();
        [before, after].concat()
    }

    /// What would be stored of the object with the status of another one of its kind. Nothing but the status
    /// is looked at of that one, and nothing of this one is decoded. An absent status counts as an empty one.
    pub(super) fn with_status(&self, object: &dyn Object) -> Result<(Vec<u8>, Facts), serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Outline<'a> {
            #[serde(borrow)]
            status: Option<&'a RawValue>,
        }
        let (stored, other) = (self.stored(), object.to_json());
        let (old, new): (Outline<'_>, Outline<'_>) =
            (serde_json::from_slice(&stored)?, serde_json::from_slice(&other)?);
        let (old, new) = (old.status.map(RawValue::get), new.status.map(|new| new.get().as_bytes()));
        if (old, new) == (None, None) {
            return Ok((stored, self.facts.clone()));
        }
        let new = new.unwrap_or(b"{}");
        let json = match old {
            Some(old) => {
                let start = (old.as_ptr() as usize).saturating_sub(stored.as_ptr() as usize);
                [&stored[..start], new, &stored[start + old.len()..]].concat()
            }
            // The object is not empty, and its brace is the last thing in it.
            None => {
                let stored = stored.trim_ascii_end();
                [&stored[..stored.len().saturating_sub(1)], b",\"status\":", new, b"}"].concat()
            }
        };
        Ok((json, self.facts.with_status(object)))
    }

    /// Whether this is the JSON without the resourceVersion.
    pub(super) fn holds(&self, stored: &[u8]) -> bool {
        let (before, after) = self.around_version();
        stored.len() == before.len() + after.len() && stored.starts_with(before) && stored.ends_with(after)
    }

    fn around_version(&self) -> (&[u8], &[u8]) {
        let at = splice_point(&self.json);
        let after = (at + version_text(self.version).len()).min(self.json.len());
        (&self.json[..at], &self.json[after..])
    }

    /// The JSON, with this entry's resourceVersion, of what would be stored in its place.
    pub fn json_of_update(&self, stored: &[u8]) -> Bytes {
        event_line(EventType::Modified, stored, self.version).1
    }

    /// The watch line for this state as an event of type `event`. Shared when the type is the one
    /// that announced the state, which is nearly always.
    pub fn line(&self, event: EventType) -> Bytes {
        if self.line.starts_with(event.prefix().as_bytes()) {
            return self.line.clone();
        }
        let mut line = BytesMut::with_capacity(event.prefix().len() + self.json.len() + 2);
        line.put_slice(event.prefix().as_bytes());
        line.put_slice(&self.json);
        line.put_slice(b"}\n");
        line.freeze()
    }

    /// `metadata.uid`
    pub fn uid(&self) -> &str {
        &self.facts.uid
    }

    /// Whom the object belongs to.
    pub fn owners(&self) -> &[Owner] {
        &self.facts.owners
    }

    /// Whether the object was asked to go.
    pub fn is_ending(&self) -> bool {
        self.facts.ending
    }

    /// See [`coracle_api::TypedObject::claims`].
    pub fn claims(&self) -> &[CompactString] {
        &self.facts.claims
    }

    /// What the control loops ask about a pod; `None` for other kinds.
    pub fn pod(&self) -> Option<&PodFacts> {
        self.facts.pod.as_deref()
    }

    /// Whether an equality selector picks the object. An empty one picks nothing.
    pub fn selected_by(&self, selector: Option<&StringMap>) -> bool {
        selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| self.label(k) == Some(v)))
    }

    /// Whether both have the same labels.
    pub fn has_same_labels(&self, other: &Self) -> bool {
        self.facts.labels == other.facts.labels
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.facts.labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// One of the row's fields, or `metadata.name` and `metadata.namespace`.
    pub fn field(&self, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => Some(&self.key.name),
            "metadata.namespace" => Some(&self.key.namespace),
            _ => {
                let at = self.kind.fields.iter().position(|f| *f == field)?;
                self.facts.fields.get(at).map(CompactString::as_str)
            }
        }
    }

    /// The value of the kind's indexed field, if the kind has one.
    pub(super) fn indexed(&self) -> Option<&str> {
        self.field(self.kind.watch_index?)
    }

    /// For a pod: the uid of its controller, or [`uncontrolled`] of its namespace.
    pub(super) fn group(&self) -> Option<Cow<'_, str>> {
        let owner = self.pod()?.owner.as_deref();
        Some(owner.map_or_else(|| uncontrolled(&self.key.namespace).into(), Cow::Borrowed))
    }

    /// For a pod: the same for all of its namespace that have the same labels, and for no others. Neither names of
    /// namespaces nor labels have the characters between.
    pub(super) fn label_set(&self) -> Option<CompactString> {
        self.facts.pod.as_ref()?;
        let mut text = self.key.namespace.clone();
        text.push('/');
        for (key, value) in &self.facts.labels {
            text.extend([key, "=", value, "\n"]);
        }
        Some(text)
    }

    /// The metadata, of an object of which nothing else is to be decoded. `None` only if the stored text is none.
    pub fn metadata(&self) -> Option<ObjectMeta> {
        #[derive(serde::Deserialize)]
        struct Outline {
            metadata: ObjectMeta,
        }
        serde_json::from_slice(&self.json).ok().map(|Outline { metadata }| metadata)
    }

    /// The typed object. `None` only if the entry is of another kind.
    pub fn typed<T: TypedObject>(&self) -> Option<T> {
        decode_typed(&self.json).ok()
    }

    /// The typed object, decoded once and kept with this version of it: for the few that are looked at on
    /// each change of the many, as services are for pods. `None` if the entry is of another kind.
    pub fn kept<T: TypedObject>(&self) -> Option<Arc<T>> {
        let kept = self.kept.get_or_init(|| Some(Arc::new(self.typed::<T>()?)));
        kept.clone()?.downcast().ok()
    }

    /// The object of whatever kind.
    pub fn decode(&self) -> Option<Box<dyn Object>> {
        (self.kind.decode)(&self.json).ok()
    }
}

/// The whole line, and the object's part of it.
fn event_line(event: EventType, stored: &[u8], version: u64) -> (Bytes, Bytes) {
    let prefix = event.prefix();
    let version = version_text(version);
    let at = splice_point(stored);
    let mut line = BytesMut::with_capacity(prefix.len() + stored.len() + version.len() + 2);
    line.put_slice(prefix.as_bytes());
    line.put_slice(&stored[..at]);
    line.put_slice(version.as_bytes());
    line.put_slice(&stored[at..]);
    line.put_slice(b"}\n");
    let line = line.freeze();
    let json = line.slice(prefix.len()..line.len() - 2);
    (line, json)
}

fn version_text(version: u64) -> String {
    format!("\"resourceVersion\":\"{version}\",")
}

/// Where the version goes: right after `"metadata":{`, which follows apiVersion and kind in every
/// object that the hub types write. Metadata is never empty: a stored object has a name.
fn splice_point(json: &[u8]) -> usize {
    const OPEN: &[u8] = b"\"metadata\":{";
    json.windows(OPEN.len()).position(|w| w == OPEN).map_or(1, |at| at + OPEN.len())
}

/// An object as it is put on its shelf.
type Shelved = (&'static Kind, Key, Arc<Entry>);

/// Sorts what the store holds onto shelves, one for each stored kind. Reading the facts off every
/// object is most of a start's work: all cores take part.
pub(super) fn load(items: Vec<Stored>) -> Result<Vec<(&'static Kind, Entries)>, StoreError> {
    const PART_MIN: usize = 256;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let part = items.len().div_ceil(cores).max(PART_MIN);
    let parts: Vec<Result<Vec<Shelved>, StoreError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = items.chunks(part).map(|items| scope.spawn(|| load_part(items))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut shelves: Vec<_> = stored_kinds().map(|kind| (kind, Entries::new())).collect();
    for part in parts {
        for (kind, key, entry) in part? {
            if let Some((_, entries)) = shelves.iter_mut().find(|(k, _)| std::ptr::eq(*k, kind)) {
                entries.insert(key, entry);
            }
        }
    }
    Ok(shelves)
}

fn load_part(items: &[Stored]) -> Result<Vec<Shelved>, StoreError> {
    let mut part = Vec::with_capacity(items.len());
    for item in items {
        // Claims and the cluster's own facts are no objects.
        let Some((plural, key)) = Key::of_stored(&item.key) else { continue };
        let Some(kind) = Kind::by_plural(plural).filter(|kind| kind.stored) else { continue };
        let object = (kind.decode)(&item.value).map_err(|e| StoreError::Damaged {
            store: "of this master".into(),
            place: item.key.clone(),
            cause: e.to_string(),
        })?;
        let entry = Entry::new(kind, key.clone(), item.version, &item.value, Facts::of(&*object), EventType::Added);
        part.push((kind, key, Arc::new(entry)));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use coracle_api::core::{Node, Pod, Service};
    use serde_json::{Value, json};

    use super::*;

    /// An object as it would be stored, with and without a status, beside one that only has the status.
    fn check<T: TypedObject>(spec: &Value, statuses: &[Value]) {
        let object = |status: &Value, spec: &Value| -> T {
            let meta = json!({"name": "a", "namespace": "n", "uid": "u", "labels": {"l": "status\":{"}});
            let mut object = json!({"metadata": meta, "spec": spec});
            if !status.is_null() {
                object["status"] = status.clone();
            }
            serde_json::from_value(object).unwrap()
        };
        for old in statuses {
            let stored = object(old, spec);
            let (key, facts) = (Key::of(&stored), Facts::of(&stored));
            let entry = Entry::new(T::row(), key, 7, &stored.to_json(), facts, EventType::Added);
            for new in statuses {
                let (json, facts) = entry.with_status(&object(new, &json!({}))).unwrap();
                let empty = json!({});
                let expected = object(if new.is_null() && !old.is_null() { &empty } else { new }, spec);
                assert_eq!(String::from_utf8(json).unwrap(), String::from_utf8(expected.to_json()).unwrap());
                assert_eq!(facts, Facts::of(&expected), "{old} -> {new}");
            }
        }
    }

    #[test]
    fn a_status_in_the_place_of_another_is_what_the_whole_object_would_be() {
        let ready =
            |status: &str| json!([{"type": "Ready", "status": status, "lastTransitionTime": "2026-11-26T10:00:00Z"}]);
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "status", "ports": [{"containerPort": 80, "hostPort": 81}],
            "resources": {"requests": {"cpu": "10m"}}}]});
        check::<Pod>(
            &spec,
            &[
                Value::Null,
                json!({}),
                json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": ready("True")}),
                json!({"phase": "Failed", "reason": "NodeLost", "message": "\"status\":{}", "conditions": ready("False")}),
            ],
        );
        check::<Node>(&json!({"podCIDR": "10.1.0.0/24"}), &[Value::Null, json!({"conditions": ready("True")})]);
        let balancer = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}});
        check::<Service>(
            &json!({"clusterIP": "10.0.0.9", "ports": [{"port": 80}]}),
            &[json!({"loadBalancer": {}}), balancer],
        );
    }
}
