//! The conditions of a pod. Pure; a transition time changes only with its condition's status.

use std::sync::Arc;

use coracle_api::{
    core::{ContainerStatus, PodCondition, PodSpec, PodStatus},
    meta::Time,
};
use jiff::Timestamp;

use super::restart::{self, Role, Verdict};

/// What the conditions follow from.
pub(super) struct Facts<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) main: &'a [ContainerStatus],
    pub(super) init: &'a [ContainerStatus],
    pub(super) initialized: bool,
    pub(super) verdict: &'a Verdict,
    pub(super) deleting: bool,
}

impl Facts<'_> {
    /// Whether an init container runs beside the main ones.
    fn is_sidecar(&self, name: &str) -> bool {
        restart::containers(self.spec).any(|(role, c)| role == Role::Sidecar && c.name == name)
    }
}

/// Why a condition does not hold: one word and a sentence.
type Why = Option<(&'static str, String)>;

/// The conditions that are the minion's to tell.
const OWN: [&str; 4] = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];

/// Takes over the conditions that others wrote, such as readiness gates. Whether there were new ones.
pub(super) fn take_foreign(own: &mut Arc<PodStatus>, stored: &PodStatus) -> bool {
    fn foreign(status: &PodStatus) -> impl Iterator<Item = &PodCondition> {
        status.conditions.iter().flatten().filter(|c| !OWN.contains(&c.type_.as_str()))
    }
    if foreign(own).eq(foreign(stored)) {
        return false;
    }
    let theirs: Vec<_> = foreign(stored).cloned().collect();
    let own = Arc::make_mut(own);
    let conditions = own.conditions.get_or_insert_default();
    conditions.retain(|c| OWN.contains(&c.type_.as_str()));
    conditions.extend(theirs);
    true
}

/// Since when the pod has been ready, if it is.
pub(super) fn ready_since(status: &PodStatus) -> Option<Timestamp> {
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// The conditions that are the minion's to tell, then those of others as they were.
pub(super) fn plan_conditions(facts: &Facts<'_>, before: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
    let containers = containers_ready(facts);
    let ready = containers.clone().or_else(|| missing_gate(facts.spec, before));
    let whys = [None, initialized(facts), containers, ready];
    let mut all: Vec<_> = OWN.iter().zip(&whys).map(|(type_, why)| condition(type_, why, before, now)).collect();
    all.extend(before.iter().filter(|c| !OWN.contains(&c.type_.as_str())).cloned());
    all
}

fn condition(type_: &str, why: &Why, before: &[PodCondition], now: Timestamp) -> PodCondition {
    let status = if why.is_none() { "True" } else { "False" };
    let same = before.iter().find(|c| c.type_ == type_ && c.status == status);
    PodCondition {
        type_: type_.into(),
        status: status.into(),
        reason: why.as_ref().map(|(reason, _)| (*reason).to_owned()),
        message: why.as_ref().map(|(_, message)| message.clone()).filter(|m| !m.is_empty()),
        last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        ..Default::default()
    }
}

fn initialized(facts: &Facts<'_>) -> Why {
    let done = |c: &ContainerStatus| if facts.is_sidecar(&c.name) { c.started == Some(true) } else { c.ready };
    let names = names(facts.init.iter().filter(|c| !done(c)));
    (!facts.initialized).then(|| ("ContainersNotInitialized", format!("init containers not done: {names}")))
}

fn containers_ready(facts: &Facts<'_>) -> Why {
    if facts.verdict.phase == "Succeeded" {
        return Some(("PodCompleted", String::new()));
    }
    if facts.verdict.phase == "Failed" {
        return Some(("PodFailed", String::new()));
    }
    if facts.deleting {
        return Some(("PodTerminating", "the pod is being deleted".into()));
    }
    let sidecars = facts.init.iter().filter(|c| facts.is_sidecar(&c.name));
    let names = names(sidecars.chain(facts.main).filter(|c| !c.ready));
    (!names.is_empty()).then(|| ("ContainersNotReady", format!("containers not ready: {names}")))
}

fn missing_gate(spec: &PodSpec, before: &[PodCondition]) -> Why {
    let open = |type_: &str| before.iter().any(|c| c.type_ == type_ && c.status == "True");
    let gate = spec.readiness_gates.iter().flatten().find(|g| !open(&g.condition_type))?;
    Some(("ReadinessGatesNotReady", format!("the readiness gate {} is not True", gate.condition_type)))
}

fn names<'a>(containers: impl Iterator<Item = &'a ContainerStatus>) -> String {
    containers.map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
}
