//! The connections that minions opened for the master to reach them: HTTP/2 with the roles
//! reversed, one for each minion.
//!
//! Invariant: a minion has at most one tunnel here; a newer one replaces the older.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_api::{ApiError, error::Reason};
use http_body_util::{BodyExt, Limited, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{Shared, answer::Response, request::Permit, upgrade};

/// The protocol asked for in `Upgrade`.
const PROTOCOL: &str = "coracle-tunnel";
/// Waiting for a free stream on the tunnel.
const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// Waiting for the head of the minion's answer. Pulling a log off the engine can take a while.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A minion that answers no ping for so long twice is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes of an error that a minion sends.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// The body of a request through a tunnel.
pub(crate) type TunnelBody = BoxBody<Bytes, std::io::Error>;

/// All tunnels.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    open: Mutex<HashMap<String, Tunnel>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Tunnel {
    id: u64,
    sender: SendRequest<TunnelBody>,
}

impl Tunnels {
    fn put(&self, node: &str, sender: SendRequest<TunnelBody>) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(node.to_owned(), Tunnel { id, sender });
        id
    }

    /// Forgets a tunnel unless a newer one has taken its place.
    fn remove(&self, node: &str, id: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(node).is_some_and(|tunnel| tunnel.id == id) {
            open.remove(node);
        }
    }

    fn sender(&self, node: &str) -> Option<SendRequest<TunnelBody>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(node).map(|tunnel| tunnel.sender.clone())
    }

    /// Asks a minion. 503 when it has no tunnel, 504 when it does not answer; an error that it
    /// answers with is passed on.
    pub(crate) async fn request(
        &self,
        node: &str,
        request: http::Request<TunnelBody>,
    ) -> Result<http::Response<Incoming>, ApiError> {
        let unreachable = || ApiError::unavailable(format!("minion {node} has no connection to the master; try again"));
        let late = |what: &str| ApiError::new(Reason::Timeout, format!("minion {node} {what}; try again"));
        let mut sender = self.sender(node).ok_or_else(unreachable)?;
        match tokio::time::timeout(READY_TIMEOUT, sender.ready()).await {
            Err(_) => return Err(late("serves too many streams")),
            Ok(Err(_)) => return Err(unreachable()),
            Ok(Ok(())) => {}
        }
        let response = match tokio::time::timeout(HEAD_TIMEOUT, sender.send_request(request)).await {
            Err(_) => return Err(late("did not answer in time")),
            Ok(Err(error)) => {
                tracing::debug!(node, %error, "a request through the tunnel failed");
                return Err(unreachable());
            }
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = tokio::time::timeout(READY_TIMEOUT, Limited::new(response.into_body(), ERROR_BYTES_MAX).collect());
        let body = body.await.ok().and_then(Result::ok).map(|b| b.to_bytes()).unwrap_or_default();
        Err(ApiError::from_json(status.as_u16(), &body))
    }
}

/// Answers a minion that opens its tunnel.
pub(crate) fn open(
    shared: &Arc<Shared>,
    node: String,
    headers: &http::HeaderMap,
    connection: Option<OnUpgrade>,
    permit: Permit,
) -> Result<Response, ApiError> {
    let asked = upgrade::asks_for(headers, PROTOCOL);
    let Some(connection) = connection.filter(|_| asked) else {
        return Err(ApiError::bad_request(format!("this path is for minions: it needs 'Upgrade: {PROTOCOL}'")));
    };
    let serving = shared.clone();
    shared.tasks.spawn(async move {
        // Cancel-safe: dropping the connection closes it, and the minion opens another.
        let ended = serving.stop.run_until_cancelled(serve(&serving, &node, connection)).await;
        if let Some(Err(error)) = ended {
            tracing::debug!(node, %error, "a tunnel ended");
        }
        drop(permit);
    });
    Ok(upgrade::switching(PROTOCOL))
}

async fn serve(shared: &Shared, node: &str, connection: OnUpgrade) -> Result<(), hyper::Error> {
    let Some(io) = upgrade::finish(connection).await else { return Ok(()) };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake::<_, TunnelBody>(io)
        .await?;
    let id = shared.tunnels.put(node, sender);
    tracing::debug!(node, "the tunnel is open");
    let ended = connection.await;
    shared.tunnels.remove(node, id);
    ended
}
