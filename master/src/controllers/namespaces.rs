//! Namespace deletion: a namespace marked for deletion is emptied, then removed.

use std::time::Duration;

use coracle_api::{
    ApiError, Kind, TypedObject,
    core::{Namespace, Pod},
    kinds::KINDS,
};

use super::{Controller, Looks};
use crate::registry::{Expected, Key, Registry, WatchItem};

/// Pods stop in their own time; a dying namespace looks again this often.
const RECHECK: Duration = Duration::from_millis(500);

/// Empties namespaces that are being deleted.
#[derive(Debug)]
pub(crate) struct NamespaceController {
    pub(crate) registry: Registry,
}

impl Controller for NamespaceController {
    fn watches(&self) -> &'static [&'static Kind] {
        static KINDS: [&Kind; 1] = [&coracle_api::objects::namespace::KIND];
        &KINDS
    }

    fn wakes(&self, item: &WatchItem) -> Vec<Key> {
        vec![item.entry.key.clone()]
    }

    async fn reconcile(&self, key: &Key, _: &mut Looks) -> Result<Option<Duration>, ApiError> {
        let Some(namespace) = self.registry.get_typed::<Namespace>("", &key.name) else { return Ok(None) };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(None);
        }
        let mut left = 0;
        for kind in KINDS.iter().filter(|k| k.stored && k.namespaced) {
            let entries: Vec<Key> =
                self.registry.snapshot(kind).range(Some(&key.name)).map(|e| e.key.clone()).collect();
            left += entries.len();
            for object in entries {
                let gone = if **kind == *Pod::row() {
                    crate::deletion::delete_pod(
                        &self.registry,
                        &object.namespace,
                        &object.name,
                        None,
                        self.registry.now(),
                    )
                    .await
                } else {
                    self.registry.delete(kind, &object.namespace, &object.name, Expected::Any).await
                };
                if let Err(error) = gone
                    && error.code() != 404
                {
                    return Err(error);
                }
            }
        }
        if left > 0 {
            return Ok(Some(RECHECK));
        }
        self.registry.delete(Namespace::row(), "", &key.name, Expected::Any).await?;
        Ok(None)
    }
}
