//! The containers of one pod as the engine shows them.

use std::sync::Arc;

use crate::runtime::{Container, ContainerId, State, labels};

/// All containers of one pod, in any state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodObservation {
    /// In no particular order.
    pub containers: Vec<Arc<Container>>,
}

impl PodObservation {
    /// All containers of one name, in any state.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Container> + use<'a, 'n> {
        self.containers.iter().map(Arc::as_ref).filter(move |c| c.name == name)
    }

    /// Names of the pod's own containers, with repetition.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.own().map(|c| c.name.as_str())
    }

    /// All but the infra containers.
    pub fn own(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().map(Arc::as_ref).filter(|c| c.name != labels::INFRA)
    }

    /// The newest run of a container: of the highest attempt, and started.
    pub fn newest(&self, name: &str) -> Option<&Arc<Container>> {
        let started = self.containers.iter().filter(|c| c.name == name && c.state != State::Created);
        started.max_by_key(|c| (c.attempt, c.created_at))
    }

    /// The infra container that holds the pod's network.
    pub fn infra(&self) -> Option<&Container> {
        self.all(labels::INFRA).filter(|c| is_running(c)).max_by_key(|c| (c.attempt, c.created_at))
    }

    /// Whether these are the same containers in the same states.
    pub fn is_same(&self, containers: &[Arc<Container>]) -> bool {
        self.containers.len() == containers.len() && self.containers.iter().all(|c| containers.contains(c))
    }

    /// The container with this id.
    pub fn by_id(&self, id: &ContainerId) -> Option<&Container> {
        self.containers.iter().map(Arc::as_ref).find(|c| &c.id == id)
    }
}

/// Whether it runs.
pub fn is_running(container: &Container) -> bool {
    matches!(container.state, State::Running { .. })
}

/// Whether it joined another network than the one of `infra`: it runs since before the infra
/// container does.
pub fn is_cut_off(container: &Container, infra: &Container) -> bool {
    match (&container.state, &infra.state) {
        (
            State::Running { started_at } | State::Exited { started_at, .. },
            State::Running { started_at: infra_started },
        ) => started_at < infra_started,
        _ => false,
    }
}
