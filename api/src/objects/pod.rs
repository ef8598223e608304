//! Pods: groups of containers that share a network and volumes on one node.

use crate::{
    core::Pod,
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["po"],
    subresources: &[Subresource::Status, Subresource::Binding, Subresource::Log, Subresource::Exec],
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

impl TypedObject for Pod {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}

    fn prepare_create(&mut self) {
        self.status = Some(crate::core::PodStatus { phase: Some("Pending".into()), ..Default::default() });
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status = old.status.clone();
    }
    fn prepare_status_update(&mut self, old: &Self) {
        let status = self.status.take();
        *self = Self { status, ..old.clone() };
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
}
