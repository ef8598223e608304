//! The pages by which clients find out what there is: versions, resources, schemas, health.

use coracle_api::{
    Kind,
    kinds::{KINDS, Subresource},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Shared,
    answer::{self, Response},
    router::Edition,
};

/// The Kubernetes release whose `v1` API this is, as `k8s-openapi` publishes it.
const KUBERNETES_MINOR: &str = "35";

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

/// `/api`
pub(crate) fn versions() -> Response {
    let page = json!({ "kind": "APIVersions", "versions": ["v1", "v1beta1"], "serverAddressByClientCIDRs": [] });
    answer::value(StatusCode::OK, &page)
}

/// `/apis`: all kinds are in the group without a name.
pub(crate) fn groups() -> Response {
    answer::value(StatusCode::OK, &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] }))
}

/// `/api/v1`, `/api/v1beta1`. Today's clients would offer each resource twice if the old version
/// listed its own, and its clients never ask.
pub(crate) fn resources(edition: Edition) -> Response {
    let (version, list) = match edition {
        Edition::V1 => ("v1", KINDS.iter().flat_map(|kind| resource_rows(kind)).collect()),
        Edition::V1beta1 => ("v1beta1", Vec::new()),
    };
    let page = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list });
    answer::value(StatusCode::OK, &page)
}

fn resource_rows(kind: &Kind) -> Vec<Value> {
    let verbs: &[&str] = match kind.stored {
        true => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        false => &["create"],
    };
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs,
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if ["pods", "services", "replicationcontrollers"].contains(&kind.plural) {
        // What `kubectl get all` shows.
        main["categories"] = json!(["all"]);
    }
    let sub_row = |sub: &Subresource| {
        let name = format!("{}/{}", kind.plural, sub.as_str());
        let (subject, verbs): (&str, &[&str]) = match sub {
            Subresource::Status => (kind.kind, &["get", "patch", "update"]),
            Subresource::Scale => ("Scale", &["get", "patch", "update"]),
            Subresource::Binding => ("Binding", &["create"]),
            Subresource::Log => (kind.kind, &["get"]),
            Subresource::Exec => ("PodExecOptions", &["create", "get"]),
        };
        let mut row =
            json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": subject, "verbs": verbs });
        if *sub == Subresource::Scale {
            row["group"] = "autoscaling".into();
            row["version"] = "v1".into();
        }
        row
    };
    std::iter::once(main).chain(kind.subresources.iter().map(sub_row)).collect()
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
