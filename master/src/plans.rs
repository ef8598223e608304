//! How the control loops decide, as values. Production has the one set of plans that is the default; a
//! simulation that must show that it would notice a wrong one passes another.

use std::time::Duration;

use coracle_api::core::{EndpointSubset, Pod, Service};

use crate::{
    controllers::{endpoints, garbage, relocation, replication},
    scheduler::{self, Cluster, Decision, Wanted},
};

pub use crate::controllers::{
    endpoints::Backend,
    relocation::{Fate, Sound},
    replication::plan::{Desired, Owner, Plan as ReplicaPlan, Replica},
};

/// The plans of all loops.
#[derive(Debug, Clone, Copy)]
pub struct Plans {
    /// Where a pod goes.
    pub place: fn(&Cluster, &Wanted) -> Decision,
    /// Which pods a replication controller adopts, releases, creates and deletes, of which number asked for.
    pub replicas: fn(Desired, &[Replica]) -> ReplicaPlan,
    /// The endpoints of a service with these pods.
    pub subsets: fn(&Service, &[Backend<'_>]) -> Vec<EndpointSubset>,
    /// What becomes of a pod whose minion is silent.
    pub fate: fn(&Pod) -> Fate,
    /// Whether so many minions are silent that nothing moves; the time is after how long one is late.
    pub braked: fn(&[Sound], Duration) -> bool,
    /// Whether an object goes, by which of its owners are there.
    pub garbage: fn(&[bool]) -> bool,
}

impl Default for Plans {
    fn default() -> Self {
        Self {
            place: scheduler::decide,
            replicas: replication::plan::plan_replicas,
            subsets: endpoints::plan_subsets,
            fate: relocation::fate,
            braked: relocation::braked,
            garbage: garbage::is_garbage,
        }
    }
}
