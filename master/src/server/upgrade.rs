//! Connections that leave HTTP: the request's side of `Upgrade`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};

use super::answer::{self, Response};

/// A client that asks for an upgrade and then does not take it.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a request asks to switch to `protocol`.
pub(crate) fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade") && has_token(headers, &header::UPGRADE, protocol)
}

/// The comma-separated tokens of a header, over all its lines.
pub(crate) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The bare connection, once the 101 has gone out. `None` when the client never took it.
pub(crate) async fn finish(connection: OnUpgrade) -> Option<Upgraded> {
    tokio::time::timeout(UPGRADE_TIMEOUT, connection).await.ok()?.ok()
}

/// The head of the answer that switches to `protocol`.
pub(crate) fn switching(protocol: &'static str) -> Response {
    let mut response = answer::text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_needs_both_headers_in_any_case() {
        let check = |connection: &str, protocol: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, connection.parse().unwrap());
            headers.insert(header::UPGRADE, protocol.parse().unwrap());
            assert_eq!(asks_for(&headers, "websocket"), expected, "{connection} {protocol}");
        };
        check("Upgrade", "websocket", true);
        check("keep-alive, upgrade", "h2c, WebSocket", true);
        check("keep-alive", "websocket", false);
        check("upgrade", "SPDY/3.1", false);
    }
}
