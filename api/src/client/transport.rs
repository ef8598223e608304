//! HTTP to the masters of one cluster: fail-over, bounded waits, `Status` errors decoded, bodies
//! streamed on request.
//!
//! All clones share whom they stick to: where one request fails, the others need not.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response, StatusCode, uri::PathAndQuery};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::{net::TcpStream, sync::watch, time::Instant};

use super::{
    ClientError, Dial, Unreached,
    dial::Dialer,
    link::{Failure, Link},
    round::{Outcome, Round},
};
use crate::error::ApiError;

/// A list of a million pods fits; a runaway answer does not fill the memory.
const BODY_BYTES_MAX: usize = 4 << 30;
/// A caller who gave up after so long without an answer had reason to: the next request goes to
/// another master.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection to the only master.
    pub connect: Duration,
    /// For a connection where there are other masters.
    pub connect_of_several: Duration,
    /// For the head of an answer. Longer than any grace period that a `v1beta1` delete waits for.
    pub answer: Duration,
    /// For the head of an answer where another master may be asked the same.
    pub answer_of_several: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            connect_of_several: Duration::from_secs(2),
            answer: Duration::from_secs(60),
            answer_of_several: Duration::from_secs(10),
        }
    }
}

/// Pooled connections to the masters of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    links: Arc<[Link]>,
    dial: Option<Arc<dyn Dial>>,
    /// Whom the requests go to first.
    current: watch::Sender<usize>,
    patience: Patience,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.links.iter().map(|link| &link.server)).finish()
    }
}

impl Transport {
    /// `servers`: one master, or several with commas between.
    pub(super) fn new(servers: &str, patience: Patience, dial: Option<Arc<dyn Dial>>) -> Result<Self, ClientError> {
        let several = servers.contains(',');
        let connect = if several { patience.connect_of_several } else { patience.connect };
        let mut links: Vec<Link> = Vec::new();
        for server in servers.split(',') {
            let dialer = match &dial {
                None => Dialer::tcp(connect),
                Some(dial) => Dialer::Given { dial: dial.clone(), limit: connect },
            };
            let link = Link::new(server, dialer)?;
            if !links.iter().any(|known| known.server == link.server) {
                links.push(link);
            }
        }
        Ok(Self { links: links.into(), dial, current: watch::Sender::new(0), patience })
    }

    /// The master that is asked first: `http://host:port`.
    pub fn server(&self) -> &str {
        &self.links[self.at()].server
    }

    /// The master that is asked first: `host:port`.
    pub fn authority(&self) -> &str {
        self.links[self.at()].authority.as_str()
    }

    /// One transport for each master, for what must reach every one of them.
    pub fn each(&self) -> Result<Vec<Transport>, ClientError> {
        self.links.iter().map(|link| Transport::new(&link.server, self.patience, self.dial.clone())).collect()
    }

    /// The index of the master that is asked first.
    pub(super) fn at(&self) -> usize {
        *self.current.borrow()
    }

    /// Sends a request and returns the response once its headers are here. An answer of 400 and
    /// above becomes [`ClientError::Api`].
    ///
    /// A master that can't be reached is passed over. One that does not answer, or answers that it
    /// can't now, is passed over where doing the request twice does no harm; otherwise, as for
    /// POST, [`ClientError::Unknown`] tells the caller to look.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.open_at(method, path, body).await.map(|(response, _)| response)
    }

    /// [`Transport::open`], with the index of the master that answered.
    pub(super) async fn open_at(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Response<Incoming>, usize), ClientError> {
        // The state of a request is kilobytes, and those who make one spend their lives waiting for a
        // reason to: they hold it only while it is under way.
        Box::pin(self.ask_around(method, path, body)).await
    }

    async fn ask_around(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Response<Incoming>, usize), ClientError> {
        let target: PathAndQuery = path.parse().map_err(|e| ClientError::protocol(path, e))?;
        let repeatable = matches!(method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE);
        let mut round = Round::new(self.links.len(), self.at(), repeatable);
        let (mut unreached, mut busy) = (Vec::new(), None);
        loop {
            let link = &self.links[round.at()];
            let limit = if round.may_go_on() { self.patience.answer_of_several } else { self.patience.answer };
            let (failure, outcome) = match self.ask(&round, &method, &target, body.clone(), limit).await {
                Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    busy = Some(self.error_of(path, response).await);
                    (None, Outcome::Busy)
                }
                Ok(response) => {
                    self.stick(&round, Outcome::Answered);
                    let bad = response.status().is_client_error() || response.status().is_server_error();
                    return if bad { Err(self.error_of(path, response).await) } else { Ok((response, round.at())) };
                }
                Err(failure @ Failure::NotSent(_)) => (Some(failure), Outcome::NotSent),
                Err(failure) => (Some(failure), Outcome::Lost),
            };
            self.stick(&round, outcome);
            if !round.next(outcome) {
                return Err(match failure {
                    Some(failure) if outcome == Outcome::Lost && !repeatable => ClientError::Unknown {
                        server: link.server.clone(),
                        request: format!("{method} {path}"),
                        cause: failure.to_string(),
                    },
                    // Who answered knows more than who did not.
                    failure => busy.unwrap_or_else(|| none_answered(path, link, failure, unreached)),
                });
            }
            if let Some(failure) = failure {
                tracing::debug!(master = link.server, cause = %failure, "no answer; asking the next master");
                unreached.push(Unreached { server: link.server.clone(), cause: failure.to_string() });
            }
        }
    }

    /// Asks one master. When the caller gives up waiting, the master is suspected.
    async fn ask(
        &self,
        round: &Round,
        method: &Method,
        path: &PathAndQuery,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let mut waiting = Waiting { transport: self, round, since: Instant::now(), answered: false };
        let answer = self.links[round.at()].send(method, path, body, limit).await;
        waiting.answered = true;
        answer
    }

    fn stick(&self, round: &Round, outcome: Outcome) {
        self.current.send_if_modified(|current| {
            let stuck = round.stick(*current, outcome);
            std::mem::replace(current, stuck) != stuck
        });
    }

    /// Says that a master keeps silent, or is behind: others are asked first.
    pub(super) fn avoid(&self, master: usize) {
        self.stick(&Round::new(self.links.len(), master, true), Outcome::Lost);
    }

    /// Returns when requests no longer go to this master first.
    pub(super) async fn left(&self, master: usize) {
        let mut current = self.current.subscribe();
        if current.wait_for(|current| *current != master).await.is_err() {
            // The sender is in `self`.
            std::future::pending().await
        }
    }

    /// Opens a bare connection to the first master that takes one, for protocols that are no plain
    /// requests. Returns it with the master's `host:port`.
    pub async fn connect(&self) -> Result<(TcpStream, String), ClientError> {
        let mut round = Round::new(self.links.len(), self.at(), false);
        let mut unreached = Vec::new();
        loop {
            let link = &self.links[round.at()];
            let several = self.links.len() > 1;
            let limit = if several { self.patience.connect_of_several } else { self.patience.connect };
            let failure = match tokio::time::timeout(limit, TcpStream::connect(link.authority.as_str())).await {
                Ok(Ok(stream)) => {
                    self.stick(&round, Outcome::Answered);
                    return Ok((stream, link.authority.to_string()));
                }
                Ok(Err(e)) => e.to_string(),
                Err(_) => Failure::Late(limit).to_string(),
            };
            self.stick(&round, Outcome::NotSent);
            if !round.next(Outcome::NotSent) {
                return Err(none_answered("", link, Some(Failure::NotSent(failure)), unreached));
            }
            unreached.push(Unreached { server: link.server.clone(), cause: failure });
        }
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

    async fn error_of(&self, path: &str, response: Response<Incoming>) -> ClientError {
        let status = response.status().as_u16();
        match tokio::time::timeout(self.patience.answer, self.collect(path, response.into_body())).await {
            Ok(Ok(body)) => ApiError::from_json(status, &body).into(),
            Ok(Err(e)) => e,
            Err(_) => ClientError::protocol(path, "the answer did not arrive whole"),
        }
    }
}

/// The error when the last master that may be asked gave no answer either.
fn none_answered(path: &str, link: &Link, last: Option<Failure>, mut unreached: Vec<Unreached>) -> ClientError {
    let server = link.server.clone();
    match last {
        Some(last) if !unreached.is_empty() => {
            unreached.push(Unreached { server, cause: last.to_string() });
            ClientError::NoMaster(unreached)
        }
        Some(Failure::NotSent(cause)) => ClientError::Connect { server, cause },
        Some(Failure::Late(limit)) => {
            ClientError::Timeout { server, path: path.to_owned(), seconds: limit.as_secs_f32().ceil() as u64 }
        }
        Some(Failure::Broken(cause)) => ClientError::protocol(path, cause),
        // Only a busy master leaves no failure, and its answer is what the caller gets.
        None => ClientError::protocol(path, "no answer"),
    }
}

/// A question that no answer has come to yet.
struct Waiting<'a> {
    transport: &'a Transport,
    round: &'a Round,
    since: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= SUSPECT_AFTER {
            self.transport.stick(self.round, Outcome::Lost);
        }
    }
}
