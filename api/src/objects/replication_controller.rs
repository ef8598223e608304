//! Replication controllers: keep so many pods of a template running.

use crate::{
    core::ReplicationController,
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    error_name: "replicationController",
    short_names: &["rc"],
    v1beta1_plural: Some("replicationControllers"),
    subresources: &[Subresource::Status, Subresource::Scale],
    ..Kind::of::<ReplicationController>("replicationcontrollers", "replicationcontroller")
};

impl TypedObject for ReplicationController {
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
    fn spec_changed(&self, old: &Self) -> bool {
        self.spec != old.spec
    }
}
