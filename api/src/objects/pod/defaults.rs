//! What a pod's author left out, filled in as current Kubernetes core/v1 does.
//!
//! Filling in twice changes nothing more.

use super::DEFAULT_SCHEDULER;
use crate::core::{
    Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction, HostPathVolumeSource, LifecycleHandler, PodSpec,
    Probe, Volume,
};

/// Sets an unset or empty text.
pub(super) fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Sets an unset or zero number.
fn fill_number(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

/// The defaults of pods and of templates.
pub(in crate::objects) fn default_spec(spec: &mut PodSpec) {
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.scheduler_name, DEFAULT_SCHEDULER);
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    // The old name of the account field is kept equal to the new one.
    match (spec.service_account_name.as_deref(), spec.service_account.as_deref()) {
        (Some(name), _) if !name.is_empty() => spec.service_account.clone_from(&spec.service_account_name),
        (_, Some(name)) if !name.is_empty() => spec.service_account_name.clone_from(&spec.service_account),
        _ => {}
    }
    spec.volumes.iter_mut().flatten().for_each(default_volume);
    spec.init_containers.iter_mut().flatten().for_each(default_container);
    spec.containers.iter_mut().for_each(default_container);
}

/// What only a pod gets, not a template.
pub(super) fn default_pod(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(true);
    let on_host = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        request_limits(container);
        if on_host {
            let ports = container.ports.iter_mut().flatten();
            ports.for_each(|p| fill_number(&mut p.host_port, p.container_port));
        }
    }
}

/// A limit without a request asks for as much.
fn request_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    let Some(limits) = resources.limits.as_ref().filter(|l| !l.is_empty()) else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn default_volume(volume: &mut Volume) {
    if let Some(HostPathVolumeSource { type_, .. }) = &mut volume.host_path {
        type_.get_or_insert_default();
    } else if *volume == (Volume { name: volume.name.clone(), ..Default::default() }) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
}

fn default_container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    fill(&mut container.image_pull_policy, pull_policy(image));
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    for ContainerPort { protocol, .. } in container.ports.iter_mut().flatten() {
        fill(protocol, "TCP");
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|v| v.field_ref.as_mut()) {
            fill(&mut field.api_version, "v1");
        }
    }
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(default_probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        for LifecycleHandler { http_get, .. } in hooks.into_iter().flatten() {
            http_get.as_mut().map(default_http_get);
        }
    }
}

/// `Always` for an image that names no tag or `latest`, since that moves.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    // A colon before the last slash belongs to the registry's port.
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_probe(probe: &mut Probe) {
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    probe.http_get.as_mut().map(default_http_get);
}

fn default_http_get(get: &mut HTTPGetAction) {
    fill(&mut get.path, "/");
    fill(&mut get.scheme, "HTTP");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_when_to_pull() {
        for image in ["nginx", "nginx:latest", "host:5000/nginx", "host:5000/a/nginx:latest"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["nginx:1", "host:5000/nginx:1.2", "nginx@sha256:00", "nginx:1@sha256:00"] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }
}
