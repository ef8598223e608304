//! Takes everything of one cluster off this host: containers, network, service rules, the infra
//! image if nobody uses it, volumes and the minion's directory.
//!
//! Invariant: only what carries the cluster's label or name is touched. Idempotent; the record that
//! tells which cluster it is goes last, so an interrupted reset can be run again.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveImageOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    network::{self, NetworkError},
    proxy::{self, ProxyError},
    record::{DirLock, Record, RecordError},
    runtime::{
        ContainerId, RuntimeError,
        docker::{self, Engine},
        infra, labels,
    },
};

/// Removals in flight.
const REMOVALS: usize = 8;
/// Looks for containers. More than what a minion may have under way when it ends.
const ROUNDS_MAX: usize = 10;

/// What to reset.
#[derive(Debug, Clone)]
pub struct ResetConfig {
    /// The minion's directory.
    pub root_dir: PathBuf,
    /// The engine's socket; by default the recorded one, then as for a minion.
    pub docker: Option<String>,
    /// The cluster; by default the recorded one.
    pub cluster_id: Option<String>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResetReport {
    /// The cluster, if one was named or recorded; without one there was nothing to do.
    pub cluster_id: Option<String>,
    /// Containers.
    pub containers: usize,
    /// Docker networks.
    pub networks: usize,
    /// Images.
    pub images: usize,
    /// Directories of pods.
    pub pod_dirs: usize,
}

/// Why a reset stopped. What was removed stays removed; run it again.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The engine is not there or refused.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
    /// The network is not the cluster's, or will not go.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The service rules will not go.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The directory is in use or can't be changed.
    #[error(transparent)]
    Directory(#[from] RecordError),
    /// The cluster named is not the one whose minion's directory it is.
    #[error("{dir} belongs to cluster {found}, not {named}")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Which was named.
        named: String,
    },
    /// Not a cluster ID, so nothing can carry it.
    #[error("'{0}' is not a cluster ID: expected 8 hex digits")]
    NotAnId(String),
    /// A file system is mounted in a pod's directory and will not go.
    #[error("{path} can't be unmounted: {cause}")]
    Mounted {
        /// The mount point.
        path: PathBuf,
        /// What `umount` said.
        cause: String,
    },
}

/// Removes everything of a cluster from this host.
pub async fn reset(config: ResetConfig) -> Result<ResetReport, ResetError> {
    let dir = config.root_dir.as_path();
    let lock = if dir.exists() { Some(DirLock::take(dir)?) } else { None };
    let record = Record::read(dir)?;
    let Some(cluster_id) = choose_cluster(dir, config.cluster_id, record.as_ref())? else {
        drop(lock);
        Record::remove(dir)?;
        return Ok(ResetReport::default());
    };
    let socket = config.docker.or_else(|| record.as_ref().map(|r| r.docker.clone()));
    let engine = Engine::connect(socket.as_deref()).await?;
    proxy::remove(&cluster_id).await?;
    let report = ResetReport {
        containers: remove_containers(&engine, &cluster_id).await?,
        networks: remove_networks(&engine, &cluster_id).await?,
        images: usize::from(remove_infra_image(&engine).await?),
        pod_dirs: if record.is_some() { remove_pod_dirs(dir).await? } else { 0 },
        cluster_id: Some(cluster_id),
    };
    drop(lock);
    if record.is_some() {
        Record::remove(dir)?;
    }
    tracing::info!(?report, "reset");
    Ok(report)
}

/// The cluster to remove: the one named, which must be the recorded one if there is a record.
fn choose_cluster(dir: &Path, named: Option<String>, record: Option<&Record>) -> Result<Option<String>, ResetError> {
    let chosen = match (named, record) {
        (Some(named), Some(record)) if record.cluster_id != named => {
            return Err(ResetError::OtherCluster { dir: dir.to_owned(), found: record.cluster_id.clone(), named });
        }
        (Some(named), _) => named,
        (None, Some(record)) => record.cluster_id.clone(),
        (None, None) => return Ok(None),
    };
    // An empty or odd value in a label filter would select more than one cluster.
    if chosen.len() != 8 || !chosen.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ResetError::NotAnId(chosen));
    }
    Ok(Some(chosen))
}

fn of_cluster(cluster_id: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{}={cluster_id}", labels::CLUSTER)])])
}

/// Removes what there is until there is nothing: the engine finishes what a minion that has just
/// ended asked it for, so containers may come and be on their way out meanwhile.
async fn remove_containers(engine: &Engine, cluster_id: &str) -> Result<usize, RuntimeError> {
    let mut removed = HashSet::new();
    for _ in 0..ROUNDS_MAX {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&of_cluster(cluster_id)).build();
        let found = engine.read("listing", "containers", engine.docker().list_containers(Some(options))).await?;
        let ids: Vec<_> = found.into_iter().filter_map(|c| c.id).map(ContainerId).collect();
        if ids.is_empty() {
            break;
        }
        stream::iter(&ids).map(Ok).try_for_each_concurrent(REMOVALS, |id| docker::remove(engine, id)).await?;
        removed.extend(ids);
    }
    Ok(removed.len())
}

async fn remove_networks(engine: &Engine, cluster_id: &str) -> Result<usize, ResetError> {
    let options = ListNetworksOptionsBuilder::default().filters(&of_cluster(cluster_id)).build();
    let found = engine.read("listing", "networks", engine.docker().list_networks(Some(options))).await?;
    network::remove(engine.docker(), cluster_id).await?;
    Ok(found.len())
}

/// The infra image is shared by the clusters of a host; the engine refuses while one uses it.
async fn remove_infra_image(engine: &Engine) -> Result<bool, RuntimeError> {
    let inspection = engine.docker().inspect_image(infra::IMAGE);
    let image = match engine.read("inspecting image", infra::IMAGE, inspection).await {
        Ok(image) => image,
        Err(RuntimeError::NotFound(_)) => return Ok(false),
        Err(e) => return Err(e),
    };
    let (key, value) = infra::LABEL;
    let labels = image.config.and_then(|c| c.labels).unwrap_or_default();
    if labels.get(key).map(String::as_str) != Some(value) {
        return Ok(false);
    }
    let options = RemoveImageOptionsBuilder::default().build();
    let removal = engine.docker().remove_image(infra::IMAGE, Some(options), None);
    match engine.change("removing image", infra::IMAGE, removal).await {
        Ok(_) => Ok(true),
        Err(RuntimeError::NotFound(_) | RuntimeError::Refused(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes the pods' directories below `dir`, and what is mounted in them.
async fn remove_pod_dirs(dir: &Path) -> Result<usize, ResetError> {
    let pods = dir.join("pods");
    let failed = |source: io::Error| RecordError::Io { path: pods.clone(), source };
    let count = match std::fs::read_dir(&pods) {
        Ok(entries) => entries.count(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(failed(e).into()),
    };
    let root = std::fs::canonicalize(&pods).map_err(failed)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    for path in mounts_below(&root, &mounts) {
        // Removing files through a mount would remove them from what is mounted.
        let output = tokio::process::Command::new("umount").arg(&path).output().await.map_err(failed)?;
        if !output.status.success() {
            let cause = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ResetError::Mounted { path, cause });
        }
    }
    std::fs::remove_dir_all(&root).map_err(failed)?;
    Ok(count)
}

/// Mount points below `root`, innermost first. `mountinfo` as in proc(5).
fn mounts_below(root: &Path, mountinfo: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .filter(|point| point.starts_with(root))
        .collect();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(named: Option<&str>, recorded: Option<&str>) -> Result<Option<String>, ResetError> {
        let record = recorded.map(|id| Record { cluster_id: id.into(), node: "n".into(), docker: "/d".into() });
        choose_cluster(Path::new("/x"), named.map(str::to_owned), record.as_ref())
    }

    #[test]
    fn the_cluster_is_the_one_named_and_recorded() {
        assert_eq!(choose(None, Some("00ff12ab")).unwrap().as_deref(), Some("00ff12ab"));
        assert_eq!(choose(Some("00ff12ab"), None).unwrap().as_deref(), Some("00ff12ab"));
        assert_eq!(choose(None, None).unwrap(), None);
        assert!(matches!(choose(Some("00ff12ab"), Some("00ff12ac")), Err(ResetError::OtherCluster { .. })));
    }

    #[test]
    fn nothing_that_could_select_more_than_one_cluster_passes() {
        for id in ["", "00ff", "00ff12ab,label=x", "zzzzzzzz"] {
            assert!(matches!(choose(Some(id), None), Err(ResetError::NotAnId(_))), "{id}");
        }
    }

    #[test]
    fn mounts_below_a_directory_come_innermost_first() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
                         2 1 0:5 / /r/pods/u1/volumes/mem rw - tmpfs tmpfs rw\n\
                         3 2 0:6 / /r/pods/u1/volumes/mem/in\\040side rw - tmpfs tmpfs rw\n\
                         4 1 0:7 / /r/podsother rw - tmpfs tmpfs rw";
        let found = mounts_below(Path::new("/r/pods"), mountinfo);
        assert_eq!(found, ["/r/pods/u1/volumes/mem/in side", "/r/pods/u1/volumes/mem"].map(PathBuf::from));
    }
}
