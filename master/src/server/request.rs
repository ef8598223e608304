//! One request on its way in: everything a handler may need, after it was found to be allowed.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use coracle_api::{ApiError, error::Reason};
use futures_util::FutureExt;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Shared, absent,
    answer::{self, Fault, Response},
    backup, discovery,
    identity::{self, Caller},
    legacy, limits,
    limits::{BodyStream, URI_BYTES_MAX},
    nodes, objects,
    query::Query,
    router::{self, Edition, Route, Target, Unroutable},
    schedule, slices, tunnel,
};
use crate::store::Health;

/// A place among the requests in flight, for those that need one; streams take theirs with them.
pub(crate) type Permit = Option<OwnedSemaphorePermit>;

/// A request as warp hands it over.
pub(crate) struct Incoming {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) caller: Caller,
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) body: BodyStream,
}

/// What a handler works on.
pub(crate) struct Request {
    pub(crate) identity: identity::Identity,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) body: BodyStream,
}

/// Answers a request, whatever it is.
pub(crate) async fn handle(shared: Arc<Shared>, incoming: Incoming) -> Response {
    let started = Instant::now();
    let edition = edition_of(&incoming.path);
    let (route, query) = match routed(&shared, &incoming) {
        Ok(found) => found,
        Err(refusal) => {
            let response = refusal.answer(edition, &incoming.path);
            shared.metrics.answered("other", "", response.status().as_u16(), started.elapsed());
            return response;
        }
    };
    let (verb, kind) = labels(&route);
    let (method, path) = (incoming.method.clone(), incoming.path.clone());
    let Incoming { headers, caller, upgrade, body, .. } = incoming;
    let answered = async {
        let identity = shared.access.authenticate(&caller, &headers)?;
        dispatch(&shared, route, Request { identity, query, headers, upgrade, body }).await
    };
    // A panic is a bug; it costs one request, not the connection's others.
    let answered = AssertUnwindSafe(tokio::time::timeout(shared.limits.answer_time, answered)).catch_unwind().await;
    let response = match answered {
        Ok(Ok(Ok(response))) => with_health(&shared, response),
        Ok(Ok(Err(fault))) => Refusal::Fault(fault).answer(edition, &path),
        Ok(Err(_late)) => {
            let message = format!("{method} {path} took longer than {} s", shared.limits.answer_time.as_secs_f32());
            Refusal::Fault(ApiError::new(Reason::Timeout, message).into()).answer(edition, &path)
        }
        Err(_panic) => {
            tracing::error!(%method, path, "a request handler panicked");
            Refusal::Fault(ApiError::internal("the request could not be handled").into()).answer(edition, &path)
        }
    };
    shared.metrics.answered(verb, kind, response.status().as_u16(), started.elapsed());
    tracing::debug!(%method, path, code = response.status().as_u16(), "answered");
    response
}

/// What is known may be old while the store is away; who reads is told.
fn with_health(shared: &Shared, response: Response) -> Response {
    match &*shared.registry.health().borrow() {
        Health::Good => response,
        Health::Degraded { cause } => {
            answer::warn(response, &[format!("this is the last known state, and nothing can be written: {cause}")])
        }
    }
}

fn routed(shared: &Shared, incoming: &Incoming) -> Result<(Route, Query), Refusal> {
    if incoming.path.len() + incoming.query.len() > URI_BYTES_MAX {
        let message = format!("the path and query are longer than {URI_BYTES_MAX} bytes");
        return Err(Refusal::Fault(Fault { code: 414, error: ApiError::bad_request(message) }));
    }
    let length = incoming.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|n| n > limits::DRAIN_BYTES_MAX as u64) {
        return Err(Refusal::Fault(limits::too_large(&shared.limits).into()));
    }
    let query = Query::parse(&incoming.query).map_err(|e| Refusal::Fault(e.into()))?;
    let route = router::parse(&incoming.method, &incoming.path, &query).map_err(Refusal::Unroutable)?;
    Ok((route, query))
}

async fn dispatch(shared: &Arc<Shared>, route: Route, request: Request) -> Result<Response, Fault> {
    let permit = match &route {
        Route::Tunnel(_) | Route::Backup => Some(shared.in_flight.stream()?),
        Route::Objects(target) if target.is_long() => Some(shared.in_flight.stream()?),
        // Whether master and minions live must be told when there is most to do.
        Route::Health | Route::Ready | Route::Metrics | Route::Heartbeat(_) => None,
        _ => Some(shared.in_flight.request()?),
    };
    Ok(match route {
        Route::Objects(target) => return objects_of(shared, target, request, permit).await,
        Route::Heartbeat(node) => {
            let body = limits::read_body(request.body, &shared.limits).await?;
            nodes::heartbeat(shared, &node, &body)?
        }
        Route::Schedule => schedule::schedule(shared, request).await?,
        Route::Tunnel(node) => tunnel::open(shared, node, &request.headers, request.upgrade, permit)?,
        Route::Cluster => nodes::cluster(shared),
        Route::Backup => backup::backup(shared, permit),
        Route::Index => discovery::index(),
        Route::Health => answer::text(StatusCode::OK, "ok"),
        Route::Ready => discovery::ready(shared),
        Route::Version => discovery::version(),
        Route::Metrics => shared.metrics.page(shared),
        Route::Versions => discovery::versions(&request.headers),
        Route::Groups => discovery::groups(&request.headers),
        Route::Resources(edition) => discovery::resources(edition),
        Route::SlicesGroup => answer::value(StatusCode::OK, &discovery::slices_group()),
        Route::SlicesResources => discovery::slices_resources(),
        Route::Slices(asked) => slices::answer(shared, &asked, &request.query)?,
        Route::Schemas => discovery::schemas(),
        Route::Schema => discovery::schema(),
    })
}

async fn objects_of(shared: &Arc<Shared>, target: Target, request: Request, permit: Permit) -> Result<Response, Fault> {
    tracing::trace!(identity = request.identity.name, verb = target.verb.as_str(), kind = target.kind.plural);
    match target.edition {
        Edition::V1 => objects::answer(shared, &target, request, permit).await,
        Edition::V1beta1 => legacy::answer(shared, &target, request, permit).await,
    }
}

fn labels(route: &Route) -> (&'static str, &'static str) {
    match route {
        Route::Objects(target) => (target.verb.as_str(), target.kind.plural),
        Route::Heartbeat(_) => ("heartbeat", ""),
        Route::Tunnel(_) => ("tunnel", ""),
        Route::Backup => ("backup", ""),
        Route::Schedule => ("schedule", ""),
        Route::Slices(asked) => (if asked.name.is_some() { "get" } else { "list" }, slices::PLURAL),
        _ => ("page", ""),
    }
}

fn edition_of(path: &str) -> Edition {
    if path.starts_with("/api/v1beta1/") { Edition::V1beta1 } else { Edition::V1 }
}

/// Why a request got no answer of its own.
enum Refusal {
    Unroutable(Unroutable),
    Fault(Fault),
}

impl Refusal {
    fn answer(&self, edition: Edition, path: &str) -> Response {
        match (self, edition) {
            // Paths outside the APIs, and those of 2014, answer in plain text.
            (Refusal::Unroutable(Unroutable::NotFound(None | Some(Edition::V1beta1))), _) => {
                answer::text(StatusCode::NOT_FOUND, "404: Page Not Found")
            }
            (Refusal::Unroutable(Unroutable::Method(None | Some(Edition::V1beta1))), _) => {
                answer::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
            }
            (Refusal::Unroutable(Unroutable::NotFound(_)), _) => answer::fault(&absent::refusal(path).into()),
            (Refusal::Unroutable(Unroutable::Method(_)), _) => answer::fault(&answer::no_such_method()),
            (Refusal::Fault(fault), Edition::V1) => answer::fault(fault),
            (Refusal::Fault(fault), Edition::V1beta1) => legacy::fault(fault),
        }
    }
}
