//! The variables by which a container finds the services that exist when it starts.

use std::sync::Arc;

use coracle_api::{
    core::{Pod, Service},
    objects::service::environment,
};

use super::report::name_of;

/// Services of the master that every pod is told of.
const EVERYWHERE: [&str; 2] = ["kubernetes", "kubernetes-ro"];

/// Variables of the services that the pod is told of, in a fixed order.
pub(super) fn variables(pod: &Pod, services: &[Arc<Service>]) -> Vec<(String, String)> {
    let (namespace, _) = name_of(pod);
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let name = |s: &Service| s.metadata.name.clone().unwrap_or_default();
    let told = |s: &&Arc<Service>| {
        let home = s.metadata.namespace.as_deref().unwrap_or("default");
        let master = home == "default" && EVERYWHERE.contains(&name(s).as_str());
        master || links && home == namespace
    };
    let mut told: Vec<_> = services.iter().filter(told).collect();
    // The namespace's own service of such a name is set last and wins.
    told.sort_by_key(|s| (s.metadata.namespace.as_deref() == Some(namespace), name(s)));
    told.into_iter().flat_map(|service| environment(service)).collect()
}
