//! Requests about `v1` objects, for any kind: decode, admit, registry, encode.

use std::sync::Arc;

use coracle_api::{ApiError, kinds::Subresource};
use http::StatusCode;

use super::{
    Shared,
    answer::{self, Fault, Response},
    decode, delete, eviction, limits, list,
    patch::Patch,
    pod_streams,
    request::{Permit, Request},
    router::{Target, Verb},
    scale,
    table::Table,
    watch,
    write::{self, Part, WriteOptions, Written},
};
use crate::admission::binding;

/// Answers a request.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    target: &Target,
    request: Request,
    permit: Permit,
) -> Result<Response, Fault> {
    let query = &request.query;
    let table = Table::wanted(&request.headers, query);
    match (target.verb, target.sub) {
        (Verb::List, _) => Ok(list::list(shared, target, query, table).await?),
        (Verb::Watch, _) => Ok(watch::watch(shared, target, query, table, permit).await?),
        (Verb::Get, Some(Subresource::Log)) => Ok(pod_streams::log(shared, target, query, permit).await?),
        (Verb::Get, Some(Subresource::Scale)) => Ok(answer::json(StatusCode::OK, scale::get(shared, target)?)),
        (Verb::Get, _) => {
            let entry = write::find(shared, target.kind, target.namespace(), target.name())?;
            let body = match table {
                Some(table) => {
                    let meta = format!("{{\"resourceVersion\":\"{}\"}}", entry.version);
                    table.of(target.kind, std::slice::from_ref(&entry), &meta).into()
                }
                None => entry.json.clone(),
            };
            Ok(answer::json(StatusCode::OK, body))
        }
        (Verb::Connect, _) => {
            Ok(pod_streams::exec(shared, target, query, &request.headers, request.upgrade, permit).await?)
        }
        (Verb::Create, _) => create(shared, target, request).await,
        (Verb::Replace, _) => replace(shared, target, request).await,
        (Verb::Patch, _) => patch(shared, target, request).await,
        (Verb::Delete | Verb::DeleteCollection, _) => {
            let body = limits::read_body(request.body, &shared.limits).await?;
            if !body.is_empty() {
                decode::text_media(&request.headers)?;
            }
            let order = delete::Order::parse(&body, query)?;
            match target.verb {
                Verb::Delete => Ok(delete::delete(shared, target, &order).await?),
                _ => Ok(delete::delete_collection(shared, target, query, &order).await?),
            }
        }
    }
}

async fn create(shared: &Shared, target: &Target, request: Request) -> Result<Response, Fault> {
    let options = WriteOptions::of(&request.query)?;
    let body = limits::read_body(request.body, &shared.limits).await?;
    let body = decode::to_json(&request.headers, body).await?;
    if target.sub == Some(Subresource::Eviction) {
        return Ok(eviction::evict(shared, target, &body, options.dry_run).await?);
    }
    if !target.kind.stored || target.sub == Some(Subresource::Binding) {
        return bind(shared, target, &body, options).await;
    }
    let decoded = decode::object(target.kind, &body, options.strictness)?;
    let written = write::create(shared, decoded.object, target.namespace.as_deref(), options.dry_run).await?;
    Ok(written_answer(StatusCode::CREATED, written, decoded.warnings))
}

async fn bind(shared: &Shared, target: &Target, body: &[u8], options: WriteOptions) -> Result<Response, Fault> {
    let row = coracle_api::Kind::by_kind("Binding").ok_or_else(answer::no_such_path)?;
    let mut object = decode::object(row, body, options.strictness)?.object;
    let meta = object.meta_mut();
    let differs =
        |own: Option<&str>, path: Option<&str>| matches!((own, path), (Some(o), Some(p)) if !o.is_empty() && o != p);
    if differs(meta.name.as_deref(), target.name.as_deref())
        || differs(meta.namespace.as_deref(), target.namespace.as_deref())
    {
        return Err(ApiError::bad_request("the binding's name and namespace must be those of the URL").into());
    }
    if let Some(name) = &target.name {
        meta.name = Some(name.clone());
    }
    meta.namespace = Some(target.namespace.clone().or(meta.namespace.take()).unwrap_or_else(|| "default".into()));
    if !options.dry_run {
        binding::bind(&shared.registry, &*object, shared.registry.now_s()).await?;
    }
    Ok(answer::success(StatusCode::CREATED, target.kind.plural, object.name(), ""))
}

async fn replace(shared: &Shared, target: &Target, request: Request) -> Result<Response, Fault> {
    let options = WriteOptions::of(&request.query)?;
    let body = limits::read_body(request.body, &shared.limits).await?;
    let body = decode::to_json(&request.headers, body).await?;
    if target.sub == Some(Subresource::Scale) {
        let scale = serde_json::from_slice(&body)
            .map_err(|e| ApiError::bad_request(format!("the body is not a Scale: {e}")))?;
        let written = scale::change(shared, target, scale::Change::Replace(&scale), options).await?;
        return Ok(written_answer(StatusCode::OK, written, Vec::new()));
    }
    let decoded = decode::object(target.kind, &body, options.strictness)?;
    let written = write::replace(shared, decoded.object, target, part(target), options.dry_run).await?;
    Ok(written_answer(StatusCode::OK, written, decoded.warnings))
}

async fn patch(shared: &Shared, target: &Target, request: Request) -> Result<Response, Fault> {
    let options = WriteOptions::of(&request.query)?;
    let body = limits::read_body(request.body, &shared.limits).await?;
    let patch = Patch::parse(&request.headers, &body)?;
    let written = match target.sub {
        Some(Subresource::Scale) => scale::change(shared, target, scale::Change::Patch(&patch), options).await?,
        _ => write::patch(shared, &patch, target, part(target), options).await?,
    };
    Ok(written_answer(StatusCode::OK, written, Vec::new()))
}

fn part(target: &Target) -> Part {
    if target.sub == Some(Subresource::Status) { Part::Status } else { Part::Main }
}

fn written_answer(code: StatusCode, written: Written, mut warnings: Vec<String>) -> Response {
    warnings.extend(written.warnings);
    answer::warn(answer::json(code, written.json), &warnings)
}
