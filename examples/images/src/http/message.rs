//! Requests as they arrive and responses as they leave; no I/O here.

use crate::frame::{Frame, Malformed};

const HEAD_BYTES_MAX: usize = 8 * 1024;
const BODY_BYTES_MAX: usize = 16 * 1024;

/// A request; of its headers only the body's length matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The body, empty when there is none.
    pub body: Vec<u8>,
}

impl Frame for Request {
    const BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;

    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        let Some(head_length) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() < HEAD_BYTES_MAX {
                Ok(None)
            } else {
                Err(Malformed("the request's head is too long"))
            };
        };
        let head = str::from_utf8(&bytes[..head_length]).map_err(|_| Malformed("the request's head is not text"))?;
        let mut lines = head.split("\r\n");
        let (method, path) = request_line(lines.next().unwrap_or_default())?;
        let body_length = body_length(lines)?;
        let body_start = head_length + 4;
        let end = body_start + body_length;
        let Some(body) = bytes.get(body_start..end) else { return Ok(None) };
        Ok(Some((Self { method, path, body: body.to_vec() }, end)))
    }
}

fn request_line(line: &str) -> Result<(String, String), Malformed> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed("the request line is not method, target and version"));
    };
    if method.is_empty() || !target.starts_with('/') || !version.starts_with("HTTP/1.") {
        return Err(Malformed("the request line is not HTTP/1.x with a path"));
    }
    let path = target.split('?').next().unwrap_or(target);
    Ok((method.to_owned(), path.to_owned()))
}

fn body_length<'a>(headers: impl Iterator<Item = &'a str>) -> Result<usize, Malformed> {
    let mut length = None;
    for header in headers {
        let (name, value) = header.split_once(':').ok_or(Malformed("a header has no colon"))?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Malformed("a body needs a Content-Length"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim().parse::<usize>().map_err(|_| Malformed("Content-Length is not a number"))?;
            if length.replace(value).is_some_and(|earlier| earlier != value) {
                return Err(Malformed("two values of Content-Length"));
            }
        }
    }
    match length.unwrap_or(0) {
        length if length > BODY_BYTES_MAX => Err(Malformed("the body is too long")),
        length => Ok(length),
    }
}

/// A response with its whole body.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    content_type: &'static str,
    location: Option<&'static str>,
    body: String,
}

impl Response {
    /// Plain text; a line end is added.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.into() + "\n")
    }

    /// A page.
    pub fn html(body: String) -> Self {
        Self::new(200, "text/html; charset=utf-8", body)
    }

    /// A JSON document.
    pub fn json(status: u16, body: String) -> Self {
        Self::new(status, "application/json", body + "\n")
    }

    /// Sends a browser to another path with GET, as after a form.
    pub fn see_other(path: &'static str) -> Self {
        Self { location: Some(path), ..Self::text(303, path) }
    }

    /// 405 where the path exists and 404 where it does not.
    pub fn refused(path_known: bool) -> Self {
        if path_known { Self::text(405, "method not allowed") } else { Self::text(404, "not found") }
    }

    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, location: None, body }
    }

    /// The response as sent; to HEAD it goes without its body.
    pub(super) fn encode(&self, with_body: bool) -> String {
        let Self { status, content_type, location, body } = self;
        let location = location.map(|path| format!("Location: {path}\r\n")).unwrap_or_default();
        format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{location}Connection: close\r\n\r\n{}",
            reason(*status),
            body.len(),
            if with_body { body } else { "" },
        )
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        303 => "See Other",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Result<Option<(&str, &str, &str)>, ()>) {
        let found = Request::decode(input.as_bytes());
        let found = found.map(|whole| whole.map(|(r, _)| (r.method, r.path, String::from_utf8(r.body).unwrap())));
        let expected = expected.map(|whole| whole.map(|(m, p, b)| (m.to_owned(), p.to_owned(), b.to_owned())));
        assert_eq!(found.map_err(|_| ()), expected, "{input:?}");
    }

    #[test]
    fn requests_are_whole_or_wait_for_more() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some(("GET", "/", ""))));
        check("GET /api/json?depth=1 HTTP/1.0\r\n\r\n", Ok(Some(("GET", "/api/json", ""))));
        check("POST /b HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcdef", Ok(Some(("POST", "/b", "abc"))));
        check("POST /b HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc", Ok(None));
        check("GET / HTTP/1.1\r\nHost", Ok(None));
        check("", Ok(None));
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        check("\r\n\r\n", Err(()));
        check("GET /\r\n\r\n", Err(()));
        check("GET a HTTP/1.1\r\n\r\n", Err(()));
        check("GET / SPDY/3\r\n\r\n", Err(()));
        check("GET / HTTP/1.1\r\nno colon\r\n\r\n", Err(()));
        check("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", Err(()));
        check("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", Err(()));
        check("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Err(()));
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Err(()));
        check(&"x".repeat(HEAD_BYTES_MAX), Err(()));
    }

    #[test]
    fn a_response_states_its_length_even_without_a_body() {
        let response = Response::text(404, "not found");
        assert!(response.encode(true).ends_with("\r\n\r\nnot found\n"));
        assert!(
            response.encode(false).contains("Content-Length: 10\r\n") && response.encode(false).ends_with("\r\n\r\n")
        );
        assert!(Response::see_other("/").encode(true).contains("303 See Other\r\n"));
    }
}
