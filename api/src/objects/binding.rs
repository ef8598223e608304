//! Bindings: the order to run a pod on a node.

use crate::{
    core::Binding,
    error::FieldErrors,
    kinds::{Kind, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind { stored: false, ..Kind::of::<Binding>("bindings", "binding") };

impl TypedObject for Binding {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}
}
