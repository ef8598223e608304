//! `restore` and `store check`: work on a store that no master uses.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use coracle_master::{
    backup::{RestoreError, restore as restore_into},
    store::Store,
    verify::{Report, verify},
};

use super::{say, store::StoreChoice, up::MASTER_DIR};
use crate::{
    args::{RestoreArgs, StoreCheckArgs},
    output::Progress,
};

/// Fills an empty store from a backup.
pub(crate) async fn restore(args: RestoreArgs) -> Result<()> {
    let choice = StoreChoice::of(&args.store)?;
    if args.replace && !args.yes {
        bail!("--replace deletes every object in {} first: say --yes to do it", choice.display(&args.store.data_dir));
    }
    let file = &args.file;
    let open = || -> std::io::Result<Box<dyn Read>> { Ok(Box::new(BufReader::new(File::open(file)?))) };
    // Before a directory is made for nothing.
    drop(open().with_context(|| format!("{} can't be read", file.display()))?);
    let where_to = choice.display(&args.store.data_dir);
    let store = choice.open(&args.store.data_dir).await?;
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

/// Verifies the store of a master that is stopped, and every object in it.
pub(crate) async fn check(args: StoreCheckArgs) -> Result<()> {
    let dir = args.data_dir.join(MASTER_DIR);
    if !dir.is_dir() {
        bail!("{} holds no store: name the --data-dir of a master", args.data_dir.display());
    }
    let store = StoreChoice::Embedded.open(&args.data_dir).await?;
    let report = objects(&*store).await.with_context(|| format!("reading {}", dir.display()))?;
    tell(&report, &dir)
}

async fn objects(store: &dyn Store) -> Result<Report> {
    let loaded = store.load().await?.0;
    Ok(verify(loaded.items.into_iter().map(|item| (item.key, item.version, item.value))))
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
