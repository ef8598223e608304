//! Rules that hold for the metadata of every kind.

use crate::{error::FieldErrors, kinds::Kind, meta::ObjectMeta};

/// Checks name, namespace, labels and annotations.
pub fn validate(_meta: &ObjectMeta, _kind: &Kind, _errors: &mut FieldErrors) {}
