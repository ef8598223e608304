//! The connection on which a master reaches this minion. The minion opens it, as it opens all
//! its connections, and then serves HTTP/2 on it: nothing listens on a minion. Each master has its
//! own.

use std::{future::Future, sync::Arc, time::Duration};

use coracle_api::client::{Transport, encode};
use http::{
    Request, StatusCode,
    header::{CONNECTION, HOST, UPGRADE},
};
use http_body_util::Empty;
use hyper::{body::Bytes, rt::Executor, server::conn::http2, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Backoff, server::NodeServer};
use crate::runtime::Runtime;

/// The protocol asked for in `Upgrade`.
const PROTOCOL: &str = "coracle-tunnel";
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// A master that answers no ping for so long is gone, and so is the tunnel.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Logs and commands served at once.
const STREAMS_MAX: u32 = 256;
/// A tunnel that lasted so long was good: the next attempt is made at once.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("the master at {0} did not open the tunnel within {limit} s", limit = OPEN_LIMIT.as_secs())]
    Timeout(String),
    #[error("connecting to the master")]
    Connect(#[from] std::io::Error),
    #[error("talking to the master")]
    Http(#[from] hyper::Error),
    #[error("the master refused the tunnel: HTTP {0}")]
    Refused(StatusCode),
    #[error("the node's name can't be part of a path")]
    Name(#[from] http::Error),
}

/// Keeps a tunnel to one master open until cancelled.
pub async fn run<R: Runtime>(
    transport: Transport,
    node: String,
    server: Arc<NodeServer<R>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new();
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        let serving = async {
            let connection = open(&transport, &node).await?;
            tracing::debug!(master = transport.server(), "the tunnel is open");
            serve(connection, &server, &tasks).await
        };
        // Cancel-safe: dropping the connection is how it is closed.
        let ended = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = serving => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(master = transport.server(), %error, cause = std::error::Error::source(&error), "no tunnel");
        }
        if began.elapsed() > GOOD_AFTER {
            backoff = Backoff::new();
        }
        // Cancel-safe: neither arm holds anything.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

async fn open(transport: &Transport, node: &str) -> Result<Upgraded, TunnelError> {
    let opening = async {
        let stream = TcpStream::connect(transport.authority()).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(format!("/coracle/v1/nodes/{}/tunnel", encode(node)))
            .header(HOST, transport.authority())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, PROTOCOL)
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(TunnelError::Refused(response.status()));
            }
            Ok(hyper::upgrade::on(response).await?)
        };
        // The connection ends by itself with the upgrade; an error of it shows in the exchange.
        let (upgraded, _) = tokio::join!(exchange, connection.with_upgrades());
        upgraded
    };
    let late = || TunnelError::Timeout(transport.server().to_owned());
    tokio::time::timeout(OPEN_LIMIT, opening).await.map_err(|_| late())?
}

async fn serve<R: Runtime>(
    connection: Upgraded,
    server: &Arc<NodeServer<R>>,
    tasks: &TaskTracker,
) -> Result<(), TunnelError> {
    let service = service_fn(|request| {
        let server = Arc::clone(server);
        async move { Ok::<_, std::convert::Infallible>(server.handle(request).await) }
    });
    http2::Builder::new(Tracked(tasks.clone()))
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(connection, service)
        .await?;
    Ok(())
}

/// Spawns the connection's tasks where the minion's shutdown waits for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
