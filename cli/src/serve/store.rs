//! Which store a master has, as said on the command line, and how it is opened.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use coracle_master::store::{EmbeddedStore, Store, StoreError};

use super::up::MASTER_DIR;
use crate::{
    args::StoreArgs,
    failure::{Failure, Outcome},
};

/// A store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    /// In the data directory.
    Embedded,
    /// In an etcd cluster.
    Etcd(EtcdChoice),
}

/// An etcd cluster, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdChoice {
    /// `etcd://H:P,H:P[/prefix]`, or `etcds://` for TLS.
    pub(crate) url: String,
    /// File of the CA's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// File of this master's certificate.
    pub(crate) cert: Option<PathBuf>,
    /// File of its key.
    pub(crate) key: Option<PathBuf>,
    /// Name of the user.
    pub(crate) user: Option<String>,
    /// File with the user's password.
    pub(crate) password_file: Option<PathBuf>,
}

impl StoreChoice {
    /// Reads the flags. Pure.
    pub(crate) fn of(args: &StoreArgs) -> Outcome<Self> {
        let misused = |text| Err(Failure::Usage(text));
        let access = [
            ("--etcd-ca", args.etcd_ca.is_some()),
            ("--etcd-cert", args.etcd_cert.is_some()),
            ("--etcd-key", args.etcd_key.is_some()),
            ("--etcd-user", args.etcd_user.is_some()),
            ("--etcd-password-file", args.etcd_password_file.is_some()),
        ];
        match args.store.split_once("://") {
            None if args.store == "embedded" => match access.iter().find(|(_, given)| *given) {
                Some((flag, _)) => {
                    misused(format!("{flag} is for --store etcd://HOST:PORT,..., and the store is embedded"))
                }
                None => Ok(Self::Embedded),
            },
            Some(("etcd" | "etcds", _)) => Ok(Self::Etcd(EtcdChoice {
                url: args.store.clone(),
                ca: args.etcd_ca.clone(),
                cert: args.etcd_cert.clone(),
                key: args.etcd_key.clone(),
                user: args.etcd_user.clone(),
                password_file: args.etcd_password_file.clone(),
            })),
            _ => misused(format!(
                "--store '{}' is no store: write embedded, etcd://HOST:PORT,... or, with TLS, etcds://HOST:PORT,...",
                args.store
            )),
        }
    }

    /// The store in words.
    pub(crate) fn display(&self, data_dir: &Path) -> String {
        match self {
            Self::Embedded => data_dir.join(MASTER_DIR).display().to_string(),
            Self::Etcd(etcd) => etcd.url.clone(),
        }
    }

    /// Opens it. An embedded one is made if there is none.
    pub(crate) async fn open(&self, data_dir: &Path) -> Result<Box<dyn Store>> {
        match self {
            Self::Embedded => match EmbeddedStore::open(&data_dir.join(MASTER_DIR)).await {
                Ok(store) => Ok(Box::new(store)),
                Err(e @ StoreError::Locked { .. }) => Err(e).context("it must be stopped first"),
                Err(e) => Err(e.into()),
            },
            Self::Etcd(etcd) => Err(etcd.unsupported()),
        }
    }
}

impl EtcdChoice {
    /// Why it can't be had.
    pub(crate) fn unsupported(&self) -> anyhow::Error {
        anyhow::anyhow!("--store {}: this build has no etcd store: use --store embedded", self.url)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn choice(line: &str) -> Result<StoreChoice, String> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            store: StoreArgs,
        }
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap();
        StoreChoice::of(&line.store).map_err(|e| e.to_string())
    }

    #[test]
    fn the_store_is_embedded_unless_another_is_named() {
        assert_eq!(choice(""), Ok(StoreChoice::Embedded));
        assert_eq!(choice("--store embedded"), Ok(StoreChoice::Embedded));
        let Ok(StoreChoice::Etcd(etcd)) = choice("--store etcds://a:1,b:2/x --etcd-ca /ca --etcd-user u") else {
            panic!("it is an etcd store")
        };
        assert_eq!((etcd.url.as_str(), etcd.user.as_deref()), ("etcds://a:1,b:2/x", Some("u")));
        assert_eq!(etcd.ca, Some("/ca".into()));
    }

    #[test]
    fn what_is_no_store_is_told_with_what_is() {
        for (line, part) in [
            ("--store redis://a", "embedded, etcd://"),
            ("--store etcd", "embedded, etcd://"),
            ("--etcd-ca /ca", "--etcd-ca is for --store etcd"),
        ] {
            let error = choice(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
