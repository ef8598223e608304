//! What minions talk to the master about besides objects: the facts of the cluster, and that they
//! are alive.

use std::time::Duration;

use coracle_api::{ApiError, TypedObject, core::Node};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    answer::{self, Response},
};
use crate::{
    cluster::ClusterFacts,
    liveness::{self, Beat, Condition},
};

/// Bytes of a beat's sentence that are kept.
const MESSAGE_MAX: usize = 500;

/// How often a minion of a small cluster says that it is alive. Three missed beats make it lost.
pub(crate) const HEARTBEAT_MILLIS: u64 = 2000;

#[derive(Serialize)]
struct Cluster<'a> {
    #[serde(flatten)]
    facts: &'a ClusterFacts,
    #[serde(rename = "heartbeatMillis")]
    heartbeat_millis: u64,
    version: &'static str,
}

#[derive(Deserialize)]
struct Wire {
    ready: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// `GET /coracle/v1/cluster`
pub(crate) fn cluster(shared: &Shared) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let cluster = Cluster { facts: &shared.facts, heartbeat_millis: HEARTBEAT_MILLIS, version };
    answer::value(StatusCode::OK, &cluster)
}

/// What a minion hears in answer to a beat.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Heard {
    /// Milliseconds until the next one is due.
    next_millis: u64,
}

/// `PUT /coracle/v1/nodes/NAME/heartbeat`: 404 tells the minion to create its Node first.
pub(crate) fn heartbeat(shared: &Shared, node: &str, body: &[u8]) -> Result<Response, ApiError> {
    let wire: Wire =
        serde_json::from_slice(body).map_err(|e| ApiError::bad_request(format!("the body is not a heartbeat: {e}")))?;
    if shared.registry.get(Node::row(), "", node).is_none() {
        return Err(ApiError::not_found(Node::row().error_name, node));
    }
    let short = |text: String| text.chars().take(MESSAGE_MAX).collect();
    let condition = Condition { ready: wire.ready, reason: short(wire.reason), message: short(wire.message) };
    let minions = shared.registry.snapshot(Node::row()).entries.len();
    let next = liveness::interval(Duration::from_millis(HEARTBEAT_MILLIS), minions);
    shared.liveness.beat(node, Beat { at: tokio::time::Instant::now(), next, condition });
    let next_millis = u64::try_from(next.as_millis()).unwrap_or(HEARTBEAT_MILLIS);
    Ok(answer::value(StatusCode::OK, &Heard { next_millis }))
}
