//! Namespaces: scopes for names.

use crate::{
    core::Namespace,
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["ns"],
    namespaced: false,
    v1beta1_plural: None,
    subresources: &[Subresource::Status],
    ..Kind::of::<Namespace>("namespaces", "namespace")
};

impl TypedObject for Namespace {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}

    fn prepare_create(&mut self) {
        self.status = Some(crate::core::NamespaceStatus { phase: Some("Active".into()), ..Default::default() });
    }
    fn prepare_update(&mut self, old: &Self) {
        self.status = old.status.clone();
    }
    fn prepare_status_update(&mut self, old: &Self) {
        let status = self.status.take();
        *self = Self { status, ..old.clone() };
    }
}
