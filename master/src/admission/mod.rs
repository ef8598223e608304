//! What writes to the cluster need besides the object itself: a namespace to be in, an address to
//! give out, a pod to bind, an orderly end, and that there are not too many. One hook a file; the
//! table here says which kind has which, so that the server names none.
//!
//! Hooks decide from a registry snapshot. What two concurrent writes could both take is claimed by
//! the object ([`coracle_api::TypedObject::claims`]), and the store lets one of them have it.

pub(crate) mod binding;
mod cluster_ip;
pub(crate) mod dependents;
mod event_rate;
mod namespace;
mod node_ports;
mod removal;

use std::sync::Arc;

use coracle_api::{ApiError, Kind, Object, error::Reason};
use ipnet::Ipv4Net;

use crate::registry::{Entry, Registry};

pub(crate) use dependents::remove_each;
pub(crate) use event_rate::EventBudget;
pub(crate) use namespace::{ensure as ensure_namespace, is_closing as namespace_is_ending};
pub(crate) use removal::{Propagation, Removal, Removed, remove};

/// A rule for writes. `old` is `None` when the object is created. Runs after defaults and before
/// validation, which then sees what is going to be stored.
trait Hook: std::fmt::Debug + Send + Sync {
    /// Whether the rule concerns a kind.
    fn concerns(&self, kind: &Kind) -> bool;

    /// Completes or refuses the object.
    fn admit(&self, registry: &Registry, object: &mut dyn Object, old: Option<&dyn Object>) -> Result<(), ApiError>;
}

/// Attempts of a creation for which something is chosen that another one may take first.
const CHOICES_MAX: usize = 8;

/// Creates with a fresh choice as long as another object takes what was chosen.
pub(crate) async fn retry_choices(
    mut create: impl AsyncFnMut() -> Result<Arc<Entry>, ApiError>,
) -> Result<Arc<Entry>, ApiError> {
    let mut result = create().await;
    for _ in 1..CHOICES_MAX {
        match &result {
            Err(error) if error.reason == Reason::Conflict => result = create().await,
            _ => break,
        }
    }
    result
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
                Box::new(node_ports::Allocator),
                Box::new(EventBudget::default()),
            ],
        }
    }

    /// Passes an object by all rules that concern it.
    pub(crate) fn admit(
        &self,
        registry: &Registry,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> Result<(), ApiError> {
        let kind = object.kind();
        self.hooks.iter().filter(|hook| hook.concerns(kind)).try_for_each(|hook| hook.admit(registry, object, old))
    }
}
