//! Containers.
//!
//! The 2014 `command` replaces the image's CMD and leaves its entrypoint: the hub calls that
//! `args`. A hub container with a `command` of its own shows as one list, both joined;
//! [`align_commands`] takes an update apart again.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::{
    probe::{Lifecycle, LivenessProbe},
    wire::{is_zero, narrow, non_empty, non_zero, protocol},
};
use crate::{FieldErrors, core, quantity};

/// Where a container leaves its last words unless told otherwise; filled in, never printed.
const TERMINATION_LOG: &str = "/dev/termination-log";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    name: String,
    image: String,
    #[serde(skip_serializing_if = "is_zero")]
    command: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    working_dir: String,
    #[serde(skip_serializing_if = "is_zero")]
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "is_zero")]
    env: Vec<EnvVar>,
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    memory: i64,
    /// Thousandths of a core.
    #[serde(skip_serializing_if = "is_zero")]
    cpu: i64,
    #[serde(skip_serializing_if = "is_zero")]
    volume_mounts: Vec<VolumeMount>,
    #[serde(skip_serializing_if = "is_zero")]
    liveness_probe: Option<LivenessProbe>,
    #[serde(skip_serializing_if = "is_zero")]
    lifecycle: Option<Lifecycle>,
    #[serde(skip_serializing_if = "is_zero")]
    termination_message_path: String,
    #[serde(skip_serializing_if = "is_zero")]
    privileged: bool,
    /// Printed even when empty, which stands for the policy that follows from the image.
    image_pull_policy: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    #[serde(skip_serializing_if = "is_zero")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    host_port: i64,
    container_port: i64,
    #[serde(skip_serializing_if = "is_zero")]
    protocol: String,
    #[serde(rename = "hostIP", skip_serializing_if = "is_zero")]
    host_ip: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct EnvVar {
    name: String,
    /// Older spelling of `name`: read where `name` is empty, printed equal to it.
    #[serde(skip_serializing_if = "is_zero")]
    key: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeMount {
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    read_only: bool,
    #[serde(skip_serializing_if = "is_zero")]
    mount_path: String,
    /// Older spelling of `mountPath`: read where that is empty, printed equal to it.
    #[serde(skip_serializing_if = "is_zero")]
    path: String,
}

impl Container {
    pub(super) fn from_hub(hub: &core::Container) -> Self {
        let image = hub.image.clone().unwrap_or_default();
        Self {
            name: hub.name.clone(),
            command: hub.command.iter().chain(&hub.args).flatten().cloned().collect(),
            working_dir: hub.working_dir.clone().unwrap_or_default(),
            ports: hub.ports.iter().flatten().map(Port::from_hub).collect(),
            env: hub.env.iter().flatten().map(EnvVar::from_hub).collect(),
            memory: resource(hub, "memory").and_then(quantity::bytes).unwrap_or_default(),
            cpu: resource(hub, "cpu").and_then(quantity::milli).unwrap_or_default(),
            volume_mounts: hub.volume_mounts.iter().flatten().map(VolumeMount::from_hub).collect(),
            liveness_probe: hub.liveness_probe.as_ref().map(LivenessProbe::from_hub),
            lifecycle: hub.lifecycle.as_ref().map(Lifecycle::from_hub),
            termination_message_path: hub
                .termination_message_path
                .clone()
                .filter(|p| p != TERMINATION_LOG)
                .unwrap_or_default(),
            privileged: hub.security_context.as_ref().and_then(|s| s.privileged).unwrap_or_default(),
            image_pull_policy: match hub.image_pull_policy.as_deref() {
                None => String::new(),
                Some(policy) if policy == default_pull_policy(&image) => String::new(),
                Some(policy) => format!("Pull{policy}"),
            },
            image,
        }
    }

    /// `at` is the 2014 path of the container.
    pub(super) fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::Container {
        let policy = pull_policy(&self.image_pull_policy, &self.image, at, errors);
        let mut amounts = BTreeMap::new();
        for (name, number, amount) in [
            ("cpu", self.cpu, quantity::from_milli(self.cpu)),
            ("memory", self.memory, quantity::from_bytes(self.memory)),
        ] {
            if number < 0 {
                errors.invalid(format!("{at}.{name}"), number, "must not be negative");
            } else if number > 0 {
                amounts.insert(name.to_owned(), amount);
            }
        }
        // Both, so that an update which lowers a limit cannot leave a larger request behind.
        let resources = (!amounts.is_empty()).then(|| core::ResourceRequirements {
            limits: Some(amounts.clone()),
            requests: Some(amounts),
            claims: None,
        });
        let ports = self.ports.into_iter().enumerate();
        let ports: Vec<_> = ports.map(|(i, p)| p.into_hub(&format!("{at}.ports[{i}]"), errors)).collect();
        core::Container {
            name: self.name,
            image: non_empty(self.image),
            args: non_zero(self.command),
            working_dir: non_empty(self.working_dir),
            ports: non_zero(ports),
            env: non_zero(self.env.into_iter().map(EnvVar::into_hub).collect::<Vec<_>>()),
            resources,
            volume_mounts: non_zero(self.volume_mounts.into_iter().map(VolumeMount::into_hub).collect::<Vec<_>>()),
            liveness_probe: self.liveness_probe.map(|p| p.into_hub(&format!("{at}.livenessProbe"), errors)),
            lifecycle: self.lifecycle.map(|l| l.into_hub(&format!("{at}.lifecycle"), errors)),
            termination_message_path: non_empty(self.termination_message_path).filter(|p| p != TERMINATION_LOG),
            security_context: self
                .privileged
                .then(|| core::SecurityContext { privileged: Some(true), ..Default::default() }),
            image_pull_policy: Some(policy),
            ..Default::default()
        }
    }
}

/// The limit, or where there is none the request.
fn resource<'a>(hub: &'a core::Container, name: &str) -> Option<&'a Quantity> {
    let resources = hub.resources.as_ref()?;
    let of = |list: &'a Option<BTreeMap<String, Quantity>>| list.as_ref()?.get(name);
    of(&resources.limits).or_else(|| of(&resources.requests))
}

/// The policy of 0.5.4 for an unset one. Unlike in `v1`, an image without a tag is not pulled
/// again.
fn default_pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        Some((_, "latest")) => "Always",
        _ => "IfNotPresent",
    }
}

fn pull_policy(text: &str, image: &str, at: &str, errors: &mut FieldErrors) -> String {
    const POLICIES: [&str; 3] = ["PullAlways", "PullIfNotPresent", "PullNever"];
    if text.is_empty() {
        return default_pull_policy(image).into();
    }
    match POLICIES.into_iter().find(|p| p.eq_ignore_ascii_case(text)) {
        Some(policy) => policy["Pull".len()..].to_owned(),
        None => {
            errors.not_supported(format!("{at}.imagePullPolicy"), text, &POLICIES);
            default_pull_policy(image).into()
        }
    }
}

impl Port {
    fn from_hub(hub: &core::ContainerPort) -> Self {
        Self {
            name: hub.name.clone().unwrap_or_default(),
            host_port: hub.host_port.unwrap_or_default().into(),
            container_port: hub.container_port.into(),
            protocol: protocol(hub.protocol.as_deref().unwrap_or_default()),
            host_ip: hub.host_ip.clone().unwrap_or_default(),
        }
    }

    fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::ContainerPort {
        core::ContainerPort {
            name: non_empty(self.name),
            host_port: non_zero(narrow(self.host_port, format!("{at}.hostPort"), errors)),
            container_port: narrow(self.container_port, format!("{at}.containerPort"), errors),
            protocol: Some(protocol(&self.protocol)),
            host_ip: non_empty(self.host_ip),
        }
    }
}

impl EnvVar {
    fn from_hub(hub: &core::EnvVar) -> Self {
        Self { name: hub.name.clone(), key: hub.name.clone(), value: hub.value.clone().unwrap_or_default() }
    }

    fn into_hub(self) -> core::EnvVar {
        let name = if self.name.is_empty() { self.key } else { self.name };
        core::EnvVar { name, value: non_empty(self.value), value_from: None }
    }
}

impl VolumeMount {
    fn from_hub(hub: &core::VolumeMount) -> Self {
        Self {
            name: hub.name.clone(),
            read_only: hub.read_only.unwrap_or_default(),
            mount_path: hub.mount_path.clone(),
            path: hub.mount_path.clone(),
        }
    }

    fn into_hub(self) -> core::VolumeMount {
        core::VolumeMount {
            name: self.name,
            read_only: self.read_only.then_some(true),
            mount_path: if self.mount_path.is_empty() { self.path } else { self.mount_path },
            ..Default::default()
        }
    }
}

/// Splits the joined lists of an update as `stored` does. A list that starts with the stored
/// command only changes the arguments; any other is a whole new command line, since a whole
/// command line is what the caller had read; an empty one goes back to the image's own.
pub(super) fn align_commands(stored: &[core::Container], last: &mut [core::Container], next: &mut [core::Container]) {
    for known in stored {
        let Some(command) = known.command.as_ref().filter(|c| !c.is_empty()) else { continue };
        for container in last.iter_mut().chain(next.iter_mut()).filter(|c| c.name == known.name) {
            let Some(line) = container.args.take() else { continue };
            match line.strip_prefix(command.as_slice()) {
                Some(args) => {
                    container.command = Some(command.clone());
                    container.args = non_zero(args.to_vec());
                }
                None => container.command = Some(line),
            }
        }
    }
}
