//! `restore` and `store check`: work on a store that no master uses.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use coracle_master::{
    backup::{RestoreError, restore as restore_into},
    master::StoreConfig,
    store::{Store, StoreError, check as check_files},
    verify::{Report, Verifier},
};

use super::{
    say,
    store::{name_of, store_config},
    up::MASTER_DIR,
};
use crate::{
    args::{RestoreArgs, StoreCheckArgs},
    output::Progress,
};

/// Fills an empty store from a backup.
pub(crate) async fn restore(args: RestoreArgs) -> Result<()> {
    let config = store_config(&args.store)?;
    let where_to = name_of(&config, &args.store);
    if args.replace && !args.yes {
        bail!("--replace deletes every object in {where_to} first: say --yes to do it");
    }
    let file = &args.file;
    let open = || -> std::io::Result<Box<dyn Read>> { Ok(Box::new(BufReader::new(File::open(file)?))) };
    // Before a directory is made for nothing.
    drop(open().with_context(|| format!("{} can't be read", file.display()))?);
    let store = open_unused(&config).await?;
    let mut progress = Progress::new(&format!("restoring {} ...", file.display()));
    let restored = restore_into(&*store, open, args.replace, |n| progress.update(|| format!("restoring: {n} objects")));
    let restored = match restored.await {
        Err(RestoreError::NotEmpty(records)) => bail!(
            "{where_to} is not empty: it holds {records} records. Restore into another --data-dir, \
             or delete what is there with --replace --yes"
        ),
        restored => restored.with_context(|| format!("restoring {} into {where_to}", file.display()))?,
    };
    drop(progress);
    let header = restored.header;
    say(&format!(
        "restored {} objects of cluster {} as they were at {} (resourceVersion {}) into {where_to}",
        header.objects, header.cluster.cluster_id, header.time, header.resource_version
    ));
    if restored.replaced > 0 {
        say(&format!("{} records that were there before are deleted", restored.replaced));
    }
    if !restored.continues {
        say("restart every client that watched the old cluster: this store numbers its changes anew");
    }
    Ok(())
}

/// Opens a store that no master may use meanwhile. An embedded one is made if there is none.
async fn open_unused(config: &StoreConfig) -> Result<Arc<dyn Store>> {
    config.open().await.map_err(unopened)
}

/// The error of a store that can't be had, with its remedy.
fn unopened(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Locked { .. } => anyhow::anyhow!("{error}: stop that one first"),
        StoreError::Damaged { .. } => anyhow::anyhow!("{error}: move the directory away and restore a backup"),
        error => error.into(),
    }
}

/// Verifies the store of a master that is stopped, file by file, and every object in it.
pub(crate) async fn check(args: StoreCheckArgs) -> Result<()> {
    let dir = args.data_dir.join(MASTER_DIR);
    if !dir.is_dir() {
        bail!("{} holds no store: name the --data-dir of a master", args.data_dir.display());
    }
    let mut verifier = Verifier::default();
    let files = check_files(&dir, |key, version, value| verifier.take(key, version, value)).map_err(unopened)?;
    say(&format!(
        "{}: {} files, {} bytes ({} of them garbage), {} frames, {} records; all whole; resourceVersion {}",
        dir.display(),
        files.segments,
        files.bytes,
        files.garbage_bytes,
        files.frames,
        files.records,
        files.version
    ));
    if files.torn_bytes > 0 {
        say(&format!(
            "a crash cut the last write short; its {} bytes were not acknowledged and go with the next start",
            files.torn_bytes
        ));
    }
    tell(&verifier.finish(), &dir)
}

fn tell(report: &Report, dir: &Path) -> Result<()> {
    for problem in &report.problems {
        say(&format!("{}: {}", problem.key, problem.cause));
    }
    let found = format!("{} objects, {} claims", report.objects, report.claims);
    match report.problems_found {
        0 => {
            say(&format!("{} is in order: {found}", dir.display()));
            Ok(())
        }
        n => bail!("{n} problems in {} ({found} are in order): restore a backup with --replace --yes", dir.display()),
    }
}
