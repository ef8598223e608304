use std::os::unix::fs::symlink;

use super::*;

fn pod(uid: &str, volume: serde_json::Value, mount: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "default", "uid": uid},
        "spec": {"volumes": [volume], "containers": [{"name": "c", "volumeMounts": [mount]}]},
    }))
    .unwrap()
}

fn binds(volumes: &Volumes, pod: &Pod) -> Result<Vec<String>, String> {
    let container = &pod.spec.as_ref().unwrap().containers[0];
    volumes.mount(pod).and_then(|()| volumes.binds(pod, container)).map_err(|e| e.to_string())
}

#[test]
fn an_empty_dir_belongs_to_the_uid_and_anyone_may_write() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let mount = serde_json::json!({"name": "v", "mountPath": "/data", "readOnly": true});
    let first = pod("u1", serde_json::json!({"name": "v", "emptyDir": {}}), mount);
    let path = dir.path().join("pods/u1/volumes/empty-dir/v");
    assert_eq!(binds(&volumes, &first).unwrap(), [format!("{}:/data:ro", path.display())]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    fs::write(path.join("kept"), "x").unwrap();
    volumes.mount(&first).unwrap();
    assert!(path.join("kept").exists(), "mounting again keeps the data");
    assert_eq!(volumes.kept(), ["u1"]);
    volumes.remove("u1").unwrap();
    volumes.remove("u1").unwrap();
    assert!(volumes.kept().is_empty());
}

#[test]
fn a_resolv_conf_is_replaced_only_when_it_must_change() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let pod = pod("u1", serde_json::json!({"name": "v"}), serde_json::json!({"name": "v", "mountPath": "/d"}));
    let path = volumes.resolv_conf(&pod, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let first = inode(&path);
    volumes.resolv_conf(&pod, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(inode(&path), first);
    let open = fs::File::open(&path).unwrap();
    volumes.resolv_conf(&pod, "nameserver 192.0.2.2\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.2\n");
    assert_eq!(io::read_to_string(open).unwrap(), "nameserver 192.0.2.1\n", "who has it keeps it");
    assert_eq!(fs::read_dir(dir.path().join("pods/u1")).unwrap().count(), 1, "nothing else is left");
    assert_eq!(volumes.kept(), ["u1"]);
    volumes.remove("u1").unwrap();
    assert!(!path.exists());
}

#[test]
fn removal_does_not_follow_symlinks() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "x").unwrap();
    let volumes = Volumes::new(dir.path());
    let pod = pod(
        "u1",
        serde_json::json!({"name": "v", "emptyDir": {}}),
        serde_json::json!({"name": "v", "mountPath": "/d"}),
    );
    volumes.mount(&pod).unwrap();
    symlink(outside.path(), dir.path().join("pods/u1/volumes/empty-dir/v/link")).unwrap();
    symlink(outside.path(), dir.path().join("pods/u2")).unwrap();
    volumes.remove("u1").unwrap();
    let _ = volumes.remove("u2");
    for uid in ["", ".", "..", "../..", "a/b"] {
        volumes.remove(uid).unwrap();
    }
    assert!(outside.path().join("precious").exists());
    assert!(dir.path().exists());
}

#[test]
fn a_sub_path_stays_in_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    let with = |sub: &str| {
        let mount = serde_json::json!({"name": "v", "mountPath": "/d", "subPath": sub});
        pod("u1", serde_json::json!({"name": "v", "emptyDir": {}}), mount)
    };
    let root = dir.path().canonicalize().unwrap().join("pods/u1/volumes/empty-dir/v");
    assert_eq!(binds(&volumes, &with("a/b")).unwrap(), [format!("{}:/d", root.join("a/b").display())]);
    for made in ["a", "a/b"] {
        let mode = fs::metadata(root.join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777, "{made}: who may write to the volume may write there");
    }
    symlink("/", root.join("up")).unwrap();
    symlink(root.join("a"), root.join("inside")).unwrap();
    symlink("/nonexistent/x", root.join("dangling")).unwrap();
    for bad in ["../x", "/etc", "up", "up/etc", "dangling", "a/../../x"] {
        assert!(binds(&volumes, &with(bad)).is_err(), "{bad}");
    }
    assert_eq!(binds(&volumes, &with("inside/b")).unwrap(), [format!("{}:/d", root.join("a/b").display())]);
}

#[test]
fn host_paths_are_checked_as_their_type_says() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    fs::write(dir.path().join("file"), "").unwrap();
    let check = |name: &str, kind: &str, good: bool| {
        let path = dir.path().join(name);
        let volume = serde_json::json!({"name": "v", "hostPath": {"path": path.to_str().unwrap(), "type": kind}});
        let result = binds(&volumes, &pod("u1", volume, serde_json::json!({"name": "v", "mountPath": "/d"})));
        assert_eq!(result.is_ok(), good, "{name} {kind}: {result:?}");
    };
    check("missing", "", true);
    check("missing", "Directory", false);
    check("file", "Directory", false);
    check("file", "File", true);
    check("new", "DirectoryOrCreate", true);
    check("new", "Directory", true);
    check("new-file", "FileOrCreate", true);
    check("file", "DirectoryOrCreate", false);
    check("file", "Nonsense", false);
}

#[test]
fn other_kinds_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, source) in [
        ("configMap", serde_json::json!({"name": "m"})),
        ("gitRepo", serde_json::json!({"repository": "https://example.com/r.git"})),
    ] {
        let volume = serde_json::json!({"name": "v", kind: source});
        let pod = pod("u1", volume, serde_json::json!({"name": "v", "mountPath": "/d"}));
        let error = binds(&Volumes::new(dir.path()), &pod).unwrap_err();
        assert!(error.contains("volume v") && error.contains(kind), "{error}");
    }
}
