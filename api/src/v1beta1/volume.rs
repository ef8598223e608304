//! Volumes. The hub's newer sources show as a source with all four keys `null`.

use serde::{Deserialize, Serialize};

use super::wire::{is_zero, narrow, non_empty};
use crate::{FieldErrors, core};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Volume {
    name: String,
    /// Absent in a body: an empty directory.
    source: Option<VolumeSource>,
}

/// Prints all four keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSource {
    host_dir: Option<HostDir>,
    empty_dir: Option<EmptyDir>,
    persistent_disk: Option<PersistentDisk>,
    git_repo: Option<GitRepo>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct HostDir {
    path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct EmptyDir {}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PersistentDisk {
    pd_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    fs_type: String,
    #[serde(skip_serializing_if = "is_zero")]
    partition: i64,
    #[serde(skip_serializing_if = "is_zero")]
    read_only: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct GitRepo {
    repository: String,
    revision: String,
}

impl Volume {
    pub(super) fn from_hub(hub: &core::Volume) -> Self {
        let source = VolumeSource {
            host_dir: hub.host_path.as_ref().map(|v| HostDir { path: v.path.clone() }),
            empty_dir: hub.empty_dir.as_ref().map(|_| EmptyDir {}),
            persistent_disk: hub.gce_persistent_disk.as_ref().map(|v| PersistentDisk {
                pd_name: v.pd_name.clone(),
                fs_type: v.fs_type.clone().unwrap_or_default(),
                partition: v.partition.unwrap_or_default().into(),
                read_only: v.read_only.unwrap_or_default(),
            }),
            git_repo: hub.git_repo.as_ref().map(|v| GitRepo {
                repository: v.repository.clone(),
                revision: v.revision.clone().unwrap_or_default(),
            }),
        };
        Self { name: hub.name.clone(), source: Some(source) }
    }

    pub(super) fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::Volume {
        let source = self.source.unwrap_or_else(|| VolumeSource { empty_dir: Some(EmptyDir {}), ..Default::default() });
        core::Volume {
            name: self.name,
            host_path: source.host_dir.map(|v| core::HostPathVolumeSource { path: v.path, type_: None }),
            empty_dir: source.empty_dir.map(|_| core::EmptyDirVolumeSource::default()),
            gce_persistent_disk: source.persistent_disk.map(|v| core::GCEPersistentDiskVolumeSource {
                pd_name: v.pd_name,
                fs_type: non_empty(v.fs_type),
                partition: (v.partition != 0)
                    .then(|| narrow(v.partition, format!("{at}.source.persistentDisk.partition"), errors)),
                read_only: v.read_only.then_some(true),
            }),
            git_repo: source.git_repo.map(|v| core::GitRepoVolumeSource {
                repository: v.repository,
                revision: non_empty(v.revision),
                directory: None,
            }),
            ..Default::default()
        }
    }
}
