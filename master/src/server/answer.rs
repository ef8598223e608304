//! Responses: the one place where results and errors become HTTP.

use bytes::Bytes;
use coracle_api::{ApiError, error::Reason, kinds::KINDS};
use futures_util::Stream;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use warp::Reply;

/// What warp sends.
pub(crate) type Response = warp::reply::Response;

/// Bytes of one warning; the rest is cut.
const WARNING_BYTES_MAX: usize = 1000;
/// Warnings of one answer; a client shows them line by line.
const WARNINGS_MAX: usize = 32;

/// An error and the status code it goes out with, which is the reason's own nearly always.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    pub(crate) code: u16,
    pub(crate) error: ApiError,
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self { code: error.code(), error }
    }
}

/// A JSON document.
pub(crate) fn json(code: StatusCode, body: impl Into<Bytes>) -> Response {
    full(code, "application/json", body.into())
}

/// A value as JSON.
pub(crate) fn value(code: StatusCode, value: &impl Serialize) -> Response {
    // Values answered this way hold strings, numbers and string-keyed maps only.
    json(code, serde_json::to_vec(value).unwrap_or_default())
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response {
    full(code, "text/plain; charset=utf-8", body.into())
}

/// Any document.
pub(crate) fn full(code: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = http::Response::new(body).into_response();
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body that comes in parts.
pub(crate) fn stream<S>(content_type: &'static str, parts: S) -> Response
where
    S: Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
{
    let mut response = warp::reply::stream(parts).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Proxies between must not hold back the lines of a watch.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A `v1` Status of a failure.
pub(crate) fn fault(fault: &Fault) -> Response {
    let mut status = in_words_of_today(&fault.error).to_status();
    status.code = Some(i32::from(fault.code));
    with_retry(value(code_of(fault.code), &status), &fault.error)
}

/// Names the object as Kubernetes does now: by its resource, `pods "x" not found`, but by its kind where fields are at
/// fault, `Pod "x" is invalid`.
fn in_words_of_today(error: &ApiError) -> ApiError {
    let named = |name: &str| KINDS.iter().find(|kind| kind.error_name == name);
    let Some(kind) = error.kind.as_deref().and_then(named) else { return error.clone() };
    let word = if error.reason == Reason::Invalid { kind.kind } else { kind.plural };
    let rest = error.message.strip_prefix(kind.error_name).filter(|rest| rest.starts_with(" \""));
    let message = rest.map_or_else(|| error.message.clone(), |rest| format!("{word}{rest}"));
    ApiError { message, kind: Some(word.to_owned()), ..error.clone() }
}

/// Adds `Retry-After` where the error knows a time.
pub(crate) fn with_retry(mut response: Response, error: &ApiError) -> Response {
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The status code, 500 for what is none.
pub(crate) fn code_of(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A `v1` Status of a success about one object.
pub(crate) fn success(code: StatusCode, kind: &str, name: &str, uid: &str) -> Response {
    let details = serde_json::json!({ "name": name, "kind": kind, "uid": uid });
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
        "details": details,
    });
    value(code, &status)
}

/// 404 for a path that is none.
pub(crate) fn no_such_path() -> Fault {
    ApiError::new(Reason::NotFound, "the server could not find the requested resource").into()
}

/// 405 for a path that has other methods.
pub(crate) fn no_such_method() -> Fault {
    ApiError::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource").into()
}

/// Adds `Warning: 299 - "text"` headers (RFC 7234 §5.5), which kubectl and our own client print.
pub(crate) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for text in warnings.iter().take(WARNINGS_MAX) {
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{}\"", quoted(text))) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
    response
}

/// The inside of a quoted string: printable ASCII, quotes and backslashes escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
        if out.len() >= WARNING_BYTES_MAX {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_objects_as_clients_of_today_know_them() {
        let told = |error: ApiError| {
            let error = in_words_of_today(&error);
            (error.message, error.kind.unwrap_or_default())
        };
        let check = |error, message: &str, kind: &str| assert_eq!(told(error), (message.to_owned(), kind.to_owned()));
        check(ApiError::not_found("minion", "n1"), "nodes \"n1\" not found", "nodes");
        check(
            ApiError::already_exists("replicationController", "web"),
            "replicationcontrollers \"web\" already exists",
            "replicationcontrollers",
        );
        check(ApiError::invalid("pod", "a", Vec::new()), "Pod \"a\" is invalid: ", "Pod");
        check(ApiError::bad_request("pods are many").about("pod", "a"), "pods are many", "pods");
        check(ApiError::not_found("scale", "web"), "scale \"web\" not found", "scale");
    }

    #[test]
    fn warnings_are_quoted_and_never_break_the_header() {
        let warnings = ["field \"a\\b\"\r\nSet-Cookie: x".to_owned(), "x".repeat(5000)];
        let response = warn(text(StatusCode::OK, "ok"), &warnings);
        let sent: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
        assert_eq!(sent[0], "299 - \"field \\\"a\\\\b\\\"??Set-Cookie: x\"");
        assert!(sent[1].len() < 1100);
        assert!(response.headers().get("set-cookie").is_none());
    }

    #[test]
    fn a_fault_keeps_its_own_code() {
        let timeout = Fault { code: 408, error: ApiError::new(Reason::Timeout, "late") };
        assert_eq!(fault(&timeout).status(), 408);
        let busy = ApiError { retry_after_s: Some(1), ..ApiError::new(Reason::TooManyRequests, "busy") };
        let response = fault(&busy.into());
        assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    }
}
