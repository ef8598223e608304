//! subPath: a directory or file inside a volume, and only inside.
//!
//! A container may plant symlinks in its volume. Each step is checked, and what results must lie
//! in the volume once all symlinks are followed.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The path of `sub` in the volume at `volume`, created as a directory with the volume's mode if missing.
pub(super) fn resolve(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("the subPath {sub} must be relative and without '..'"));
    }
    let root = volume.canonicalize().map_err(|e| format!("{}: {e}", volume.display()))?;
    let failed = |e: io::Error| format!("can't create the subPath {sub}: {e}");
    let mut path = root.clone();
    for part in relative.components() {
        path.push(part);
        match path.canonicalize() {
            Ok(real) if real.starts_with(&root) => path = real,
            Ok(_) => return Err(format!("the subPath {sub} leads out of the volume")),
            // A dangling symlink exists as a name but leads nowhere: making a directory fails.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(failed)?;
                // Who may write to the volume may write there, whatever the umask.
                let permissions = fs::metadata(&root).map_err(failed)?.permissions();
                fs::set_permissions(&path, permissions).map_err(failed)?;
            }
            Err(e) => return Err(format!("the subPath {sub}: {e}")),
        }
    }
    Ok(path)
}
