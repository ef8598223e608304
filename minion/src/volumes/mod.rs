//! Volumes of pods on this node: `<root>/pods/<uid>/volumes/<kind>/<name>`; beside them the pod's
//! resolv.conf.
//!
//! Keyed by the pod's UID, so that a new pod of an old name never sees old data. A volume lives
//! as long as the pod object, through restarts of containers and of the infra container. All
//! functions block on the file system only. Removal never leaves the root through a symlink.

mod host_path;
mod sub_path;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use coracle_api::core::{Container, Pod, Volume};

/// Why a volume can't be used; names it and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume}: {cause}")]
pub struct VolumeError {
    /// Its name in the pod.
    pub volume: String,
    /// What is wrong.
    pub cause: String,
}

impl VolumeError {
    fn new(volume: &str, cause: impl std::fmt::Display) -> Self {
        Self { volume: volume.to_owned(), cause: cause.to_string() }
    }
}

/// The volumes under one root directory.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: Option<PathBuf>,
}

impl Volumes {
    /// Volumes below `root`, which need not exist yet.
    pub fn new(root: &Path) -> Self {
        Self { root: Some(root.to_owned()) }
    }

    /// No volumes: a pod that has some can't run here.
    pub fn none() -> Self {
        Self { root: None }
    }

    /// Whether anything is ever kept.
    pub fn can_keep(&self) -> bool {
        self.root.is_some()
    }

    /// Sets up the pod's volumes. Repeating it changes nothing.
    pub fn mount(&self, pod: &Pod) -> Result<(), VolumeError> {
        for volume in volumes_of(pod) {
            let error = |cause: String| VolumeError::new(&volume.name, cause);
            if let Some(empty) = &volume.empty_dir {
                let mode = empty.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o777);
                let path = self.empty_dir(pod, &volume.name).map_err(error)?;
                make_dir(&path, mode).map_err(|e| error(format!("can't create {}: {e}", path.display())))?;
            } else if let Some(host) = &volume.host_path {
                host_path::prepare(&host.path, host.type_.as_deref().unwrap_or_default()).map_err(error)?;
            } else {
                return Err(error(format!("{} volumes are not supported; use emptyDir or hostPath", kind_of(volume))));
            }
        }
        Ok(())
    }

    /// The binds of a container's mounts: `host:container[:ro]`. Creates sub-paths; each `subPathExpr`
    /// is expected as a `subPath`.
    pub fn binds(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, VolumeError> {
        let mut binds = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let error = |cause: String| VolumeError::new(&mount.name, cause);
            let volume = volumes_of(pod).find(|v| v.name == mount.name);
            let volume =
                volume.ok_or_else(|| error("the pod has no volume of that name; add it to spec.volumes".into()))?;
            let mut path = match (&volume.empty_dir, &volume.host_path) {
                (Some(_), _) => self.empty_dir(pod, &volume.name).map_err(error)?,
                (None, Some(host)) => PathBuf::from(&host.path),
                _ => return Err(error(format!("{} volumes are not supported", kind_of(volume)))),
            };
            if let Some(sub) = mount.sub_path.as_deref().filter(|s| !s.is_empty()) {
                path = sub_path::resolve(&path, sub).map_err(error)?;
            }
            let text = path.to_str().filter(|p| !p.contains(':'));
            let text = text.ok_or_else(|| {
                error(format!("{} can't be mounted: the engine takes no ':' in a path", path.display()))
            })?;
            if mount.mount_path.contains(':') || !mount.mount_path.starts_with('/') {
                return Err(error(format!("mountPath {} must be absolute and without ':'", mount.mount_path)));
            }
            let suffix = if mount.read_only == Some(true) { ":ro" } else { "" };
            binds.push(format!("{text}:{}{suffix}", mount.mount_path));
        }
        Ok(binds)
    }

    /// Makes the pod's resolv.conf have this text; its path. Replaced in one piece, so that no container
    /// reads half of it; one that runs already keeps the file that it has.
    pub fn resolv_conf(&self, pod: &Pod, text: &str) -> Result<PathBuf, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let dir = self.pod_dir(uid).ok_or_else(|| format!("the pod's uid {uid:?} may not contain a path"))?;
        let path = dir.join("resolv.conf");
        // A container may write to it: its length is looked at first, so that it is never long to read.
        let same = fs::metadata(&path).is_ok_and(|m| m.len() == text.len() as u64)
            && fs::read(&path).is_ok_and(|known| known == text.as_bytes());
        if same {
            return Ok(path);
        }
        // Containers of a pod start at the same time.
        let new = dir.join(format!(".resolv.conf-{}", uuid::Uuid::new_v4().simple()));
        let write = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
            fs::write(&new, text)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
            fs::rename(&new, &path)
        };
        write().map_err(|e| format!("the pod's {} can't be written: {e}", path.display()))?;
        Ok(path)
    }

    /// Removes all that is kept for a pod. Nothing there is success.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        let Some(path) = self.pod_dir(uid) else { return Ok(()) };
        // `remove_dir_all` removes a symlink itself and never follows one, also not when something
        // swaps a directory for a symlink meanwhile.
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// UIDs of pods for which something is kept.
    pub fn kept(&self) -> Vec<String> {
        let Some(Ok(entries)) = self.root.as_ref().map(|root| fs::read_dir(root.join("pods"))) else {
            return Vec::new();
        };
        entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    fn pod_dir(&self, uid: &str) -> Option<PathBuf> {
        self.root.as_ref().filter(|_| is_plain_name(uid)).map(|root| root.join("pods").join(uid))
    }

    fn empty_dir(&self, pod: &Pod, volume: &str) -> Result<PathBuf, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let dir = self.pod_dir(uid).filter(|_| is_plain_name(volume));
        let dir =
            dir.ok_or_else(|| format!("neither the pod's uid {uid:?} nor the volume's name may contain a path"))?;
        Ok(dir.join("volumes").join("empty-dir").join(volume))
    }
}

/// Whether any of the pod's volumes needs the file system.
pub fn has_volumes(pod: &Pod) -> bool {
    volumes_of(pod).next().is_some()
}

fn volumes_of(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    fs::create_dir(path)?;
    // The process's umask does not apply: any user of any container may write.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The field that says what kind of volume it is.
fn kind_of(volume: &Volume) -> String {
    let json = serde_json::to_value(volume).unwrap_or_default();
    let keys = json.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    keys.into_iter().find(|k| k != "name").unwrap_or_else(|| "unnamed".into())
}

#[cfg(test)]
mod tests;
