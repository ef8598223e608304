//! Nodes, called minions in 2014: the machines that run pods.

use crate::{
    core::Node,
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    error_name: "minion",
    short_names: &["no"],
    namespaced: false,
    v1beta1_plural: Some("minions"),
    v1beta1_kind: Some("Minion"),
    subresources: &[Subresource::Status],
    fields: &["spec.unschedulable"],
    ..Kind::of::<Node>("nodes", "node")
};

impl TypedObject for Node {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}

    fn prepare_update(&mut self, old: &Self) {
        self.status = old.status.clone();
    }
    fn prepare_status_update(&mut self, old: &Self) {
        let status = self.status.take();
        *self = Self { status, ..old.clone() };
    }
}
