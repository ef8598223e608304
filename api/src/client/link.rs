//! HTTP to one master: a pool of connections, and requests with a bounded wait.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Method, Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client as HyperClient,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Semaphore;

use super::{ClientError, dial::Dialer};

/// The port of a master whose address names none.
const DEFAULT_PORT: u16 = 8080;

/// Requests under way at once, each of which needs a connection; further ones wait.
const REQUESTS_MAX: usize = 128;

/// One master.
#[derive(Debug)]
pub(super) struct Link {
    http: HyperClient<Dialer, Full<Bytes>>,
    /// Places for requests that wait for the head of their answer.
    places: Semaphore,
    /// `http://host:port`
    pub(super) server: String,
    /// `host:port`
    pub(super) authority: Authority,
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection; the request never left.
    NotSent(String),
    /// The connection broke after the request may have left.
    Broken(String),
    /// No answer in this time.
    Late(Duration),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NotSent(cause) | Failure::Broken(cause) => f.write_str(cause),
            Failure::Late(limit) => write!(f, "no answer within {} s", limit.as_secs_f32()),
        }
    }
}

impl Link {
    /// A link to `server`: `http://host:port`, `host:port` or `host`.
    pub(super) fn new(server: &str, dialer: Dialer) -> Result<Self, ClientError> {
        let address = || ClientError::Address(server.to_owned());
        let rest = server.trim().trim_end_matches('/');
        let rest = rest.strip_prefix("http://").unwrap_or(rest);
        if rest.is_empty() || rest.contains('/') {
            return Err(address());
        }
        let authority: Authority = rest.parse().map_err(|_| address())?;
        let authority = match authority.port() {
            Some(_) => authority,
            // `host:` and `host:word` have no port that could be taken.
            None if authority.as_str() != authority.host() => return Err(address()),
            None => format!("{authority}:{DEFAULT_PORT}").parse().map_err(|_| address())?,
        };
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(dialer);
        Ok(Self { http, places: Semaphore::new(REQUESTS_MAX), server: format!("http://{authority}"), authority })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        method: &Method,
        path: &PathAndQuery,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let not_sent = |e: http::Error| Failure::NotSent(e.to_string());
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(path.clone());
        let mut request = Request::builder().method(method).uri(uri.build().map_err(not_sent)?);
        request = request.header("accept", "application/json");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default())).map_err(not_sent)?;
        let place = tokio::time::timeout(limit, self.places.acquire()).await;
        let _place = place.map_err(|_| Failure::NotSent("too many requests are under way".to_owned()))?;
        match tokio::time::timeout(limit, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) if e.is_connect() => Err(Failure::NotSent(innermost(&e))),
            Ok(Err(e)) => Err(Failure::Broken(innermost(&e))),
            Err(_) => Err(Failure::Late(limit)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let link = Link::new(text, Dialer::tcp(Duration::from_secs(1)));
        assert_eq!(link.ok().map(|l| l.server).as_deref(), expected, "{text}");
    }

    #[test]
    fn a_master_is_named_by_url_or_host() {
        check("http://127.0.0.1:8080", Some("http://127.0.0.1:8080"));
        check(" http://127.0.0.1:8080/ ", Some("http://127.0.0.1:8080"));
        check("m1:9", Some("http://m1:9"));
        check("m1", Some("http://m1:8080"));
        check("[::1]", Some("http://[::1]:8080"));
        for bad in ["", "http://", "https://a:1", "a:1/x", "a:", "a:b"] {
            check(bad, None);
        }
    }
}
