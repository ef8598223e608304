//! How objects end: most at once, pods when their minion has stopped them, namespaces when they
//! are empty.

use std::sync::Arc;

use coracle_api::{
    ApiError, Kind, TypedObject,
    core::{Namespace, Pod},
    error::Reason,
    meta::ObjectMeta,
};
use jiff::Timestamp;

use crate::{
    deletion,
    registry::{Entry, Expected, Registry},
};

/// The namespace that always exists.
const DEFAULT_NAMESPACE: &str = "default";

/// An order to delete one object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removal {
    /// Seconds that containers get to end; `None` for the pod's own choice.
    pub(crate) grace_s: Option<i64>,
    /// Only this very object, not a namesake.
    pub(crate) uid: Option<String>,
    /// Only this state of it.
    pub(crate) version: Option<u64>,
}

impl Removal {
    /// 409 when the object is not the one meant.
    fn check(&self, kind: &Kind, meta: &ObjectMeta) -> Result<(), ApiError> {
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
        deletion::delete_pod_if(registry, namespace, name, removal.grace_s, now, check).await?
    } else if kind == Namespace::row() {
        mark_namespace(registry, name, now, check).await?
    } else {
        let current = registry.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind.error_name, name))?;
        let object = current.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
        check(object.meta())?;
        // A precondition holds for the state it was checked on, so nothing newer may go.
        let guarded = removal.uid.is_some() || removal.version.is_some();
        let expected = if guarded { Expected::Version(current.version) } else { Expected::Any };
        registry.delete(kind, namespace, name, expected).await?
    };
    let there = registry.get(kind, namespace, name).filter(|entry| entry.uid() == last.uid());
    Ok(match there {
        Some(entry) => Removed::Ending(entry),
        None => Removed::Gone(last),
    })
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
