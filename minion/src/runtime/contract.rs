//! What every [`Runtime`] must do, as one scenario that tests run on each implementation.
//!
//! The image needs a shell called `sh` that knows `sleep`, `exit`, `echo` and `trap`. Everything
//! made carries the fixture's cluster, and is removed at the end also when a promise is broken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Container, ContainerId, ContainerSpec, InfraSpec, LogQuery, Runtime, RuntimeError, RuntimeEvent, State, labels,
};

const DEADLINE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(2);

/// What the scenario runs with.
#[derive(Debug, Clone)]
pub struct Fixture {
    image: String,
    cluster: String,
    node: String,
}

impl Fixture {
    /// A fixture of its own cluster and node, which the runtime must be made for.
    pub fn new(image: &str, cluster: &str, node: &str) -> Self {
        Self { image: image.to_owned(), cluster: cluster.to_owned(), node: node.to_owned() }
    }

    /// An infra container of a pod.
    pub fn infra(&self, uid: &str, attempt: u32) -> InfraSpec {
        InfraSpec {
            name: format!("k8s_net.0_contract.default.api_{}-{uid}_{attempt:08x}", self.cluster),
            labels: self.labels(uid, labels::INFRA, attempt),
            hostname: "contract".into(),
            ports: Vec::new(),
            host_network: false,
        }
    }

    /// A container of a pod that runs a line of shell.
    pub fn container(&self, uid: &str, name: &str, infra: &ContainerId, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: format!("k8s_{name}.0_contract.default.api_{}-{uid}_00000000", self.cluster),
            labels: self.labels(uid, name, 0),
            infra: Some(infra.clone()),
            image: self.image.clone(),
            entrypoint: Some(vec!["sh".into(), "-c".into(), script.into()]),
            ..Default::default()
        }
    }

    fn labels(&self, uid: &str, container: &str, attempt: u32) -> BTreeMap<String, String> {
        let attempt = attempt.to_string();
        [
            (labels::CLUSTER, self.cluster.as_str()),
            (labels::NODE, &self.node),
            (labels::POD_UID, uid),
            (labels::POD_NAME, "contract"),
            (labels::POD_NAMESPACE, "default"),
            (labels::CONTAINER, container),
            (labels::HASH, "0"),
            (labels::ATTEMPT, &attempt),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }
}

/// Runs the scenario. The error says which promise was broken.
pub async fn check<R: Runtime>(runtime: &R, fixture: &Fixture) -> Result<(), String> {
    let uid = "contract-1";
    let result = scenario(runtime, fixture, uid).await;
    for container in runtime.list_pod(uid).await.map_err(|e| e.to_string())? {
        runtime.remove(&container.id).await.map_err(|e| format!("removing {}: {e}", container.id))?;
    }
    result
}

async fn scenario<R: Runtime>(runtime: &R, fixture: &Fixture, uid: &str) -> Result<(), String> {
    let mut events = runtime.events();
    let first = tokio::time::timeout(DEADLINE, events.recv()).await;
    promise(matches!(first, Ok(Some(RuntimeEvent::Gap))), "the first event is a gap", &first)?;

    let infra = runtime.run_infra(&fixture.infra(uid, 0)).await.map_err(|e| format!("run_infra: {e}"))?;
    let again = runtime.run_infra(&fixture.infra(uid, 0)).await;
    promise(matches!(again, Err(RuntimeError::NameTaken(_))), "an infra container's name is taken once", &again)?;
    let seen = find(runtime, uid, &infra).await?;
    promise(matches!(seen.state, State::Running { .. }), "the infra container runs", &seen)?;
    promise(seen.ip.is_some(), "a running infra container has an address", &seen)?;

    let spec = fixture.container(uid, "server", &infra, "echo hello; sleep 1000");
    let server = runtime.create(&spec).await.map_err(|e| format!("create: {e}"))?;
    let again = runtime.create(&spec).await;
    promise(matches!(again, Err(RuntimeError::NameTaken(_))), "a container's name is taken once", &again)?;
    let seen = find(runtime, uid, &server).await?;
    promise(seen.state == State::Created, "a created container has not run", &seen)?;
    promise((seen.name.as_str(), seen.attempt) == ("server", 0), "labels are read back", &seen)?;
    runtime.start(&server).await.map_err(|e| format!("start: {e}"))?;
    let seen = find(runtime, uid, &server).await?;
    promise(matches!(seen.state, State::Running { .. }), "a started container runs", &seen)?;
    heard(&mut events, uid, &server).await?;

    let ok = runtime.exec(&server, &["sh".into(), "-c".into(), "echo out; exit 3".into()], DEADLINE).await;
    promise(
        ok.as_ref().is_ok_and(|o| o.code == 3 && o.output.trim() == "out"),
        "exec tells exit code and output",
        &ok,
    )?;
    let late = runtime.exec(&server, &["sh".into(), "-c".into(), "sleep 60".into()], GRACE).await;
    promise(matches!(late, Err(RuntimeError::Timeout { .. })), "a command that takes too long is a timeout", &late)?;
    let mut log = runtime.logs(&server, &LogQuery::default()).await.map_err(|e| format!("logs: {e}"))?;
    let mut text = Vec::new();
    while let Some(bytes) = log.recv().await {
        text.extend_from_slice(&bytes);
    }
    promise(text == b"hello\n", "the log has what was written", &String::from_utf8_lossy(&text))?;

    runtime.stop(&server, GRACE).await.map_err(|e| format!("stop: {e}"))?;
    let seen = find(runtime, uid, &server).await?;
    promise(
        matches!(seen.state, State::Exited { code: 137 | 143, .. }),
        "a stopped container ended by a signal",
        &seen,
    )?;
    let twice = runtime.stop(&server, GRACE).await;
    promise(twice.is_ok(), "stopping an ended container changes nothing", &twice)?;

    let job = fixture.container(uid, "job", &infra, "exit 3");
    let job = runtime.create(&job).await.map_err(|e| format!("create: {e}"))?;
    runtime.start(&job).await.map_err(|e| format!("start: {e}"))?;
    let ended = eventually(runtime, uid, &job, |c| matches!(c.state, State::Exited { .. })).await?;
    promise(matches!(ended.state, State::Exited { code: 3, .. }), "the exit code is reported", &ended)?;

    runtime.remove(&infra).await.map_err(|e| format!("remove: {e}"))?;
    let twice = runtime.remove(&infra).await;
    promise(twice.is_ok(), "removing what is gone is success", &twice)?;
    let left = runtime.list_pod(uid).await.map_err(|e| e.to_string())?;
    promise(left.iter().all(|c| c.id != infra), "a removed container is not listed", &left)?;
    let all = runtime.list().await.map_err(|e| e.to_string())?;
    promise(left.iter().all(|c| all.iter().any(|a| a.id == c.id)), "list has what list_pod has", &all)
}

fn promise(kept: bool, text: &str, seen: &impl std::fmt::Debug) -> Result<(), String> {
    if kept { Ok(()) } else { Err(format!("not so: {text}; seen: {seen:?}")) }
}

async fn find<R: Runtime>(runtime: &R, uid: &str, id: &ContainerId) -> Result<Arc<Container>, String> {
    let all = runtime.list_pod(uid).await.map_err(|e| format!("list_pod: {e}"))?;
    all.into_iter().find(|c| &c.id == id).ok_or_else(|| format!("container {id} is not listed"))
}

async fn eventually<R: Runtime>(
    runtime: &R,
    uid: &str,
    id: &ContainerId,
    test: impl Fn(&Container) -> bool,
) -> Result<Arc<Container>, String> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let container = find(runtime, uid, id).await?;
        if test(&container) || tokio::time::Instant::now() > deadline {
            return Ok(container);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn heard(
    events: &mut tokio::sync::mpsc::Receiver<RuntimeEvent>,
    uid: &str,
    id: &ContainerId,
) -> Result<(), String> {
    let wait = async {
        while let Some(event) = events.recv().await {
            if matches!(&event, RuntimeEvent::Changed { pod_uid, id: of } if pod_uid == uid && of == id) {
                return true;
            }
        }
        false
    };
    let heard = tokio::time::timeout(DEADLINE, wait).await.unwrap_or(false);
    promise(heard, "a change of a container is an event", &id)
}
