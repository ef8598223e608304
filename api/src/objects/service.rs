//! Services: a portal address for a changing set of pods.

use crate::{
    core::Service,
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["svc"],
    subresources: &[Subresource::Status],
    fields: &["spec.clusterIP", "spec.type"],
    ..Kind::of::<Service>("services", "service")
};

impl TypedObject for Service {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}

    fn prepare_create(&mut self) {
        self.status = Some(Default::default());
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status = old.status.clone();
    }
    fn prepare_status_update(&mut self, old: &Self) {
        let status = self.status.take();
        *self = Self { status, ..old.clone() };
    }
    fn field(&self, field: &str) -> Option<&str> {
        match field {
            "spec.clusterIP" => self.spec.as_ref()?.cluster_ip.as_deref(),
            "spec.type" => self.spec.as_ref()?.type_.as_deref(),
            _ => None,
        }
    }
}
