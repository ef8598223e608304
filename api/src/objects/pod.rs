//! Pods: groups of containers that share a network and volumes on one node.
//!
//! Owns the kind's row, its update rules and the small questions others ask of a pod. Defaults,
//! checks and warnings are in the modules below, shared with the templates of controllers.

mod container;
mod defaults;
mod handler;
mod placement;
mod resources;
#[cfg(test)]
mod tests;
mod update;
mod validation;
mod volume;
mod warnings;

use std::net::IpAddr;

pub(super) use self::{defaults::default_spec, validation::validate_template, warnings::spec_warnings};
pub use self::{
    placement::{is_tolerated, node_is_selected, required_node_affinity},
    resources::{Requests, requests},
};
use crate::{
    core::{Pod, PodCondition, PodStatus},
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The scheduler that places a pod which names no other.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["po"],
    subresources: &[
        Subresource::Status,
        Subresource::Binding,
        Subresource::Log,
        Subresource::Exec,
        Subresource::Eviction,
    ],
    watch_index: Some("spec.nodeName"),
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    ..Kind::of::<Pod>("pods", "pod")
};

/// The name that no container may have: labels and 2014 pod infos use it for the infra container.
pub const INFRA_CONTAINER: &str = "net";

impl TypedObject for Pod {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            default_spec(spec);
            defaults::default_pod(spec);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        match &self.spec {
            Some(spec) => validation::validate_spec("spec", spec, errors),
            None => errors.required("spec", "a pod needs a spec with at least one container"),
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        update::validate_update(self, old, errors);
    }

    fn prepare_create(&mut self) {
        self.status = Some(PodStatus { phase: Some("Pending".into()), ..Default::default() });
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
        // Only a binding sets the node; a manifest that never named one does not take it away.
        if let (Some(spec), Some(old)) = (&mut self.spec, &old.spec)
            && spec.node_name.as_deref().unwrap_or_default().is_empty()
        {
            spec.node_name.clone_from(&old.node_name);
        }
    }

    fn spec_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }

    fn field(&self, field: &str) -> Option<&str> {
        let (spec, status) = (self.spec.as_ref(), self.status.as_ref());
        match field {
            "spec.nodeName" => spec?.node_name.as_deref(),
            "spec.restartPolicy" => spec?.restart_policy.as_deref(),
            "spec.schedulerName" => spec?.scheduler_name.as_deref(),
            "spec.serviceAccountName" => spec?.service_account_name.as_deref(),
            "status.phase" => status?.phase.as_deref(),
            "status.podIP" => status?.pod_ip.as_deref(),
            "status.nominatedNodeName" => status?.nominated_node_name.as_deref(),
            _ => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut all = self.spec.as_ref().map(|spec| spec_warnings("spec", spec)).unwrap_or_default();
        all.extend(super::metadata::finalizer_warning(&self.metadata));
        all
    }
}

/// The condition of this type, such as `Ready`.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Whether it serves: its `Ready` condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether it ended for good: its phase is Succeeded or Failed.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether its deletion has begun.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The ports it needs on its node: protocol, address on the node (`None` for all), port. A pod on
/// the node's network needs its container ports.
pub fn host_ports(pod: &Pod) -> Vec<(String, Option<IpAddr>, u16)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let on_host = spec.host_network == Some(true);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0).or(on_host.then_some(port.container_port))?;
            let number = u16::try_from(number).ok().filter(|p| *p > 0)?;
            let ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).filter(|ip| !ip.is_unspecified());
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), ip, number))
        })
        .collect()
}
