//! What must be true when the faults are over and the cluster has had its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use coracle_minion::runtime::{State as Running, labels};

use crate::{
    host::Host,
    world::{PodState, State},
};

/// Whether everything is as it was asked for; the first thing that is not.
pub fn settled(state: &State, hosts: &[Arc<Host>]) -> Result<(), String> {
    let live: BTreeMap<&str, &Arc<Host>> =
        hosts.iter().filter(|host| host.is_up()).map(|host| (host.name.as_str(), host)).collect();
    nodes(state, &live)?;
    controllers(state)?;
    let mut runs = BTreeMap::new();
    for (name, pod) in &state.pods {
        pod_settled(state, &live, name, pod)?;
        runs.insert(pod.uid.as_str(), pod);
    }
    live.values().try_for_each(|host| containers(host, &runs))?;
    endpoints(state)?;
    match state.namespaces.iter().find(|(_, ending)| **ending) {
        Some((name, _)) => Err(format!("namespace {name} is still ending")),
        None => Ok(()),
    }
}

fn nodes(state: &State, live: &BTreeMap<&str, &Arc<Host>>) -> Result<(), String> {
    for name in live.keys() {
        if !state.nodes.get(*name).is_some_and(|node| node.ready) {
            return Err(format!("node {name} is not ready, and its minion runs"));
        }
    }
    match state.nodes.iter().find(|(name, node)| node.ready && !live.contains_key(name.as_str())) {
        Some((name, _)) => Err(format!("node {name} is ready, and its minion does not run")),
        None => Ok(()),
    }
}

fn controllers(state: &State) -> Result<(), String> {
    for (name, controller) in &state.controllers {
        let own: Vec<_> = state.pods.values().filter(|p| p.owner.as_deref() == Some(&controller.uid)).collect();
        let active = own.iter().filter(|pod| pod.is_active()).count();
        let ready = own.iter().filter(|pod| pod.is_active() && pod.ready).count();
        let counts = [active, ready].map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        if controller.terminating {
            return Err(format!("controller {name} is still on its way out"));
        }
        if counts[0] != controller.replicas {
            return Err(format!("controller {name} wants {} pods and has {active}", controller.replicas));
        }
        if controller.reports != (counts[0], counts[1]) {
            return Err(format!("controller {name} reports {:?} pods and has {counts:?}", controller.reports));
        }
    }
    Ok(())
}

fn pod_settled(state: &State, live: &BTreeMap<&str, &Arc<Host>>, name: &str, pod: &PodState) -> Result<(), String> {
    if pod.terminating || pod.terminal {
        return Err(format!("pod {name} is {}", if pod.terminal { "over" } else { "still on its way out" }));
    }
    if let Some(owner) = &pod.owner
        && !state.controllers.values().any(|controller| controller.uid == *owner)
    {
        return Err(format!("pod {name} belongs to a controller that is gone"));
    }
    if state.doomed.contains(&pod.uid) {
        return Err(format!("pod {name} outlives its controller, which was deleted with its pods"));
    }
    let Some(node) = &pod.node else {
        let room = |node: &str| {
            let here = state.pods.values().filter(|p| p.node.as_deref() == Some(node) && !p.terminal);
            let used: i64 = here.map(|p| p.milli_cpu).sum();
            state.nodes.get(node).is_some_and(|n| n.milli_cpu - used >= pod.milli_cpu)
        };
        return match live.keys().find(|node| room(node)) {
            Some(node) => Err(format!("pod {name} waits, and {node} has room for it")),
            None => Ok(()),
        };
    };
    if !live.contains_key(node.as_str()) {
        return Err(format!("pod {name} is on {node}, whose minion does not run"));
    }
    if !pod.ready || pod.lost {
        return Err(format!("pod {name} on {node} is not ready"));
    }
    Ok(())
}

/// What runs on a host is what is bound to it, once and whole.
fn containers(host: &Host, pods: &BTreeMap<&str, &PodState>) -> Result<(), String> {
    let name = &host.name;
    let mut running: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for container in host.engine().containers() {
        let pod = pods.get(container.pod_uid.as_str()).filter(|pod| pod.node.as_ref() == Some(name));
        if pod.is_none() {
            return Err(format!(
                "{name} has container {} of pod {}, which is not here",
                container.name, container.pod_name
            ));
        }
        if matches!(container.state, Running::Running { .. }) {
            running.entry(container.pod_uid.clone()).or_default().insert(container.name.clone());
        }
    }
    for pod in pods.values().filter(|pod| pod.node.as_ref() == Some(name)) {
        let names = running.remove(&pod.uid).unwrap_or_default();
        let whole = names.contains(labels::INFRA) && names.len() == pod.containers + 1;
        if !whole {
            return Err(format!("pod {} on {name} runs {names:?} only", pod.uid));
        }
    }
    Ok(())
}

fn endpoints(state: &State) -> Result<(), String> {
    let ours = |name: &&String| name.rsplit('/').next().is_some_and(|name| name.starts_with("svc-"));
    for (name, selector) in state.services.iter().filter(|(name, _)| ours(name)) {
        let namespace = name.split('/').next().unwrap_or_default();
        let selects = |pod: &PodState| selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
        let here = state.pods.iter().filter(|(key, _)| key.split('/').next() == Some(namespace));
        let picked = here.map(|(_, pod)| pod).filter(|pod| pod.is_active() && pod.ip.is_some() && selects(pod));
        let (ready, unready): (Vec<_>, Vec<_>) = picked.partition(|pod| pod.ready);
        let uids = |pods: Vec<&PodState>| pods.into_iter().map(|pod| pod.uid.clone()).collect::<BTreeSet<_>>();
        let wanted = (uids(ready), uids(unready));
        if state.endpoints.get(name) != Some(&wanted) {
            return Err(format!(
                "service {name} has endpoints {:?}, and its pods are {wanted:?}",
                state.endpoints.get(name)
            ));
        }
    }
    match state.endpoints.keys().filter(ours).find(|name| !state.services.contains_key(*name)) {
        Some(name) => Err(format!("there are endpoints {name} and no such service")),
        None => Ok(()),
    }
}
