//! The decision: what to do next for one pod. Pure: full state in, ordered actions out.
//!
//! `memory` must have observed `observed`. Operations under way are part of it: a slot that is
//! busy gets no second action, so a plan repeated before its actions end adds nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use coracle_api::core::{Container as Spec, Pod, PodSpec, PodStatus};
use jiff::Timestamp;

use super::{
    backoff::{self, CRASH_DELAY_MAX, IMAGE_CHECK_PERIOD, RETRY_DELAY_MAX},
    memory::{HookState, ImageMemory, PodMemory, Slot, StopReason},
    observation::{PodObservation, is_cut_off, is_running},
    operations::{Action, Pull},
    restart::{self, Fate, Role},
    status,
    traffic::{Traffic, release_at},
};
use crate::runtime::{Container, State, labels};

/// A container whose network is gone can finish no conversation: it is not waited for long.
const NETWORK_LOST_GRACE: Duration = Duration::from_secs(2);
/// Longest wait before the master is asked again to remove the object.
const DELETE_DELAY_MAX: Duration = Duration::from_secs(2);
const GRACE_DEFAULT_S: i64 = 30;

/// What to do next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodPlan {
    /// In order of importance; they may run side by side.
    pub actions: Vec<Action>,
    /// What to tell the master; `None` when the pod object is gone.
    pub status: Option<Arc<PodStatus>>,
    /// When time alone would change the plan.
    pub recheck_at: Option<Timestamp>,
    /// It is deleted and serves on until nobody is sent to it.
    pub held: bool,
    /// Nothing of the pod is left here, and nothing to tell.
    pub done: bool,
}

/// What else is known at the time of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The node's address.
    pub node_ip: std::net::IpAddr,
    /// The time.
    pub now: Timestamp,
    /// The pod's part in the traffic of services.
    pub traffic: Option<Traffic>,
}

/// Plans for one pod. `desired` is the pod as the master has it, `None` when it has none.
pub fn plan_pod(desired: Option<&Pod>, observed: &PodObservation, memory: &PodMemory, context: Context) -> PodPlan {
    let mut planner = Planner { observed, memory, now: context.now, plan: PodPlan::default() };
    let traffic = context.traffic;
    let live = desired.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    match (live, live.and_then(|pod| pod.spec.as_ref())) {
        (Some(pod), Some(spec)) => {
            let verdict = restart::verdict(pod, memory, observed.infra(), context.now);
            if verdict.is_final() {
                planner.wind_down(spec, grace_of(pod));
            } else {
                if let Some(at) = restart::deadline(pod, memory) {
                    planner.recheck(at);
                }
                planner.converge(spec, grace_of(pod));
            }
        }
        (Some(_), None) => {}
        (None, _) => planner.tear_down(desired, traffic),
    }
    planner.plan.status = desired.map(|pod| {
        let status = status::pod_status(pod, observed, memory, context);
        // The same one as long as nothing changes: it is kept in several places.
        memory.status.clone().filter(|before| **before == status).unwrap_or_else(|| Arc::new(status))
    });
    planner.plan
}

/// How long the pod's containers may take to end.
pub fn grace_of(pod: &Pod) -> Duration {
    let asked = pod.metadata.deletion_grace_period_seconds;
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    Duration::from_secs(u64::try_from(asked.or(own).unwrap_or(GRACE_DEFAULT_S)).unwrap_or(0))
}

/// The image reference of a container, or "".
pub(super) fn image_of(container: &Spec) -> &str {
    container.image.as_deref().unwrap_or_default()
}

struct Planner<'a> {
    observed: &'a PodObservation,
    memory: &'a PodMemory,
    now: Timestamp,
    plan: PodPlan,
}

impl Planner<'_> {
    fn recheck(&mut self, at: Timestamp) {
        self.plan.recheck_at = Some(self.plan.recheck_at.map_or(at, |before| before.min(at)));
    }

    fn busy(&self, slot: &Slot) -> bool {
        self.memory.in_flight.contains_key(slot)
    }

    /// Adds an action unless its slot is busy or waits after a failure.
    fn act(&mut self, action: Action) {
        let Some(slot) = action.slot() else { return };
        if self.busy(&slot) {
            return;
        }
        if let Some(failure) = self.memory.failures.get(&slot) {
            let at = failure.retry_at(if slot == Slot::Delete { DELETE_DELAY_MAX } else { RETRY_DELAY_MAX });
            if at > self.now {
                return self.recheck(at);
            }
        }
        self.plan.actions.push(action);
    }

    /// Stops a running container. A stop under way that would take longer is replaced.
    fn stop(&mut self, container: &Container, grace: Duration, reason: StopReason) {
        if !is_running(container) {
            return;
        }
        let slot = Slot::Stop(container.id.clone());
        let (name, id) = (container.name.clone(), container.id.clone());
        let action = Action::Stop { container: name, id, grace, reason };
        match self.memory.in_flight.get(&slot).map(|op| op.grace) {
            Some(under_way) if under_way.is_none_or(|g| g <= grace) => {}
            Some(_) => self.plan.actions.push(action),
            None => self.act(action),
        }
    }

    fn cancel(&mut self, unwanted: impl Fn(&Slot) -> bool) {
        for (slot, op) in &self.memory.in_flight {
            if unwanted(slot) && !op.cancelled {
                self.plan.actions.push(Action::Cancel(slot.clone()));
            }
        }
    }

    // -- a pod that is to run -------------------------------------------------------------------

    fn converge(&mut self, spec: &PodSpec, grace: Duration) {
        let infra = self.observed.infra();
        let initialized = restart::is_initialized(spec, self.memory, infra);
        // Whether anything may start comes first, so that a restart is the plan's first action.
        let due = self.due(spec, initialized);
        if let Some(infra) = infra {
            for container in &due {
                self.start(container, infra);
            }
        }
        if !self.memory.volumes_ready && (infra.is_none() || !due.is_empty()) {
            self.act(Action::MountVolumes);
        }
        if infra.is_none() && self.wants_network(spec) {
            self.act(Action::RunInfra { attempt: self.memory.infra_attempts });
        }
        self.fetch_images(spec, initialized);
        for (_, container) in restart::containers(spec) {
            self.keep(container, infra, grace);
        }
        self.clear_surplus(spec, grace);
        self.clear_dead();
    }

    /// The containers whose time to start has come, apart from what they still need.
    fn due<'s>(&mut self, spec: &'s PodSpec, initialized: bool) -> Vec<&'s Spec> {
        let infra = self.observed.infra();
        let mut due = Vec::new();
        for (role, container) in restart::containers(spec) {
            if role == Role::Main && !initialized || role == Role::Init && initialized {
                continue;
            }
            match restart::fate(spec, role, container, self.memory.containers.get(&container.name), infra) {
                Fate::Unstarted => due.push(container),
                Fate::Restart { at, .. } if at <= self.now => due.push(container),
                Fate::Restart { at, .. } => self.recheck(at),
                Fate::Running | Fate::Ended { .. } => {}
            }
            let past = initialized || restart::is_past(spec, role, container, self.memory, infra);
            if role != Role::Main && !past {
                break;
            }
        }
        due
    }

    fn start(&mut self, container: &Spec, infra: &Container) {
        let name = &container.name;
        let known = self.memory.last(name);
        if known.is_some_and(is_running) || self.observed.all(name).any(is_running) || name == labels::INFRA {
            return;
        }
        if !self.memory.volumes_ready || self.memory.images.get(image_of(container)) != Some(&ImageMemory::Present) {
            return;
        }
        let attempt = known.map_or(0, |last| last.attempt.saturating_add(1));
        // A container that was created and never started holds the name: it goes first.
        if self.observed.all(name).any(|c| c.attempt >= attempt) {
            return;
        }
        self.act(Action::Start { container: name.clone(), attempt, infra: infra.id.clone() });
    }

    /// Whether something is still to run in the pod's network.
    fn wants_network(&self, spec: &PodSpec) -> bool {
        restart::containers(spec).filter(|(role, _)| *role == Role::Main).any(|(role, c)| {
            let fate = restart::fate(spec, role, c, self.memory.containers.get(&c.name), None);
            match fate {
                Fate::Unstarted | Fate::Restart { .. } => true,
                Fate::Running => spec.restart_policy.as_deref() != Some("Never"),
                Fate::Ended { .. } => false,
            }
        })
    }

    fn fetch_images(&mut self, spec: &PodSpec, initialized: bool) {
        let mut asked = BTreeSet::new();
        for (role, container) in restart::containers(spec) {
            let infra = self.observed.infra();
            let fate = restart::fate(spec, role, container, self.memory.containers.get(&container.name), infra);
            let image = image_of(container);
            let over = role == Role::Init && initialized;
            if over || matches!(fate, Fate::Running | Fate::Ended { .. }) || !asked.insert(image) {
                continue;
            }
            let never = container.image_pull_policy.as_deref() == Some("Never");
            let pull = match self.memory.images.get(image) {
                Some(ImageMemory::Present) => continue,
                None if never => Pull::Never,
                None if container.image_pull_policy.as_deref() == Some("Always") => Pull::Always,
                None => Pull::IfMissing,
                Some(ImageMemory::Missing { failure, checked_at }) => {
                    let pull_at = failure.retry_at(CRASH_DELAY_MAX);
                    let look_at = backoff::after(*checked_at, IMAGE_CHECK_PERIOD);
                    if !never && pull_at <= self.now {
                        Pull::IfMissing
                    } else if look_at <= self.now {
                        if never { Pull::Never } else { Pull::Look }
                    } else {
                        self.recheck(if never { look_at } else { look_at.min(pull_at) });
                        continue;
                    }
                }
            };
            self.act(Action::EnsureImage { image: image.to_owned(), pull });
        }
    }

    /// What a running container needs: to be stopped, or its hook.
    fn keep(&mut self, container: &Spec, infra: Option<&Container>, grace: Duration) {
        let Some(memory) = self.memory.containers.get(&container.name) else { return };
        let Some(running) = memory.last.as_ref().and_then(|last| self.observed.by_id(&last.id)) else { return };
        if !is_running(running) {
            return;
        }
        let hook = memory.hook.as_ref().filter(|(id, _)| *id == running.id).map(|(_, state)| state);
        let probes = memory.probes.as_ref().filter(|p| p.id == running.id);
        let dead = probes.and_then(|p| Some((p.dead.clone()?, p.started)));
        if infra.is_none_or(|infra| is_cut_off(running, infra)) {
            self.stop(running, grace.min(NETWORK_LOST_GRACE), StopReason::NetworkLost);
        } else if !memory.is_current(running, container) {
            self.stop(running, grace, StopReason::Replaced);
        } else if let Some(HookState::Failed(why)) = hook {
            self.stop(running, grace, StopReason::HookFailed(why.clone()));
        } else if let Some((why, started)) = dead {
            self.stop(running, probe_grace(container, started).unwrap_or(grace), StopReason::Unhealthy(why));
        } else if hook.is_some() {
            self.act(Action::RunHook { container: container.name.clone(), id: running.id.clone() });
        }
    }

    /// Running containers that should not be: older runs, and names that the pod does not have.
    fn clear_surplus(&mut self, spec: &PodSpec, grace: Duration) {
        for container in self.observed.own().filter(|c| is_running(c)) {
            let named = restart::containers(spec).any(|(_, c)| c.name == container.name);
            let newest = self.memory.last(&container.name).is_some_and(|last| last.id == container.id);
            if !named || !newest {
                self.stop(container, grace, StopReason::Surplus);
            }
        }
        let infra = self.observed.infra().map(|c| &c.id);
        for container in self.observed.all(labels::INFRA).filter(|c| Some(&c.id) != infra) {
            if !self.busy(&Slot::Infra) {
                self.act(Action::Remove { id: container.id.clone() });
            }
        }
    }

    /// Of the dead, the newest of a name stays for its log. Not while the name is being started:
    /// the engine has better things to do then.
    fn clear_dead(&mut self) {
        let starting =
            |action: &Action, name: &str| matches!(action, Action::Start { container, .. } if container == name);
        for container in self.observed.own().filter(|c| !is_running(c)) {
            let name = &container.name;
            let busy = self.busy(&Slot::Start(name.clone())) || self.plan.actions.iter().any(|a| starting(a, name));
            let newer_dead = |c: &&Container| {
                matches!(c.state, State::Exited { .. })
                    && (c.attempt, c.created_at) > (container.attempt, container.created_at)
            };
            let superseded = self.observed.all(name).filter(newer_dead).count() > 0;
            if !busy && (container.state == State::Created || superseded) {
                self.act(Action::Remove { id: container.id.clone() });
            }
        }
    }

    // -- a pod that has ended, or is to go ------------------------------------------------------

    /// The pod has ended: what still runs is stopped, its network given back. The dead containers
    /// stay for their logs, the volumes until the pod is deleted.
    fn wind_down(&mut self, spec: &PodSpec, grace: Duration) {
        self.cancel(|slot| matches!(slot, Slot::Image(_) | Slot::Start(_) | Slot::Infra | Slot::Hook(_)));
        if self.stop_all(Some(spec), grace, StopReason::PodEnded) {
            for container in self.observed.all(labels::INFRA) {
                self.act(Action::Remove { id: container.id.clone() });
            }
        }
        self.clear_dead();
    }

    /// The pod is deleted: clients, containers, then volumes, then the object.
    fn tear_down(&mut self, desired: Option<&Pod>, traffic: Option<Traffic>) {
        if self.memory.deleted {
            self.plan.done = true;
            return;
        }
        self.cancel(|slot| matches!(slot, Slot::Image(_) | Slot::Start(_) | Slot::Infra | Slot::Hook(_)));
        let mut grace = desired.map_or(self.memory.orphan_grace, grace_of);
        if let Some(since) = self.memory.deleted_since.filter(|_| self.observed.own().any(is_running)) {
            let release = release_at(traffic, since, grace);
            if self.memory.released_at.is_none() && release > self.now {
                self.plan.held = true;
                return self.recheck(release);
            }
            // The pod's grace began with its deletion.
            let held = self.memory.released_at.unwrap_or(self.now).duration_since(since);
            grace = grace.saturating_sub(Duration::try_from(held).unwrap_or_default());
        }
        let stopped = self.stop_all(desired.and_then(|p| p.spec.as_ref()), grace, StopReason::Deleted);
        if !stopped {
            return;
        }
        for container in &self.observed.containers {
            self.act(Action::Remove { id: container.id.clone() });
        }
        let idle = self.memory.in_flight.keys().all(|slot| matches!(slot, Slot::Delete));
        if !self.observed.containers.is_empty() || !idle {
            return;
        }
        if !self.memory.volumes_removed {
            self.act(Action::RemoveVolumes);
        } else if desired.is_some() {
            self.act(Action::FinalDelete);
        } else {
            self.plan.done = true;
        }
    }

    /// Stops the pod's containers, sidecars last. True when none runs or may yet start.
    fn stop_all(&mut self, spec: Option<&PodSpec>, grace: Duration, reason: StopReason) -> bool {
        let sidecar = |name: &str| {
            spec.is_some_and(|s| restart::containers(s).any(|(role, c)| role == Role::Sidecar && c.name == name))
        };
        let running: Vec<_> = self.observed.own().filter(|c| is_running(c)).collect();
        let others = running.iter().any(|c| !sidecar(&c.name));
        for container in running.iter().filter(|c| !others || !sidecar(&c.name)) {
            self.stop(container, grace, reason.clone());
        }
        let starting = self.memory.in_flight.keys().any(|slot| matches!(slot, Slot::Start(_) | Slot::Infra));
        running.is_empty() && !starting
    }
}

/// What the probe that failed gives a container: the liveness probe is asked only of one that has started.
fn probe_grace(container: &Spec, started: bool) -> Option<Duration> {
    let probe = if started { &container.liveness_probe } else { &container.startup_probe };
    let own = probe.as_ref().and_then(|p| p.termination_grace_period_seconds)?;
    u64::try_from(own).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
