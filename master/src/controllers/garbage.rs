//! Garbage: objects whose owners are gone go too, and owners that wait for their dependents or for
//! somebody's finalizer go when the wait is over.
//!
//! An object stays as long as one of its owners is there, or may be there: an owner of a kind that
//! this cluster does not know is no reason to delete anything.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use compact_str::CompactString;
use coracle_api::{ApiError, Kind, kinds::KINDS};

use super::{Controller, Looks};
use crate::{
    admission::dependents,
    registry::{Entry, EventType, Key, Registry, WatchItem},
};

/// How often an owner that waits is looked at without a change.
const RECHECK: Duration = Duration::from_secs(5);

static STORED: LazyLock<Vec<&'static Kind>> =
    LazyLock::new(|| KINDS.iter().copied().filter(|kind| kind.stored).collect());

/// Deletes what belongs to nobody any more. Its keys are the namespaces and uids of owners.
#[derive(Debug)]
pub(crate) struct GarbageController {
    registry: Registry,
    /// The uids of owners that something was seen to name: most deletions are of none of them.
    owners: Mutex<HashSet<CompactString>>,
    is_garbage: fn(&[bool]) -> bool,
}

/// Whether an object goes, by which of its owners are there.
pub(crate) fn is_garbage(owners_there: &[bool]) -> bool {
    !owners_there.contains(&true)
}

impl GarbageController {
    pub(crate) fn new(registry: Registry, is_garbage: fn(&[bool]) -> bool) -> Self {
        Self { registry, owners: Mutex::default(), is_garbage }
    }

    fn find(&self, namespace: &str, uid: &str) -> Option<Arc<Entry>> {
        let namespaced = !namespace.is_empty();
        let kinds = STORED.iter().filter(|kind| kind.namespaced == namespaced);
        let range = Some(namespace).filter(|_| namespaced);
        kinds.into_iter().find_map(|kind| self.registry.snapshot(kind).range(range).find(|e| e.uid() == uid).cloned())
    }
}

impl Controller for GarbageController {
    fn watches(&self) -> &'static [&'static Kind] {
        &STORED
    }

    fn wakes(&self, item: &WatchItem) -> Vec<Key> {
        let entry = &item.entry;
        let namespace = &entry.key.namespace;
        let mut keys = Vec::new();
        if item.event == EventType::Deleted {
            let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extend(owners.remove(entry.uid()).then(|| Key::new(namespace, entry.uid())));
        } else if entry.is_ending() && dependents::waits(entry.kind) {
            keys.push(Key::new(namespace, entry.uid()));
        }
        for owner in entry.owners() {
            let Some(kind) = owner.kind else { continue };
            let of_owner = if kind.namespaced { namespace.as_str() } else { "" };
            let there = self.registry.get(kind, of_owner, &owner.name).filter(|now| now.uid() == owner.uid);
            match (&there, item.event) {
                (Some(there), EventType::Deleted) if !there.is_ending() => {}
                (None, EventType::Deleted) => {}
                (Some(_), EventType::Deleted) | (None, _) => keys.push(Key::new(of_owner, &owner.uid)),
                (Some(_), _) => {
                    let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
                    if !owners.contains(&owner.uid) {
                        owners.insert(owner.uid.clone());
                    }
                }
            }
        }
        keys
    }

    async fn reconcile(&self, key: &Key, _: &mut Looks) -> Result<Option<Duration>, ApiError> {
        let registry = &self.registry;
        if let Some(owner) = self.find(&key.namespace, &key.name) {
            if owner.is_ending() && dependents::waits(owner.kind) {
                dependents::finish(registry, &owner).await?;
                // Each dependent that goes wakes this key; the round is for a change that was missed.
                return Ok(self.find(&key.namespace, &key.name).map(|_| RECHECK));
            }
            return Ok(None);
        }
        let gone = |entry: &Arc<Entry>| {
            let there = |owner| dependents::is_there(registry, &entry.key.namespace, owner);
            (self.is_garbage)(&entry.owners().iter().map(there).collect::<Vec<_>>())
        };
        let (garbage, shared): (Vec<_>, Vec<_>) =
            dependents::of(registry, &key.namespace, &key.name).into_iter().partition(gone);
        dependents::remove_all(registry, garbage).await?;
        dependents::release_all(registry, shared, |owner| owner.uid == key.name).await?;
        Ok(None)
    }
}
