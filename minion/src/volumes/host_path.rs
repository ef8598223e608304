//! hostPath: a path of the node as it is, checked as its type demands.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Component, Path},
};

/// Checks the path, and creates what the type says to create. The error is a sentence.
pub(super) fn prepare(path: &str, kind: &str) -> Result<(), String> {
    let target = Path::new(path);
    if !target.is_absolute() || target.components().any(|c| c == Component::ParentDir) {
        return Err(format!("the hostPath {path} must be absolute and without '..'"));
    }
    match kind {
        "DirectoryOrCreate" if !target.exists() => {
            fs::create_dir_all(target).map_err(|e| format!("can't create the directory {path}: {e}"))?;
            fs::set_permissions(target, fs::Permissions::from_mode(0o755)).map_err(|e| format!("{path}: {e}"))?;
        }
        "FileOrCreate" if !target.exists() => {
            let created = fs::OpenOptions::new().write(true).create_new(true).open(target);
            created.map_err(|e| format!("can't create the file {path}: {e}"))?;
        }
        _ => {}
    }
    let is = |test: fn(&fs::FileType) -> bool| fs::metadata(target).is_ok_and(|m| test(&m.file_type()));
    let (fits, wanted) = match kind {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (is(|t| t.is_dir()), "directory"),
        "File" | "FileOrCreate" => (is(|t| t.is_file()), "file"),
        "Socket" => (is(|t| t.is_socket()), "socket"),
        "CharDevice" => (is(|t| t.is_char_device()), "character device"),
        "BlockDevice" => (is(|t| t.is_block_device()), "block device"),
        other => return Err(format!("{other} is not a type of hostPath")),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{path} is not a {wanted} on this node; create it, or change hostPath.type"))
    }
}
