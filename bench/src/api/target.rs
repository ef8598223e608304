//! Where the load goes: a server's address, whether it speaks TLS, and what each request says to it.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};

use super::{args::Access, tls::Tls};

/// A server as its clients need it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The header lines of each request to it; they may hold a token.
    pub(crate) headers: String,
    /// How it is spoken to; `None`: without TLS.
    pub(super) tls: Option<Tls>,
}

impl Target {
    /// A server without TLS that does not ask who asks.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, headers: format!("Host: {address}\r\n"), tls: None }
    }

    /// The server of this machine at `http://HOST:PORT` or `https://HOST:PORT`. Fails also for files that can't be
    /// read, or hold something else.
    pub(super) fn at(url: &str, access: &Access) -> Result<Self> {
        let (secure, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => bail!("--url {url}: only http:// and https:// are measured"),
        };
        let host = rest.trim_end_matches('/');
        let mut found = host.to_socket_addrs().with_context(|| format!("--url {url}: expected HOST:PORT"))?;
        let address = found.find(|a| a.ip().is_loopback());
        let address = address.with_context(|| format!("--url {url}: only servers of this machine are measured"))?;
        let mut headers = format!("Host: {host}\r\n");
        if let Some(file) = &access.token_file {
            let token = token(file).with_context(|| format!("--token-file {}", file.display()))?;
            headers += &format!("Authorization: Bearer {token}\r\n");
        }
        if !secure {
            let about_tls = access.insecure || access.ca.is_some() || access.client_cert.is_some();
            ensure!(!about_tls, "--url {url}: --ca, --insecure and --client-cert need https://");
            return Ok(Self { address, headers, tls: None });
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let tls = Tls::new(name, access).with_context(|| format!("--url {url}"))?;
        Ok(Self { address, headers, tls: Some(tls) })
    }
}

fn token(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)?;
    let token = text.trim();
    ensure!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()), "expected a token and nothing else");
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> Access {
        Access { insecure: true, ..Access::default() }
    }

    fn refused(url: &str, access: &Access) -> String {
        format!("{:#}", Target::at(url, access).unwrap_err())
    }

    #[test]
    fn a_url_says_where_and_how() {
        for (url, access, port, headers, tls) in [
            ("http://127.0.0.1:8080/", Access::default(), 8080, "Host: 127.0.0.1:8080\r\n", false),
            ("https://127.0.0.1:6443", any(), 6443, "Host: 127.0.0.1:6443\r\n", true),
            ("https://[::1]:6443", any(), 6443, "Host: [::1]:6443\r\n", true),
        ] {
            let target = Target::at(url, &access).unwrap();
            assert_eq!((target.address.port(), target.headers.as_str()), (port, headers), "{url}");
            assert_eq!(target.tls.is_some(), tls, "{url}");
        }
    }

    #[test]
    fn what_is_missing_or_in_vain_is_named() {
        for (url, access, part) in [
            ("127.0.0.1:1", Access::default(), "only http:// and https://"),
            ("ftp://127.0.0.1:1", Access::default(), "only http:// and https://"),
            ("http://127.0.0.1", Access::default(), "HOST:PORT"),
            ("http://192.0.2.1:1", Access::default(), "only servers of this machine"),
            ("https://192.0.2.1:1", any(), "only servers of this machine"),
            ("https://127.0.0.1:1", Access::default(), "--ca FILE"),
            ("https://127.0.0.1:1", Access { ca: Some("/no/ca".into()), ..Access::default() }, "--ca /no/ca"),
            ("http://127.0.0.1:1", any(), "need https://"),
        ] {
            let error = refused(url, &access);
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn a_token_goes_with_every_request_and_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let access = Access { token_file: Some(file.clone()), ..Access::default() };
        let url = "http://127.0.0.1:1";
        assert!(refused(url, &access).contains("--token-file"), "no file");
        std::fs::write(&file, "abc.def\n").unwrap();
        let headers = Target::at(url, &access).unwrap().headers;
        assert_eq!(headers, "Host: 127.0.0.1:1\r\nAuthorization: Bearer abc.def\r\n");
        for bad in ["", "\n", "a\r\nX: y", "a b"] {
            std::fs::write(&file, bad).unwrap();
            assert!(refused(url, &access).contains("--token-file"), "{bad:?}");
        }
    }
}
