//! Owners and what they own: who belongs to whom, and how an owner that was asked to go gets there.
//!
//! An owner that has to wait carries a finalizer: [`ORPHAN`] until its dependents belong to nobody,
//! [`FOREGROUND`] until they are gone, anybody else's until that party takes it off. [`finish`]
//! does what can be done now. It may be repeated and run twice at once: each of its writes is
//! guarded by a version.

use std::sync::Arc;

use coracle_api::{
    ApiError, Kind, TypedObject,
    core::{Namespace, Pod},
    error::Reason,
    kinds::KINDS,
    meta::ObjectMeta,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::removal::{Propagation, Removal, remove};
use crate::registry::{Entry, Expected, Owner, Registry};

/// On an owner whose dependents stay.
pub(crate) const ORPHAN: &str = "orphan";
/// On an owner whose dependents go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// Writes under way at once: as many as one commit takes well.
const BURST: usize = 500;
/// Attempts to change an object that others write to meanwhile.
const ATTEMPTS: usize = 16;

/// Whether an object of this kind can wait for finalizers. Pods end when their minion says so and
/// namespaces when they are empty.
pub(crate) fn waits(kind: &Kind) -> bool {
    kind != Pod::row() && kind != Namespace::row()
}

/// Takes off the finalizers that are this master's. Whether others are left.
pub(crate) fn keep_foreign(meta: &mut ObjectMeta) -> bool {
    let finalizers = meta.finalizers.get_or_insert_default();
    finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    !finalizers.is_empty()
}

/// Whether the owner of something in `namespace` is there. What can't be known is taken to be.
pub(crate) fn is_there(registry: &Registry, namespace: &str, owner: &Owner) -> bool {
    owner.kind.is_none_or(|kind| {
        let namespace = if kind.namespaced { namespace } else { "" };
        registry.get(kind, namespace, &owner.name).is_some_and(|entry| entry.uid() == owner.uid)
    })
}

/// Everything in the namespace of an owner that names it, or anywhere for an owner in none.
pub(crate) fn of(registry: &Registry, namespace: &str, uid: &str) -> Vec<Arc<Entry>> {
    let namespace = Some(namespace).filter(|ns| !ns.is_empty());
    let stored = KINDS.iter().filter(|kind| kind.stored && (kind.namespaced || namespace.is_none()));
    let named = |entry: &&Arc<Entry>| entry.owners().iter().any(|owner| owner.uid == uid);
    stored
        .flat_map(|kind| registry.snapshot(kind).range(namespace).filter(named).cloned().collect::<Vec<_>>())
        .collect()
}

/// Takes an owner that was asked to go as far as it can go now.
pub(crate) async fn finish(registry: &Registry, owner: &Entry) -> Result<(), ApiError> {
    let (namespace, name) = (&owner.key.namespace, &owner.key.name);
    for _ in 0..ATTEMPTS {
        let there = registry.get(owner.kind, namespace, name).filter(|now| now.uid() == owner.uid() && now.is_ending());
        let Some(current) = there else { return Ok(()) };
        let mut object = current.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
        let finalizers = object.meta().finalizers.clone().unwrap_or_default();
        let has = |finalizer: &str| finalizers.iter().any(|f| f == finalizer);
        let dependents = of(registry, namespace, owner.uid());
        if has(FOREGROUND) && !dependents.is_empty() {
            // Each that goes wakes the garbage controller, which comes back here.
            return remove_all(registry, dependents).await;
        }
        if has(ORPHAN) {
            release_all(registry, dependents, |o| o.uid == owner.uid()).await?;
        }
        let expected = Expected::Version(current.version);
        let written = if !keep_foreign(object.meta_mut()) {
            registry.delete(owner.kind, namespace, name, expected).await
        } else if has(FOREGROUND) || has(ORPHAN) {
            registry.update(object, expected).await
        } else {
            return Ok(());
        };
        match written {
            Err(e) if e.reason == Reason::Conflict => {}
            Err(e) if e.reason != Reason::NotFound => return Err(e),
            _ => return Ok(()),
        }
    }
    Err(ApiError::conflict(owner.kind.error_name, name, "too many others are changing it; try again"))
}

/// Asks all of them to go, with what they own.
pub(crate) async fn remove_all(registry: &Registry, dependents: Vec<Arc<Entry>>) -> Result<(), ApiError> {
    let asked = dependents.into_iter().filter(|entry| !entry.is_ending());
    let removal = Removal { propagation: Some(Propagation::Background), ..Removal::default() };
    remove_each(registry, asked, &removal).await
}

/// Carries out an order for each of these very objects. What is gone, or was replaced by a namesake meanwhile, is done.
pub(crate) async fn remove_each(
    registry: &Registry,
    entries: impl IntoIterator<Item = Arc<Entry>>,
    removal: &Removal,
) -> Result<(), ApiError> {
    let removals = entries.into_iter().map(|entry| async move {
        let removal = Removal { uid: Some(entry.uid().to_owned()), ..removal.clone() };
        let now = registry.now();
        match Box::pin(remove(registry, entry.kind, &entry.key.namespace, &entry.key.name, &removal, now)).await {
            Err(e) if !matches!(e.reason, Reason::NotFound | Reason::Conflict) => Err(e),
            _ => Ok(()),
        }
    });
    stream::iter(removals).buffer_unordered(BURST).try_collect().await
}

/// Takes the owners that `gone` picks off all of them.
pub(crate) async fn release_all(
    registry: &Registry,
    dependents: Vec<Arc<Entry>>,
    gone: impl Fn(&Owner) -> bool,
) -> Result<(), ApiError> {
    let gone = &gone;
    let releases = dependents.into_iter().map(|entry| async move {
        let (namespace, name) = (&entry.key.namespace, &entry.key.name);
        for _ in 0..ATTEMPTS {
            let there = registry.get(entry.kind, namespace, name).filter(|now| now.uid() == entry.uid());
            let Some(current) = there else { return Ok(()) };
            let lost: Vec<&Owner> = current.owners().iter().filter(|o| gone(o)).collect();
            if lost.is_empty() {
                return Ok(());
            }
            let mut object = current.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
            let owners = object.meta_mut().owner_references.get_or_insert_default();
            owners.retain(|o| !lost.iter().any(|l| l.uid == o.uid));
            if owners.is_empty() {
                object.meta_mut().owner_references = None;
            }
            match registry.update(object, Expected::Version(current.version)).await {
                Err(e) if e.reason == Reason::Conflict => {}
                Err(e) if e.reason != Reason::NotFound => return Err(e),
                _ => return Ok(()),
            }
        }
        Err(ApiError::conflict(entry.kind.error_name, name, "too many others are changing it; try again"))
    });
    stream::iter(releases).buffer_unordered(BURST).try_collect().await
}
