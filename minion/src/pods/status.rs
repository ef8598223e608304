//! What the master is told of a pod: container states, conditions, addresses, and why something
//! is not so far. Pure; times in whole seconds, as the API writes them.

use std::collections::BTreeMap;

use coracle_api::{
    core::{
        Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
    },
    meta::Time,
};
use jiff::Timestamp;

use super::{
    backoff::{self, CRASH_DELAY_MAX},
    conditions,
    memory::{ImageMemory, PodMemory, Slot},
    observation::{PodObservation, is_running},
    plan::{Context, image_of},
    restart::{self, Fate, Role, Verdict},
};
use crate::runtime::{Container, State, labels};

/// The pod's status.
pub fn pod_status(pod: &Pod, observed: &PodObservation, memory: &PodMemory, context: Context) -> PodStatus {
    let none = PodStatus::default();
    let before = memory.status.as_deref().unwrap_or(&none);
    let Some(spec) = &pod.spec else { return before.clone() };
    let infra = observed.infra();
    let deleting = pod.metadata.deletion_timestamp.is_some();
    let verdict = match restart::verdict(pod, memory, infra, context.now) {
        // A pod that is being deleted does not change its mind about how it went.
        _ if deleting => Verdict {
            phase: known_phase(before.phase.as_deref()),
            reason: before.reason.clone(),
            message: before.message.clone(),
        },
        verdict => verdict,
    };
    let view = View { pod: spec, observed, memory, before, ended: deleting || verdict.is_final() };
    let (mut init, mut main) = (Vec::new(), Vec::new());
    for (role, container) in restart::containers(spec) {
        let status = view.container(role, container);
        if role == Role::Main { main.push(status) } else { init.push(status) }
    }
    let host_network = spec.host_network == Some(true);
    let ip = match infra {
        Some(_) if host_network => Some(context.node_ip.to_string()),
        Some(infra) => infra.ip.map(|ip| ip.to_string()),
        None if verdict.is_final() || deleting => before.pod_ip.clone(),
        None => None,
    };
    let conditions = conditions::plan_conditions(
        &conditions::Facts {
            spec,
            main: &main,
            init: &init,
            initialized: restart::is_initialized(spec, memory, infra),
            verdict: &verdict,
            deleting,
        },
        before.conditions.as_deref().unwrap_or_default(),
        seconds(context.now),
    );
    PodStatus {
        phase: Some(verdict.phase.into()),
        reason: verdict.reason,
        message: verdict.message.or_else(|| blocked(memory)),
        conditions: Some(conditions),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: Some(context.node_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: context.node_ip.to_string() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: before.start_time.clone().or(Some(Time(seconds(context.now)))),
        qos_class: Some(qos_class(spec).into()),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

/// The time in whole seconds.
pub(super) fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn known_phase(phase: Option<&str>) -> &'static str {
    ["Pending", "Running", "Succeeded", "Failed"].into_iter().find(|p| Some(*p) == phase).unwrap_or("Pending")
}

/// What keeps the whole pod from starting.
fn blocked(memory: &PodMemory) -> Option<String> {
    [Slot::Volumes, Slot::Infra].iter().find_map(|slot| memory.failures.get(slot)).map(|f| f.message.clone())
}

struct View<'a> {
    pod: &'a PodSpec,
    observed: &'a PodObservation,
    memory: &'a PodMemory,
    before: &'a PodStatus,
    /// Nothing of the pod will start again.
    ended: bool,
}

impl View<'_> {
    fn container(&self, role: Role, container: &Spec) -> ContainerStatus {
        let name = &container.name;
        let before = self.status_before(role, name);
        let last = self.memory.last(name).filter(|_| name != labels::INFRA);
        let starting = self.memory.in_flight.contains_key(&Slot::Start(name.clone()));
        if let (Some(before), true, true) = (before, starting, last.is_some_and(is_running)) {
            // Half of a start: the other half, with the hook, is reported with it in one piece.
            return before.clone();
        }
        let Some(last) = last else {
            return ContainerStatus {
                name: name.clone(),
                image: image_of(container).into(),
                started: Some(false),
                state: Some(waiting(self.unstarted(role, container))),
                ..Default::default()
            };
        };
        let older = self.last_end(last).or_else(|| before?.last_state.clone());
        let (state, last_state) = self.state(role, container, last, older);
        let up = self.memory.is_up(name);
        let ready = match role {
            Role::Init => matches!(last.state, State::Exited { code: 0, .. }),
            Role::Sidecar | Role::Main => self.memory.is_ready(name),
        };
        ContainerStatus {
            name: name.clone(),
            image: if last.image.is_empty() { image_of(container).into() } else { last.image.clone() },
            image_id: last.image_id.clone(),
            container_id: Some(format!("docker://{}", last.id)),
            restart_count: i32::try_from(last.attempt).unwrap_or(i32::MAX),
            ready,
            started: Some(up),
            state: Some(state),
            last_state,
            ..Default::default()
        }
    }

    fn status_before(&self, role: Role, name: &str) -> Option<&ContainerStatus> {
        let lists = (&self.before.container_statuses, &self.before.init_container_statuses);
        let list = if role == Role::Main { lists.0 } else { lists.1 };
        list.iter().flatten().find(|s| s.name == name)
    }

    /// The end of the run before `last`, if the engine still has it.
    fn last_end(&self, last: &Container) -> Option<ContainerState> {
        let older = self.observed.all(&last.name).filter(|c| c.attempt < last.attempt);
        older.max_by_key(|c| c.attempt).and_then(|c| self.terminated(c))
    }

    fn state(
        &self,
        role: Role,
        container: &Spec,
        last: &Container,
        older: Option<ContainerState>,
    ) -> (ContainerState, Option<ContainerState>) {
        let Some(ended) = self.terminated(last) else {
            let started_at = match last.state {
                State::Running { started_at } => Some(Time(seconds(started_at))),
                _ => None,
            };
            let running = ContainerState { running: Some(ContainerStateRunning { started_at }), ..Default::default() };
            return (running, older);
        };
        if self.ended {
            return (ended, older);
        }
        let known = self.memory.containers.get(&container.name);
        let Fate::Restart { delayed, .. } = restart::fate(self.pod, role, container, known, self.observed.infra())
        else {
            return (ended, older);
        };
        if let Some(why) = self.obstacle(container) {
            return (waiting(why), Some(ended));
        }
        if !delayed {
            return (ended, older);
        }
        let wait = backoff::delay(known.map_or(0, |m| m.crashes), CRASH_DELAY_MAX).as_secs();
        let code = exit_code(last);
        let text = format!(
            "back-off of {wait} s before restarting container {}: it ended with exit code {code}",
            container.name
        );
        (waiting(("CrashLoopBackOff", text)), Some(ended))
    }

    fn unstarted(&self, role: Role, container: &Spec) -> (&'static str, String) {
        if container.name == labels::INFRA {
            let text =
                format!("no container can be called {}: it is the name of the pod's network; rename it", labels::INFRA);
            return ("CreateContainerConfigError", text);
        }
        if let Some(why) = self.obstacle(container) {
            return why;
        }
        if let Some(text) = blocked(self.memory) {
            return ("ContainerCreating", text);
        }
        let initialized = restart::is_initialized(self.pod, self.memory, self.observed.infra());
        if role != Role::Sidecar && !initialized || role == Role::Sidecar && self.memory.containers.is_empty() {
            return ("PodInitializing", String::new());
        }
        ("ContainerCreating", String::new())
    }

    /// What keeps this container from starting.
    fn obstacle(&self, container: &Spec) -> Option<(&'static str, String)> {
        if let Some(ImageMemory::Missing { failure, .. }) = self.memory.images.get(image_of(container)) {
            let again = failure.count > 1 && failure.reason == "ErrImagePull";
            return Some((if again { "ImagePullBackOff" } else { failure.reason }, failure.message.clone()));
        }
        let slots = [Slot::Start(container.name.clone()), Slot::Image(image_of(container).to_owned())];
        let failure = slots.iter().find_map(|slot| self.memory.failures.get(slot))?;
        Some((failure.reason, failure.message.clone()))
    }

    fn terminated(&self, container: &Container) -> Option<ContainerState> {
        let State::Exited { code, oom_killed, started_at, finished_at, error } = &container.state else { return None };
        let stopped = self.memory.containers.get(&container.name).and_then(|m| m.stopped.as_ref());
        let stopped = stopped.filter(|(id, _)| *id == container.id).map(|(_, reason)| reason.sentence());
        let reason = match (oom_killed, code, error.is_empty()) {
            (true, ..) => "OOMKilled",
            (_, 137, false) => "ContainerStatusUnknown",
            (_, _, false) => "StartError",
            (_, 0, _) => "Completed",
            _ => "Error",
        };
        let message = if error.is_empty() { stopped.map(|why| format!("stopped: {why}")) } else { Some(error.clone()) };
        Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(format!("docker://{}", container.id)),
                exit_code: *code,
                reason: Some(reason.into()),
                message,
                started_at: Some(Time(seconds(*started_at))),
                finished_at: Some(Time(seconds(*finished_at))),
                signal: None,
            }),
            ..Default::default()
        })
    }
}

fn exit_code(container: &Container) -> i32 {
    match container.state {
        State::Exited { code, .. } => code,
        _ => 0,
    }
}

fn waiting((reason, message): (&'static str, String)) -> ContainerState {
    let message = (!message.is_empty()).then_some(message);
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..Default::default()
    }
}

/// `Guaranteed` when every container limits cpu and memory and requests just that, `BestEffort`
/// when none asks for anything, else `Burstable`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let (mut any, mut all_limited) = (false, true);
    for (_, container) in restart::containers(spec) {
        let empty = BTreeMap::new();
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|r| r.limits.as_ref()).unwrap_or(&empty);
        let requests = resources.and_then(|r| r.requests.as_ref()).unwrap_or(limits);
        for resource in ["cpu", "memory"] {
            let (limit, request) = (limits.get(resource), requests.get(resource));
            any |= limit.is_some() || request.is_some();
            all_limited &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, all_limited) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
