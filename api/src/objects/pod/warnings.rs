//! Fields of a pod that are stored but that no part of Coracle acts on: told, never ignored in
//! silence.
//!
//! Works on the JSON form, so that one table row per field is all there is to keep true.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::DEFAULT_SCHEDULER;
use crate::core::{Container, PodSpec};

/// Fields of a spec, and what happens in their place.
const SPEC: [(&str, &str); 21] = [
    ("topologySpreadConstraints", "pods of one controller are spread over the nodes anyway"),
    ("priorityClassName", "all pods have the same priority"),
    ("priority", "all pods have the same priority"),
    ("preemptionPolicy", "no pod displaces another"),
    ("ephemeralContainers", "such containers are not started; use exec in a container of the pod"),
    ("imagePullSecrets", "images are pulled with the credentials of the node's engine"),
    ("automountServiceAccountToken", "pods get no token of the API"),
    ("schedulingGates", "the pod is scheduled at once"),
    ("schedulingGroup", "the pod is scheduled on its own"),
    ("runtimeClassName", "containers run on the node's engine"),
    ("overhead", "only the requests of the containers are counted"),
    ("resources", "only the resources of the containers are counted"),
    ("resourceClaims", "no devices are allocated"),
    ("evictionResponders", "nobody is asked before an eviction"),
    ("hostPID", "containers have their own process numbers"),
    ("hostIPC", "containers do not share the node's IPC"),
    ("shareProcessNamespace", "each container has its own process numbers"),
    ("hostAliases", "add services of these names, or add them to the image"),
    ("setHostnameAsFQDN", "the host name is the short one"),
    ("hostnameOverride", "use hostname"),
    ("hostUsers", "users in containers are users of the node"),
];
/// Fields of an affinity, likewise; the rest of it is what a node must have, which is enforced.
const AFFINITY: [(&str, &str, &str); 3] = [
    (
        "nodeAffinity",
        "preferredDuringSchedulingIgnoredDuringExecution",
        "use requiredDuringSchedulingIgnoredDuringExecution or nodeSelector",
    ),
    ("podAffinity", "", "the pod may be anywhere"),
    ("podAntiAffinity", "", "pods of one controller are spread over the nodes anyway"),
];
/// Fields of a container, likewise.
const CONTAINER: [(&str, &str); 2] =
    [("resizePolicy", "changed resources need a new pod"), ("stdinOnce", "standard input stays open")];
/// Fields of security contexts that are enforced.
const SECURITY: [&str; 6] =
    ["privileged", "runAsUser", "runAsGroup", "runAsNonRoot", "readOnlyRootFilesystem", "capabilities"];

/// The warnings of a spec, one sentence each.
pub(in crate::objects) fn spec_warnings(path: &str, spec: &PodSpec) -> Vec<String> {
    if is_plain(spec) {
        debug_assert_eq!(every_warning(path, spec), Vec::<String>::new(), "a plain spec has none");
        return Vec::new();
    }
    every_warning(path, spec)
}

fn every_warning(path: &str, spec: &PodSpec) -> Vec<String> {
    let mut all = Vec::new();
    // Writing a spec can't fail: it holds strings, numbers and string-keyed maps only.
    let json = serde_json::to_value(spec).unwrap_or_default();
    let Value::Object(fields) = &json else { return all };
    unenforced(path, fields, &SPEC, &mut all);
    for (field, inner, why) in AFFINITY {
        let path = format!("{path}.affinity.{field}");
        let value = &json["affinity"][field];
        let (path, value) = if inner.is_empty() { (path, value) } else { (format!("{path}.{inner}"), &value[inner]) };
        if !says_nothing(value) {
            all.push(sentence(&path, why));
        }
    }
    for (i, _) in spec.tolerations.iter().flatten().enumerate().filter(|(_, t)| t.toleration_seconds.is_some()) {
        let path = format!("{path}.tolerations[{i}].tolerationSeconds");
        all.push(sentence(&path, "a taint evicts no pod that runs"));
    }
    let account = spec.service_account_name.as_deref().unwrap_or_default();
    if !matches!(account, "" | "default") {
        all.push(sentence(&format!("{path}.serviceAccountName"), "pods get no token of the API"));
    }
    if !matches!(spec.scheduler_name.as_deref(), None | Some("" | DEFAULT_SCHEDULER)) {
        let name = spec.scheduler_name.as_deref().unwrap_or_default();
        all.push(format!(
            "{path}.schedulerName: the pod waits for the scheduler {name} to bind it; Coracle's leaves it alone"
        ));
    }
    security(path, fields, &mut all);
    for volume in spec.volumes.iter().flatten() {
        let Some(empty) = &volume.empty_dir else { continue };
        let path = format!("{path}.volumes[{}].emptyDir", volume.name);
        if empty.medium.as_deref() == Some("Memory") {
            all.push(sentence(&format!("{path}.medium"), "the volume is on the node's disk"));
        }
        if empty.size_limit.is_some() {
            all.push(sentence(&format!("{path}.sizeLimit"), "the volume can grow until the disk is full"));
        }
    }
    for list in ["initContainers", "containers"] {
        let typed = if list == "containers" { Some(&spec.containers) } else { spec.init_containers.as_ref() };
        let json = fields.get(list).and_then(Value::as_array);
        for (i, (container, json)) in typed.into_iter().flatten().zip(json.into_iter().flatten()).enumerate() {
            if let Value::Object(fields) = json {
                container_warnings(&format!("{path}.{list}[{i}]"), container, fields, &mut all);
            }
        }
    }
    all
}

/// Whether the spec uses none of the fields that there could be a word about: nearly every pod, told
/// without writing it out.
fn is_plain(spec: &PodSpec) -> bool {
    // Whatever field is new here must be looked at: nothing is left out with `..`.
    let PodSpec {
        active_deadline_seconds: _,
        affinity,
        automount_service_account_token,
        containers,
        dns_config: _,
        dns_policy: _,
        enable_service_links: _,
        ephemeral_containers,
        eviction_responders,
        host_aliases,
        host_ipc,
        host_network: _,
        host_pid,
        host_users,
        hostname: _,
        hostname_override,
        image_pull_secrets,
        init_containers,
        node_name: _,
        node_selector: _,
        os: _,
        overhead,
        preemption_policy,
        priority,
        priority_class_name,
        readiness_gates: _,
        resource_claims,
        resources,
        restart_policy: _,
        runtime_class_name,
        scheduler_name,
        scheduling_gates,
        scheduling_group,
        security_context,
        service_account: _,
        service_account_name,
        set_hostname_as_fqdn,
        share_process_namespace,
        subdomain: _,
        termination_grace_period_seconds: _,
        tolerations,
        topology_spread_constraints,
        volumes,
    } = spec;
    let evicted_later = tolerations.iter().flatten().any(|t| t.toleration_seconds.is_some());
    let policies = affinity.is_none() && !evicted_later && topology_spread_constraints.is_none();
    let priorities = priority.is_none() && priority_class_name.is_none() && preemption_policy.is_none();
    let identity = automount_service_account_token.is_none() && service_account_name.is_none();
    let scheduling = scheduling_gates.is_none() && scheduling_group.is_none() && overhead.is_none();
    let runtime = runtime_class_name.is_none() && resources.is_none() && resource_claims.is_none();
    let sharing = host_ipc.is_none() && host_pid.is_none() && host_users.is_none() && share_process_namespace.is_none();
    let names = hostname_override.is_none() && set_hostname_as_fqdn.is_none() && host_aliases.is_none();
    let extras = ephemeral_containers.is_none() && eviction_responders.is_none() && image_pull_secrets.is_none();
    let usual_scheduler = matches!(scheduler_name.as_deref(), None | Some("" | DEFAULT_SCHEDULER));
    let no_security = security_context.as_ref().is_none_or(|context| *context == Default::default());
    let plain_volumes = volumes.iter().flatten().all(|volume| volume.empty_dir.is_none());
    (policies && priorities && identity && scheduling && runtime && sharing && names && extras)
        && (usual_scheduler && no_security && plain_volumes)
        && containers.iter().chain(init_containers.iter().flatten()).all(is_plain_container)
}

fn is_plain_container(container: &Container) -> bool {
    let few = |n: Option<usize>| n.unwrap_or(0) < 2;
    few(container.env.as_ref().map(Vec::len))
        && few(container.ports.as_ref().map(Vec::len))
        && container.lifecycle.is_none()
        && container.liveness_probe.is_none()
        && container.readiness_probe.is_none()
        && container.startup_probe.is_none()
        && container.resize_policy.is_none()
        && container.resources.is_none()
        && container.security_context.is_none()
        && container.stdin_once.is_none()
        && container.volume_mounts.is_none()
        && container.volume_devices.is_none()
        && container.restart_policy.is_none()
        && container.termination_message_path.as_deref().is_none_or(|path| path == "/dev/termination-log")
        && container.termination_message_policy.as_deref().is_none_or(|policy| policy == "File")
}

fn sentence(path: &str, instead: &str) -> String {
    format!("{path} is stored but not enforced: {instead}")
}

fn unenforced(path: &str, fields: &Map<String, Value>, table: &[(&str, &str)], all: &mut Vec<String>) {
    let set = |name: &str| fields.get(name).is_some_and(|value| !says_nothing(value));
    all.extend(table.iter().filter(|(name, _)| set(name)).map(|(name, why)| sentence(&format!("{path}.{name}"), why)));
}

/// Whether a value asks for nothing.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(true) => false,
    }
}

fn security(path: &str, fields: &Map<String, Value>, all: &mut Vec<String>) {
    for (name, value) in fields.get("securityContext").and_then(Value::as_object).into_iter().flatten() {
        let engine_default = match name.as_str() {
            "seccompProfile" | "appArmorProfile" => value["type"] == "RuntimeDefault",
            "procMount" => value == "Default",
            "allowPrivilegeEscalation" => value != false,
            _ => SECURITY.contains(&name.as_str()),
        };
        let asks = !says_nothing(value) || name == "allowPrivilegeEscalation";
        if asks && !engine_default {
            all.push(sentence(&format!("{path}.securityContext.{name}"), "containers have the engine's default"));
        }
    }
}

fn container_warnings(path: &str, container: &Container, fields: &Map<String, Value>, all: &mut Vec<String>) {
    unenforced(path, fields, &CONTAINER, all);
    security(path, fields, all);
    let resources = container.resources.iter();
    let lists = resources.flat_map(|r| [&r.limits, &r.requests]).flatten();
    let names: BTreeSet<_> = lists.flat_map(|list| list.keys()).collect();
    for name in names.into_iter().filter(|n| *n != "cpu" && *n != "memory") {
        all.push(sentence(&format!("{path}.resources ({name})"), "only cpu and memory are counted and limited"));
    }
    let message = (container.termination_message_path.as_deref(), container.termination_message_policy.as_deref());
    if !matches!(message, (None | Some("/dev/termination-log"), None | Some("File"))) {
        all.push(sentence(&format!("{path}.terminationMessagePath"), "read the container's log"));
    }
    if container.lifecycle.as_ref().is_some_and(|l| l.stop_signal.is_some()) {
        all.push(sentence(&format!("{path}.lifecycle.stopSignal"), "the image's signal is sent, or SIGTERM"));
    }
    for mount in container.volume_mounts.iter().flatten() {
        if !matches!(mount.mount_propagation.as_deref(), None | Some("" | "None")) {
            all.push(sentence(
                &format!("{path}.volumeMounts[{}].mountPropagation", mount.name),
                "mounts do not propagate",
            ));
        }
    }
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let get = probe.as_ref().and_then(|p| p.http_get.as_ref());
        if get.is_some_and(|g| g.scheme.as_deref() == Some("HTTPS")) {
            all.push(sentence(&format!("{path}.{field}.httpGet.scheme"), "HTTPS only checks that the port answers"));
        }
    }
    let mut seen = BTreeSet::new();
    for variable in container.env.iter().flatten().filter(|v| !seen.insert(v.name.as_str())) {
        all.push(format!("{path}.env names {} twice: the last one counts", variable.name));
    }
    let mut seen = BTreeSet::new();
    for port in container.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !seen.insert((port.container_port, protocol, port.host_port, port.host_ip.as_deref())) {
            all.push(format!("{path}.ports has {}/{protocol} twice: one of them can go", port.container_port));
        }
    }
}
