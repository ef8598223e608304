//! Nodes: is it there, is it well.

use coracle_api::core::Node;

use super::Diagnosis;

/// Whether the node answers and is well.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What keeps a node from running pods.
pub(crate) fn diagnose_node(node: &Node) -> Option<Diagnosis> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !is_ready(node) {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
        return Some(match ready {
            Some(c) if c.status == "False" => Diagnosis::new(
                format!("minion {name} is not ready: {}", c.message.as_deref().unwrap_or("it does not say why")),
                format!(
                    "see the log of `coracle minion` on {name}, and whether its Docker engine answers (docker info)"
                ),
            ),
            Some(_) => Diagnosis::new(
                format!("minion {name} does not answer"),
                format!(
                    "start its host, or `coracle minion` on it; if {name} is gone for good: coracle delete node {name}"
                ),
            ),
            None => Diagnosis::new(
                format!("minion {name} has not reported yet"),
                format!("start `coracle minion` on {name}, or look at its log"),
            ),
        });
    }
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    cordoned.then(|| {
        Diagnosis::new(
            format!("minion {name} is cordoned: it runs its pods but gets no new ones"),
            format!("when it may get pods again: coracle uncordon {name}"),
        )
    })
}
