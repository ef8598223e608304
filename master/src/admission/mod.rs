//! What writes to the cluster need besides the object itself: a namespace to be in, an address to
//! give out, a pod to bind, an orderly end. One hook a file; the table here says which kind has
//! which, so that the server names none.
//!
//! Hooks decide from a registry snapshot. What two concurrent writes could both decide is held by
//! a [`Hold`] until the write is over.

pub(crate) mod binding;
mod cluster_ip;
pub(crate) mod dependents;
mod namespace;
mod removal;

use std::any::Any;

use coracle_api::{ApiError, Kind, Object};
use ipnet::Ipv4Net;

use crate::registry::Registry;

pub(crate) use namespace::{ensure as ensure_namespace, is_closing as namespace_is_ending};
pub(crate) use removal::{Propagation, Removal, Removed, remove};

/// Something reserved for a write. Dropping it frees the reservation; by then the write is visible
/// in the registry, or has failed.
pub(crate) type Hold = Box<dyn Any + Send>;

/// A rule for writes. `old` is `None` when the object is created. Runs after defaults and before
/// validation, which then sees what is going to be stored.
trait Hook: std::fmt::Debug + Send + Sync {
    /// Whether the rule concerns a kind.
    fn concerns(&self, kind: &Kind) -> bool;

    /// Completes or refuses the object.
    fn admit(
        &self,
        registry: &Registry,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> Result<Option<Hold>, ApiError>;
}

/// The rules of one cluster.
#[derive(Debug)]
pub(crate) struct Admission {
    hooks: Vec<Box<dyn Hook>>,
}

impl Admission {
    /// The rules, with portal addresses from `services`.
    pub(crate) fn new(services: Ipv4Net) -> Self {
        Self {
            hooks: vec![
                Box::new(namespace::MustExist),
                Box::new(namespace::Deletion),
                Box::new(cluster_ip::Allocator::new(services)),
            ],
        }
    }

    /// Passes an object by all rules that concern it.
    pub(crate) fn admit(
        &self,
        registry: &Registry,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> Result<Vec<Hold>, ApiError> {
        let (kind, mut holds) = (object.kind(), Vec::new());
        for hook in self.hooks.iter().filter(|hook| hook.concerns(kind)) {
            holds.extend(hook.admit(registry, object, old)?);
        }
        Ok(holds)
    }
}
