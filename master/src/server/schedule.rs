//! `POST /coracle/v1/schedule`: where pods would go if they were created now, and why. The body is an
//! object with pods, or a `List` of them, in either version of the API.
//!
//! The objects pass all checks of a creation; nothing is created. Any master answers, from its own
//! snapshot.

use std::sync::Arc;

use coracle_api::{ApiError, Kind, Object, error::Reason, kinds::KINDS, v1beta1};
use http::StatusCode;
use serde_json::Value;

use super::{
    Shared,
    answer::{self, Fault, Response},
    decode::{self, Strictness},
    limits,
    request::Request,
    write,
};
use crate::scheduler::{
    Cluster,
    explain::{self, Planned},
};

/// Pods of one question at most.
const PODS_MAX: usize = 500;

/// Answers a request.
pub(crate) async fn schedule(shared: &Arc<Shared>, request: Request) -> Result<Response, Fault> {
    let strictness = Strictness::of(&request.query)?;
    let body = limits::read_body(request.body, &shared.limits).await?;
    let body = decode::to_json(&request.headers, body).await?;
    let mut body: Value =
        serde_json::from_slice(&body).map_err(|e| ApiError::bad_request(format!("the body is not valid JSON: {e}")))?;
    let items = match body.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => vec![body],
    };
    let namespace = request.query.get("namespace").unwrap_or("default");
    let (mut planned, mut ignored, mut warnings, mut pods) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for item in &items {
        let about = |e: ApiError| named(e, item);
        let object = decode_item(item, namespace, strictness, &mut warnings).map_err(about)?;
        match plan(shared, object, namespace, &mut warnings).await.map_err(about)? {
            Ok(one) => {
                pods += one.replicas;
                planned.push(one);
            }
            Err(without_pods) => ignored.push(without_pods),
        }
        if pods > PODS_MAX {
            let message = format!("the objects have more than {PODS_MAX} pods: ask about fewer at a time");
            return Err(ApiError::bad_request(message).into());
        }
    }
    if planned.is_empty() {
        let message = "nothing in the body has pods: send a Pod, a ReplicationController, or a List of them";
        return Err(ApiError::bad_request(message).into());
    }
    let registry = shared.registry.clone();
    // Reads every node and pod, which would hold up other requests.
    let explained = tokio::task::spawn_blocking(move || explain::explain(&mut Cluster::of(&registry), &planned));
    let mut explained = explained.await.map_err(ApiError::internal)?;
    explained.ignored = ignored;
    Ok(answer::warn(answer::value(StatusCode::OK, &explained), &warnings))
}

fn decode_item(
    item: &Value,
    namespace: &str,
    strictness: Strictness,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let (version, name) = (item["apiVersion"].as_str(), item["kind"].as_str().unwrap_or_default());
    let unknown = || ApiError::bad_request(format!("there is no kind {name:?} in the version {version:?}"));
    match version {
        Some("v1beta1") => {
            let is_it = |k: &&&Kind| k.v1beta1_plural.is_some() && k.v1beta1_kind.unwrap_or(k.kind) == name;
            let kind = KINDS.iter().find(is_it).ok_or_else(unknown)?;
            let own = item["namespace"].as_str().filter(|ns| !ns.is_empty());
            v1beta1::decode(kind, item, own.unwrap_or(namespace))
        }
        Some("v1") => {
            let decoded = decode::from_value(Kind::by_kind(name).ok_or_else(unknown)?, item, strictness)?;
            warnings.extend(decoded.warnings);
            Ok(decoded.object)
        }
        _ => Err(unknown()),
    }
}

/// The pods of an object, or the name of one that has none.
async fn plan(
    shared: &Shared,
    object: Box<dyn Object>,
    namespace: &str,
    warnings: &mut Vec<String>,
) -> Result<Result<Planned, String>, ApiError> {
    let (kind, name) = (object.kind(), object.name().to_owned());
    if explain::pod_of(&*object).is_none() {
        return Ok(Err(format!("{}/{name}", kind.singular)));
    }
    let stored = rehearse(shared, object, namespace, warnings).await?;
    let Some((pod, replicas)) = explain::pod_of(&*stored) else {
        return Ok(Err(format!("{}/{name}", kind.singular)));
    };
    let name = if name.is_empty() { stored.name().to_owned() } else { name };
    let Some(replicas) = replicas else { return Ok(Ok(Planned { pod, name, replicas: 1 })) };
    // The template's faults and warnings were the controller's.
    let pod = rehearse(shared, Box::new(pod), namespace, &mut Vec::new()).await?;
    let Some((pod, _)) = explain::pod_of(&*pod) else { return Ok(Err(name)) };
    Ok(Ok(Planned { pod, name, replicas }))
}

/// What a creation would store.
async fn rehearse(
    shared: &Shared,
    object: Box<dyn Object>,
    namespace: &str,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Object>, ApiError> {
    let kind = object.kind();
    let own = Some(object.namespace()).filter(|ns| !ns.is_empty()).unwrap_or(namespace).to_owned();
    let mut namesake = object.clone_box();
    let mut result = write::create(shared, object, Some(&own), true).await;
    if result.as_ref().is_err_and(|e| e.reason == Reason::AlreadyExists) {
        // Where another one like it would go is still a question.
        let meta = namesake.meta_mut();
        meta.generate_name = meta.name.take().map(|name| format!("{name}-"));
        result = write::create(shared, namesake, Some(&own), true).await;
    }
    let written = result?;
    warnings.extend(written.warnings);
    (kind.decode)(&written.json)
}

/// Says which object of several an error is about.
fn named(mut error: ApiError, item: &Value) -> ApiError {
    let name = item["metadata"]["name"].as_str().or(item["id"].as_str()).unwrap_or_default();
    if !error.message.contains(name) {
        error.message = format!("{name}: {}", error.message);
    }
    error
}
