//! All objects of a kind at one moment, in the order of their keys, and by the little that is asked for most.

use std::{ops::Bound, sync::Arc};

use compact_str::CompactString;
use coracle_api::{Kind, StringMap};
use imbl::{OrdMap, OrdSet};

use super::{Entries, Entry, Key, Selection, entry};

/// Keys by what their objects have in common. It has no objects, so that a change that moves none from one
/// group to another, which is nearly every change, leaves it as it is.
type Groups = OrdMap<CompactString, OrdSet<Key>>;

/// All objects of a kind at one moment. Cheap to take and to keep.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every change up to and including this version is in, none after it.
    pub version: u64,
    /// The objects by namespace and name.
    pub entries: Entries,
    /// By the value of the kind's indexed field, if it has one.
    index: Groups,
    /// Pods by their controller; see [`Entry::group`].
    groups: Groups,
    /// Pods by namespace and labels; see [`Entry::label_set`].
    labels: Groups,
}

impl Snapshot {
    pub(super) fn new(version: u64, entries: Entries) -> Self {
        let mut snapshot = Self { version, ..Self::default() };
        for entry in entries.values() {
            put(&mut snapshot.index, entry.indexed(), &entry.key);
            put(&mut snapshot.groups, entry.group().as_deref(), &entry.key);
            put(&mut snapshot.labels, entry.label_set().as_deref(), &entry.key);
        }
        snapshot.entries = entries;
        snapshot
    }

    /// Puts an object in the place of the one of that key, and returns that one.
    pub(super) fn insert(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let before = self.entries.insert(entry.key.clone(), entry.clone());
        let old = before.as_deref();
        regroup(&mut self.index, old.and_then(Entry::indexed), entry.indexed(), &entry.key);
        if !old.is_some_and(|old| old.has_same_labels(entry)) {
            let (old, new) = (old.and_then(Entry::label_set), entry.label_set());
            regroup(&mut self.labels, old.as_deref(), new.as_deref(), &entry.key);
        }
        let (old, new) = (old.and_then(Entry::group), entry.group());
        regroup(&mut self.groups, old.as_deref(), new.as_deref(), &entry.key);
        before
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let before = self.entries.remove(key)?;
        regroup(&mut self.index, before.indexed(), None, key);
        regroup(&mut self.groups, before.group().as_deref(), None, key);
        regroup(&mut self.labels, before.label_set().as_deref(), None, key);
        Some(before)
    }

    /// The pods of the controller with this uid.
    pub fn controlled(&self, uid: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.of(self.groups.get(uid))
    }

    /// The pods of a namespace that have no controller.
    pub fn uncontrolled(&self, namespace: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.of(self.groups.get(&*entry::uncontrolled(namespace)))
    }

    /// The objects whose indexed field has this value.
    pub fn indexed(&self, value: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.of(self.index.get(value))
    }

    /// The pods of a namespace that an equality selector picks: looks at each set of labels that pods there have in
    /// common, not at each pod. An empty selector picks nothing.
    pub fn selected<'a>(
        &'a self,
        namespace: &str,
        selector: Option<&'a StringMap>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let (first, last) = entry::label_sets(namespace);
        let sets = self.labels.range((Bound::Included(first), Bound::Excluded(last))).map(|(_, keys)| keys);
        let picked = move |keys: &&OrdSet<Key>| {
            let any = keys.get_min().and_then(|key| self.entries.get(key));
            any.is_some_and(|entry| entry.selected_by(selector))
        };
        sets.filter(picked).flat_map(|keys| self.of(Some(keys)))
    }

    /// Whether there is such an object.
    pub fn has_indexed(&self, value: &str) -> bool {
        self.index.contains_key(value)
    }

    /// The values that the indexed field has.
    pub fn index_values(&self) -> impl Iterator<Item = &CompactString> {
        self.index.keys()
    }

    /// The objects of these keys, in order. Those of a controller mostly have names that follow each other: it is
    /// looked a little further on before the next one is searched for.
    fn of<'a>(&'a self, keys: Option<&'a OrdSet<Key>>) -> impl Iterator<Item = &'a Arc<Entry>> {
        const FURTHER: usize = 4;
        let from = |key: &Key| self.entries.range::<_, Key>((Bound::Included(key), Bound::Unbounded));
        let mut ahead = None;
        keys.into_iter().flatten().filter_map(move |key| {
            let near = ahead.get_or_insert_with(|| from(key));
            if let Some((_, entry)) =
                near.by_ref().take(FURTHER).find(|(next, _)| *next >= key).filter(|(next, _)| *next == key)
            {
                return Some(entry);
            }
            let mut from_here = from(key);
            let entry = from_here.next().filter(|(found, _)| *found == key).map(|(_, entry)| entry);
            ahead = Some(from_here);
            entry
        })
    }

    /// What a selection picks, in order, after a key. Looks only where it can be.
    pub fn select<'a>(
        &'a self,
        kind: &Kind,
        selection: &'a Selection,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        let namespace = selection.namespace.as_deref();
        if let (Some(namespace), Some(name)) = (namespace, selection.fields.exact("metadata.name")) {
            let entry = self.entries.get(&Key::new(namespace, name)).filter(|e| after.is_none_or(|key| e.key > *key));
            return Box::new(entry.filter(|e| selection.picks(e)).into_iter());
        }
        let (first, last) = bounds(namespace);
        let range = (after.map_or(first, |key| Bound::Excluded(key.clone())), last);
        if let Some(value) = kind.watch_index.and_then(|index| selection.fields.exact(index)) {
            let keys = self.index.get(value).into_iter().flat_map(move |keys| keys.range(range.clone()));
            return Box::new(keys.filter_map(|key| self.entries.get(key)).filter(|entry| selection.picks(entry)));
        }
        let all = self.entries.range(range).map(|(_, entry)| entry);
        if selection.labels.is_empty() && selection.fields.is_empty() {
            return Box::new(all);
        }
        Box::new(all.filter(|entry| selection.picks(entry)))
    }

    /// The entries of one namespace, or all of them.
    pub fn range(&self, namespace: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.range(bounds(namespace)).map(|(_, entry)| entry)
    }
}

/// Moves a key from the group that its object was in to the one that it is in now.
fn regroup(groups: &mut Groups, old: Option<&str>, new: Option<&str>, key: &Key) {
    if old != new {
        take(groups, old, key);
        put(groups, new, key);
    }
}

fn put(groups: &mut Groups, group: Option<&str>, key: &Key) {
    if let Some(group) = group {
        groups.entry(group.into()).or_default().insert(key.clone());
    }
}

fn take(groups: &mut Groups, group: Option<&str>, key: &Key) {
    let Some((group, keys)) = group.and_then(|group| Some((group, groups.get_mut(group)?))) else { return };
    keys.remove(key);
    if keys.is_empty() {
        groups.remove(group);
    }
}

/// The first key and the one after the last of a namespace, or of all.
fn bounds(namespace: Option<&str>) -> (Bound<Key>, Bound<Key>) {
    match namespace {
        None => (Bound::Unbounded, Bound::Unbounded),
        // No name of a namespace sorts between this one and itself with a NUL behind it.
        Some(ns) => (Bound::Included(Key::new(ns, "")), Bound::Excluded(Key::new(&format!("{ns}\0"), ""))),
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::{Object, TypedObject, core::Pod};
    use proptest::prelude::*;

    use super::*;
    use crate::registry::{EventType, Facts};

    fn pod(namespace: u8, name: u8, [node, owner, label]: [u8; 3]) -> Pod {
        let owners = serde_json::json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "rc",
            "uid": format!("rc-{owner}"), "controller": true}]);
        let labels = [serde_json::json!({}), serde_json::json!({"a": "1"}), serde_json::json!({"a": "1", "b": "2"})];
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": format!("ns{namespace}"), "name": format!("p{name}"),
                "labels": labels[usize::from(label) % 3], "ownerReferences": if owner > 0 { owners } else { serde_json::json!([]) }},
            "spec": {"nodeName": if node > 0 { format!("n{node}") } else { String::new() }, "containers": []},
        }))
        .unwrap()
    }

    fn keys<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<Key> {
        let mut keys: Vec<_> = entries.map(|entry| entry.key.clone()).collect();
        keys.sort();
        keys
    }

    proptest! {
        #[test]
        fn every_group_is_what_a_look_at_all_objects_finds(
            steps in prop::collection::vec((0_u8..3, 0_u8..6, prop::option::of([0_u8..3, 0_u8..3, 0_u8..3])), 0..60),
        ) {
            let mut snapshot = Snapshot::default();
            for (version, (namespace, name, state)) in (1..).zip(steps) {
                match state.map(|state| pod(namespace, name, state)) {
                    Some(pod) => {
                        let (key, json) = (Key::of(&pod), pod.to_json());
                        let entry = Entry::new(Pod::row(), key, version, &json, Facts::of(&pod), EventType::Added);
                        snapshot.insert(&Arc::new(entry));
                    }
                    None => drop(snapshot.remove(&Key::new(&format!("ns{namespace}"), &format!("p{name}")))),
                }
            }
            let all = |wanted: &dyn Fn(&Entry) -> bool| keys(snapshot.entries.values().filter(|e| wanted(e)));
            let owner = |e: &Entry| e.pod().and_then(|p| p.owner.clone());
            for number in 0_u8..3 {
                let (node, uid, ns) = (format!("n{number}"), format!("rc-{number}"), format!("ns{number}"));
                prop_assert_eq!(keys(snapshot.indexed(&node)), all(&|e| e.indexed() == Some(&node)));
                prop_assert_eq!(snapshot.has_indexed(&node), !all(&|e| e.indexed() == Some(&node)).is_empty());
                prop_assert_eq!(keys(snapshot.controlled(&uid)), all(&|e| owner(e).as_deref() == Some(&*uid)));
                let nobodys = |e: &Entry| e.key.namespace == ns && owner(e).is_none();
                prop_assert_eq!(keys(snapshot.uncontrolled(&ns)), all(&nobodys));
                for labels in [&[][..], &[("a", "1")], &[("b", "2")], &[("a", "1"), ("b", "2")], &[("c", "3")]] {
                    let selector: StringMap = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                    let picked = |e: &Entry| e.key.namespace == ns && e.selected_by(Some(&selector));
                    prop_assert_eq!(keys(snapshot.selected(&ns, Some(&selector))), all(&picked));
                }
            }
            let rebuilt = Snapshot::new(snapshot.version, snapshot.entries.clone());
            prop_assert_eq!((&rebuilt.index, &rebuilt.groups), (&snapshot.index, &snapshot.groups));
            prop_assert_eq!(&rebuilt.labels, &snapshot.labels);
        }
    }
}
