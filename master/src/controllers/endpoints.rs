//! Endpoints: for each service with a selector, the addresses of its pods. Ready pods take
//! traffic, the others are listed as not ready; pods on their way out are in neither list.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_api::{
    ApiError, IntOrString, Kind, TypedObject,
    core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort},
    meta::ObjectMeta,
};

use super::{Controller, Looks};
use crate::registry::{Entry, EventType, Expected, Key, PodFacts, Registry, WatchItem, Written};

/// On a service, says that a port without targetPort means the first port of the pod's first
/// container, as in 2014.
pub(crate) const FIRST_CONTAINER_PORT: &str = "io.coracle.v1beta1/container-port";

/// The services that the master itself stands behind; it writes their endpoints.
pub(crate) const MASTER_SERVICES: [&str; 2] = ["kubernetes", "kubernetes-ro"];

/// Tells endpoints that a loop made from those that a user did. As current Kubernetes.
pub(super) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// Keeps the endpoints of every service with a selector.
#[derive(Debug)]
pub(crate) struct EndpointsController {
    pub(crate) registry: Registry,
    pub(crate) plan: fn(&Service, &[Backend<'_>]) -> Vec<EndpointSubset>,
}

/// A pod that a service selects, with an address and neither over nor on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Backend<'a> {
    /// Its namespace and name.
    pub key: &'a Key,
    /// Its uid.
    pub uid: &'a str,
    /// What is known of it.
    pub pod: &'a PodFacts,
}

impl<'a> Backend<'a> {
    fn of(entry: &'a Entry) -> Option<Self> {
        let pod = entry.pod().filter(|pod| pod.is_active() && pod.ip.is_some())?;
        Some(Self { key: &entry.key, uid: entry.uid(), pod })
    }
}

impl Controller for EndpointsController {
    fn watches(&self) -> &'static [&'static Kind] {
        use coracle_api::objects::{endpoints, pod, service};
        static KINDS: [&Kind; 3] = [&service::KIND, &pod::KIND, &endpoints::KIND];
        &KINDS
    }

    fn wakes(&self, item: &WatchItem) -> Vec<Key> {
        if item.entry.kind == Service::row() {
            return vec![item.entry.key.clone()];
        }
        if item.entry.kind == Endpoints::row() {
            // Ours: removed by someone, or left over from a service that went while no one looked.
            let changed = item.event != EventType::Modified && item.entry.label(MANAGED_BY) == Some(MANAGER);
            return if changed { vec![item.entry.key.clone()] } else { Vec::new() };
        }
        let before = item.before.as_deref();
        if before.is_some_and(|before| is_same_backend(before, &item.entry)) && item.event == EventType::Modified {
            return Vec::new();
        }
        // Labels of a pod can change, so services that selected it before are asked as well.
        let services = self.registry.snapshot(Service::row());
        let selects = |service: &&Arc<Entry>| {
            let known = service.kept::<Service>();
            let selector = known.as_ref().and_then(|s| s.spec.as_ref()?.selector.as_ref());
            item.entry.selected_by(selector) || before.is_some_and(|before| before.selected_by(selector))
        };
        services.range(Some(&item.entry.key.namespace)).filter(selects).map(|service| service.key.clone()).collect()
    }

    async fn reconcile(&self, key: &Key, looks: &mut Looks) -> Result<Option<Duration>, ApiError> {
        let current = self.registry.get(Endpoints::row(), &key.namespace, &key.name);
        let Some(service) = self.registry.get_typed::<Service>(&key.namespace, &key.name) else {
            if current.is_some() {
                self.registry.delete(Endpoints::row(), &key.namespace, &key.name, Expected::Any).await?;
            }
            return Ok(None);
        };
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
        let own = key.namespace == "default" && MASTER_SERVICES.contains(&key.name.as_str());
        if own || selector.is_none() {
            return Ok(None);
        }
        let subsets = || {
            let snapshot = self.registry.snapshot(Pod::row());
            let selected = snapshot.selected(&key.namespace, selector);
            let backends: Vec<_> = selected.filter_map(|entry| Backend::of(entry)).collect();
            Some((self.plan)(&service, &backends)).filter(|subsets| !subsets.is_empty())
        };
        let Some(current) = current else {
            let mut labels = service.metadata.labels.clone().unwrap_or_default();
            labels.insert(MANAGED_BY.into(), MANAGER.into());
            let metadata = ObjectMeta {
                name: Some(key.name.to_string()),
                namespace: Some(key.namespace.to_string()),
                labels: Some(labels),
                uid: Some(self.registry.new_id().to_string()),
                creation_timestamp: Some(self.registry.now().into()),
                ..Default::default()
            };
            let subsets = looks.time(subsets);
            self.registry.create(Box::new(Endpoints { metadata, subsets })).await?;
            return Ok(None);
        };
        let changed = looks.time(|| {
            // The addresses that are there may be thousands, and none of them is of use.
            let mut endpoints = Endpoints { metadata: current.metadata()?, subsets: subsets() };
            Some(Written::from(&mut endpoints)).filter(|written| !written.is_in(&current))
        });
        if let Some(changed) = changed {
            self.registry.update_written(changed, Expected::Version(current.version)).await?;
        }
        Ok(None)
    }
}

/// Whether nothing changed that endpoints tell of.
fn is_same_backend(before: &Entry, after: &Entry) -> bool {
    fn of(entry: &Entry) -> Option<impl PartialEq + use<'_>> {
        let Backend { uid, pod, .. } = Backend::of(entry)?;
        Some((uid, &pod.ip, pod.ready, pod.lost, &pod.node, &pod.ports, &pod.hostname))
    }
    of(before) == of(after) && before.has_same_labels(after)
}

/// Groups the pods by the ports they resolve to. Pods of a silent minion may be gone: they take
/// traffic only while no other pod does, as they may also be well, and the minion down. Pure; order follows addresses, so equal inputs
/// give equal endpoints.
pub(crate) fn plan_subsets(service: &Service, backends: &[Backend<'_>]) -> Vec<EndpointSubset> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let first = service.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(FIRST_CONTAINER_PORT));
    let unready_too = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or_default();
    type Addresses = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut groups: BTreeMap<Vec<(String, i32, String)>, Addresses> = BTreeMap::new();
    let all_lost = !backends.iter().any(|b| b.pod.ready && !b.pod.lost);
    let serves = |pod: &PodFacts| unready_too || pod.ready && (all_lost || !pod.lost);
    for backend in backends {
        let pod = backend.pod;
        let Some(address) = address_of(backend, service) else { continue };
        let resolved: Vec<_> = ports
            .iter()
            .filter_map(|port| {
                let number = target_of(port, pod, first)?;
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((port.name.clone().unwrap_or_default(), number, protocol))
            })
            .collect();
        if resolved.is_empty() && !ports.is_empty() {
            continue;
        }
        let (ready, unready) = groups.entry(resolved).or_default();
        if serves(pod) { ready.push(address) } else { unready.push(address) }
    }
    groups
        .into_iter()
        .map(|(ports, (mut ready, mut unready))| {
            ready.sort_by(|a, b| a.ip.cmp(&b.ip));
            unready.sort_by(|a, b| a.ip.cmp(&b.ip));
            let ports = ports.into_iter().map(|(name, port, protocol)| EndpointPort {
                name: (!name.is_empty()).then_some(name),
                port,
                protocol: Some(protocol),
                app_protocol: None,
            });
            EndpointSubset {
                addresses: (!ready.is_empty()).then_some(ready),
                not_ready_addresses: (!unready.is_empty()).then_some(unready),
                ports: Some(ports.collect()),
            }
        })
        .collect()
}

/// A pod has a name of its own below that of the service which its subdomain names.
fn address_of(backend: &Backend<'_>, service: &Service) -> Option<EndpointAddress> {
    let Backend { key, uid, pod } = backend;
    let own =
        pod.hostname.as_deref().filter(|(_, subdomain)| Some(subdomain.as_str()) == service.metadata.name.as_deref());
    Some(EndpointAddress {
        ip: pod.ip.as_ref()?.to_string(),
        node_name: pod.node.as_ref().map(ToString::to_string),
        hostname: own.map(|(hostname, _)| hostname.to_string()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: Some((*uid).to_owned()),
            ..Default::default()
        }),
    })
}

/// The pod's port behind a service port; `None` when the pod has no port of that name.
fn target_of(port: &ServicePort, pod: &PodFacts, first: bool) -> Option<i32> {
    match &port.target_port {
        _ if first => pod.ports.first().map(|p| p.port),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            pod.ports.iter().find(|p| p.name == *name && p.protocol == protocol).map(|p| p.port)
        }
        Some(IntOrString::Int(number)) if *number != 0 => Some(*number),
        _ => Some(port.port),
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::kinds::decode_typed;
    use serde_json::json;

    use super::*;
    use crate::controllers::nodes::NODE_LOST;

    fn plan(service: &Service, pods: &[Pod]) -> Vec<EndpointSubset> {
        let known = |pod: &Pod| (Key::of(pod), pod.metadata.uid.clone().unwrap_or_default(), PodFacts::of(pod));
        let known: Vec<_> = pods.iter().map(known).filter(|(_, _, pod)| pod.ip.is_some()).collect();
        let backends: Vec<_> = known.iter().map(|(key, uid, pod)| Backend { key, uid, pod }).collect();
        plan_subsets(service, &backends)
    }

    fn pod(name: &str, ip: &str, ready: bool, port: (&str, i32)) -> Pod {
        let pod = json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"nodeName": "h1", "containers": [
                {"name": "c", "image": "i", "ports": [{"name": port.0, "containerPort": port.1, "protocol": "TCP"}]}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        decode_typed(pod.to_string().as_bytes()).unwrap()
    }

    fn service(spec: serde_json::Value) -> Service {
        decode_typed(json!({"metadata": {"name": "s"}, "spec": spec}).to_string().as_bytes()).unwrap()
    }

    fn text(subsets: &[EndpointSubset]) -> String {
        let join =
            |a: &Option<Vec<EndpointAddress>>| a.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>().join(",");
        let ports =
            |s: &EndpointSubset| s.ports.iter().flatten().map(|p| p.port.to_string()).collect::<Vec<_>>().join(",");
        let line = |s: &EndpointSubset| format!("{}/{}:{}", join(&s.addresses), join(&s.not_ready_addresses), ports(s));
        subsets.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ready_and_unready_pods_are_kept_apart() {
        let pods = [
            pod("b", "10.0.0.2", true, ("p", 80)),
            pod("a", "10.0.0.1", true, ("p", 80)),
            pod("c", "10.0.0.3", false, ("p", 80)),
        ];
        let service = service(json!({"ports": [{"port": 8888, "targetPort": 8080}]}));
        assert_eq!(text(&plan(&service, &pods)), "10.0.0.1,10.0.0.2/10.0.0.3:8080");
    }

    #[test]
    fn pods_of_a_silent_minion_serve_only_when_no_other_does() {
        let lost = |name: &str, ip: &str| {
            let mut pod = pod(name, ip, true, ("p", 80));
            pod.status.as_mut().unwrap().reason = Some(NODE_LOST.into());
            pod
        };
        let service = service(json!({"ports": [{"port": 80}]}));
        let mut pods = vec![lost("a", "10.0.0.1"), pod("b", "10.0.0.2", false, ("p", 80))];
        assert_eq!(text(&plan(&service, &pods)), "10.0.0.1/10.0.0.2:80");
        pods.push(pod("c", "10.0.0.3", true, ("p", 80)));
        assert_eq!(text(&plan(&service, &pods)), "10.0.0.3/10.0.0.1,10.0.0.2:80");
    }

    #[test]
    fn a_pod_has_a_name_of_its_own_below_the_service_of_its_subdomain() {
        let hostname = |subdomain: Option<&str>, hostname: Option<&str>| {
            let mut pod = pod("a", "10.0.0.1", true, ("p", 80));
            let spec = pod.spec.as_mut().unwrap();
            (spec.subdomain, spec.hostname) = (subdomain.map(Into::into), hostname.map(Into::into));
            let subsets = plan(&service(json!({"ports": [{"port": 80}]})), &[pod]);
            subsets[0].addresses.as_ref().unwrap()[0].hostname.clone()
        };
        assert_eq!(hostname(Some("s"), Some("h")).as_deref(), Some("h"));
        for (subdomain, name) in
            [(None, Some("h")), (Some("other"), Some("h")), (Some("s"), None), (Some("s"), Some(""))]
        {
            assert_eq!(hostname(subdomain, name), None);
        }
    }

    #[test]
    fn a_named_target_port_is_resolved_in_each_pod() {
        let pods = [
            pod("a", "10.0.0.1", true, ("web", 80)),
            pod("b", "10.0.0.2", true, ("web", 81)),
            pod("c", "10.0.0.3", true, ("other", 82)),
        ];
        let service = service(json!({"ports": [{"port": 1, "targetPort": "web"}]}));
        assert_eq!(text(&plan(&service, &pods)), "10.0.0.1/:80 10.0.0.2/:81");
    }

    #[test]
    fn without_a_target_port_the_service_port_counts_and_in_2014_the_first_container_port() {
        let pods = [pod("a", "10.0.0.1", true, ("web", 80))];
        let mut service = service(json!({"ports": [{"port": 99}]}));
        assert_eq!(text(&plan(&service, &pods)), "10.0.0.1/:99");
        service.metadata.annotations = Some([(FIRST_CONTAINER_PORT.into(), "first".into())].into());
        assert_eq!(text(&plan(&service, &pods)), "10.0.0.1/:80");
    }

    #[test]
    fn pods_without_containers_or_address_do_no_harm() {
        let mut empty = pod("a", "", true, ("web", 80));
        assert_eq!(text(&plan(&service(json!({"ports": [{"port": 1}]})), &[empty.clone()])), "");
        empty.spec.as_mut().unwrap().containers.clear();
        empty.status.as_mut().unwrap().pod_ip = Some("10.0.0.1".into());
        let mut s = service(json!({"ports": [{"port": 1}]}));
        s.metadata.annotations = Some([(FIRST_CONTAINER_PORT.into(), "first".into())].into());
        assert_eq!(text(&plan(&s, &[empty])), "");
    }
}
