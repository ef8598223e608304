//! Namespaces: an object is created only in one that exists and is not being deleted.

use coracle_api::{ApiError, Kind, Object, TypedObject, core::Namespace, error::Reason, meta::ObjectMeta};
use jiff::Timestamp;

use super::Hook;
use crate::registry::{Entry, Registry};

/// Creation needs a namespace.
#[derive(Debug)]
pub(super) struct MustExist;

impl Hook for MustExist {
    fn concerns(&self, kind: &Kind) -> bool {
        kind.namespaced
    }

    fn admit(&self, registry: &Registry, object: &mut dyn Object, old: Option<&dyn Object>) -> Result<(), ApiError> {
        if old.is_some() {
            return Ok(());
        }
        let name = object.namespace();
        let entry = registry.get(Namespace::row(), "", name).ok_or_else(|| ApiError::not_found("namespaces", name))?;
        if is_ending(&entry) {
            let message = format!(
                "{} \"{}\" is forbidden: unable to create new content in namespace {name} because it is being terminated",
                object.kind().plural,
                object.name(),
            );
            return Err(ApiError::new(Reason::Forbidden, message).about(object.kind().error_name, object.name()));
        }
        Ok(())
    }
}

/// A namespace that is being deleted stays so, whatever an update says.
#[derive(Debug)]
pub(super) struct Deletion;

impl Hook for Deletion {
    fn concerns(&self, kind: &Kind) -> bool {
        kind == Namespace::row()
    }

    fn admit(&self, _registry: &Registry, object: &mut dyn Object, old: Option<&dyn Object>) -> Result<(), ApiError> {
        if old.is_none() {
            // The name is a label that selectors can use, as in current Kubernetes.
            let name = object.name().to_owned();
            let labels = object.meta_mut().labels.get_or_insert_default();
            labels.insert("kubernetes.io/metadata.name".into(), name);
        }
        Ok(())
    }
}

/// Whether nothing new may be made in a namespace, because it is being deleted.
pub(crate) fn is_closing(registry: &Registry, name: &str) -> bool {
    registry.get(Namespace::row(), "", name).is_some_and(|entry| is_ending(&entry))
}

/// Whether deletion was asked for. Reads the JSON's few bytes instead of decoding it: every
/// creation asks.
fn is_ending(entry: &Entry) -> bool {
    const MARK: &[u8] = b"\"deletionTimestamp\":\"";
    entry.json.windows(MARK.len()).any(|w| w == MARK)
        && entry.typed::<Namespace>().is_some_and(|ns| ns.metadata.deletion_timestamp.is_some())
}

/// Creates a namespace if it is missing: the one that always exists, and those that `v1beta1`
/// clients name without ever creating them.
pub(crate) async fn ensure(registry: &Registry, name: &str, now: Timestamp, uid: String) -> Result<(), ApiError> {
    if registry.get(Namespace::row(), "", name).is_some() {
        return Ok(());
    }
    let labels = [("kubernetes.io/metadata.name".to_owned(), name.to_owned())].into();
    let metadata = ObjectMeta {
        name: Some(name.into()),
        uid: Some(uid),
        creation_timestamp: Some(now.into()),
        labels: Some(labels),
        ..Default::default()
    };
    let mut namespace: Box<dyn Object> = Box::new(Namespace { metadata, ..Default::default() });
    namespace.prepare_create();
    namespace.set_defaults();
    namespace.validate()?;
    match registry.create(namespace).await {
        Err(e) if e.reason != Reason::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}
