//! resolv.conf: what it says, and what it says on this host.
//!
//! Pure but for [`HostFiles::read`]. Lines and words that mean nothing here are skipped, as the
//! resolvers do.

use std::{
    fmt,
    fs::File,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// A file that is larger is no resolv.conf.
const BYTES_MAX: u64 = 64 * 1024;

/// The contents of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Servers, in the order in which they are asked.
    pub nameservers: Vec<IpAddr>,
    /// Domains that short names are tried in.
    pub search: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a file. Of several search lists the last one counts.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                // An address with a zone names an interface of this host: of no use elsewhere.
                Some("nameserver") => {
                    parsed.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search" | "domain") => parsed.search = words.map(str::to_owned).collect(),
                Some("options") => parsed.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        parsed
    }
}

impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.nameservers {
            writeln!(f, "nameserver {server}")?;
        }
        for (key, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                writeln!(f, "{key} {}", words.join(" "))?;
            }
        }
        Ok(())
    }
}

/// Where this host says whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFiles {
    /// The file that programs read.
    pub resolv_conf: PathBuf,
    /// The one behind it, where that names only a stub of this host.
    pub behind_stub: PathBuf,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), behind_stub: "/run/systemd/resolve/resolv.conf".into() }
    }
}

impl HostFiles {
    /// The host's resolvers. Those behind a stub on loopback where they are known, since a pod can't
    /// reach the stub; otherwise as the file says. A file that is not there says nothing.
    pub fn read(&self) -> ResolvConf {
        let mut conf = read(&self.resolv_conf);
        if conf.nameservers.iter().all(IpAddr::is_loopback) {
            let behind = read(&self.behind_stub);
            if !behind.nameservers.is_empty() {
                conf.nameservers = behind.nameservers;
            }
            if conf.search.is_empty() {
                conf.search = behind.search;
            }
        }
        conf
    }
}

fn read(path: &Path) -> ResolvConf {
    let mut bytes = Vec::new();
    if let Err(error) = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)) {
        tracing::debug!(path = %path.display(), %error, "no resolvers are read from here");
    }
    ResolvConf::parse(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_resolvers_understand_is_read() {
        let text = "# by hand\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n nameserver 2001:db8::1 \nnameserver x\n\
                    domain a.example\nsearch b.example c.example\noptions edns0\noptions ndots:2\nsortlist 1.2.3.4\n";
        let expected = ResolvConf {
            nameservers: vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().unwrap()],
            search: vec!["b.example".into(), "c.example".into()],
            options: vec!["edns0".into(), "ndots:2".into()],
        };
        assert_eq!(ResolvConf::parse(text), expected);
        assert_eq!(ResolvConf::parse(&expected.to_string()), expected);
    }

    #[test]
    fn behind_a_stub_are_the_real_resolvers() {
        let dir = tempfile::tempdir().unwrap();
        let files = HostFiles { resolv_conf: dir.path().join("resolv.conf"), behind_stub: dir.path().join("behind") };
        assert_eq!(files.read(), ResolvConf::default(), "no file is no error");
        std::fs::write(&files.resolv_conf, "nameserver 127.0.0.53\nsearch corp.example\noptions edns0\n").unwrap();
        assert_eq!(files.read().nameservers, [IpAddr::from([127, 0, 0, 53])], "a stub is better than nothing");
        std::fs::write(&files.behind_stub, "nameserver 192.0.2.9\nsearch other.example\n").unwrap();
        let conf = files.read();
        assert_eq!(conf.nameservers, [IpAddr::from([192, 0, 2, 9])]);
        assert_eq!((conf.search, conf.options), (vec!["corp.example".to_owned()], vec!["edns0".to_owned()]));
        std::fs::write(&files.resolv_conf, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(files.read().nameservers, [IpAddr::from([192, 0, 2, 1])]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_means_the_same_written_out(text in "(nameserver|search|options|[ \\n:.0-9a-z#]){0,40}") {
            let conf = ResolvConf::parse(&text);
            prop_assert_eq!(ResolvConf::parse(&conf.to_string()), conf);
        }
    }
}
