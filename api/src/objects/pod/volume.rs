//! The rules on volumes and on their mounts.

use std::collections::BTreeSet;

use crate::{
    core::{Container, Volume},
    error::{FieldErrorKind, FieldErrors},
    objects::{
        names::{DNS_LABEL, Shown},
        ports::check_one_of,
    },
};

/// The kinds of volume that a minion can make.
const SUPPORTED: [&str; 2] = ["emptyDir", "hostPath"];

const HOST_PATH_TYPES: [&str; 7] =
    ["DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// Checks a pod's volumes; the result are their names.
pub(super) fn validate_volumes<'a>(path: &str, volumes: &'a [Volume], errors: &mut FieldErrors) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{i}]");
        DNS_LABEL.check(format!("{path}.name"), &volume.name, errors);
        if !volume.name.is_empty() && !names.insert(volume.name.as_str()) {
            errors.duplicate(format!("{path}.name"), Shown(&volume.name));
        }
        validate_source(&path, volume, errors);
    }
    names
}

fn validate_source(path: &str, volume: &Volume, errors: &mut FieldErrors) {
    let sources = sources_of(volume);
    match sources.as_slice() {
        [] => return errors.required(path, format!("a volume needs one source: {}", SUPPORTED.join(" or "))),
        [one] if !SUPPORTED.contains(&one.as_str()) => {
            return errors.not_supported(format!("{path}.{one}"), one, &SUPPORTED);
        }
        [_] => {}
        [_, rest @ ..] => {
            for source in rest {
                let detail = format!("a volume has one source, and {} is set: remove one of them", sources[0]);
                errors.forbidden(format!("{path}.{source}"), detail);
            }
            return;
        }
    }
    if let Some(host) = &volume.host_path {
        let at = format!("{path}.hostPath.path");
        match host.path.as_str() {
            "" => errors.required(at, "the path on the node"),
            p if !p.starts_with('/') => errors.invalid(at, Shown(p), "must be absolute: begin with '/'"),
            p if has_parent(p) => errors.invalid(at, Shown(p), "must not contain '..'"),
            p if p.contains(':') => errors.invalid(at, Shown(p), "must not contain ':'"),
            _ => {}
        }
        check_one_of(format!("{path}.hostPath.type"), host.type_.as_deref(), &HOST_PATH_TYPES, errors);
    }
    if let Some(empty) = &volume.empty_dir {
        check_one_of(format!("{path}.emptyDir.medium"), empty.medium.as_deref(), &["Memory"], errors);
        if let Some(limit) = &empty.size_limit {
            super::resources::check_quantity(format!("{path}.emptyDir.sizeLimit"), limit, errors);
        }
    }
}

/// The sources set in a volume, by their JSON names.
fn sources_of(volume: &Volume) -> Vec<String> {
    // Writing a volume can't fail: it holds strings, numbers and string-keyed maps only.
    let json = serde_json::to_value(volume).unwrap_or_default();
    let fields = json.as_object().into_iter().flat_map(|fields| fields.keys());
    fields.filter(|key| *key != "name").cloned().collect()
}

fn has_parent(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

pub(super) fn validate_mounts(path: &str, container: &Container, volumes: &BTreeSet<&str>, errors: &mut FieldErrors) {
    let mut targets = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if mount.name.is_empty() {
            errors.required(format!("{path}.name"), "the name of a volume of the pod");
        } else if !volumes.contains(mount.name.as_str()) {
            let detail = "no volume of that name: add it to the pod's volumes";
            errors.not_found(format!("{path}.name"), Shown(&mount.name), detail);
        }
        let at = format!("{path}.mountPath");
        match mount.mount_path.as_str() {
            "" => errors.required(at, "the path in the container"),
            p if !p.starts_with('/') => errors.invalid(at, Shown(p), "must be absolute: begin with '/'"),
            p if p.contains(':') => errors.invalid(at, Shown(p), "must not contain ':'"),
            p if !targets.insert(p) => errors.invalid(at, Shown(p), "must be unique in the container"),
            _ => {}
        }
        for (field, sub) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if let Some(sub) = sub.as_deref().filter(|s| s.starts_with('/') || has_parent(s)) {
                let rule = "must be a path inside the volume: relative and without '..'";
                errors.invalid(format!("{path}.{field}"), Shown(sub), rule);
            }
        }
        let set = |field: &Option<String>| field.as_deref().is_some_and(|f| !f.is_empty());
        if set(&mount.sub_path) && set(&mount.sub_path_expr) {
            errors.forbidden(format!("{path}.subPathExpr"), "may not be set together with subPath: remove one of them");
        }
        let at = format!("{path}.mountPropagation");
        check_one_of(at, mount.mount_propagation.as_deref(), &["None", "HostToContainer", "Bidirectional"], errors);
    }
    if container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()) {
        let detail = "block devices are not supported: mount a volume with volumeMounts";
        errors.push(format!("{path}.volumeDevices"), FieldErrorKind::NotSupported, detail);
    }
}
