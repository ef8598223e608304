//! Namespace deletion: a namespace marked for deletion is emptied, then removed.

use std::time::Duration;

use coracle_api::{
    ApiError, Kind, TypedObject,
    core::{Namespace, Pod},
    kinds::KINDS,
};

use super::{Controller, Looks};
use crate::{
    admission::{self, Propagation, Removal},
    registry::{Expected, Key, Registry, WatchItem},
};

/// A dying namespace looks again this often.
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
        let kinds = KINDS.iter().filter(|kind| kind.stored && kind.namespaced);
        let inside = |kind| self.registry.snapshot(kind).range(Some(&key.name)).cloned().collect::<Vec<_>>();
        let left: Vec<_> = kinds.flat_map(|kind| inside(kind)).collect();
        if !left.is_empty() {
            // Pods stop in their own time, and what has a finalizer of somebody's waits for that one. Pods are asked
            // again: one that was to move must not.
            let asked = left.into_iter().filter(|entry| !entry.is_ending() || entry.kind == Pod::row());
            let removal = Removal { propagation: Some(Propagation::Background), ..Removal::default() };
            admission::remove_each(&self.registry, asked, &removal).await?;
            return Ok(Some(RECHECK));
        }
        self.registry.delete(Namespace::row(), "", &key.name, Expected::Any).await?;
        Ok(None)
    }
}
