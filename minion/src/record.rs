//! What a minion leaves in its directory: for which cluster it works, so that `reset` knows what
//! to remove and no other cluster's minion takes the directory over, and a lock while it runs.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use coracle_api::file_lock;
use serde::{Deserialize, Serialize};

const FILE: &str = "minion.json";
const LOCK: &str = "minion.lock";

/// `minion.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Names the containers, networks, tables and bridges of the minion.
    #[serde(rename = "clusterID")]
    pub(crate) cluster_id: String,
    /// The minion's name.
    pub(crate) node: String,
    /// The engine's socket.
    pub(crate) docker: String,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A minion runs on it.
    #[error("a minion is running on {0}: stop it first, or choose another directory")]
    InUse(PathBuf),
    /// It holds the pods of another cluster.
    #[error("{dir} belongs to cluster {found}, not {wanted}: remove that with `reset`, or choose another directory")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// What is in the file is not a record.
    #[error("{path} is not a record of a minion: {cause}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The directory can't be read or written.
    #[error("{path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    |source| RecordError::Io { path, source }
}

/// The lock on a minion's directory; released when dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirLock {
    /// Takes the lock on `dir`.
    pub(crate) fn take(dir: &Path) -> Result<Self, RecordError> {
        let path = dir.join(LOCK);
        let file = File::create(&path).map_err(io_error(&path))?;
        match file_lock::take(&file) {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(RecordError::InUse(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(io_error(&path)(e)),
        }
    }
}

impl Record {
    /// Reads the record of `dir`; `None` if there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, RecordError> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|e| RecordError::Broken { path, cause: e.to_string() })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(&path)(e)),
        }
    }

    /// Writes the record, unless the directory belongs to another cluster. Atomic.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), RecordError> {
        if let Some(found) = Self::read(dir)?.filter(|found| found.cluster_id != self.cluster_id) {
            return Err(RecordError::OtherCluster {
                dir: dir.to_owned(),
                found: found.cluster_id,
                wanted: self.cluster_id.clone(),
            });
        }
        let path = dir.join(FILE);
        let fresh = dir.join("minion.json.new");
        // A struct of strings always serialises.
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        std::fs::write(&fresh, text).map_err(io_error(&fresh))?;
        std::fs::rename(&fresh, &path).map_err(io_error(&path))
    }

    /// Removes the record and the lock of `dir`, and `dir` itself if nothing else is in it.
    pub(crate) fn remove(dir: &Path) -> Result<(), RecordError> {
        for name in [LOCK, FILE] {
            let path = dir.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&path)(e)),
                _ => {}
            }
        }
        match std::fs::remove_dir(dir) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(io_error(dir)(e))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cluster_id: &str) -> Record {
        Record { cluster_id: cluster_id.into(), node: "m1".into(), docker: "/var/run/docker.sock".into() }
    }

    #[test]
    fn a_record_is_read_back_and_never_passes_to_another_cluster() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        record("00000001").write(dir.path()).unwrap();
        record("00000001").write(dir.path()).unwrap();
        let refused = record("00000002").write(dir.path());
        assert!(matches!(refused, Err(RecordError::OtherCluster { .. })), "{refused:?}");
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record("00000001")));
    }

    #[test]
    fn one_minion_at_a_time_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path()).unwrap();
        assert!(matches!(DirLock::take(dir.path()), Err(RecordError::InUse(_))));
        drop(lock);
        DirLock::take(dir.path()).unwrap();
    }

    #[test]
    fn removing_leaves_what_is_not_the_minions() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        record("00000001").write(&own).unwrap();
        std::fs::write(own.join("letter"), "dear").unwrap();
        Record::remove(&own).unwrap();
        assert!(own.join("letter").exists() && !own.join(FILE).exists());
        std::fs::remove_file(own.join("letter")).unwrap();
        Record::remove(&own).unwrap();
        assert!(!own.exists());
        Record::remove(&own).unwrap();
    }
}
