//! EndpointSlices (`discovery.k8s.io/v1`): what clients of today read where Endpoints were read, `kubectl describe
//! service` among them.
//!
//! A view, to be listed and read. An Endpoints object is shown as one slice for each of its subsets, under its name,
//! from the second on with a dot and a number behind it: no service has a dot in its name.

use coracle_api::{
    ApiError, TypedObject,
    core::{EndpointAddress, Endpoints},
    meta::ObjectMeta,
    selector::{FieldSelector, LabelSelector},
};
use http::StatusCode;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use serde_json::{Value, json};

use super::{
    Shared,
    answer::{self, Response},
    query::Query,
};
use crate::registry::Entry;

pub(crate) const GROUP: &str = "discovery.k8s.io";
pub(crate) const PLURAL: &str = "endpointslices";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// What of the slices is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `None`: all.
    pub(crate) namespace: Option<String>,
    /// One slice instead of a list.
    pub(crate) name: Option<String>,
}

/// Answers a list, or a request for one slice.
pub(crate) fn answer(shared: &Shared, asked: &Asked, query: &Query) -> Result<Response, ApiError> {
    let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?;
    let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())?;
    if let Some(field) = fields.fields().find(|field| !["metadata.name", "metadata.namespace"].contains(field)) {
        let message = format!("field selector '{field}' is not supported for {PLURAL}: use metadata.name");
        return Err(ApiError::bad_request(message));
    }
    let snapshot = shared.registry.snapshot(Endpoints::row());
    let mut slices = snapshot.range(asked.namespace.as_deref()).flat_map(|entry| slices(entry));
    if let Some(name) = &asked.name {
        let found = slices.find(|slice| slice.metadata.name.as_ref() == Some(name));
        let slice = found.ok_or_else(|| ApiError::not_found(PLURAL, name))?;
        return Ok(answer::value(StatusCode::OK, &slice));
    }
    let picked = |slice: &EndpointSlice| {
        let field = |field: &str| match field {
            "metadata.name" => slice.metadata.name.as_deref(),
            _ => slice.metadata.namespace.as_deref(),
        };
        labels.matches(slice.metadata.labels.as_ref()) && fields.matches_with(field)
    };
    let items: Vec<_> = slices.filter(picked).collect();
    let page = json!({
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": { "resourceVersion": snapshot.version.to_string() },
        "items": items,
    });
    Ok(answer::value(StatusCode::OK, &page))
}

/// The row of discovery in the form of `APIResourceList`.
pub(crate) fn row() -> Value {
    json!({ "name": PLURAL, "singularName": "endpointslice", "namespaced": true, "kind": "EndpointSlice",
        "verbs": ["get", "list"] })
}

/// The row of discovery in the form of `APIGroupDiscoveryList`.
pub(crate) fn discovered() -> Value {
    json!({
        "metadata": { "name": GROUP, "creationTimestamp": null },
        "versions": [{ "version": "v1", "freshness": "Current", "resources": [{
            "resource": PLURAL,
            "responseKind": { "group": GROUP, "version": "v1", "kind": "EndpointSlice" },
            "scope": "Namespaced",
            "singularResource": "endpointslice",
            "verbs": ["get", "list"],
        }] }],
    })
}

fn slices(entry: &Entry) -> Vec<EndpointSlice> {
    let Some(endpoints) = entry.typed::<Endpoints>() else { return Vec::new() };
    let (meta, subsets) = (&endpoints.metadata, endpoints.subsets.iter().flatten());
    let slice = |(number, subset): (usize, &coracle_api::core::EndpointSubset)| {
        let side = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
            addresses.iter().flatten().map(|address| endpoint(address, ready)).collect()
        };
        let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        });
        EndpointSlice {
            address_type: "IPv4".into(),
            endpoints: Some([side(&subset.addresses, true), side(&subset.not_ready_addresses, false)].concat()),
            metadata: meta_of(meta, number),
            ports: Some(ports.collect()),
        }
    };
    subsets.enumerate().map(slice).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    let conditions = EndpointConditions { ready: Some(ready), serving: Some(ready), terminating: Some(false) };
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(conditions),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn meta_of(endpoints: &ObjectMeta, number: usize) -> ObjectMeta {
    let numbered = |text: &Option<String>| match (text, number) {
        (Some(text), 1..) => Some(format!("{text}.{}", number + 1)),
        (text, _) => text.clone(),
    };
    let mut labels = endpoints.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), "coracle".into());
    ObjectMeta {
        name: numbered(&endpoints.name),
        namespace: endpoints.namespace.clone(),
        uid: numbered(&endpoints.uid),
        resource_version: endpoints.resource_version.clone(),
        creation_timestamp: endpoints.creation_timestamp.clone(),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}
