//! Namespaces: scopes for names.

use crate::{
    core::{Namespace, NamespaceStatus},
    error::FieldErrors,
    kinds::{Kind, Subresource, TypedObject},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["ns"],
    namespaced: false,
    v1beta1_plural: None,
    subresources: &[Subresource::Status],
    delete_collection: false,
    fields: &["status.phase"],
    ..Kind::of::<Namespace>("namespaces", "namespace")
};

/// The label that repeats the name, by which selectors can pick namespaces.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl TypedObject for Namespace {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        if let Some(name) = self.metadata.name.clone().filter(|n| !n.is_empty()) {
            self.metadata.labels.get_or_insert_default().insert(NAME_LABEL.into(), name);
        }
    }

    /// All rules on a namespace are rules on its name and metadata.
    fn validate(&self, _errors: &mut FieldErrors) {}

    fn prepare_create(&mut self) {
        self.status = Some(NamespaceStatus { phase: Some("Active".into()), ..Default::default() });
    }

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn field(&self, field: &str) -> Option<&str> {
        match field {
            "status.phase" => self.status.as_ref()?.phase.as_deref(),
            _ => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        super::metadata::finalizer_warning(&self.metadata).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_labelled_with_its_name() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("ci".into());
        TypedObject::set_defaults(&mut namespace);
        assert_eq!(namespace.metadata.labels.as_ref().unwrap()[NAME_LABEL], "ci");
        TypedObject::prepare_create(&mut namespace);
        assert_eq!(TypedObject::field(&namespace, "status.phase"), Some("Active"));
    }
}
