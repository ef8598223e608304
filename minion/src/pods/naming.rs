//! Names and labels of containers: everything a restarted minion must know is in them.
//!
//! The form is the one of Kubernetes 0.5 (spec §6.3), with the attempt in place of the random part:
//! `k8s_<container>.<hash>_<pod>.<namespace>.api_<uid>_<attempt as 8 hex>`.

use std::collections::BTreeMap;

use coracle_api::core::{Container, Pod};

use super::report::name_of;
use crate::runtime::labels;

/// The parts of a container's engine name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerName {
    /// Name in the pod; [`labels::INFRA`] for the infra container.
    pub container: String,
    /// Hash of the container's spec.
    pub hash: String,
    /// Name of the pod.
    pub pod: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// How many starts came before.
    pub attempt: u32,
}

impl ContainerName {
    /// The name of a pod's container.
    pub fn of(pod: &Pod, container: &str, hash: &str, attempt: u32) -> Self {
        let (namespace, name) = name_of(pod);
        Self {
            container: container.to_owned(),
            hash: hash.to_owned(),
            pod: name.to_owned(),
            namespace: namespace.to_owned(),
            uid: uid_of(pod).to_owned(),
            attempt,
        }
    }

    /// Reads a name, with or without the engine's leading slash. `None` for names of another form.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix('/').unwrap_or(name).strip_prefix("k8s_")?;
        let mut parts = rest.split('_');
        let (container, hash) = parts.next()?.rsplit_once('.')?;
        let (pod, namespace) = parts.next()?.strip_suffix(".api")?.rsplit_once('.')?;
        let uid = parts.next()?;
        let attempt = parts.next().filter(|a| a.len() == 8)?;
        if parts.next().is_some() || uid.is_empty() {
            return None;
        }
        Some(Self {
            container: container.to_owned(),
            hash: hash.to_owned(),
            pod: pod.to_owned(),
            namespace: namespace.to_owned(),
            uid: uid.to_owned(),
            attempt: u32::from_str_radix(attempt, 16).ok()?,
        })
    }

    /// The labels of the container.
    pub fn labels(&self, cluster: &str, node: &str) -> BTreeMap<String, String> {
        let attempt = self.attempt.to_string();
        [
            (labels::CLUSTER, cluster),
            (labels::NODE, node),
            (labels::POD_UID, &self.uid),
            (labels::POD_NAME, &self.pod),
            (labels::POD_NAMESPACE, &self.namespace),
            (labels::CONTAINER, &self.container),
            (labels::HASH, &self.hash),
            (labels::ATTEMPT, &attempt),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }
}

impl std::fmt::Display for ContainerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { container, hash, pod, namespace, uid, attempt } = self;
        write!(f, "k8s_{container}.{hash}_{pod}.{namespace}.api_{uid}_{attempt:08x}")
    }
}

/// The pod's UID, or "".
pub(super) fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Eight hex digits that change when the container's spec changes: FNV-1a over its JSON, whose
/// fields and maps have a fixed order.
pub fn spec_hash(container: &Container) -> String {
    fnv1a(&serde_json::to_vec(container).unwrap_or_default())
}

/// The hash on the infra container. Nothing of it changes while a pod lives.
pub fn infra_hash(pod: &Pod) -> String {
    fnv1a(uid_of(pod).as_bytes())
}

fn fnv1a(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_reads_back_as_written(
            container in "[a-z]([-a-z0-9]{0,20}[a-z0-9])?", pod in "[a-z]([-.a-z0-9]{0,20}[a-z0-9])?",
            namespace in "[a-z]([-a-z0-9]{0,20}[a-z0-9])?", uid in "[0-9a-f]{8}-[0-9a-f]{4}", attempt: u32,
        ) {
            let name = ContainerName { container, hash: "f87be3b0".into(), pod, namespace, uid, attempt };
            prop_assert_eq!(ContainerName::parse(&name.to_string()), Some(name.clone()));
            prop_assert_eq!(ContainerName::parse(&format!("/{name}")), Some(name));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,80}") {
            let _ = ContainerName::parse(&text);
        }
    }

    #[test]
    fn the_name_has_the_form_of_the_article() {
        let name = ContainerName {
            container: "jenkins".into(),
            hash: "f87be3b0".into(),
            pod: "jenkins".into(),
            namespace: "default".into(),
            uid: "901e8027-759b-11e4-bfd0-0800279696e1".into(),
            attempt: 3,
        };
        let text = "k8s_jenkins.f87be3b0_jenkins.default.api_901e8027-759b-11e4-bfd0-0800279696e1_00000003";
        assert_eq!(name.to_string(), text);
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in
            ["", "redis", "k8s_", "k8s_a.b_c.d.etcd_u_00000001", "k8s_a.b_c.d.api_u_1", "k8s_a.b_c.d.api_u_0000000g"]
        {
            assert_eq!(ContainerName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_hash_follows_the_spec() {
        let one = Container { name: "a".into(), image: Some("i:1".into()), ..Default::default() };
        let two = Container { image: Some("i:2".into()), ..one.clone() };
        assert_eq!(spec_hash(&one), spec_hash(&one.clone()));
        assert_ne!(spec_hash(&one), spec_hash(&two));
        assert_eq!(spec_hash(&one).len(), 8);
    }
}
