//! The decision: which pods a replication controller makes, takes in, lets go and deletes. Pure.
//!
//! Pods that are to be replaced do not count towards the replicas, so others are made besides them;
//! they are deleted as those become ready.
//!
//! Invariant: deleting pods that are to be replaced never leaves fewer ready pods than replicas are
//! wanted, unless there were fewer before; and then it takes none that is ready.

use std::{cmp::Reverse, time::Duration};

use coracle_api::objects::replacement::Replace;
use jiff::Timestamp;

use crate::registry::{Key, PodPhase};

/// Pods created or deleted in one round; the status write wakes the next one.
pub(super) const BURST: usize = 500;

/// A pod as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its namespace and name.
    pub key: Key,
    /// Matches the selector.
    pub matches: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Neither over nor on its way out.
    pub active: bool,
    /// On its way out.
    pub terminating: bool,
    /// Has a node.
    pub bound: bool,
    /// How far it is.
    pub phase: PodPhase,
    /// How long it has been ready, if it is, and its minion is heard.
    pub ready_for: Option<Duration>,
    /// It is to be replaced.
    pub replace: Option<Replace>,
    /// It was made of the template as it is now.
    pub current: bool,
    /// When it was created.
    pub created_at: Option<Timestamp>,
}

impl Replica {
    fn is_ready(&self) -> bool {
        self.ready_for.is_some()
    }

    fn is_available(&self, min_ready: Duration) -> bool {
        self.ready_for.is_some_and(|time| time >= min_ready)
    }
}

/// Whose pod it is. Those of another controller are not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The controller that plans.
    Us,
    /// No controller.
    Nobody,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// How many.
    pub replicas: i32,
    /// How long a pod must have been ready to count as available.
    pub min_ready: Duration,
}

/// What to do, and what to report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pods to take.
    pub adopt: Vec<Key>,
    /// Pods to let go.
    pub release: Vec<Key>,
    /// How many to create.
    pub create: usize,
    /// Pods to delete, and how long their containers get, if their replacement was ordered so.
    pub delete: Vec<(Key, Option<u32>)>,
    /// How many there are.
    pub replicas: i32,
    /// How many of them take traffic.
    pub ready: i32,
    /// How many have done so long enough.
    pub available: i32,
    /// When time alone would change the plan.
    pub recheck: Option<Duration>,
}

/// Compares what is wanted with the pods. Surplus pods go in the order in which they are missed
/// least: unscheduled, pending, not ready, of an older template, youngest, last name.
pub(crate) fn plan_replicas(desired: Desired, pods: &[Replica]) -> Plan {
    let mut plan = Plan::default();
    let mut ours: Vec<&Replica> = Vec::new();
    for pod in pods.iter().filter(|p| !p.terminating) {
        match (pod.owner, pod.matches) {
            (Owner::Us, false) => plan.release.push(pod.key.clone()),
            (Owner::Nobody, true) if pod.active => {
                plan.adopt.push(pod.key.clone());
                ours.push(pod);
            }
            (Owner::Us, true) if pod.active => ours.push(pod),
            _ => {}
        }
    }
    let count = |holds: &dyn Fn(&Replica) -> bool| ours.iter().filter(|p| holds(p)).count();
    plan.replicas = number(ours.len());
    plan.ready = number(count(&Replica::is_ready));
    plan.available = number(count(&|p| p.is_available(desired.min_ready)));
    recheck(&mut plan, desired.min_ready, &ours);
    let (leaving, mut staying): (Vec<&Replica>, Vec<&Replica>) = ours.into_iter().partition(|p| p.replace.is_some());
    let wanted = usize::try_from(desired.replicas).unwrap_or_default();
    plan.create = wanted.saturating_sub(staying.len()).min(BURST);
    let surplus = staying.len().saturating_sub(wanted).min(BURST);
    if surplus > 0 {
        let rank =
            |p: &Replica| (p.bound, p.phase == PodPhase::Running, p.is_ready(), p.current, Reverse(p.created_at));
        staying.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| b.key.cmp(&a.key)));
        plan.delete = staying.drain(..surplus).map(|p| (p.key.clone(), None)).collect();
    }
    plan_leaving(&mut plan, wanted, desired.min_ready, &staying, leaving);
    plan
}

/// Deletes of the pods that are to be replaced those that are not ready, and as many of the others
/// as those that stay make up for, each as long as its own order asks.
fn plan_leaving(plan: &mut Plan, wanted: usize, min_ready: Duration, staying: &[&Replica], leaving: Vec<&Replica>) {
    let order = |pod: &Replica| pod.replace.unwrap_or_default();
    let asked = |pod: &Replica| min_ready.max(order(pod).min_ready());
    let (mut ready, unready): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|p| p.is_ready());
    // Who asks for least goes first: where that one can't go, nobody behind it can.
    ready.sort_by_key(|pod| asked(pod));
    // Nearly always all ask for the same.
    let (mut spare, mut time, mut available) = (0, Duration::MAX, 0);
    for pod in &ready {
        if asked(pod) != time {
            time = asked(pod);
            available = staying.iter().filter(|p| p.is_available(time)).count();
        }
        if available + ready.len() - spare <= wanted {
            break;
        }
        spare += 1;
    }
    let room = BURST.saturating_sub(plan.delete.len());
    let going = unready.iter().chain(ready.iter().take(spare));
    plan.delete.extend(going.take(room).map(|p| (p.key.clone(), order(p).grace_period_seconds)));
    if let Some(next) = ready.get(spare) {
        recheck(plan, asked(next), staying);
    }
}

/// Looks again when the next ready pod becomes available.
fn recheck(plan: &mut Plan, min_ready: Duration, pods: &[&Replica]) {
    let left = pods.iter().filter_map(|p| min_ready.checked_sub(p.ready_for?)).filter(|left| !left.is_zero());
    plan.recheck = left.chain(plan.recheck).min();
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
