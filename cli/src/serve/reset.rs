//! `reset`: removes every trace of a cluster from this host.

use anyhow::{Context, Result, bail};
use coracle_minion::reset::{ResetConfig, reset as reset_minion};

use super::{
    say,
    up::{MASTER_DIR, MINION_DIR},
};
use crate::args::ResetArgs;

/// Removes containers, networks, rules and volumes of the cluster in a data directory, and the
/// directory. Nothing else is touched: a directory with other things in it stays, without ours.
pub(crate) async fn reset(args: ResetArgs) -> Result<()> {
    let dir = &args.data_dir;
    if !args.yes {
        bail!("this removes every pod, volume and object of the cluster in {}: say --yes to do it", dir.display());
    }
    if !dir.exists() {
        say(&format!("{} does not exist: nothing to do", dir.display()));
        return Ok(());
    }
    let config = ResetConfig { root_dir: dir.join(MINION_DIR), docker: args.docker, cluster_id: None };
    let report = reset_minion(config).await?;
    let master = dir.join(MASTER_DIR);
    if master.exists() {
        std::fs::remove_dir_all(&master).with_context(|| format!("removing {}", master.display()))?;
    }
    // Not ours to remove when something else is in it.
    let left = std::fs::remove_dir(dir).is_err();
    let id = report.cluster_id.map_or_else(String::new, |id| format!(" {id}"));
    say(&format!(
        "removed cluster{id}: {} containers, {} networks, {} pod directories, the rules, and the data in {}",
        report.containers,
        report.networks,
        report.pod_dirs,
        dir.display()
    ));
    if left {
        say(&format!("{} stays: it holds other files", dir.display()));
    }
    Ok(())
}
