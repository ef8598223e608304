//! Where etcd is and how to get in, from what a user typed.
//!
//! Pure: nothing here opens a file or a connection.

use std::{fmt, path::PathBuf};

/// Where the keys go if the address does not say.
pub(super) const PREFIX: &str = "/coracle";
/// etcd's port for clients.
const PORT: u16 = 2379;
/// Longer ones only make every key longer.
const PREFIX_MAX: usize = 128;

/// An etcd cluster and the place of our keys in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` of the members, in the order in which they are preferred. At least one.
    pub endpoints: Vec<String>,
    /// What all keys start with: a slash first, none last.
    pub prefix: String,
    /// Files for TLS, if it is spoken.
    pub tls: Option<EtcdTls>,
    /// Who to be, where etcd asks for it.
    pub login: Option<EtcdLogin>,
}

/// Files in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who vouches for the members.
    pub ca: PathBuf,
    /// Certificate and key that vouch for this master.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdLogin {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for EtcdLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What is typed beside the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdAccess {
    /// File of the CA's certificate.
    pub ca: Option<PathBuf>,
    /// File of this master's certificate.
    pub certificate: Option<PathBuf>,
    /// File of its key.
    pub key: Option<PathBuf>,
    /// Name of the user.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<String>,
}

/// Everything that is wrong with an address and its files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store {url}: {}", .mistakes.join("; "))]
pub struct EtcdConfigError {
    /// As typed.
    pub url: String,
    /// One sentence a mistake: what, and what it should be.
    pub mistakes: Vec<String>,
}

impl EtcdConfig {
    /// Reads `etcd://host:port,host:port/prefix`; `etcds` speaks TLS. Ports and the prefix may be
    /// left out.
    pub fn parse(url: &str, access: EtcdAccess) -> Result<Self, EtcdConfigError> {
        let mut mistakes = Vec::new();
        let (secure, rest) = match url.split_once("://") {
            Some(("etcd", rest)) => (false, rest),
            Some(("etcds", rest)) => (true, rest),
            _ => {
                let mistakes = vec!["it must be etcd://HOST:PORT,... or, with TLS, etcds://HOST:PORT,...".to_owned()];
                return Err(EtcdConfigError { url: url.to_owned(), mistakes });
            }
        };
        let (hosts, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let endpoints = endpoints(hosts, &mut mistakes);
        let prefix = prefix(path, &mut mistakes);
        let tls = tls(secure, &access, &mut mistakes);
        let login = match (access.user, access.password) {
            (Some(user), Some(password)) if !user.is_empty() => Some(EtcdLogin { user, password }),
            (None, None) => None,
            _ => {
                mistakes.push("a user needs a password and a password a user".to_owned());
                None
            }
        };
        if mistakes.is_empty() {
            Ok(Self { endpoints, prefix, tls, login })
        } else {
            Err(EtcdConfigError { url: url.to_owned(), mistakes })
        }
    }

    /// As in an address, without what is secret.
    pub(super) fn address(&self) -> String {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}{}", self.endpoints.join(","), self.prefix)
    }
}

fn endpoints(hosts: &str, mistakes: &mut Vec<String>) -> Vec<String> {
    let mut endpoints = Vec::new();
    for host in hosts.split(',') {
        match endpoint(host) {
            Ok(endpoint) if endpoints.contains(&endpoint) => mistakes.push(format!("{endpoint} is named twice")),
            Ok(endpoint) => endpoints.push(endpoint),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    endpoints
}

fn endpoint(typed: &str) -> Result<String, String> {
    if typed.contains('@') {
        return Err("user and password do not belong into the address, where everyone reads them".to_owned());
    }
    let bracket_end = typed.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match typed[bracket_end..].rfind(':') {
        Some(at) => (&typed[..bracket_end + at], Some(&typed[bracket_end + at + 1..])),
        None => (typed, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => PORT,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return Err(format!("{typed:?} has no port between 1 and 65535 behind its last colon")),
    };
    let name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    let valid = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && name(host),
    };
    if !valid {
        return Err(format!("{typed:?} is not HOST:PORT (an IPv6 address goes in brackets)"));
    }
    Ok(format!("{host}:{port}"))
}

fn prefix(path: &str, mistakes: &mut Vec<String>) -> String {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return PREFIX.to_owned();
    }
    let segment = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if path.len() > PREFIX_MAX || !path[1..].split('/').all(segment) {
        mistakes.push(format!(
            "the prefix {path:?} must be words of letters, digits, '-', '.' and '_' with one '/' before each, \
             {PREFIX_MAX} characters at most"
        ));
    }
    path.to_owned()
}

fn tls(secure: bool, access: &EtcdAccess, mistakes: &mut Vec<String>) -> Option<EtcdTls> {
    let client = match (&access.certificate, &access.key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        _ => {
            mistakes.push("a certificate needs its key and a key its certificate".to_owned());
            None
        }
    };
    match (&access.ca, secure) {
        (Some(ca), true) => Some(EtcdTls { ca: ca.clone(), client }),
        (None, true) => {
            mistakes.push("etcds needs the certificate of the CA that vouches for etcd's members".to_owned());
            None
        }
        (ca, false) => {
            if ca.is_some() || access.certificate.is_some() || access.key.is_some() {
                mistakes.push("certificates are of use with etcds:// only".to_owned());
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(url: &str) -> Result<EtcdConfig, EtcdConfigError> {
        EtcdConfig::parse(url, EtcdAccess::default())
    }

    #[test]
    fn addresses_are_read() {
        let check = |url: &str, endpoints: &[&str], prefix: &str| {
            let config = plain(url).unwrap();
            assert_eq!(config.endpoints, endpoints, "{url}");
            assert_eq!(config.prefix, prefix, "{url}");
        };
        check("etcd://10.0.0.1:2379", &["10.0.0.1:2379"], "/coracle");
        check("etcd://a,b:1/", &["a:2379", "b:1"], "/coracle");
        check("etcd://[::1]:7,[fe80::1]/x/y.z/", &["[::1]:7", "[fe80::1]:2379"], "/x/y.z");
    }

    #[test]
    fn mistakes_are_named_all_at_once() {
        let check = |url: &str, access: EtcdAccess, parts: &[&str]| {
            let error = EtcdConfig::parse(url, access).unwrap_err();
            assert_eq!(error.mistakes.len(), parts.len(), "{error}");
            for (mistake, part) in error.mistakes.iter().zip(parts) {
                assert!(mistake.contains(part), "{mistake:?} names {part:?}");
            }
        };
        let none = EtcdAccess::default;
        check("http://a", none(), &["etcds://"]);
        check("etcd://", none(), &["HOST:PORT"]);
        check("etcd://a,a:2379", none(), &["twice"]);
        check("etcd://u:p@a", none(), &["password"]);
        check("etcd://a:0,::1,b:x/a//b", none(), &["port", "brackets", "port", "prefix"]);
        check("etcd://a/\u{e9}", none(), &["prefix"]);
        check("etcds://a", none(), &["CA"]);
        check("etcd://a", EtcdAccess { ca: Some("ca".into()), ..none() }, &["etcds://"]);
        let access = EtcdAccess { ca: Some("ca".into()), key: Some("k".into()), user: Some("u".into()), ..none() };
        check("etcds://a", access, &["certificate", "password"]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let access = EtcdAccess { user: Some("u".into()), password: Some("geheim".into()), ..EtcdAccess::default() };
        let config = EtcdConfig::parse("etcd://a", access).unwrap();
        assert!(!format!("{config:?}").contains("geheim"));
        assert_eq!(config.address(), "etcd://a:2379/coracle");
    }

    proptest! {
        #[test]
        fn anything_may_be_typed(rest in "[a-z0-9:,/@\\[\\]. é-]{0,40}") {
            if let Ok(config) = plain(&format!("etcd://{rest}")) {
                prop_assert_eq!(plain(&config.address()), Ok(config));
            }
        }
    }
}
