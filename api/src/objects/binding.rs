//! Bindings: the order to run a pod on a node. `metadata.name` is the pod, `target` the node.

use super::names::DNS_SUBDOMAIN;
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

    fn set_defaults(&mut self) {
        if self.target.kind.as_deref().unwrap_or_default().is_empty() {
            self.target.kind = Some("Node".into());
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        // Minion is the name of the kind in 2014.
        super::ports::check_one_of("target.kind", self.target.kind.as_deref(), &["Node", "Minion"], errors);
        match self.target.name.as_deref().unwrap_or_default() {
            "" => errors.required("target.name", "the name of the node to run the pod on"),
            name => DNS_SUBDOMAIN.check("target.name", name, errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Object;

    #[test]
    fn a_binding_names_a_node() {
        let binding = |target: serde_json::Value| {
            let json = serde_json::json!({"metadata": {"name": "p", "namespace": "default"}, "target": target});
            let mut binding: Binding = serde_json::from_value(json).unwrap();
            TypedObject::set_defaults(&mut binding);
            Object::validate(&binding).map_err(|e| e.message)
        };
        assert_eq!(binding(serde_json::json!({"name": "10.245.2.3"})), Ok(()));
        assert!(
            binding(serde_json::json!({})).unwrap_err().contains("target.name: required value: the name of the node")
        );
        let error = binding(serde_json::json!({"kind": "Pod", "name": "x"})).unwrap_err();
        assert!(error.contains("target.kind: unsupported value: 'Pod': supported values: Node"));
    }
}
