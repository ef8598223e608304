//! The variables by which a container finds the services that exist when it starts.

use coracle_api::core::Pod;

use super::{report::name_of, services::Services};

/// Services of the master that every pod is told of.
const EVERYWHERE: [&str; 2] = ["kubernetes", "kubernetes-ro"];

/// Variables of the services that the pod is told of, in a fixed order.
pub(super) fn variables<'a>(pod: &Pod, services: &'a Services) -> impl Iterator<Item = &'a (String, String)> {
    let (namespace, _) = name_of(pod);
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let is_masters = |name: &str| EVERYWHERE.contains(&name);
    let masters_too = !links || namespace != "default";
    let masters = services.of("default").filter(move |(name, _)| is_masters(name) && masters_too);
    // The namespace's own service of such a name is set last and wins.
    let own = services.of(namespace).filter(move |_| links);
    masters.chain(own).flat_map(|(_, variables)| variables)
}
