//! Endpoints: the addresses behind a service.

use crate::{
    core::Endpoints,
    error::FieldErrors,
    kinds::{Kind, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind { short_names: &["ep"], ..Kind::of::<Endpoints>("endpoints", "endpoints") };

impl TypedObject for Endpoints {
    fn row() -> &'static Kind {
        &KIND
    }

    fn validate(&self, _errors: &mut FieldErrors) {}
}
