//! Who asks. Today that is told by where a connection comes from; tokens and certificates slot in
//! here, and handlers already receive what they yield.
//!
//! Invariant: no request reaches a handler without an [`Identity`], and none that a web page made
//! a browser send. An address that others reach is served only with a list of who may call.

use std::net::{IpAddr, SocketAddr};

use coracle_api::{ApiError, error::Reason};
use http::{HeaderMap, header};
use ipnet::IpNet;

/// The authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The name that logs show.
    pub(crate) name: &'static str,
}

/// Somebody on the master's own host.
const HOST_OPERATOR: Identity = Identity { name: "host-operator" };
/// Somebody on a network whose addresses may call.
const NETWORK_OPERATOR: Identity = Identity { name: "network-operator" };

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The caller's.
    pub peer: SocketAddr,
    /// The master's: the address that was called, also when all are listened on.
    pub local: IpAddr,
}

/// What the listener knows about a connection, and the request's own idea of its target.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) ends: Ends,
    /// `Host` or `:authority`.
    pub(crate) authority: Option<String>,
}

/// Who may call the master.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// The host part of the address served, as configured.
    listen: String,
    /// Besides this host.
    allowed: Vec<IpNet>,
}

impl Access {
    /// For a master that listens on `listen`. `None` when other hosts reach that and nobody said
    /// which of them may call.
    pub(crate) fn new(listen: IpAddr, allowed: &[IpNet]) -> Option<Self> {
        let safe = is_loopback(listen) || !allowed.is_empty();
        safe.then(|| Self { listen: listen.to_string(), allowed: allowed.to_vec() })
    }

    /// Who is at the other end of a connection, by its address.
    pub(crate) fn identify(&self, ends: Ends) -> Option<Identity> {
        let peer = ends.peer.ip().to_canonical();
        // A peer with the address that it called is on this host: the kernel takes none of its own
        // addresses from outside.
        if peer.is_loopback() || peer == ends.local.to_canonical() {
            return Some(HOST_OPERATOR);
        }
        self.allowed.iter().any(|range| range.contains(&peer)).then_some(NETWORK_OPERATOR)
    }

    /// Identifies the caller of a request.
    pub(crate) fn authenticate(&self, caller: &Caller, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let Some(identity) = self.identify(caller.ends) else {
            return Err(ApiError::new(Reason::Unauthorized, self.refusal(caller.ends.peer.ip().to_canonical())));
        };
        let authority = caller.authority.as_deref();
        // A DNS name in Host that is not ours is how a rebound name of a web page looks.
        if let Some(authority) = authority
            && !is_own_host(host_of(authority), &self.listen)
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
        Ok(identity)
    }

    fn refusal(&self, peer: IpAddr) -> String {
        if self.allowed.is_empty() {
            return format!("no credentials: only callers on the master's own host are known, not {peer}");
        }
        format!("no credentials: {peer} is in none of the ranges that the master's --allow-from names")
    }
}

/// Whether only this host reaches the address, also when mapped into IPv6.
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

    const RANGES: [&str; 2] = ["192.0.2.0/25", "2001:db8::/64"];

    fn caller(peer: &str, local: &str, authority: Option<&str>) -> Caller {
        let ends = Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() };
        Caller { ends, authority: authority.map(str::to_owned) }
    }

    fn check(peer: &str, authority: Option<&str>, origin: Option<&str>, expected: Result<(), u16>) {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        let access = Access { listen: "master.local".into(), allowed: Vec::new() };
        let found =
            access.authenticate(&caller(peer, "127.0.0.1", authority), &headers).map(drop).map_err(|e| e.code());
        assert_eq!(found, expected, "{peer} {authority:?} {origin:?}");
    }

    /// What a master that listens on `local` and lets [`RANGES`] call makes of a peer.
    fn check_open(local: &str, peer: &str, expected: Result<&str, u16>) {
        let access = Access::new(local.parse().unwrap(), &RANGES.map(|r| r.parse().unwrap())).unwrap();
        let found = access.authenticate(&caller(peer, local, Some("192.0.2.10:8080")), &HeaderMap::new());
        assert_eq!(found.map(|i| i.name).map_err(|e| e.code()), expected, "{peer} at {local}");
    }

    #[test]
    fn an_address_that_others_reach_needs_a_list_of_them() {
        let access = |listen: &str, allowed: &[IpNet]| Access::new(listen.parse().unwrap(), allowed).is_some();
        let range: [IpNet; 1] = ["192.0.2.0/24".parse().unwrap()];
        for listen in ["0.0.0.0", "::", "192.0.2.10", "::ffff:192.0.2.10", "2001:db8::1"] {
            assert!(!access(listen, &[]) && access(listen, &range), "{listen}");
        }
        for listen in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(access(listen, &[]), "{listen}");
        }
    }

    #[test]
    fn callers_in_the_ranges_and_on_this_host_are_known() {
        check_open("192.0.2.10", "127.0.0.1:5", Ok("host-operator"));
        check_open("192.0.2.10", "192.0.2.10:5", Ok("host-operator"));
        check_open("198.51.100.1", "198.51.100.1:5", Ok("host-operator"));
        check_open("192.0.2.10", "192.0.2.11:5", Ok("network-operator"));
        check_open("::ffff:192.0.2.10", "[::ffff:192.0.2.11]:5", Ok("network-operator"));
        check_open("2001:db8::1", "[2001:db8::2]:5", Ok("network-operator"));
        check_open("192.0.2.10", "192.0.2.128:5", Err(401));
        check_open("192.0.2.10", "10.244.1.7:5", Err(401));
        check_open("2001:db8::1", "[2001:db8:0:1::2]:5", Err(401));
    }

    #[test]
    fn who_may_call_may_still_not_be_a_web_page() {
        let access = Access::new("192.0.2.10".parse().unwrap(), &["192.0.2.0/24".parse().unwrap()]).unwrap();
        let from = |authority| caller("192.0.2.11:5", "192.0.2.10", Some(authority));
        let rebound = access.authenticate(&from("evil.example:8080"), &HeaderMap::new()).unwrap_err();
        assert_eq!(rebound.code(), 403);
        let origin = HeaderMap::from_iter([(header::ORIGIN, "https://evil.example".parse().unwrap())]);
        assert_eq!(access.authenticate(&from("192.0.2.10:8080"), &origin).unwrap_err().code(), 403);
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
