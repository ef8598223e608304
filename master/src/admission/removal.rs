//! How objects end: most at once, pods when their minion has stopped them, namespaces when they
//! are empty, and owners after what they own if that was asked for.
//!
//! What becomes of the dependents of an object that is gone is decided by the garbage controller.

use std::sync::Arc;

use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    core::{Namespace, Pod, ReplicationController},
    error::Reason,
    meta::ObjectMeta,
};
use jiff::Timestamp;

use super::dependents;
use crate::{
    deletion,
    registry::{Entry, Expected, Registry},
};

/// Attempts to remove an object that others write to meanwhile.
const ATTEMPTS: usize = 16;
/// The namespace that always exists.
const DEFAULT_NAMESPACE: &str = "default";

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They stay, and belong to nobody.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

impl Propagation {
    /// What holds when nothing was said: as in Kubernetes, controllers of the first API leave
    /// their pods behind. One that was stopped before has none to leave: what is still there of
    /// its pods it had no time to delete.
    fn of(object: &dyn Object) -> Self {
        let controller = object.downcast_ref::<ReplicationController>();
        let replicas = controller.map_or(0, |rc| rc.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1));
        if replicas > 0 { Propagation::Orphan } else { Propagation::Background }
    }
}

/// An order to delete one object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removal {
    /// Seconds that containers get to end; `None` for the pod's own choice.
    pub(crate) grace_s: Option<i64>,
    /// Only this very object, not a namesake.
    pub(crate) uid: Option<String>,
    /// Only this state of it.
    pub(crate) version: Option<u64>,
    /// What becomes of its dependents; `None` for the kind's own way.
    pub(crate) propagation: Option<Propagation>,
}

impl Removal {
    /// 409 when the object is not the one meant.
    pub(crate) fn check(&self, kind: &Kind, meta: &ObjectMeta) -> Result<(), ApiError> {
        let name = meta.name.as_deref().unwrap_or_default();
        let found_uid = meta.uid.as_deref().unwrap_or_default();
        let found_version = meta.resource_version.as_deref().unwrap_or_default();
        let wanted_version = self.version.map(|v| v.to_string());
        let pairs =
            [("uid", self.uid.as_deref(), found_uid), ("resourceVersion", wanted_version.as_deref(), found_version)];
        match pairs.into_iter().find(|(_, wanted, found)| wanted.is_some_and(|w| w != *found)) {
            None => Ok(()),
            Some((what, wanted, found)) => {
                let message = format!(
                    "{} \"{name}\" cannot be deleted: precondition failed: {what} is {found}, not {}",
                    kind.error_name,
                    wanted.unwrap_or_default(),
                );
                Err(ApiError::new(Reason::Conflict, message).about(kind.error_name, name))
            }
        }
    }
}

/// What a deletion came to.
#[derive(Debug)]
pub(crate) enum Removed {
    /// The object is gone; its last state.
    Gone(Arc<Entry>),
    /// The object is on its way out; its present state.
    Ending(Arc<Entry>),
}

/// Deletes an object the way its kind ends.
pub(crate) async fn remove(
    registry: &Registry,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    removal: &Removal,
    now: Timestamp,
) -> Result<Removed, ApiError> {
    let check = |meta: &ObjectMeta| removal.check(kind, meta);
    let last = if kind == Pod::row() {
        if removal.propagation == Some(Propagation::Orphan)
            && let Some(pod) = registry.get(kind, namespace, name)
        {
            dependents::release_all(registry, dependents::of(registry, namespace, pod.uid()), |o| o.uid == pod.uid())
                .await?;
        }
        deletion::delete_pod_if(registry, namespace, name, removal.grace_s, now, check).await?
    } else if kind == Namespace::row() {
        mark_namespace(registry, name, now, check).await?
    } else {
        remove_plain(registry, kind, namespace, name, removal, now).await?
    };
    let there = registry.get(kind, namespace, name).filter(|entry| entry.uid() == last.uid());
    Ok(match there {
        Some(entry) => Removed::Ending(entry),
        None => Removed::Gone(last),
    })
}

/// Deletes an object that nothing on any minion stands for.
async fn remove_plain(
    registry: &Registry,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    removal: &Removal,
    now: Timestamp,
) -> Result<Arc<Entry>, ApiError> {
    for _ in 0..ATTEMPTS {
        let current = registry.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind.error_name, name))?;
        let mut object = current.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
        removal.check(kind, object.meta())?;
        let propagation = removal.propagation.unwrap_or_else(|| Propagation::of(&*object));
        let finalizer = match propagation {
            Propagation::Background => None,
            _ if dependents::of(registry, namespace, current.uid()).is_empty() => None,
            Propagation::Orphan => Some(dependents::ORPHAN),
            Propagation::Foreground => Some(dependents::FOREGROUND),
        };
        let meta = object.meta_mut();
        let kept = dependents::keep_foreign(meta);
        // What was checked and decided holds for this state, so nothing newer may go.
        let expected = Expected::Version(current.version);
        let written = if finalizer.is_none() && !kept {
            registry.delete(kind, namespace, name, expected).await
        } else {
            meta.finalizers.get_or_insert_default().extend(finalizer.map(str::to_owned));
            meta.deletion_timestamp.get_or_insert(now.into());
            meta.deletion_grace_period_seconds = Some(0);
            registry.update(object, expected).await
        };
        match written {
            Err(e) if e.reason == Reason::Conflict => {}
            Ok(entry) if propagation == Propagation::Orphan && entry.is_ending() => {
                dependents::finish(registry, &entry).await?;
                return Ok(entry);
            }
            done => return done,
        }
    }
    Err(ApiError::conflict(kind.error_name, name, "too many others are changing it; try again"))
}

/// Marks a namespace; the namespace controller empties and removes it.
async fn mark_namespace(
    registry: &Registry,
    name: &str,
    now: Timestamp,
    check: impl Fn(&ObjectMeta) -> Result<(), ApiError>,
) -> Result<Arc<Entry>, ApiError> {
    if name == DEFAULT_NAMESPACE {
        let message = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
        return Err(ApiError::new(Reason::Forbidden, message).about(Namespace::row().error_name, name));
    }
    let mark = |namespace: &mut Namespace| {
        check(&namespace.metadata)?;
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        namespace.metadata.deletion_timestamp = Some(now.into());
        namespace.status.get_or_insert_default().phase = Some("Terminating".into());
        Ok(true)
    };
    registry.modify("", name, mark).await
}
