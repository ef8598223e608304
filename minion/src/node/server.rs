//! What the master may ask of this minion on the tunnel:
//!
//! ```text
//! GET  /logs/NAMESPACE/POD/CONTAINER?uid=&follow=&tailLines=&timestamps=&sinceSeconds=&sinceTime=&previous=&limitBytes=
//! POST /exec/NAMESPACE/POD/CONTAINER?uid=&command=..&command=..&stdin=&stdout=&stderr=&tty=
//! ```
//!
//! Errors are `Status` objects with their code. The master has checked who asks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::error::{ApiError, Reason};
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::exec_stream::{self, Protocol};
use crate::{
    pods::{FindError, PodQuery},
    runtime::{ContainerId, ExecQuery, LogQuery, Runtime, RuntimeError},
};

/// Starting a command or opening a log; the engine has its own limits inside this one.
const START_LIMIT: Duration = Duration::from_secs(150);
/// Arguments of a command, and bytes of a query.
const QUERY_BYTES_MAX: usize = 64 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body that is whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// Finds the engine's container for a query.
pub type Finder = Arc<dyn Fn(&PodQuery) -> Result<ContainerId, FindError> + Send + Sync>;

/// Answers the master's requests.
pub struct NodeServer<R> {
    runtime: Arc<R>,
    find: Finder,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl<R> std::fmt::Debug for NodeServer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeServer").finish_non_exhaustive()
    }
}

impl<R: Runtime> NodeServer<R> {
    /// A server on `runtime`; sessions run in `tasks` and end with `shutdown`.
    pub fn new(runtime: Arc<R>, find: Finder, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { runtime, find, tasks, shutdown }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = match tokio::time::timeout(START_LIMIT, self.route(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::new(Reason::Timeout, "the Docker engine of this minion is too slow")),
        };
        answer.unwrap_or_else(|e| error_response(&e))
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let query = request.uri().query().unwrap_or_default();
        if query.len() > QUERY_BYTES_MAX {
            return Err(ApiError::bad_request("the query is too long"));
        }
        let query = Query::parse(query);
        let segments: Vec<String> = request.uri().path().split('/').skip(1).map(decode_percent).collect();
        let [what, namespace, pod, container] = segments.as_slice() else {
            return Err(ApiError::new(Reason::NotFound, "a minion serves /logs and /exec"));
        };
        let target = PodQuery {
            namespace: namespace.clone(),
            pod: pod.clone(),
            uid: query.get("uid").map(str::to_owned),
            container: container.clone(),
            previous: query.flag("previous"),
        };
        match (request.method(), what.as_str()) {
            (&Method::GET, "logs") => self.logs(&target, &query).await,
            (&Method::POST, "exec") => self.exec(&target, &query, request).await,
            _ => Err(ApiError::new(Reason::NotFound, "a minion serves GET /logs and POST /exec")),
        }
    }

    fn find(&self, target: &PodQuery) -> Result<ContainerId, ApiError> {
        (self.find)(target).map_err(|e| match e {
            FindError::NotFound(text) => ApiError::new(Reason::NotFound, text),
            FindError::BadRequest(text) => ApiError::bad_request(text),
        })
    }

    async fn logs(&self, target: &PodQuery, query: &Query) -> Result<Response<Body>, ApiError> {
        let log_query = log_query(query, Timestamp::now())?;
        let limit = query.number("limitBytes")?.unwrap_or(u64::MAX);
        let log = self.runtime.logs(&self.find(target)?, &log_query).await.map_err(|e| runtime_error(&e))?;
        let body = cut(log, limit, self.shutdown.clone()).map(|bytes| Ok(Frame::data(bytes)));
        Ok(response(StatusCode::OK, "text/plain", StreamBody::new(body).boxed_unsync()))
    }

    async fn exec(
        &self,
        target: &PodQuery,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ApiError> {
        let protocol = request.headers().get("upgrade-protocol").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let protocol = Protocol::parse(protocol).ok_or_else(|| {
            ApiError::bad_request(format!("'{protocol}' is not spoken here; {} are", Protocol::NAMES.join(" and ")))
        })?;
        let exec = exec_query(query)?;
        let session = self.runtime.exec_session(&self.find(target)?, &exec).await.map_err(|e| runtime_error(&e))?;
        let body = exec_stream::start(session, protocol, request.into_body(), &self.tasks, self.shutdown.clone());
        Ok(response(StatusCode::OK, "application/octet-stream", body))
    }
}

/// At most `limit` bytes of a log, until `shutdown`.
fn cut(log: mpsc::Receiver<Bytes>, limit: u64, shutdown: CancellationToken) -> impl stream::Stream<Item = Bytes> {
    stream::unfold((log, limit, shutdown), |(mut log, left, shutdown)| async move {
        if left == 0 {
            return None;
        }
        // Cancel-safe: a receiver keeps what it has not yielded.
        let mut piece = tokio::select! {
            () = shutdown.cancelled() => return None,
            piece = log.recv() => piece?,
        };
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - piece.len() as u64;
        Some((piece, (log, left, shutdown)))
    })
}

fn log_query(query: &Query, now: Timestamp) -> Result<LogQuery, ApiError> {
    let since = query.number("sinceSeconds")?.map(|seconds| {
        let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
    });
    let at = |text: &str| {
        text.parse().map_err(|_| ApiError::bad_request(format!("sinceTime: '{text}' is not a time such as {now}")))
    };
    Ok(LogQuery {
        follow: query.flag("follow"),
        tail: query.number("tailLines")?,
        since: since.or(query.get("sinceTime").map(at).transpose()?),
        timestamps: query.flag("timestamps"),
    })
}

fn exec_query(query: &Query) -> Result<ExecQuery, ApiError> {
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least one 'command' to run"));
    }
    Ok(ExecQuery { command, stdin: query.flag("stdin"), tty: query.flag("tty") })
}

fn runtime_error(error: &RuntimeError) -> ApiError {
    match error {
        RuntimeError::NotFound(_) => ApiError::new(Reason::NotFound, error.to_string()),
        // The engine's refusals are about the request: not running, no such program.
        RuntimeError::Refused(_) => ApiError::bad_request(error.to_string()),
        RuntimeError::Timeout { .. } => ApiError::new(Reason::Timeout, error.to_string()),
        RuntimeError::Unreachable { .. } => ApiError::unavailable(error.to_string()),
        _ => ApiError::internal(error),
    }
}

fn error_response(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // A Status holds strings and numbers: writing it cannot fail.
    let body = serde_json::to_vec(&error.to_status()).unwrap_or_default();
    response(code, "application/json", Full::from(body).map_err(|never| match never {}).boxed_unsync())
}

fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// The pairs of a query, decoded, in order.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key), decode_form(value))
        };
        Self(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value that is not empty.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        let number = |text: &str| {
            text.parse().map_err(|_| ApiError::bad_request(format!("{key}: '{text}' is not a number of 0 or more")))
        };
        self.get(key).map(number).transpose()
    }
}

/// In a query a plus stands for a space.
fn decode_form(text: &str) -> String {
    decode_percent(&text.replace('+', " "))
}

fn decode_percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_keeps_order_and_decodes_both_ways_of_writing_a_space() {
        let query = Query::parse("command=sh&command=-c&command=a%20b+c%2Bd%26&tty=true&stdin=&x=%zz");
        let exec = exec_query(&query).unwrap();
        assert_eq!(exec.command, ["sh", "-c", "a b c+d&"]);
        assert!(exec.tty && !exec.stdin);
        assert_eq!(query.get("x"), Some("%zz"), "what is not an escape stays");
    }

    #[test]
    fn a_command_must_be_given() {
        assert_eq!(exec_query(&Query::parse("tty=true")).unwrap_err().code(), 400);
    }

    #[test]
    fn log_options_are_checked() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let query = log_query(&Query::parse("follow=true&tailLines=5&sinceSeconds=60&timestamps=1"), now).unwrap();
        assert!(query.follow && query.timestamps);
        assert_eq!(query.tail, Some(5));
        assert_eq!(query.since, Some("2026-11-23T09:59:00Z".parse().unwrap()));
        let at = log_query(&Query::parse("sinceTime=2026-11-23T08%3A00%3A00%2B01%3A00"), now).unwrap();
        assert_eq!(at.since, Some("2026-11-23T07:00:00Z".parse().unwrap()));
        for wrong in ["tailLines=-1", "sinceSeconds=soon", "sinceTime=yesterday"] {
            assert_eq!(log_query(&Query::parse(wrong), now).unwrap_err().code(), 400, "{wrong}");
        }
        let ancient = log_query(&Query::parse(&format!("sinceSeconds={}", u64::MAX)), now).unwrap();
        assert_eq!(ancient.since, Some(Timestamp::UNIX_EPOCH));
    }

    #[tokio::test]
    async fn a_log_is_cut_at_the_limit() {
        let (tx, rx) = mpsc::channel(8);
        for piece in ["abc", "def", "ghi"] {
            tx.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        }
        let pieces: Vec<Bytes> = cut(rx, 5, CancellationToken::new()).collect().await;
        assert_eq!(pieces.concat(), b"abcde");
    }

    #[test]
    fn errors_of_the_engine_have_the_code_of_what_a_caller_can_do() {
        for (error, code) in [
            (RuntimeError::NotFound("container x".into()), 404),
            (RuntimeError::Refused("container x is not running".into()), 400),
            (RuntimeError::Unreachable { socket: "s".into(), cause: "c".into() }, 503),
            (RuntimeError::Timeout { what: "w".into(), seconds: 1 }, 504),
        ] {
            assert_eq!(runtime_error(&error).code(), code);
        }
    }
}
