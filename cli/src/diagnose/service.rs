//! Services: nothing selected, nothing ready, wrong port.

use coracle_api::{
    IntOrString, StringMap,
    core::{Container, Endpoints, Pod, Service},
    selector::selects,
};

use super::Diagnosis;

/// What keeps a service from reaching pods. `pods` are those of its namespace.
pub(crate) fn diagnose_service(service: &Service, pods: &[Pod], endpoints: Option<&Endpoints>) -> Option<Diagnosis> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let selector = service.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())?;
    let text = pairs(selector);
    let selected: Vec<&Pod> = pods.iter().filter(|p| selects(Some(selector), p.metadata.labels.as_ref())).collect();
    if selected.is_empty() {
        return Some(Diagnosis::new(
            format!(
                "service {name} has no endpoints: no pod has the labels of its selector {text}{}",
                nearest(selector, pods)
            ),
            format!("create pods with the labels {text}, or correct the selector of service {name}"),
        ));
    }
    let ready: Vec<&Pod> = selected.iter().copied().filter(|p| is_ready(p)).collect();
    if ready.is_empty() {
        let first = selected[0].metadata.name.as_deref().unwrap_or_default();
        return Some(Diagnosis::new(
            format!("service {name} has no endpoints: none of the {} pods with {text} is ready", selected.len()),
            format!("see why: coracle describe pod {first}"),
        ));
    }
    if let Some(wrong) = ready.iter().find_map(|pod| missing_target_port(service, pod)) {
        return Some(wrong);
    }
    let addresses = endpoints.and_then(|e| e.subsets.as_ref()).into_iter().flatten();
    let count: usize = addresses.map(|s| s.addresses.as_ref().map_or(0, Vec::len)).sum();
    (count == 0).then(|| {
        Diagnosis::new(
            format!("service {name} has no endpoints yet, though {} pods with {text} are ready", ready.len()),
            "wait a moment; if it stays so, look at the master's log",
        )
    })
}

/// A port of the service that leads nowhere in a pod: a name no container has, or, when the pod
/// declares its ports, a number that is not among them.
pub(super) fn missing_target_port(service: &Service, pod: &Pod) -> Option<Diagnosis> {
    let containers = &pod.spec.as_ref()?.containers;
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let wrong = ports.iter().find_map(|port| match &port.target_port {
        Some(IntOrString::String(wanted)) => {
            (!declared(containers).any(|(n, _)| n == Some(wanted))).then(|| format!("'{wanted}'"))
        }
        Some(IntOrString::Int(wanted)) if *wanted > 0 => unknown_number(containers, *wanted),
        _ => unknown_number(containers, port.port),
    })?;
    let known: Vec<_> = declared(containers)
        .map(|(name, number)| name.map_or_else(|| number.to_string(), |n| format!("{number} ({n})")))
        .collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Some(Diagnosis::new(
        format!("service {name} sends to port {wrong}, which pod {pod_name} does not have (its ports: {known})"),
        format!("correct targetPort of service {name} (containerPort in v1beta1), or the ports of the pod"),
    ))
}

fn unknown_number(containers: &[Container], wanted: i32) -> Option<String> {
    let mut all = declared(containers).peekable();
    (all.peek().is_some() && !all.any(|(_, number)| number == wanted)).then(|| wanted.to_string())
}

fn declared(containers: &[Container]) -> impl Iterator<Item = (Option<&String>, i32)> {
    let ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports.map(|p| (p.name.as_ref(), p.container_port))
}

/// Whether the pod's Ready condition holds.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

pub(super) fn pairs(map: &StringMap) -> String {
    map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// The labels of the pod that comes closest: it has one of the selector's keys.
fn nearest(selector: &StringMap, pods: &[Pod]) -> String {
    let score = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        selector.keys().filter(|k| labels.is_some_and(|l| l.contains_key(*k))).count()
    };
    let best = pods.iter().filter(|p| score(p) > 0).max_by_key(|p| score(p));
    best.and_then(|pod| Some((pod.metadata.name.as_deref()?, pod.metadata.labels.as_ref()?)))
        .map(|(name, labels)| format!(" (closest: pod {name} with {})", pairs(labels)))
        .unwrap_or_default()
}
