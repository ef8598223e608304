//! The STATUS, READY and RESTARTS cells of a pod, as kubectl derives them.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    age,
    json::{list, number, text, time},
};

/// What the three cells say.
#[derive(Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// `1/2`
    pub ready: String,
    /// `CrashLoopBackOff`
    pub status: String,
    /// `3 (5m ago)`
    pub restarts: String,
}

/// Reads them off a `v1` pod.
pub fn of(pod: &Value, now: Timestamp) -> PodStatus {
    let containers = list(pod, "/status/containerStatuses");
    let inits = list(pod, "/status/initContainerStatuses");
    let total = list(pod, "/spec/containers").len();
    let initializing = init_status(inits, list(pod, "/spec/initContainers").len());
    let counted = if initializing.is_some() { inits } else { containers };
    let ready = containers.iter().filter(|c| is_ready(c)).count();
    let word = match initializing {
        Some(word) => word,
        None => container_status(pod, containers),
    };
    PodStatus { ready: format!("{ready}/{total}"), status: ending(pod, word), restarts: restarts(counted, now) }
}

fn is_ready(status: &Value) -> bool {
    status["ready"] == Value::Bool(true) && status.pointer("/state/running").is_some()
}

fn ending(pod: &Value, word: String) -> String {
    let phase = text(pod, "/status/phase");
    if text(pod, "/metadata/deletionTimestamp").is_empty() || matches!(phase, "Succeeded" | "Failed") {
        word
    } else if text(pod, "/status/reason") == "NodeLost" {
        "Unknown".to_owned()
    } else {
        "Terminating".to_owned()
    }
}

/// `Some` while an init container has not done its part.
fn init_status(inits: &[Value], total: usize) -> Option<String> {
    for (index, init) in inits.iter().enumerate() {
        let state = &init["state"];
        if let Some(ended) = state.get("terminated").filter(|t| !t.is_null()) {
            if number(ended, "/exitCode") == 0 {
                continue;
            }
            return Some(format!("Init:{}", ended_word(ended)));
        }
        // A sidecar that started is no reason to wait.
        if state.get("running").is_some_and(|r| !r.is_null()) && init["started"] == Value::Bool(true) {
            continue;
        }
        return Some(match text(state, "/waiting/reason") {
            "" | "PodInitializing" => format!("Init:{index}/{total}"),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn ended_word(ended: &Value) -> String {
    match (text(ended, "/reason"), number(ended, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(ended, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn container_status(pod: &Value, containers: &[Value]) -> String {
    let phase = text(pod, "/status/phase");
    let mut word = match text(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let mut running = false;
    for container in containers.iter().rev() {
        let state = &container["state"];
        let waiting = text(state, "/waiting/reason");
        if !waiting.is_empty() {
            word = waiting.to_owned();
        } else if let Some(ended) = state.get("terminated").filter(|t| !t.is_null()) {
            word = ended_word(ended);
        } else if is_ready(container) {
            running = true;
        }
    }
    if word == "Completed" && running {
        let ready =
            list(pod, "/status/conditions").iter().any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True");
        word = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    if word.is_empty() { "Unknown".to_owned() } else { word }
}

fn restarts(containers: &[Value], now: Timestamp) -> String {
    let total: i64 = containers.iter().map(|c| number(c, "/restartCount")).sum();
    let last = containers.iter().filter_map(|c| time(c, "/lastState/terminated/finishedAt")).max();
    match last {
        Some(last) if total > 0 => format!("{total} ({} ago)", age::age(Some(last), now)),
        _ => total.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(name: &str, status: Value, deleted: bool, expected: (&str, &str, &str)) {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut pod = json!({"metadata": {}, "status": status,
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "j"}]}});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-11-23T09:59:00Z");
        }
        let got = of(&pod, now);
        assert_eq!((got.ready.as_str(), got.status.as_str(), got.restarts.as_str()), expected, "{name}");
    }

    #[test]
    fn the_word_tells_what_stands_in_the_way() {
        let up = json!({"ready": true, "state": {"running": {}}, "restartCount": 0});
        let crash = json!({"ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3,
            "lastState": {"terminated": {"finishedAt": "2026-11-23T09:55:00Z"}}});
        let ended = |code: i64, reason: &str| json!({"state": {"terminated": {"exitCode": code, "reason": reason}}});
        check("pending", json!({"phase": "Pending"}), false, ("0/2", "Pending", "0"));
        check("running", json!({"phase": "Running", "containerStatuses": [up, up]}), false, ("2/2", "Running", "0"));
        check(
            "crash",
            json!({"phase": "Running", "containerStatuses": [up, crash]}),
            false,
            ("1/2", "CrashLoopBackOff", "3 (5m ago)"),
        );
        check(
            "image",
            json!({"phase": "Pending", "containerStatuses": [
            {"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
            false,
            ("0/2", "ImagePullBackOff", "0"),
        );
        check(
            "done",
            json!({"phase": "Succeeded", "containerStatuses": [ended(0, "Completed")]}),
            false,
            ("0/2", "Completed", "0"),
        );
        check(
            "no reason",
            json!({"phase": "Failed", "containerStatuses": [ended(3, "")]}),
            false,
            ("0/2", "ExitCode:3", "0"),
        );
        check(
            "oom",
            json!({"phase": "Failed", "containerStatuses": [ended(137, "OOMKilled")]}),
            false,
            ("0/2", "OOMKilled", "0"),
        );
        check(
            "half done",
            json!({"phase": "Running", "containerStatuses": [ended(0, "Completed"), up]}),
            false,
            ("1/2", "NotReady", "0"),
        );
        check("deleted", json!({"phase": "Running", "containerStatuses": [up, up]}), true, ("2/2", "Terminating", "0"));
        check("lost", json!({"phase": "Running", "reason": "NodeLost"}), false, ("0/2", "NodeLost", "0"));
        check("lost and deleted", json!({"phase": "Running", "reason": "NodeLost"}), true, ("0/2", "Unknown", "0"));
        check(
            "init",
            json!({"phase": "Pending", "initContainerStatuses": [
            ended(0, "Completed"), {"state": {"running": {}}, "restartCount": 2}]}),
            false,
            ("0/2", "Init:1/2", "2"),
        );
        check(
            "init fails",
            json!({"phase": "Pending", "initContainerStatuses": [ended(1, "Error")]}),
            false,
            ("0/2", "Init:Error", "0"),
        );
        check(
            "init waits",
            json!({"phase": "Pending", "initContainerStatuses": [
            {"state": {"waiting": {"reason": "ErrImagePull"}}}]}),
            false,
            ("0/2", "Init:ErrImagePull", "0"),
        );
        check("nothing known", json!({}), false, ("0/2", "Unknown", "0"));
    }
}
