//! What 0.5.4 said of a running pod: one word, and the state of each container (spec §3).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::wire::is_zero;
use crate::core;

/// The infra container's name in `info`.
const INFRA: &str = "net";
/// The infra container's image, as minions report it.
const INFRA_IMAGE: &str = "coracle/infra:1";

/// By container name.
pub(super) type Info = BTreeMap<String, ContainerStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerStatus {
    state: State,
    restart_count: i64,
    /// Only on the infra container.
    #[serde(rename = "podIP", skip_serializing_if = "is_zero")]
    pod_ip: String,
    image: String,
}

/// At most one is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    #[serde(skip_serializing_if = "is_zero")]
    waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "is_zero")]
    running: Option<Running>,
    #[serde(skip_serializing_if = "is_zero")]
    termination: Option<Termination>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Waiting {
    #[serde(skip_serializing_if = "is_zero")]
    reason: String,
}

/// Times here have as many digits as they need, up to nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Running {
    #[serde(skip_serializing_if = "is_zero")]
    started_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Termination {
    exit_code: i64,
    #[serde(skip_serializing_if = "is_zero")]
    signal: i64,
    #[serde(skip_serializing_if = "is_zero")]
    reason: String,
    #[serde(skip_serializing_if = "is_zero")]
    message: String,
    #[serde(skip_serializing_if = "is_zero")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_zero")]
    finished_at: Option<Timestamp>,
}

/// `Waiting`, `Running` or `Terminated`: the 2014 word for a pod's state.
///
/// Running while a container runs, Terminated when none does and all of them are accounted for
/// with at least one dead, or when the pod is over or its minion lost.
pub fn status_word(pod: &core::Pod) -> &'static str {
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let Some(status) = pod.status.as_ref() else { return "Waiting" };
    let over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    if over || status.reason.as_deref() == Some("NodeLost") {
        return "Terminated";
    }
    if !bound {
        return "Waiting";
    }
    let state_of = |name: &str| {
        let statuses = status.container_statuses.iter().flatten();
        statuses.filter(|s| s.name == name).find_map(|s| s.state.as_ref())
    };
    let (mut running, mut dead, mut unknown) = (0, 0, 0);
    for container in pod.spec.iter().flat_map(|s| &s.containers) {
        match state_of(&container.name) {
            Some(state) if state.running.is_some() => running += 1,
            Some(state) if state.terminated.is_some() => dead += 1,
            _ => unknown += 1,
        }
    }
    match (running, dead, unknown) {
        (1.., _, _) => "Running",
        (0, 1.., 0) => "Terminated",
        _ => "Waiting",
    }
}

/// The containers' states, and the infra container's once the pod has an address.
pub(super) fn info(status: &core::PodStatus) -> Info {
    let mut info: Info = status
        .container_statuses
        .iter()
        .flatten()
        .map(|s| {
            let image = s.image.clone();
            let state = s.state.as_ref().map(State::from_hub).unwrap_or_default();
            let status = ContainerStatus { state, restart_count: s.restart_count.into(), image, pod_ip: String::new() };
            (s.name.clone(), status)
        })
        .collect();
    if let Some(ip) = status.pod_ip.as_ref().filter(|ip| !ip.is_empty()) {
        let started_at = status.start_time.as_ref().map(|t| t.0);
        let infra = info.entry(INFRA.into()).or_insert_with(|| ContainerStatus {
            state: State { running: Some(Running { started_at }), ..State::default() },
            image: INFRA_IMAGE.into(),
            ..ContainerStatus::default()
        });
        infra.pod_ip.clone_from(ip);
    }
    info
}

impl State {
    fn from_hub(hub: &core::ContainerState) -> Self {
        if let Some(running) = &hub.running {
            let started_at = running.started_at.as_ref().map(|t| t.0);
            return Self { running: Some(Running { started_at }), ..Self::default() };
        }
        if let Some(end) = &hub.terminated {
            let termination = Termination {
                exit_code: end.exit_code.into(),
                signal: end.signal.unwrap_or_default().into(),
                reason: end.reason.clone().unwrap_or_default(),
                message: end.message.clone().unwrap_or_default(),
                started_at: end.started_at.as_ref().map(|t| t.0),
                finished_at: end.finished_at.as_ref().map(|t| t.0),
            };
            return Self { termination: Some(termination), ..Self::default() };
        }
        let reason = hub.waiting.as_ref().and_then(|w| w.reason.clone()).unwrap_or_default();
        Self { waiting: Some(Waiting { reason }), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(node: &str, status: serde_json::Value, expected: &str) {
        let pod = json!({"metadata": {"name": "p"}, "status": status,
            "spec": {"nodeName": node, "containers": [{"name": "a"}, {"name": "b"}]}});
        let text = pod.to_string();
        assert_eq!(status_word(&serde_json::from_value(pod).unwrap()), expected, "{text}");
    }

    #[test]
    fn the_word_follows_from_the_containers() {
        let statuses = |a: serde_json::Value, b: serde_json::Value| json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": a}, {"name": "b", "state": b}]});
        let (up, dead, wait) = (json!({"running": {}}), json!({"terminated": {"exitCode": 0}}), json!({"waiting": {}}));
        check("", statuses(up.clone(), up.clone()), "Waiting");
        check("n", json!({"phase": "Pending"}), "Waiting");
        check("n", statuses(up.clone(), up.clone()), "Running");
        check("n", statuses(up.clone(), dead.clone()), "Running");
        check("n", statuses(dead.clone(), dead.clone()), "Terminated");
        check("n", statuses(dead.clone(), wait.clone()), "Waiting");
        check("n", statuses(wait.clone(), wait), "Waiting");
        check("n", json!({"containerStatuses": [{"name": "a", "state": dead}]}), "Waiting");
    }

    #[test]
    fn pods_that_are_over_or_lost_are_terminated() {
        check("n", json!({"phase": "Succeeded"}), "Terminated");
        check("", json!({"phase": "Failed"}), "Terminated");
        let lost = json!({"phase": "Running", "reason": "NodeLost",
            "containerStatuses": [{"name": "a", "state": {"running": {}}}]});
        check("n", lost, "Terminated");
    }

    #[test]
    fn info_names_the_infra_container_with_the_address() {
        let status = json!({"podIP": "10.244.1.5", "startTime": "2026-11-23T05:38:02Z", "containerStatuses": [
            {"name": "a", "image": "i", "restartCount": 2, "state": {"running": {"startedAt": "2026-11-23T05:38:03.5Z"}}},
            {"name": "b", "image": "i", "restartCount": 0, "state":
                {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2026-11-23T05:38:04Z"}}},
            {"name": "c", "image": "i", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        let text = serde_json::to_string(&info(&serde_json::from_value(status).unwrap())).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"a":{"state":{"running":{"startedAt":"2026-11-23T05:38:03.5Z"}},"restartCount":2,"image":"i"},"#,
                r#""b":{"state":{"termination":{"exitCode":3,"reason":"Error","finishedAt":"2026-11-23T05:38:04Z"}},"#,
                r#""restartCount":0,"image":"i"},"#,
                r#""c":{"state":{"waiting":{"reason":"ContainerCreating"}},"restartCount":0,"image":"i"},"#,
                r#""net":{"state":{"running":{"startedAt":"2026-11-23T05:38:02Z"}},"restartCount":0,"#,
                r#""podIP":"10.244.1.5","image":"coracle/infra:1"}}"#
            )
        );
    }
}
