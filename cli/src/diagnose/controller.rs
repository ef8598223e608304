//! Replication controllers: replicas that do not come up.

use coracle_api::{
    core::{Event, Node, Pod, ReplicationController},
    selector::selects,
};

use super::{Diagnosis, pod::diagnose, service::is_ready};

/// What keeps a controller from its replicas. `pods` are those of its namespace, `events` those
/// of its namespace, oldest first.
pub(crate) fn diagnose_controller(
    rc: &ReplicationController,
    pods: &[Pod],
    events: &[Event],
    nodes: &[Node],
) -> Option<Diagnosis> {
    let name = rc.metadata.name.as_deref().unwrap_or_default();
    let spec = rc.spec.as_ref()?;
    let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    let selected = |p: &&Pod| selects(spec.selector.as_ref(), p.metadata.labels.as_ref());
    let living = |p: &&Pod| {
        let phase = p.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        p.metadata.deletion_timestamp.is_none() && !matches!(phase, "Failed" | "Succeeded")
    };
    let own: Vec<&Pod> = pods.iter().filter(selected).filter(living).collect();
    let ready = own.iter().filter(|p| is_ready(p)).count();
    if ready >= desired {
        return None;
    }
    let about = |e: &&Event, kind: &str, object: &str| {
        e.involved_object.kind.as_deref() == Some(kind) && e.involved_object.name.as_deref() == Some(object)
    };
    if own.len() < desired {
        let refused = events
            .iter()
            .filter(|e| about(e, "ReplicationController", name))
            .rev()
            .find(|e| e.reason.as_deref() == Some("FailedCreate"));
        let why = refused.and_then(|e| e.message.as_deref()).map(|m| format!(": {m}"));
        return Some(Diagnosis::new(
            format!(
                "{} of {desired} pods exist{}",
                own.len(),
                why.as_deref().unwrap_or(", the others are not created yet")
            ),
            match why {
                Some(_) => format!("correct the template of rc {name}, it is tried again by itself"),
                None => format!("wait a moment; if it stays so, see coracle events --for rc/{name}"),
            },
        ));
    }
    let sick = own.iter().find_map(|pod| {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        let theirs: Vec<Event> = events.iter().filter(|e| about(e, "Pod", pod_name)).cloned().collect();
        diagnose(pod, &theirs, nodes, &[]).map(|d| (pod_name, d))
    });
    Some(match sick {
        Some((pod, diagnosis)) => Diagnosis::new(
            format!("{ready} of {desired} pods are ready; pod {pod}: {}", diagnosis.cause),
            diagnosis.remedy,
        ),
        None => Diagnosis::new(
            format!("{ready} of {desired} pods are ready, the others are starting"),
            format!("wait a moment: coracle get pods -w shows rc {name} come up"),
        ),
    })
}
