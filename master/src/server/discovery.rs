//! The pages by which clients find out what there is: versions, resources, schemas, health.

use coracle_api::{
    Kind,
    kinds::{KINDS, Subresource},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Shared,
    answer::{self, Response},
    router::Edition,
    slices, upgrade,
};

/// The Kubernetes release whose `v1` API this is, as `k8s-openapi` publishes it.
const KUBERNETES_MINOR: &str = "37";

/// `/`
pub(crate) fn index() -> Response {
    let page = "<html><body>Welcome to Coracle</body></html>";
    answer::full(StatusCode::OK, "text/html; charset=utf-8", page.into())
}

/// `/version`. The shape is Kubernetes' own; its clients read major and minor.
pub(crate) fn version() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let page = json!({
        "major": "1",
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+coracle-{version}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    answer::value(StatusCode::OK, &page)
}

/// `/readyz`: 503 while the server is going down, so that balancers look elsewhere.
pub(crate) fn ready(shared: &Shared) -> Response {
    if shared.stop.is_cancelled() {
        return answer::text(StatusCode::SERVICE_UNAVAILABLE, "the master is shutting down");
    }
    answer::text(StatusCode::OK, "ok")
}

/// `/api`. Clients of the last years ask for everything at once; they need not know of 2014.
pub(crate) fn versions(headers: &HeaderMap) -> Response {
    if let Some(version) = wants_everything(headers) {
        let resources: Vec<_> = KINDS.iter().map(|kind| discovered(kind)).collect();
        let version_row = json!({ "version": "v1", "freshness": "Current", "resources": resources });
        return everything(version, json!([{ "metadata": { "creationTimestamp": null }, "versions": [version_row] }]));
    }
    let page = json!({ "kind": "APIVersions", "versions": ["v1", "v1beta1"], "serverAddressByClientCIDRs": [] });
    answer::value(StatusCode::OK, &page)
}

/// `/apis`: all stored kinds are in the group without a name.
pub(crate) fn groups(headers: &HeaderMap) -> Response {
    match wants_everything(headers) {
        Some(version) => everything(version, json!([slices::discovered()])),
        None => {
            let page = json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [slices_group()] });
            answer::value(StatusCode::OK, &page)
        }
    }
}

/// `/apis/discovery.k8s.io`
pub(crate) fn slices_group() -> Value {
    let version = json!({ "groupVersion": format!("{}/v1", slices::GROUP), "version": "v1" });
    json!({ "kind": "APIGroup", "apiVersion": "v1", "name": slices::GROUP, "versions": [version],
        "preferredVersion": version })
}

/// `/apis/discovery.k8s.io/v1`
pub(crate) fn slices_resources() -> Response {
    let group_version = format!("{}/v1", slices::GROUP);
    let page = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": [slices::row()] });
    answer::value(StatusCode::OK, &page)
}

/// Versions of the list of everything, best first, and how it is asked for and answered.
const EVERYTHING: [(&str, &str); 2] = [
    ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
];

fn wants_everything(headers: &HeaderMap) -> Option<(&'static str, &'static str)> {
    let offered: Vec<String> = upgrade::tokens(headers, &header::ACCEPT).map(|t| t.replace(' ', "")).collect();
    EVERYTHING.into_iter().find(|(_, media)| offered.iter().any(|o| o == media))
}

fn everything((version, media): (&str, &'static str), items: Value) -> Response {
    let api_version = format!("apidiscovery.k8s.io/{version}");
    let page = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items });
    answer::full(StatusCode::OK, media, page.to_string().into())
}

/// What can be done with a kind itself.
fn verbs(kind: &Kind) -> &'static [&'static str] {
    match (kind.stored, kind.delete_collection) {
        (true, true) => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        (true, false) => &["create", "delete", "get", "list", "patch", "update", "watch"],
        (false, _) => &["create"],
    }
}

/// A subresource's group, version, kind and verbs.
fn sub_facts(kind: &Kind, sub: Subresource) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
    match sub {
        Subresource::Status => ("", "v1", kind.kind, &["get", "patch", "update"]),
        Subresource::Scale => ("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
        Subresource::Binding => ("", "v1", "Binding", &["create"]),
        Subresource::Log => ("", "v1", kind.kind, &["get"]),
        Subresource::Exec => ("", "v1", "PodExecOptions", &["create", "get"]),
        Subresource::Eviction => ("policy", "v1", "Eviction", &["create"]),
    }
}

fn discovered(kind: &Kind) -> Value {
    let sub_row = |sub: &Subresource| {
        let (group, version, subject, verbs) = sub_facts(kind, *sub);
        let subject = json!({ "group": group, "version": version, "kind": subject });
        json!({ "subresource": sub.as_str(), "responseKind": subject, "verbs": verbs })
    };
    let subresources: Vec<_> = kind.subresources.iter().map(sub_row).collect();
    json!({
        "resource": kind.plural,
        "responseKind": { "group": "", "version": "v1", "kind": kind.kind },
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "shortNames": kind.short_names,
        "categories": categories(kind),
        "verbs": verbs(kind),
        "subresources": subresources,
    })
}

/// `all` is what `kubectl get all` shows: what users make and what runs for them.
fn categories(kind: &Kind) -> &'static [&'static str] {
    if kind.namespaced && kind.has(Subresource::Status) { &["all"] } else { &[] }
}

/// `/api/v1`, `/api/v1beta1`
pub(crate) fn resources(edition: Edition) -> Response {
    let (version, list) = match edition {
        Edition::V1 => ("v1", KINDS.iter().flat_map(|kind| resource_rows(kind)).collect::<Vec<_>>()),
        Edition::V1beta1 => ("v1beta1", KINDS.iter().filter_map(|kind| legacy_row(kind)).collect()),
    };
    let page = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list });
    answer::value(StatusCode::OK, &page)
}

fn resource_rows(kind: &Kind) -> Vec<Value> {
    let main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": verbs(kind), "shortNames": kind.short_names, "categories": categories(kind),
    });
    let sub_row = |sub: &Subresource| {
        let (group, version, subject, verbs) = sub_facts(kind, *sub);
        let name = format!("{}/{}", kind.plural, sub.as_str());
        let mut row =
            json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": subject, "verbs": verbs });
        if !group.is_empty() {
            row["group"] = group.into();
            row["version"] = version.into();
        }
        row
    };
    std::iter::once(main).chain(kind.subresources.iter().map(sub_row)).collect()
}

fn legacy_row(kind: &Kind) -> Option<Value> {
    let verbs: &[&str] =
        if kind.stored { &["create", "delete", "get", "list", "update", "watch"] } else { &["create"] };
    let name = kind.v1beta1_plural?;
    let subject = kind.v1beta1_kind.unwrap_or(kind.kind);
    Some(json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": subject, "verbs": verbs }))
}

/// `/openapi/v3`
pub(crate) fn schemas() -> Response {
    let page = json!({ "paths": { "api/v1": { "serverRelativeURL": "/openapi/v3/api/v1" } } });
    answer::value(StatusCode::OK, &page)
}

/// `/openapi/v3/api/v1`: just enough for kubectl to learn that the server itself checks fields.
pub(crate) fn schema() -> Response {
    let group = |kind: &str| json!({ "group": "", "version": "v1", "kind": kind });
    let (mut paths, mut schemas) = (serde_json::Map::new(), serde_json::Map::new());
    for kind in KINDS.iter().filter(|kind| kind.stored) {
        let scope = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let parameter = |name: &str| {
            let schema = json!({ "type": "string", "uniqueItems": true });
            json!({ "name": name, "in": "query", "schema": schema })
        };
        let operation = |action: &str| {
            json!({
                "operationId": format!("{action}{}", kind.kind),
                "parameters": [parameter("dryRun"), parameter("fieldValidation")],
                "responses": { "200": { "description": "OK" } },
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": group(kind.kind),
            })
        };
        paths.insert(format!("/api/v1/{scope}{}", kind.plural), json!({ "post": operation("post") }));
        let one = json!({ "get": operation("get"), "put": operation("put"), "patch": operation("patch") });
        paths.insert(format!("/api/v1/{scope}{}/{{name}}", kind.plural), one);
        let schema = json!({ "type": "object", "x-kubernetes-group-version-kind": [group(kind.kind)] });
        schemas.insert(format!("io.k8s.api.core.v1.{}", kind.kind), schema);
    }
    let page = json!({
        "openapi": "3.0.0",
        "info": { "title": "Coracle", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas },
    });
    answer::value(StatusCode::OK, &page)
}
