//! Connections: accepted within a limit, served by one warp filter, drained when the server stops.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http::header;
use hyper::{body::Incoming as IncomingBody, service::service_fn, upgrade::OnUpgrade};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::Filter;

use super::{
    Shared,
    identity::{Caller, Ends},
    request::{self, Incoming},
};

/// All headers of a request together.
const HEADER_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// Requests in flight on one HTTP/2 connection.
const STREAMS_MAX: u32 = 1000;
/// Connections of callers that are not known: each gets its refusal, all together cost little.
const STRANGERS_MAX: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(5);
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where connections come from: the network, or a simulation of one.
pub trait Listen: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection. Cancel-safe: one that was not taken is there the next time.
    fn accept(&mut self) -> impl Future<Output = std::io::Result<(Self::Stream, Ends)>> + Send;

    /// Has the connection end when its peer takes no data for this long.
    fn limit_stalls(stream: &Self::Stream, stall_time: Duration) -> std::io::Result<()>;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> std::io::Result<(TcpStream, Ends)> {
        loop {
            let (stream, peer) = TcpListener::accept(self).await?;
            // Without an address of its own the connection is broken already.
            if let Ok(local) = stream.local_addr() {
                return Ok((stream, Ends { peer, local: local.ip() }));
            }
        }
    }

    /// By the kernel, which also asks a peer that is silent whether it is there.
    fn limit_stalls(stream: &TcpStream, stall_time: Duration) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let timeout = u32::try_from(stall_time.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_socket_keepalive(stream, true)?;
        rustix::net::sockopt::set_tcp_user_timeout(stream, timeout)?;
        Ok(())
    }
}

/// Accepts until `stop`, then lets open requests finish for the drain time at most.
pub(super) async fn serve<L: Listen>(mut listener: L, shared: Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(shared.limits.connections));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
    let mut backoff = ACCEPT_BACKOFF_MIN;
    let stop = shared.stop.clone();
    loop {
        // Cancel-safe: a place not used is given back, a connection not yet accepted stays queued.
        let next = stop.run_until_cancelled(async {
            let place = connections.clone().acquire_owned().await;
            (place, listener.accept().await)
        });
        let Some((place, accepted)) = next.await else { break };
        match accepted {
            Ok((stream, ends)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                let place = match shared.access.identify(ends) {
                    Some(_) => place.ok(),
                    None => strangers.clone().try_acquire_owned().ok(),
                };
                let Some(place) = place else { continue };
                let (shared, abort) = (shared.clone(), abort.clone());
                tasks.spawn(async move {
                    // Cancel-safe: aborting is what dropping the connection is for.
                    abort.run_until_cancelled(connection::<L>(stream, ends, shared)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Too many open files, mostly: others need time to close theirs.
                tracing::warn!(%error, "a connection could not be accepted");
                stop.run_until_cancelled(tokio::time::sleep(backoff)).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
    drop(listener);
    tasks.close();
    shared.tasks.close();
    let drained = tokio::time::timeout(shared.limits.drain_time, async {
        tasks.wait().await;
        shared.tasks.wait().await;
    });
    if drained.await.is_err() {
        tracing::info!(connections = tasks.len(), "connections did not finish in time and are closed");
        abort.cancel();
    }
}

async fn connection<L: Listen>(stream: L::Stream, ends: Ends, shared: Arc<Shared>) {
    let peer = ends.peer;
    if let Err(error) = L::limit_stalls(&stream, shared.limits.stall_time) {
        tracing::debug!(%peer, %error, "socket options");
    }
    let started = Arc::new(AtomicBool::new(false));
    let app = app(shared.clone());
    let service = {
        let started = started.clone();
        service_fn(move |mut request: http::Request<IncomingBody>| {
            started.store(true, Ordering::Relaxed);
            let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok().map(str::to_owned));
            let authority = request.uri().authority().map(ToString::to_string).or(host);
            request.extensions_mut().insert(Caller { ends, authority });
            tower_service::Service::call(&mut app.clone(), request)
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_time)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX);
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut first = pin!(tokio::time::sleep(shared.limits.header_time));
    let mut waiting = true;
    loop {
        // Cancel-safe: `serving` is polled on, the others hold nothing.
        tokio::select! {
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%peer, %error, "a connection broke");
                }
                return;
            }
            () = first.as_mut(), if waiting => {
                // Deciding between HTTP/1 and 2 has no time limit of its own.
                if !started.load(Ordering::Relaxed) {
                    tracing::debug!(%peer, "a connection sent no request in time");
                    return;
                }
                waiting = false;
            }
            () = shared.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                break;
            }
        }
    }
    // The caller bounds this.
    if let Err(error) = serving.await {
        tracing::debug!(%peer, %error, "a connection broke while draining");
    }
}

/// The one filter: everything about a request goes to [`request::handle`].
fn app(
    shared: Arc<Shared>,
) -> impl tower_service::Service<
    http::Request<IncomingBody>,
    Response = super::answer::Response,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let filter = warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Caller>())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query, headers, caller, upgrade, body| {
            let shared = shared.clone();
            let body = StreamExt::map(body, |part: Result<_, warp::Error>| part.map(whole));
            let path = path.as_str().to_owned();
            let incoming = Incoming { method, path, query, headers, caller, upgrade, body: Box::pin(body) };
            request::handle(shared, incoming)
        });
    warp::service(filter)
}

fn whole(mut part: impl Buf) -> Bytes {
    part.copy_to_bytes(part.remaining())
}
