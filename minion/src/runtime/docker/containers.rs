//! Containers on the engine: how ours are described when created, and how the engine's
//! description becomes an observation. Translation is pure; the calls are thin.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HostConfig,
        HostConfigLogConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::{Engine, Filters, engine::CHANGE_LIMIT, errors};
use crate::runtime::{Container, ContainerId, ContainerSpec, InfraSpec, RuntimeError, State, infra, labels};

/// Inspections in flight; each costs the engine a fraction of a millisecond.
const INSPECTIONS: usize = 8;
/// Log files of a container: two of 10 MB.
const LOG_OPTIONS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "2")];

/// The kernel's own period, in which a container may run as long as its quota says.
const CPU_PERIOD_US: i64 = 100_000;
/// The least that the kernel takes. A smaller limit is raised to it, as by a kubelet.
const CPU_QUOTA_MIN_US: i64 = 1_000;

/// All containers that `filters` select, in any state. Each is inspected: the engine's list has
/// no exit code, no times and no start error. One removed meanwhile is left out.
pub(super) async fn list(engine: &Engine, filters: Filters) -> Result<Vec<Arc<Container>>, RuntimeError> {
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let listing = engine.docker().list_containers(Some(options));
    let found = engine.read("listing", "containers", listing).await?;
    let inspections = found.into_iter().filter_map(|c| c.id).map(|id| async move { inspect(engine, &id).await });
    let mut containers: Vec<Arc<Container>> = stream::iter(inspections)
        .buffer_unordered(INSPECTIONS)
        .try_filter_map(|c| async move { Ok(c.and_then(observed).map(Arc::new)) })
        .try_collect()
        .await?;
    containers.sort_by(|a, b| (&a.pod_uid, &a.name, a.attempt).cmp(&(&b.pod_uid, &b.name, b.attempt)));
    Ok(containers)
}

/// The engine's full description, or `None` when there is no such container.
pub(super) async fn inspect(engine: &Engine, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
    let call = engine.docker().inspect_container(id, None);
    match engine.read("inspecting container", id, call).await {
        Ok(container) => Ok(Some(container)),
        Err(e) if errors::is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The first process of a running container.
pub(super) async fn pid(engine: &Engine, id: &str) -> Result<Option<i64>, RuntimeError> {
    let found = inspect(engine, id).await?;
    Ok(found.and_then(|c| c.state?.pid).filter(|pid| *pid > 0))
}

/// Creates a container.
pub(super) async fn create(
    engine: &Engine,
    name: &str,
    body: ContainerCreateBody,
) -> Result<ContainerId, RuntimeError> {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let call = engine.docker().create_container(Some(options), body);
    let created = engine.change("creating container", name, call).await?;
    for warning in created.warnings {
        tracing::debug!(container = name, %warning, "the engine created it with a warning");
    }
    Ok(ContainerId(created.id))
}

/// Starts a container.
pub(super) async fn start(engine: &Engine, id: &ContainerId) -> Result<(), RuntimeError> {
    let call = engine.docker().start_container(&id.0, None);
    engine.change("starting container", &id.0, call).await
}

/// Stops a container and waits for its end.
pub(super) async fn stop(engine: &Engine, id: &ContainerId, grace: std::time::Duration) -> Result<(), RuntimeError> {
    let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::default().t(seconds).build();
    let call = engine.docker().stop_container(&id.0, Some(options));
    engine.call("stopping container", &id.0, grace + CHANGE_LIMIT, call).await
}

/// Removes a container with its anonymous volumes, killing it first. Returns when it is gone, also
/// when someone else is removing it.
pub(crate) async fn remove(engine: &Engine, id: &ContainerId) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let call = engine.docker().remove_container(&id.0, Some(options));
    match engine.change("removing container", &id.0, call).await {
        Err(RuntimeError::Refused(text)) if text.contains("already in progress") => {
            let options = WaitContainerOptionsBuilder::default().condition("removed").build();
            let mut wait = engine.docker().wait_container(&id.0, Some(options)).boxed();
            let gone = async {
                match wait.next().await {
                    None | Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => Ok(()),
                    Some(Err(e)) => Err(e),
                }
            };
            absent_is_done(engine.change("removing container", &id.0, gone).await)
        }
        other => absent_is_done(other),
    }
}

fn absent_is_done(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(e) if errors::is_absent(&e) => Ok(()),
        other => other,
    }
}

/// What the engine must make for an infra container on `network`.
pub(super) fn infra_body(spec: &InfraSpec, network: &str) -> ContainerCreateBody {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    if !spec.host_network {
        for port in &spec.ports {
            let key = format!("{}/{}", port.container_port, port.protocol.to_ascii_lowercase());
            let binding = PortBinding {
                host_ip: port.host_ip.map(|ip| ip.to_string()),
                host_port: Some(port.host_port.to_string()),
            };
            bindings.entry(key).or_default().get_or_insert_default().push(binding);
        }
    }
    let host = HostConfig {
        network_mode: Some(if spec.host_network { "host".to_owned() } else { network.to_owned() }),
        // The engine's default is private, which no other container can join.
        ipc_mode: Some("shareable".into()),
        // It never writes a line.
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        // Its program is a hundred bytes that sleep. To filter its calls and to hide files from it would take the
        // engine a twentieth of a pod's start.
        security_opt: texts(["seccomp=unconfined".to_owned()]),
        masked_paths: Some(Vec::new()),
        readonly_paths: Some(Vec::new()),
        cap_drop: texts(["ALL".to_owned()]),
        restart_policy: Some(no_restart()),
        ..Default::default()
    };
    ContainerCreateBody {
        // A pod on the node's network has the node's name.
        hostname: (!spec.host_network).then(|| spec.hostname.clone()),
        image: Some(infra::IMAGE.into()),
        stop_signal: Some(infra::STOP_SIGNAL.into()),
        exposed_ports: texts(bindings.keys().cloned()),
        labels: Some(owned(&spec.labels)),
        host_config: Some(HostConfig { port_bindings: (!bindings.is_empty()).then_some(bindings), ..host }),
        ..Default::default()
    }
}

/// What the engine must make for a container.
pub(super) fn container_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let joined = spec.infra.as_ref().map(|id| format!("container:{id}"));
    // No `nano_cpus`: of those the engine takes no more than the host has.
    let quota = positive(spec.cpu_limit_milli);
    let quota = quota.map(|milli| milli.saturating_mul(CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US));
    let host = HostConfig {
        network_mode: Some(joined.clone().unwrap_or_else(|| "none".into())),
        ipc_mode: joined,
        binds: texts(spec.binds.iter().cloned()),
        cpu_shares: positive(spec.cpu_shares),
        cpu_period: quota.map(|_| CPU_PERIOD_US),
        cpu_quota: quota,
        memory: positive(spec.memory_limit),
        // Equal to the memory limit: no swap on top of it.
        memory_swap: positive(spec.memory_limit),
        privileged: spec.privileged.then_some(true),
        readonly_rootfs: spec.read_only_root.then_some(true),
        cap_add: texts(spec.cap_add.iter().cloned()),
        cap_drop: texts(spec.cap_drop.iter().cloned()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(LOG_OPTIONS.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
        }),
        restart_policy: Some(no_restart()),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.cmd.clone(),
        env: texts(last_of_each(&spec.env)),
        working_dir: spec.working_dir.clone(),
        user: spec.user.clone(),
        tty: spec.tty.then_some(true),
        open_stdin: spec.stdin.then_some(true),
        labels: Some(owned(&spec.labels)),
        host_config: Some(host),
        ..Default::default()
    }
}

/// The minion restarts containers, never the engine.
fn no_restart() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }
}

fn positive(n: i64) -> Option<i64> {
    (n > 0).then_some(n)
}

fn texts(items: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let items: Vec<String> = items.into_iter().collect();
    (!items.is_empty()).then_some(items)
}

fn owned(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The engine hands doubles through and `getenv` finds the first: keep only the last of a name.
fn last_of_each(env: &[String]) -> Vec<String> {
    let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
    let last: HashMap<String, usize> = env.iter().enumerate().map(|(i, pair)| (name(pair), i)).collect();
    env.iter().enumerate().filter(|(i, pair)| last.get(&name(pair)) == Some(i)).map(|(_, pair)| pair.clone()).collect()
}

/// The observation of a container, or `None` if its labels are not those of a pod of ours.
fn observed(c: ContainerInspectResponse) -> Option<Container> {
    let config = c.config?;
    let mut labels = config.labels.unwrap_or_default();
    let mut label = |key: &str| labels.remove(key);
    let created_at = c.created.as_deref().and_then(parse_time).unwrap_or(Timestamp::UNIX_EPOCH);
    let state = state(c.state.unwrap_or_default(), created_at);
    let name = label(labels::CONTAINER)?;
    let running = matches!(state, State::Running { .. });
    let ip = (running && name == labels::INFRA)
        .then(|| {
            let networks = c.network_settings?.networks?;
            networks.into_values().find_map(|n| n.ip_address?.parse().ok())
        })
        .flatten();
    Some(Container {
        id: ContainerId(c.id?),
        pod_uid: label(labels::POD_UID)?,
        pod_name: label(labels::POD_NAME)?,
        pod_namespace: label(labels::POD_NAMESPACE)?,
        name,
        hash: label(labels::HASH).unwrap_or_default(),
        attempt: label(labels::ATTEMPT).and_then(|n| n.parse().ok()).unwrap_or(0),
        image: config.image.unwrap_or_default(),
        image_id: c.image.unwrap_or_default(),
        created_at,
        state,
        ip,
    })
}

/// The state of a container. A start that failed leaves it "created" with an error: for the minion
/// that is a run which ended at once.
fn state(s: ContainerState, created_at: Timestamp) -> State {
    let time = |text: &Option<String>| text.as_deref().and_then(parse_time);
    let code = i32::try_from(s.exit_code.unwrap_or(0)).unwrap_or(-1);
    let error = s.error.clone().unwrap_or_default();
    match s.status.unwrap_or(ContainerStateStatusEnum::EMPTY) {
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::RESTARTING
        | ContainerStateStatusEnum::STOPPING => {
            State::Running { started_at: time(&s.started_at).unwrap_or(created_at) }
        }
        ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::EMPTY if error.is_empty() && code == 0 => {
            State::Created
        }
        _ => {
            let started_at = time(&s.started_at).unwrap_or(created_at);
            State::Exited {
                code: if code == 0 && !error.is_empty() { 128 } else { code },
                oom_killed: s.oom_killed.unwrap_or(false),
                started_at,
                // Of a run of a few milliseconds the engine may note the end before the start.
                finished_at: time(&s.finished_at).map_or(started_at, |t| t.max(started_at)),
                error,
            }
        }
    }
}

/// The engine writes year 1 for "never".
fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|t| *t > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PublishedPort;

    const CREATED: &str = "2026-11-23T10:00:00.5Z";
    const NEVER: &str = "0001-01-01T00:00:00Z";

    fn check(status: ContainerStateStatusEnum, code: i64, error: &str, expected: &State) {
        let ran = status != ContainerStateStatusEnum::CREATED;
        let state_of = ContainerState {
            status: Some(status),
            exit_code: Some(code),
            error: Some(error.into()),
            started_at: Some(if ran { "2026-11-23T10:00:01Z" } else { NEVER }.into()),
            finished_at: Some(if code == 137 { "2026-11-23T10:00:02Z" } else { NEVER }.into()),
            ..Default::default()
        };
        assert_eq!(&state(state_of, CREATED.parse().unwrap()), expected);
    }

    #[test]
    fn a_failed_start_is_a_run_that_ended_at_once() {
        let at: Timestamp = CREATED.parse().unwrap();
        let error = "exec: \"x\": executable file not found in $PATH";
        let exited = |code, error: &str| State::Exited {
            code,
            oom_killed: false,
            started_at: at,
            finished_at: at,
            error: error.into(),
        };
        check(ContainerStateStatusEnum::CREATED, 127, error, &exited(127, error));
        check(ContainerStateStatusEnum::CREATED, 0, error, &exited(128, error));
        check(ContainerStateStatusEnum::CREATED, 0, "", &State::Created);
    }

    #[test]
    fn a_run_keeps_its_times_and_code() {
        let started_at: Timestamp = "2026-11-23T10:00:01Z".parse().unwrap();
        let finished_at = "2026-11-23T10:00:02Z".parse().unwrap();
        check(ContainerStateStatusEnum::RUNNING, 0, "", &State::Running { started_at });
        check(ContainerStateStatusEnum::PAUSED, 0, "", &State::Running { started_at });
        let exited = State::Exited { code: 137, oom_killed: false, started_at, finished_at, error: String::new() };
        check(ContainerStateStatusEnum::EXITED, 137, "", &exited);
        check(ContainerStateStatusEnum::DEAD, 137, "", &exited);
    }

    #[test]
    fn a_run_never_ends_before_it_starts() {
        let noted = ContainerState {
            status: Some(ContainerStateStatusEnum::EXITED),
            started_at: Some("2026-11-23T10:00:01.2Z".into()),
            finished_at: Some("2026-11-23T10:00:01.1Z".into()),
            ..Default::default()
        };
        let State::Exited { started_at, finished_at, .. } = state(noted, CREATED.parse().unwrap()) else { panic!() };
        assert_eq!(started_at, finished_at);
    }

    #[test]
    fn of_an_environment_name_set_twice_the_last_wins() {
        let env = ["A=1", "B=2", "A=3", "EMPTY"].map(str::to_owned);
        assert_eq!(last_of_each(&env), ["B=2", "A=3", "EMPTY"]);
    }

    #[test]
    fn a_container_joins_its_pod_and_is_never_restarted_by_the_engine() {
        let spec = ContainerSpec {
            infra: Some(ContainerId("abc".into())),
            cpu_limit_milli: 1500,
            memory_limit: 64 << 20,
            ..Default::default()
        };
        let host = container_body(&spec).host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("container:abc"));
        assert_eq!(host.ipc_mode.as_deref(), Some("container:abc"));
        assert_eq!((host.cpu_period, host.cpu_quota, host.nano_cpus), (Some(100_000), Some(150_000), None));
        assert_eq!(host.memory_swap, host.memory);
        assert_eq!(host.cpu_shares, None);
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
    }

    #[test]
    fn a_limit_may_be_more_than_the_host_has_and_less_than_the_kernel_can_measure() {
        for (milli, period, quota) in
            [(0, None, None), (5, Some(100_000), Some(1_000)), (64_000, Some(100_000), Some(6_400_000))]
        {
            let spec = ContainerSpec { cpu_limit_milli: milli, ..Default::default() };
            let host = container_body(&spec).host_config.unwrap();
            assert_eq!((host.cpu_period, host.cpu_quota), (period, quota), "{milli}m");
        }
    }

    #[test]
    fn ports_are_published_except_on_the_hosts_network() {
        let port = |host_port, protocol: &str| PublishedPort {
            protocol: protocol.into(),
            container_port: 53,
            host_ip: None,
            host_port,
        };
        let mut spec = InfraSpec {
            name: "n".into(),
            labels: BTreeMap::new(),
            hostname: "web".into(),
            ports: vec![port(5300, "TCP"), port(5301, "TCP"), port(5300, "UDP")],
            host_network: false,
        };
        let body = infra_body(&spec, "coracle-1");
        let host = body.host_config.unwrap();
        assert_eq!(host.security_opt, Some(vec!["seccomp=unconfined".to_owned()]));
        assert_eq!((host.masked_paths, host.readonly_paths), (Some(vec![]), Some(vec![])));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        let pods_own = container_body(&ContainerSpec::default()).host_config.unwrap();
        assert_eq!((pods_own.security_opt, pods_own.masked_paths, pods_own.readonly_paths), (None, None, None));
        let bindings = host.port_bindings.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("coracle-1"));
        assert_eq!(bindings["53/tcp"].as_ref().map(Vec::len), Some(2));
        assert_eq!(bindings["53/udp"].as_ref().map(Vec::len), Some(1));
        spec.host_network = true;
        let body = infra_body(&spec, "coracle-1");
        let host = body.host_config.unwrap();
        assert_eq!((host.network_mode.as_deref(), host.port_bindings, body.hostname), (Some("host"), None, None));
    }
}
