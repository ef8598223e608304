//! Wrong plans, one or more in each planner, that the simulation must notice.

use coracle_api::core::{EndpointSubset, Pod, Service};
use coracle_master::{
    plans::{Backend, Desired, Fate, Plans, Replica, ReplicaPlan},
    scheduler::{self, Cluster, Decision, Wanted},
};
use coracle_minion::pods::{
    memory::PodMemory,
    observation::PodObservation,
    plan::{Context, PodPlan, plan_pod},
};

use crate::Options;

/// A wrong plan.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// What it does.
    pub name: &'static str,
    /// Puts it in the place of the right one.
    pub plant: fn(&mut Options),
}

/// All of them.
pub const ALL: [Mutant; 8] = [
    Mutant { name: "a minion leaves the containers of deleted pods", plant: |o| o.plan_pod = leaves_orphans },
    Mutant { name: "a minion gives up on containers that crashed twice", plant: |o| o.plan_pod = gives_up },
    Mutant { name: "the scheduler ignores what pods ask for", plant: |o| o.plans.place = ignores_room },
    Mutant { name: "a controller makes one pod too many", plant: |o| o.plans.replicas = one_too_many },
    Mutant { name: "a service forgets its last pod", plant: |o| o.plans.subsets = forgets_last },
    Mutant { name: "pods of their own die with their minion", plant: |o| o.plans.fate = dies_with_minion },
    Mutant { name: "the brake never lets go", plant: |o| o.plans.braked = |_, _| true },
    Mutant { name: "what belongs to nobody stays", plant: |o| o.plans.garbage = |_| false },
];

fn leaves_orphans(desired: Option<&Pod>, observed: &PodObservation, memory: &PodMemory, at: Context) -> PodPlan {
    let mut plan = plan_pod(desired, observed, memory, at);
    if desired.is_none() {
        plan.actions.clear();
        plan.done = true;
    }
    plan
}

fn gives_up(desired: Option<&Pod>, observed: &PodObservation, memory: &PodMemory, at: Context) -> PodPlan {
    use coracle_minion::pods::operations::Action;
    let mut plan = plan_pod(desired, observed, memory, at);
    plan.actions.retain(|action| !matches!(action, Action::Start { attempt, .. } if *attempt >= 2));
    plan
}

fn ignores_room(cluster: &Cluster, wanted: &Wanted) -> Decision {
    scheduler::decide(cluster, &Wanted { requests: Default::default(), ..wanted.clone() })
}

fn one_too_many(desired: Desired, pods: &[Replica]) -> ReplicaPlan {
    let mut plan = (Plans::default().replicas)(desired, pods);
    if plan.create > 1 {
        plan.create += 1;
    }
    plan
}

fn forgets_last(service: &Service, pods: &[Backend<'_>]) -> Vec<EndpointSubset> {
    (Plans::default().subsets)(service, pods.split_last().map_or(&[], |(_, others)| others))
}

fn dies_with_minion(pod: &Pod) -> Fate {
    match (Plans::default().fate)(pod) {
        Fate::Renew => Fate::Remove,
        right => right,
    }
}
