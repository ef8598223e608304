//! Requests about `v1beta1` objects: the manners of 2014 (spec §1) on the same registry.
//!
//! Owns what differs besides the form of the objects: the namespace comes from the query, updates
//! take the name from the body, a deletion is answered when it is done, namespaces need not be
//! created. Codes are right where 0.5.4 said 500 (spec §10).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::{
    ApiError, Kind, Object,
    error::Reason,
    selector::{FieldSelector, LabelSelector},
    v1beta1,
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{
    Shared,
    answer::{self, Fault, Response},
    decode,
    delete::{self, Order},
    limits, list,
    query::Query,
    request::{Permit, Request},
    router::{Target, Verb},
    watch::{self, Lines},
    write::{self, Part, Written},
};
use crate::{
    admission::{self, Removed, binding},
    registry::{Entry, EventType, Selection, WatchItem},
};

/// The grace period that a deletion waits out at most, so that the answer beats the client's own
/// time limit.
const GRACE_MAX: Duration = Duration::from_secs(48);
/// What a minion may take beyond the grace period.
const GRACE_MARGIN: Duration = Duration::from_secs(5);
/// Long-lived, as clients of 2014 did not come back where they were (spec §10.3).
const WATCH_TIME: Duration = Duration::from_secs(3600);
/// Kinds whose id defaults to a UUID.
const NAMELESS: [&str; 2] = ["pods", "replicationcontrollers"];

/// Answers a request.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    target: &Target,
    request: Request,
    permit: Permit,
) -> Result<Response, Fault> {
    let answered = match target.verb {
        Verb::Watch => Ok(watch(shared, target, &request.query, permit).await?),
        Verb::List => list_objects(shared, target, &request.query).map_err(Fault::from),
        Verb::Get => get(shared, target).map_err(Fault::from),
        Verb::Create => create(shared, target, request).await,
        Verb::Replace => replace(shared, target, request).await,
        Verb::Delete => remove(shared, target).await.map_err(Fault::from),
        Verb::Patch | Verb::DeleteCollection | Verb::Connect => Err(answer::no_such_method()),
    };
    answered.map_err(|fault| Fault { error: v1beta1::translate_error(fault.error, target.kind), ..fault })
}

/// A failure in the form of 2014.
pub(crate) fn fault(fault: &Fault) -> Response {
    answer::with_retry(answer::json(answer::code_of(fault.code), v1beta1::encode_error(&fault.error)), &fault.error)
}

fn selection(target: &Target, query: &Query) -> Result<Selection, ApiError> {
    let labels = LabelSelector::parse_v1beta1(query.get("labels").unwrap_or_default())?;
    let fields = v1beta1::field_selector(target.kind, query.get("fields").unwrap_or_default())?;
    list::check_fields(target.kind, &fields)?;
    Ok(Selection { namespace: target.namespace.clone(), labels, fields })
}

fn list_objects(shared: &Shared, target: &Target, query: &Query) -> Result<Response, ApiError> {
    let selection = selection(target, query)?;
    let snapshot = shared.registry.snapshot(target.kind);
    let objects: Vec<_> = snapshot.select(target.kind, &selection, None).filter_map(|entry| entry.decode()).collect();
    let body = v1beta1::encode_list(target.kind, objects.iter().map(|o| &**o), snapshot.version);
    Ok(answer::json(StatusCode::OK, body))
}

fn get(shared: &Shared, target: &Target) -> Result<Response, ApiError> {
    let entry = write::find(shared, target.kind, target.namespace(), target.name())?;
    Ok(answer::json(StatusCode::OK, encode(&entry)?))
}

async fn create(shared: &Shared, target: &Target, request: Request) -> Result<Response, Fault> {
    let body = read(shared, &request.headers, request.body).await?;
    let mut object = v1beta1::decode(target.kind, &body, target.namespace())?;
    if !target.kind.stored {
        binding::bind(&shared.registry, &*object, shared.registry.now_s()).await?;
        return Ok(answer::json(StatusCode::CREATED, v1beta1::success_status()));
    }
    if object.name().is_empty() && NAMELESS.contains(&target.kind.plural) {
        object.meta_mut().name = Some(shared.registry.new_id().to_string());
    }
    if target.kind.namespaced {
        // Any name was a namespace in 2014.
        let uid = shared.registry.new_id().to_string();
        admission::ensure_namespace(&shared.registry, target.namespace(), shared.registry.now_s(), uid).await?;
    }
    let written = write::create(shared, object, target.namespace.as_deref(), false).await?;
    written_answer(target.kind, StatusCode::CREATED, &written)
}

async fn replace(shared: &Shared, target: &Target, request: Request) -> Result<Response, Fault> {
    let body = read(shared, &request.headers, request.body).await?;
    let named = body["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
    let target = &Target { name: named.or_else(|| target.name.clone()), ..target.clone() };
    let current = write::find(shared, target.kind, target.namespace(), target.name())?;
    let stored = current.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
    let object = v1beta1::decode_update(target.kind, &body, target.namespace(), &*stored)?;
    let written = write::replace(shared, object, target, Part::Main, false).await?;
    written_answer(target.kind, StatusCode::OK, &written)
}

async fn read(shared: &Shared, headers: &HeaderMap, body: limits::BodyStream) -> Result<Value, Fault> {
    let body = limits::read_body(body, &shared.limits).await?;
    let json = decode::to_json(headers, body).await?;
    serde_json::from_slice(&json).map_err(|e| ApiError::bad_request(format!("the body is not valid JSON: {e}")).into())
}

/// Deletes, and answers when the object is really gone: scripts of 2014 create its successor next.
async fn remove(shared: &Shared, target: &Target) -> Result<Response, ApiError> {
    let gone = match delete::remove(shared, target, &Order::default()).await? {
        Removed::Gone(_) => true,
        Removed::Ending(entry) => {
            let grace = entry.decode().and_then(|o| o.meta().deletion_grace_period_seconds).unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0)).min(GRACE_MAX);
            let waited = tokio::time::timeout(grace + GRACE_MARGIN, until_gone(shared, &entry)).await;
            waited.unwrap_or(Ok(false))?
        }
    };
    if gone {
        return Ok(answer::json(StatusCode::OK, v1beta1::success_status()));
    }
    let status = json!({
        "kind": "Status", "creationTimestamp": null, "apiVersion": "v1beta1", "status": "Working", "reason": "Working",
        "message": format!("{} \"{}\" is still stopping", target.kind.error_name, target.name()),
        "details": { "id": target.name(), "kind": target.kind.error_name },
        "code": 202,
    });
    Ok(answer::value(StatusCode::ACCEPTED, &status))
}

async fn until_gone(shared: &Shared, entry: &Entry) -> Result<bool, ApiError> {
    let fields = FieldSelector::parse(&format!("metadata.name={}", entry.key.name))?;
    let namespace = entry.kind.namespaced.then(|| entry.key.namespace.to_string());
    loop {
        let there = shared.registry.get(entry.kind, &entry.key.namespace, &entry.key.name);
        let Some(there) = there.filter(|now| now.uid() == entry.uid()) else { return Ok(true) };
        let selection = Selection { namespace: namespace.clone(), fields: fields.clone(), ..Default::default() };
        match shared.registry.watch(entry.kind, selection, Some(there.version)) {
            Ok(mut watcher) => match watcher.next().await {
                Err(e) if e.reason != Reason::Expired => return Err(e),
                _ => {}
            },
            // Fell off the ring: look again.
            Err(e) if e.reason == Reason::Expired => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(e) => return Err(e),
        }
    }
}

fn encode(entry: &Entry) -> Result<Vec<u8>, ApiError> {
    let object = entry.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
    Ok(v1beta1::encode_json(&*object))
}

fn written_answer(kind: &Kind, code: StatusCode, written: &Written) -> Result<Response, Fault> {
    let object: Box<dyn Object> = (kind.decode)(&written.json)?;
    Ok(answer::warn(answer::json(code, v1beta1::encode_json(&*object)), &written.warnings))
}

/// Lines of a `v1beta1` watch: each object converted, no bookmarks.
#[derive(Debug)]
struct Legacy {
    kind: &'static Kind,
}

impl Lines for Legacy {
    fn item(&self, item: &WatchItem) -> Bytes {
        let event = match item.event {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        };
        match encode(&item.entry) {
            Ok(object) => watch::line(event, &object),
            Err(error) => self.error(&error),
        }
    }
    fn error(&self, error: &ApiError) -> Bytes {
        watch::line("ERROR", &v1beta1::encode_error(&v1beta1::translate_error(error.clone(), self.kind)))
    }
    fn bookmark(&self, _version: u64) -> Option<Bytes> {
        None
    }
}

async fn watch(shared: &Arc<Shared>, target: &Target, query: &Query, permit: Permit) -> Result<Response, ApiError> {
    let selection = selection(target, query)?;
    let lines = Legacy { kind: target.kind };
    watch::start(shared, target.kind, selection, watch::from(query)?, WATCH_TIME, lines, permit).await
}
