//! Pods that are to be replaced: how a rolling update or a drain says so, and how the pods of an old
//! template are told from those of the new one.
//!
//! A pod with the annotation [`REPLACE`] is on its way out but serves on: its controller makes another
//! one besides it, and deletes it when that one has been ready for a while. So whoever wants a pod
//! gone without an outage writes one annotation, and needs not be there when it happens.
//!
//! Invariant: the annotation is an order to the controller alone. Taking it off takes it back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    core::{Pod, PodTemplateSpec},
    meta::ObjectMeta,
};

/// On a pod of a controller, says that it is to be replaced: a [`Replace`] as JSON. What can't be
/// read counts as `{}`.
pub const REPLACE: &str = "io.coracle/replace";
/// On a pod that a controller made: [`template_hash`] of what it was made of.
pub const TEMPLATE_HASH: &str = "io.coracle/template-hash";
/// On a pod of its own that is being deleted: it is to be made anew once it has stopped, for another
/// minion.
pub const MOVE: &str = "io.coracle/move";

/// How long a new pod must have been ready before it counts for the one that it replaces, unless
/// told otherwise: one that ends right after its start has not.
pub const MIN_READY: Duration = Duration::from_secs(1);

/// How a pod is to be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Replace {
    /// How long the other pods must have been ready; [`MIN_READY`] when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ready_ms: Option<u32>,
    /// Seconds that its containers get to end; its own choice when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<u32>,
    /// It is ordered by a rolling update, which takes it back when it changes its mind.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub update: bool,
}

impl Replace {
    /// The order on a pod, if there is one.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let text = meta.annotations.as_ref()?.get(REPLACE)?;
        Some(serde_json::from_str(text).unwrap_or_default())
    }

    /// As it stands in the annotation.
    pub fn to_text(self) -> String {
        // Numbers and booleans only: it can't fail.
        serde_json::to_string(&self).unwrap_or_default()
    }

    /// How long the others must have been ready.
    pub fn min_ready(self) -> Duration {
        self.min_ready_ms.map_or(MIN_READY, |ms| Duration::from_millis(ms.into()))
    }
}

/// Sixteen hex digits that change when the template changes: FNV-1a over its JSON, whose fields and
/// maps have a fixed order. Of a template with its defaults filled in, as it is stored.
pub fn template_hash(template: &PodTemplateSpec) -> String {
    let bytes = serde_json::to_vec(template).unwrap_or_default();
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The hash of the template that the pod was made of, if its controller wrote it down.
pub fn made_of(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(TEMPLATE_HASH).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_reads_back_and_one_that_is_not_understood_is_an_order() {
        let pod =
            |text: &str| ObjectMeta { annotations: Some([(REPLACE.into(), text.into())].into()), ..Default::default() };
        for order in
            [Replace::default(), Replace { min_ready_ms: Some(0), grace_period_seconds: Some(7), update: true }]
        {
            assert_eq!(Replace::of(&pod(&order.to_text())), Some(order));
        }
        assert_eq!(Replace::default().to_text(), "{}");
        for text in ["", "true", "{\"minReadyMs\":-1}", "{"] {
            assert_eq!(Replace::of(&pod(text)), Some(Replace::default()), "{text}");
        }
        assert_eq!(Replace::of(&ObjectMeta::default()), None);
    }

    #[test]
    fn a_template_is_known_by_all_that_is_in_it() {
        let template = |image: &str, annotations: serde_json::Value| -> PodTemplateSpec {
            serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}, "annotations": annotations},
                "spec": {"containers": [{"name": "c", "image": image}]}}))
            .unwrap()
        };
        let hash = template_hash(&template("i:1", json!({})));
        assert_eq!(hash.len(), 16);
        assert_eq!(hash, template_hash(&template("i:1", json!({}))));
        assert_ne!(hash, template_hash(&template("i:2", json!({}))));
        assert_ne!(hash, template_hash(&template("i:1", json!({"restarted": "now"}))));
    }
}
