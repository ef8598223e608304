//! HTTP to one master: bounded waits, `Status` errors decoded, bodies streamed on request.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::error::{ApiError, Reason};

/// Waiting for response headers. Longer than any grace period that a `v1beta1` delete waits for.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A list of a million pods fits; a runaway answer does not fill the memory.
const BODY_BYTES_MAX: usize = 4 << 30;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The master answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No connection; retry, or check the address.
    #[error("cannot reach the master at {server}: {cause}")]
    Connect {
        /// The address tried.
        server: String,
        /// The innermost cause, such as "Connection refused".
        cause: String,
    },
    /// No answer in time; the outcome of a write is unknown.
    #[error("the master at {server} did not answer {path} within {seconds} s")]
    Timeout {
        /// The address.
        server: String,
        /// The request path.
        path: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection broke or the answer was not understood.
    #[error("talking to the master about {path}: {cause}")]
    Protocol {
        /// The request path.
        path: String,
        /// What went wrong.
        cause: String,
    },
    /// The configured address is not one.
    #[error("'{0}' is not the address of a master: expected http://HOST:PORT")]
    Address(String),
}

impl ClientError {
    pub(super) fn protocol(path: &str, cause: impl std::fmt::Display) -> Self {
        Self::Protocol { path: path.to_owned(), cause: cause.to_string() }
    }

    /// The API error, if the master answered with one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            ClientError::Api(e) => Some(e),
            _ => None,
        }
    }

    fn has_reason(&self, reason: Reason) -> bool {
        self.api().is_some_and(|e| e.reason == reason)
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.has_reason(Reason::NotFound)
    }

    /// The object changed since it was read: read again and retry.
    pub fn is_conflict(&self) -> bool {
        self.has_reason(Reason::Conflict)
    }

    /// The object exists already.
    pub fn is_already_exists(&self) -> bool {
        self.has_reason(Reason::AlreadyExists)
    }

    /// The watch position is too old: list again.
    pub fn is_expired(&self) -> bool {
        self.has_reason(Reason::Expired)
    }

    /// Whether the same request may succeed later without being changed.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Api(e) => matches!(
                e.reason,
                Reason::TooManyRequests | Reason::ServiceUnavailable | Reason::Timeout | Reason::InternalError
            ),
            ClientError::Address(_) => false,
            _ => true,
        }
    }
}

/// A pooled connection to one master. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport {
    http: HyperClient<HttpConnector, Full<Bytes>>,
    server: String,
    authority: String,
}

impl Transport {
    pub(super) fn new(server: &str) -> Result<Self, ClientError> {
        let address = || ClientError::Address(server.to_owned());
        let rest = server.trim().trim_end_matches('/');
        let rest = rest.strip_prefix("http://").unwrap_or(rest);
        if rest.is_empty() || rest.contains('/') {
            return Err(address());
        }
        let authority: http::uri::Authority = rest.parse().map_err(|_| address())?;
        let authority = match authority.port() {
            Some(_) => authority.to_string(),
            // `host:` and `host:word` have no port that could be taken.
            None if authority.as_str() != authority.host() => return Err(address()),
            None => format!("{authority}:8080"),
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(Duration::from_secs(15)));
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Ok(Self { http, server: format!("http://{authority}"), authority })
    }

    /// `http://host:port`
    pub fn server(&self) -> &str {
        &self.server
    }

    /// `host:port`
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends a request and returns the response once its headers are here. An answer of 400 and
    /// above becomes [`ClientError::Api`].
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        let uri: Uri = format!("{}{path}", self.server).parse().map_err(|e| ClientError::protocol(path, e))?;
        let mut request = Request::builder().method(method).uri(uri).header("accept", "application/json");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default())).map_err(|e| ClientError::protocol(path, e))?;
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, self.http.request(request))
            .await
            .map_err(|_| ClientError::Timeout {
                server: self.server.clone(),
                path: path.to_owned(),
                seconds: RESPONSE_TIMEOUT.as_secs(),
            })?
            .map_err(|e| self.transport_error(path, e))?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let body = self.collect(path, response.into_body()).await?;
            return Err(ApiError::from_json(status.as_u16(), &body).into());
        }
        Ok(response)
    }

    /// Sends a request and returns the whole body.
    pub async fn json(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, ClientError> {
        let response = self.open(method, path, body).await?;
        self.collect(path, response.into_body()).await
    }

    async fn collect(&self, path: &str, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        body.map(|b| b.to_bytes()).map_err(|e| ClientError::protocol(path, e))
    }

    fn transport_error(&self, path: &str, error: hyper_util::client::legacy::Error) -> ClientError {
        let connect = error.is_connect();
        let cause = innermost(&error);
        if connect {
            ClientError::Connect { server: self.server.clone(), cause }
        } else {
            ClientError::protocol(path, cause)
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
