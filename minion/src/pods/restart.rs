//! What becomes of a container, and of the pod: restart policy, back-off, phase. Pure.

use coracle_api::core::{Container as Spec, Pod, PodSpec};
use jiff::Timestamp;

use super::{
    backoff::{self, CRASH_DELAY_MAX},
    memory::{ContainerMemory, PodMemory, StopReason},
    observation::is_cut_off,
};
use crate::runtime::{Container, State};

/// When a container runs in the life of its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To its end, before those that follow.
    Init,
    /// From its turn among the init containers to the end of the pod (`restartPolicy: Always`).
    Sidecar,
    /// Beside the others.
    Main,
}

/// What becomes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It never ran.
    Unstarted,
    /// It runs.
    Running,
    /// It ended and is to run again.
    Restart {
        /// When.
        at: Timestamp,
        /// Whether that is later than its end.
        delayed: bool,
    },
    /// It ended for good.
    Ended {
        /// Exit status.
        code: i32,
    },
}

/// The pod's containers with their roles: init containers and sidecars in order, then the others.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Spec)> {
    let first = spec.init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, c)
    });
    first.chain(spec.containers.iter().map(|c| (Role::Main, c)))
}

/// What becomes of a container. `infra` is the pod's present network, if it has one.
pub fn fate(
    spec: &PodSpec,
    role: Role,
    container: &Spec,
    memory: Option<&ContainerMemory>,
    infra: Option<&Container>,
) -> Fate {
    let Some((memory, last)) = memory.and_then(|m| Some((m, m.last.as_ref()?))) else { return Fate::Unstarted };
    let State::Exited { code, finished_at, .. } = last.state else {
        return if last.state == State::Created { Fate::Unstarted } else { Fate::Running };
    };
    let stopped = memory.stopped.as_ref().filter(|(id, _)| *id == last.id).map(|(_, reason)| reason);
    let at_once = Fate::Restart { at: finished_at, delayed: false };
    let in_old_network = infra.is_some_and(|infra| is_cut_off(last, infra));
    match role {
        Role::Init if code == 0 && !in_old_network => return Fate::Ended { code },
        Role::Init if code == 0 => return at_once,
        _ if !memory.is_current(last, container) => return at_once,
        _ => {}
    }
    let policy = match role {
        Role::Sidecar => "Always",
        Role::Init | Role::Main => spec.restart_policy.as_deref().unwrap_or("Always"),
    };
    let again = match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    };
    if !again {
        return Fate::Ended { code };
    }
    if matches!(stopped, Some(StopReason::NetworkLost | StopReason::Replaced | StopReason::Surplus)) {
        return at_once;
    }
    let delay = backoff::delay(memory.crashes, CRASH_DELAY_MAX);
    Fate::Restart { at: backoff::after(finished_at, delay), delayed: !delay.is_zero() }
}

/// Whether the init containers have done their work for the pod's present network.
pub fn is_initialized(spec: &PodSpec, memory: &PodMemory, infra: Option<&Container>) -> bool {
    if spec.init_containers.as_ref().is_none_or(Vec::is_empty) {
        return true;
    }
    let begun = spec.containers.iter().filter_map(|c| memory.last(&c.name));
    if begun.into_iter().any(|last| infra.is_none_or(|infra| !is_cut_off(last, infra))) {
        return true;
    }
    containers(spec).filter(|(role, _)| *role != Role::Main).all(|(role, c)| is_past(spec, role, c, memory, infra))
}

/// Whether an init container has ended well, or a sidecar has come up: the next one's turn.
pub fn is_past(spec: &PodSpec, role: Role, container: &Spec, memory: &PodMemory, infra: Option<&Container>) -> bool {
    let known = memory.containers.get(&container.name);
    match fate(spec, role, container, known, infra) {
        Fate::Ended { code } => role == Role::Init && code == 0,
        Fate::Running => role == Role::Sidecar && memory.is_up(&container.name),
        Fate::Unstarted | Fate::Restart { .. } => false,
    }
}

/// The phase of a pod, and why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Pending`, `Running`, `Succeeded` or `Failed`
    pub phase: &'static str,
    /// One word.
    pub reason: Option<String>,
    /// A sentence.
    pub message: Option<String>,
}

impl Verdict {
    fn of(phase: &'static str) -> Self {
        Self { phase, reason: None, message: None }
    }

    /// Whether the pod has ended for good.
    pub fn is_final(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }
}

/// When the pod must end, if it must.
pub fn deadline(pod: &Pod, memory: &PodMemory) -> Option<Timestamp> {
    let seconds = u64::try_from(pod.spec.as_ref()?.active_deadline_seconds?).ok()?;
    let start = memory.status.as_ref()?.start_time.as_ref()?.0;
    Some(backoff::after(start, std::time::Duration::from_secs(seconds)))
}

/// The pod's phase, which only moves forward.
pub fn verdict(pod: &Pod, memory: &PodMemory, infra: Option<&Container>, now: Timestamp) -> Verdict {
    let before = memory.status.as_deref();
    let phase = before.and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if let Some(phase) = ["Succeeded", "Failed"].into_iter().find(|p| *p == phase) {
        let text = |pick: fn(&coracle_api::core::PodStatus) -> &Option<String>| before.and_then(|s| pick(s).clone());
        return Verdict { phase, reason: text(|s| &s.reason), message: text(|s| &s.message) };
    }
    if deadline(pod, memory).is_some_and(|at| at <= now) {
        let seconds = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).unwrap_or_default();
        return Verdict {
            phase: "Failed",
            reason: Some("DeadlineExceeded".into()),
            message: Some(format!("the pod was active for longer than its activeDeadlineSeconds of {seconds}")),
        };
    }
    let Some(spec) = &pod.spec else { return Verdict::of("Pending") };
    match next_phase(spec, memory, infra) {
        verdict if verdict.phase == "Pending" && phase == "Running" => Verdict::of("Running"),
        verdict => verdict,
    }
}

fn next_phase(spec: &PodSpec, memory: &PodMemory, infra: Option<&Container>) -> Verdict {
    let fate_of = |role, c: &Spec| fate(spec, role, c, memory.containers.get(&c.name), infra);
    let failed = |c: &Spec, code| Verdict {
        message: Some(format!("container {} ended with exit code {code} and is not to be restarted", c.name)),
        ..Verdict::of("Failed")
    };
    if !is_initialized(spec, memory, infra) {
        let ended =
            containers(spec).filter(|(role, _)| *role == Role::Init).find_map(|(role, c)| match fate_of(role, c) {
                Fate::Ended { code } if code != 0 => Some(failed(c, code)),
                _ => None,
            });
        return ended.unwrap_or(Verdict::of("Pending"));
    }
    let (mut running, mut broken) = (false, None);
    for container in &spec.containers {
        match fate_of(Role::Main, container) {
            Fate::Unstarted => return Verdict::of("Pending"),
            Fate::Running | Fate::Restart { .. } => running = true,
            Fate::Ended { code: 0 } => {}
            Fate::Ended { code } => broken = broken.or(Some(failed(container, code))),
        }
    }
    match (running, broken) {
        (true, _) => Verdict::of("Running"),
        (false, Some(failed)) => failed,
        (false, None) => Verdict::of("Succeeded"),
    }
}
