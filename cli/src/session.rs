//! The cluster's masters, spoken to in JSON. Owns nothing but the connection; `Warning:` headers of every
//! answer go to stderr.

use bytes::Bytes;
use coracle_api::client::{Client, ClientError};
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

/// A list of a million pods fits; a runaway answer does not fill the memory.
const BODY_BYTES_MAX: usize = 4 << 30;

/// Where a master listens unless told otherwise.
pub(crate) const DEFAULT_MASTER: &str = "http://127.0.0.1:8080";

/// A connection to the masters of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    client: Client,
}

/// An answer with its HTTP status.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Session {
    /// A session with the masters at `servers`, several with commas between; connects on first use.
    pub(crate) fn new(servers: &str) -> Result<Self, ClientError> {
        Ok(Self { client: Client::new(servers)? })
    }

    /// The typed side of the same connection.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The master that is asked first: `http://host:port`
    pub(crate) fn server(&self) -> &str {
        self.client.transport().server()
    }

    /// Sends a request and hands out the body as it streams in.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, ClientError> {
        let body = body.map(|b| Bytes::from(b.to_string()));
        let response = self.client.transport().open(method, path, body).await?;
        for warning in warnings(response.headers()) {
            crate::output::note(&format!("Warning: {warning}"));
        }
        Ok(response)
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ClientError> {
        let response = self.open(method, path, body).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|e| protocol(path, e))?.to_bytes();
        Ok(Answer { status, body })
    }

    /// Sends a request and reads the answer as JSON.
    pub(crate) async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let answer = self.call(method, path, body).await?;
        serde_json::from_slice(&answer.body).map_err(|e| protocol(path, e))
    }

    /// Reads an object or a list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, None).await
    }

    /// Reads an object, or `None` where there is none.
    pub(crate) async fn get_opt(&self, path: &str) -> Result<Option<Value>, ClientError> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The connection broke or the answer was not understood.
pub(crate) fn protocol(path: &str, cause: impl std::fmt::Display) -> ClientError {
    ClientError::Protocol { path: path.to_owned(), cause: cause.to_string() }
}

/// The texts of `Warning:` headers (RFC 7234: `299 - "text"`).
fn warnings(headers: &HeaderMap) -> Vec<String> {
    headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()).map(warning_text).collect()
}

fn warning_text(header: &str) -> String {
    match header.split_once('"') {
        Some((_, rest)) => {
            let text = rest.rsplit_once('"').map_or(rest, |(text, _)| text);
            text.replace("\\\"", "\"").replace("\\\\", "\\")
        }
        None => header.to_owned(),
    }
}

/// `a=1&b=2` with values encoded; pairs with an empty value are left out. Starts with `?`.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| format!("{k}={}", coracle_api::client::encode(v)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_header_is_reduced_to_its_text() {
        assert_eq!(
            warning_text(r#"299 - "spec.hostNetwork: \"true\" is stored but not enforced""#),
            "spec.hostNetwork: \"true\" is stored but not enforced"
        );
        assert_eq!(warning_text("plain"), "plain");
    }

    #[test]
    fn a_query_leaves_out_what_is_empty_and_encodes_the_rest() {
        assert_eq!(query(&[("a", ""), ("b", "x=y,z")]), "?b=x%3Dy%2Cz");
        assert_eq!(query(&[("a", "")]), "");
    }
}
