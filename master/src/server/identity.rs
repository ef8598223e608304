//! Who asks. Today the loopback operator; tokens and certificates slot in here, and handlers
//! already receive what they yield.
//!
//! Invariant: no request reaches a handler without an [`Identity`], and none that a web page made
//! a browser send.

use std::net::{IpAddr, SocketAddr};

use coracle_api::{ApiError, error::Reason};
use http::{HeaderMap, header};

/// The authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The name that logs show.
    pub(crate) name: &'static str,
}

/// What the listener knows about a connection, and the request's own idea of its target.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// `Host` or `:authority`.
    pub(crate) authority: Option<String>,
}

/// Identifies the caller. `listen` is the host part of the address served, as configured.
pub(crate) fn authenticate(caller: &Caller, headers: &HeaderMap, listen: &str) -> Result<Identity, ApiError> {
    if !is_loopback(caller.peer.ip()) {
        let message = format!("no credentials: only callers on the master's own host are known, not {}", caller.peer);
        return Err(ApiError::new(Reason::Unauthorized, message));
    }
    let authority = caller.authority.as_deref();
    // A DNS name in Host that is not ours is how a rebound name of a web page looks.
    if let Some(authority) = authority
        && !is_own_host(host_of(authority), listen)
    {
        return Err(forbidden(format!("the host '{authority}' is not served here: use the master's IP address")));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let same = origin.split_once("://").is_some_and(|(_, host)| Some(host) == authority);
        if !same {
            return Err(forbidden(format!("requests of web pages from '{origin}' are not accepted")));
        }
    }
    Ok(Identity { name: "loopback-operator" })
}

/// Whether the address is this host's own, also when mapped into IPv6.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn forbidden(message: String) -> ApiError {
    ApiError::new(Reason::Forbidden, message)
}

/// The host of `host:port`, without the brackets of IPv6.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_own_host(host: &str, listen: &str) -> bool {
    host.is_empty()
        || host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.eq_ignore_ascii_case(listen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, authority: Option<&str>, origin: Option<&str>, expected: Result<(), u16>) {
        let caller = Caller { peer: peer.parse().unwrap(), authority: authority.map(str::to_owned) };
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let found = authenticate(&caller, &headers, "master.local").map(drop).map_err(|e| e.code());
        assert_eq!(found, expected, "{peer} {authority:?} {origin:?}");
    }

    #[test]
    fn only_callers_on_this_host_are_known() {
        check("127.0.0.1:5", Some("127.0.0.1:8080"), None, Ok(()));
        check("127.8.8.8:5", None, None, Ok(()));
        check("[::1]:5", Some("[::1]:8080"), None, Ok(()));
        check("[::ffff:127.0.0.1]:5", None, None, Ok(()));
        check("192.0.2.7:5", Some("127.0.0.1"), None, Err(401));
        check("[2001:db8::1]:5", None, None, Err(401));
    }

    #[test]
    fn rebound_names_and_foreign_pages_are_refused() {
        check("127.0.0.1:5", Some("localhost:8080"), None, Ok(()));
        check("127.0.0.1:5", Some("MASTER.local:8080"), None, Ok(()));
        check("127.0.0.1:5", Some("evil.example:8080"), None, Err(403));
        check("127.0.0.1:5", Some("127.0.0.1.evil.example"), None, Err(403));
        check("127.0.0.1:5", Some("localhost:8080"), Some("http://localhost:8080"), Ok(()));
        check("127.0.0.1:5", Some("localhost:8080"), Some("http://localhost:9"), Err(403));
        check("127.0.0.1:5", Some("localhost:8080"), Some("https://evil.example"), Err(403));
        check("127.0.0.1:5", Some("localhost:8080"), Some("null"), Err(403));
        check("127.0.0.1:5", None, Some("http://localhost:8080"), Err(403));
    }
}
