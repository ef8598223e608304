//! Pods: not placed, node lost, image, port, crash, readiness.

use coracle_api::{
    core::{ContainerState, ContainerStatus, Event, Node, Pod, Service},
    selector::selects,
};

use super::{Diagnosis, node::is_ready, service::missing_target_port};

/// Restarts in a row that count as a loop even while the container happens to run.
const CRASHES_MIN: i32 = 3;

/// What keeps a pod from doing its work, or `None` when nothing is wrong. `events` are those about
/// this pod, `nodes` all nodes, `services` those of its namespace.
pub(crate) fn diagnose(pod: &Pod, events: &[Event], nodes: &[Node], services: &[Service]) -> Option<Diagnosis> {
    let case = Case::new(pod, events);
    case.node_lost(nodes)
        .or_else(|| case.not_placed(nodes))
        .or_else(|| case.statuses().find_map(|c| case.not_started(c)))
        .or_else(|| case.statuses().find_map(|c| case.crashing(c)))
        .or_else(|| case.failed())
        .or_else(|| case.not_ready())
        .or_else(|| case.not_served(services))
}

struct Case<'a> {
    pod: &'a Pod,
    events: &'a [Event],
    name: &'a str,
    node: &'a str,
    phase: &'a str,
}

impl<'a> Case<'a> {
    fn new(pod: &'a Pod, events: &'a [Event]) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        Self {
            pod,
            events,
            name: pod.metadata.name.as_deref().unwrap_or_default(),
            node: spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default(),
            phase: status.and_then(|s| s.phase.as_deref()).unwrap_or_default(),
        }
    }

    fn statuses(&self) -> impl Iterator<Item = &'a ContainerStatus> + use<'a> {
        let status = self.pod.status.as_ref();
        let inits = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
        inits.chain(status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten())
    }

    fn ended(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }

    fn node_lost(&self, nodes: &[Node]) -> Option<Diagnosis> {
        if self.node.is_empty() || self.ended() {
            return None;
        }
        let marked = self.pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("NodeLost");
        let node = nodes.iter().find(|n| n.metadata.name.as_deref() == Some(self.node));
        let (name, host) = (self.name, self.node);
        match node {
            None => Some(Diagnosis::new(
                format!("its minion {host} is no longer part of the cluster"),
                format!(
                    "start `coracle minion` on {host} again, or delete the pod: coracle delete pod {name} --grace-period 0"
                ),
            )),
            Some(node) if marked || !is_ready(node) => Some(Diagnosis::new(
                format!("its minion {host} does not answer, so nobody knows how the pod is"),
                format!(
                    "start the host {host}, or `coracle minion` on it; pods of a replication controller are replaced meanwhile"
                ),
            )),
            Some(_) => None,
        }
    }

    fn not_placed(&self, nodes: &[Node]) -> Option<Diagnosis> {
        if !self.node.is_empty() || self.ended() {
            return None;
        }
        let conditions = self.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let refused = conditions.into_iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        let why = refused.and_then(|c| c.message.as_deref()).or_else(|| self.last_message("FailedScheduling"));
        if nodes.is_empty() {
            return Some(Diagnosis::new(
                "no minion has joined the cluster, so the pod has no place to run",
                "start a minion: coracle minion --master URL",
            ));
        }
        let why = why?;
        Some(Diagnosis::new(format!("no minion can take the pod: {why}"), placement_remedy(why)))
    }

    /// A container that has not come to start.
    fn not_started(&self, status: &ContainerStatus) -> Option<Diagnosis> {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let message = waiting.message.as_deref().unwrap_or_default();
        let (container, image, node) = (&status.name, self.image_of(&status.name), self.node);
        if let Some(port) = taken_port(message) {
            return Some(Diagnosis::new(
                format!("container {container} can't start: port {port} of {node} is in use by something else"),
                format!("stop what holds the port (ss -ltnp 'sport = :{port}' on {node}), or take another hostPort"),
            ));
        }
        match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => Some(Diagnosis::new(
                format!("the image {image} of container {container} can't be had on {node}: {}", or_unknown(message)),
                format!("correct the image's name and tag, or bring it to {node} (docker pull {image}, docker load)"),
            )),
            reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
                Some(Diagnosis::new(
                    format!("container {container} can't be created ({reason}): {}", or_unknown(message)),
                    "correct what the message names in the pod's manifest and create the pod again",
                ))
            }
            _ => None,
        }
    }

    /// A container that starts and ends again and again.
    fn crashing(&self, status: &ContainerStatus) -> Option<Diagnosis> {
        let looping = waiting_reason(status) == Some("CrashLoopBackOff");
        let often = status.restart_count >= CRASHES_MIN && !status.ready;
        if self.ended() || !(looping || often) {
            return None;
        }
        let last = ended_state(status.last_state.as_ref()).or_else(|| ended_state(status.state.as_ref()));
        let (code, reason) = last.unwrap_or((-1, ""));
        let restarts = status.restart_count;
        Some(self.death(
            &status.name,
            code,
            reason,
            &format!("again and again ({restarts} {})", if restarts == 1 { "restart" } else { "restarts" }),
            " -p",
        ))
    }

    /// A pod that is over, and not well.
    fn failed(&self) -> Option<Diagnosis> {
        if self.phase != "Failed" {
            return None;
        }
        let dead = self.statuses().find_map(|c| {
            let (code, reason) = ended_state(c.state.as_ref())?;
            (code != 0).then_some((&c.name, code, reason))
        });
        match dead {
            Some((container, code, reason)) => Some(self.death(container, code, reason, "for good", "")),
            None => {
                let status = self.pod.status.as_ref()?;
                let why = status.message.as_deref().or(status.reason.as_deref()).unwrap_or_default();
                let name = self.name;
                Some(Diagnosis::new(
                    format!("the pod failed: {}", or_unknown(why)),
                    format!("delete it (coracle delete pod {name}) and create it again"),
                ))
            }
        }
    }

    fn death(&self, container: &str, code: i32, reason: &str, how: &str, which: &str) -> Diagnosis {
        let logs = format!("coracle logs {} -c {container}{which}", self.name);
        match (reason, code) {
            ("OOMKilled", _) => Diagnosis::new(
                format!("container {container} ends {how}: it used more memory than its limit and was killed"),
                format!("raise resources.limits.memory of container {container}, or make it need less"),
            ),
            (_, 126 | 127) => Diagnosis::new(
                format!(
                    "container {container} ends {how} with exit code {code}: its command was not found or can't be run"
                ),
                format!("correct command and args of container {container}; its words: {logs}"),
            ),
            ("StartError", _) => Diagnosis::new(
                format!("container {container} ends {how}: {}", self.start_error(container)),
                format!("correct command and args of container {container}"),
            ),
            (_, 0) => Diagnosis::new(
                format!(
                    "container {container} ends {how}, though with exit code 0: its work is done, and it is started again"
                ),
                "give the pod restartPolicy OnFailure or Never, or let the container run on",
            ),
            (_, -1) => {
                Diagnosis::new(format!("container {container} ends {how}"), format!("read its last words: {logs}"))
            }
            _ => Diagnosis::new(
                format!("container {container} ends {how} with exit code {code}"),
                format!("read its last words: {logs}"),
            ),
        }
    }

    fn start_error(&self, container: &str) -> String {
        let status = self.statuses().find(|c| c.name == container);
        let states = status.into_iter().flat_map(|c| [c.last_state.as_ref(), c.state.as_ref()]);
        let message = states.flatten().find_map(|s| s.terminated.as_ref()?.message.clone());
        message.unwrap_or_else(|| "it could not be started".to_owned())
    }

    /// Runs, but does not serve.
    fn not_ready(&self) -> Option<Diagnosis> {
        if self.phase != "Running" {
            return None;
        }
        let running = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
        let status = self.pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|c| !c.ready && running(c))?;
        let container = &status.name;
        let spec = self.pod.spec.as_ref()?.containers.iter().find(|c| c.name == *container)?;
        spec.readiness_probe.as_ref().or(spec.startup_probe.as_ref())?;
        let why = self.last_message("Unhealthy").map(|m| format!(": {m}")).unwrap_or_default();
        Some(Diagnosis::new(
            format!("container {container} runs but its readiness probe fails, so services send it nothing{why}"),
            format!(
                "make the container answer its probe, or correct readinessProbe; its output: coracle logs {} -c {container}",
                self.name
            ),
        ))
    }

    /// Runs well, but a service that selects it sends elsewhere.
    fn not_served(&self, services: &[Service]) -> Option<Diagnosis> {
        if self.phase != "Running" {
            return None;
        }
        let selecting = services.iter().filter(|s| {
            let selector = s.spec.as_ref().and_then(|s| s.selector.as_ref());
            selector.is_some_and(|s| !s.is_empty()) && selects(selector, self.pod.metadata.labels.as_ref())
        });
        selecting.into_iter().find_map(|service| missing_target_port(service, self.pod))
    }

    fn image_of(&self, container: &str) -> &'a str {
        let spec = self.pod.spec.as_ref();
        let inits = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
        let mut all = inits.chain(spec.map(|s| &s.containers).into_iter().flatten());
        all.find(|c| c.name == container).and_then(|c| c.image.as_deref()).unwrap_or_default()
    }

    /// The message of the newest event of a reason; events come oldest first.
    fn last_message(&self, reason: &str) -> Option<&'a str> {
        self.events.iter().rev().find(|e| e.reason.as_deref() == Some(reason))?.message.as_deref()
    }
}

fn placement_remedy(why: &str) -> &'static str {
    for (mark, remedy) in [
        ("no minion has joined", "start a minion: coracle minion --master URL"),
        ("host port", "free the host port, take another, or add a minion"),
        ("too little", "lower the requests of the pod's containers, delete pods that are not needed, or add a minion"),
        ("full of pods", "delete pods that are not needed, or add a minion"),
        ("without the labels", "give a node the labels of the pod's nodeSelector, or correct the nodeSelector"),
        ("node affinity", "give a node what the pod's node affinity requires, or correct the affinity"),
        ("taint", "give the pod a toleration of the taint, or take the taint off a node"),
        ("cordoned", "uncordon a minion: coracle uncordon NODE"),
        ("not ready", "bring a minion back: see coracle get nodes, and start `coracle minion` there"),
    ] {
        if why.contains(mark) {
            return remedy;
        }
    }
    "see coracle get nodes, and add a minion or change what the pod asks for"
}

/// `port 8080 of the host is in use`, and what engines say.
fn taken_port(message: &str) -> Option<&str> {
    let lower = message.to_ascii_lowercase();
    if !["is in use", "already in use", "already allocated"].iter().any(|m| lower.contains(m)) {
        return None;
    }
    let number = |word: &'_ str| word.len() <= 5 && word.parse::<u16>().is_ok_and(|p| p > 0);
    let after_port = message.split_once("port ").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
    after_port
        .filter(|w| number(w))
        .or_else(|| message.split([' ', ':', '/']).rfind(|w| number(w)).filter(|_| lower.contains("port")))
}

fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// Exit code and reason of an ended state.
fn ended_state(state: Option<&ContainerState>) -> Option<(i32, &str)> {
    let ended = state?.terminated.as_ref()?;
    Some((ended.exit_code, ended.reason.as_deref().unwrap_or_default()))
}

fn or_unknown(message: &str) -> &str {
    if message.is_empty() { "it is not known why" } else { message }
}
