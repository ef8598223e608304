//! Which store a master has, as said on the command line.

use std::path::Path;

use coracle_master::{
    master::StoreConfig,
    store::{EtcdAccess, EtcdConfig},
};

use super::up::MASTER_DIR;
use crate::{
    args::StoreArgs,
    failure::{Failure, Outcome},
};

/// Reads the flags, and the file with the password if they name one.
pub(crate) fn store_config(args: &StoreArgs) -> Outcome<StoreConfig> {
    let misused = |text| Err(Failure::Usage(text));
    let flags = [
        ("--etcd-ca", args.etcd_ca.is_some()),
        ("--etcd-cert", args.etcd_cert.is_some()),
        ("--etcd-key", args.etcd_key.is_some()),
        ("--etcd-user", args.etcd_user.is_some()),
        ("--etcd-password-file", args.etcd_password_file.is_some()),
    ];
    match args.store.split_once("://") {
        None if args.store == "embedded" => match flags.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                misused(format!("{flag} is for --store etcd://HOST:PORT,..., and the store is embedded"))
            }
            None => Ok(StoreConfig::Embedded(args.data_dir.join(MASTER_DIR))),
        },
        Some(("etcd" | "etcds", _)) => {
            let access = EtcdAccess {
                ca: args.etcd_ca.clone(),
                certificate: args.etcd_cert.clone(),
                key: args.etcd_key.clone(),
                user: args.etcd_user.clone(),
                password: args.etcd_password_file.as_deref().map(password).transpose()?,
            };
            let config = EtcdConfig::parse(&args.store, access).map_err(|e| Failure::Usage(e.to_string()))?;
            Ok(StoreConfig::Etcd(config))
        }
        _ => misused(format!(
            "--store '{}' is no store: write embedded, etcd://HOST:PORT,... or, with TLS, etcds://HOST:PORT,...",
            args.store
        )),
    }
}

/// The first line of a file.
fn password(file: &Path) -> Outcome<String> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::Failed(format!("--etcd-password-file {}: {e}", file.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The store in words.
pub(crate) fn name_of(config: &StoreConfig, args: &StoreArgs) -> String {
    match config {
        StoreConfig::Embedded(dir) => dir.display().to_string(),
        StoreConfig::Etcd(_) => args.store.clone(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn config(line: &str) -> Result<StoreConfig, String> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            store: StoreArgs,
        }
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap();
        store_config(&line.store).map_err(|e| e.to_string())
    }

    #[test]
    fn the_store_is_embedded_unless_another_is_named() {
        let embedded = StoreConfig::Embedded("/d/master".into());
        assert_eq!(config("--data-dir /d"), Ok(embedded.clone()));
        assert_eq!(config("--data-dir /d --store embedded"), Ok(embedded));
        let Ok(StoreConfig::Etcd(etcd)) = config("--store etcds://a:1,b:2/x --etcd-ca /ca") else {
            panic!("it is an etcd store")
        };
        assert_eq!((etcd.endpoints, etcd.prefix), (vec!["a:1".to_owned(), "b:2".to_owned()], "/x".to_owned()));
    }

    #[test]
    fn the_password_comes_from_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let path = file.path().display();
        let Ok(StoreConfig::Etcd(etcd)) =
            config(&format!("--store etcd://a --etcd-user u --etcd-password-file {path}"))
        else {
            panic!("it is an etcd store")
        };
        assert_eq!(etcd.login.unwrap().password, "secret");
        let error = config("--store etcd://a --etcd-user u --etcd-password-file /not/there").unwrap_err();
        assert!(error.contains("--etcd-password-file /not/there"), "{error}");
    }

    #[test]
    fn what_is_no_store_is_told_with_what_is() {
        for (line, part) in [
            ("--store redis://a", "embedded, etcd://"),
            ("--store etcd", "embedded, etcd://"),
            ("--store etcd://a,a", "named twice"),
            ("--etcd-ca /ca", "--etcd-ca is for --store etcd"),
        ] {
            let error = config(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
