//! httpGet: one GET on a fresh connection. 200 to 399 is healthy, redirects are not followed.
//!
//! With `scheme: HTTPS` only the connection is made: this build speaks no TLS, and kubelets do not
//! verify certificates either.

use coracle_api::core::HTTPGetAction;
use http::{HeaderName, HeaderValue, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{ANSWER_BYTES_MAX, Question, Target};

/// A GET to be made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    host: String,
    port: u16,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

pub(super) fn question(get: &HTTPGetAction, target: &Target<'_>) -> Result<Question, String> {
    let (host, port) = (target.host(get.host.as_deref()), target.port(&get.port)?);
    if get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")) {
        return Ok(Question::Tcp { host, port });
    }
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut headers = Vec::new();
    for h in get.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&h.name).map_err(|_| format!("{:?} is not the name of a header", h.name))?;
        let value =
            HeaderValue::try_from(&h.value).map_err(|_| format!("{:?} is not the value of a header", h.value))?;
        headers.push((name, value));
    }
    Ok(Question::Http(Request { host, port, path, headers }))
}

pub(super) async fn get(request: &Request) -> Result<(), String> {
    let Request { host, port, path, headers } = request;
    let url = format!("http://{}:{port}{path}", if host.contains(':') { format!("[{host}]") } else { host.clone() });
    let failed = |e: &dyn std::fmt::Display| format!("GET {url}: {e}");
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    // Ends with the sender, which is dropped when this function ends.
    let connection = tokio::spawn(connection);
    let mut get = http::Request::get(path).body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    let own = get.headers_mut();
    let authority = HeaderValue::try_from(format!("{host}:{port}")).map_err(|e| failed(&e))?;
    own.insert(header::HOST, authority);
    own.insert(header::USER_AGENT, HeaderValue::from_static("coracle-probe"));
    own.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    for (name, value) in headers {
        own.insert(name, value.clone());
    }
    let response = sender.send_request(get).await.map_err(|e| failed(&e));
    let answer = match response {
        Ok(response) if (200..400).contains(&response.status().as_u16()) => Ok(()),
        Ok(response) => {
            let status = response.status().as_u16();
            let text = beginning(response.into_body()).await;
            Err(format!("GET {url} was answered with {status}: {text}"))
        }
        Err(e) => Err(e),
    };
    connection.abort();
    answer
}

/// As much of an answer as is told.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    bytes.truncate(ANSWER_BYTES_MAX);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
