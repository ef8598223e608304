//! A backup taken while the cluster is written to, restored elsewhere, is the cluster as it was at
//! one moment; and whatever breaks off leaves nothing that looks like one.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use coracle_tests::{coracle, eventually, http};
use serde_json::{Value, json};

/// A master without minions. Dropping it kills it.
struct Master {
    process: Child,
    address: SocketAddr,
    data_dir: PathBuf,
}

impl Master {
    fn start(data_dir: &Path) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new(coracle())
            .args(["master", "--data-dir", &data_dir.display().to_string(), "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", coracle().display()))?;
        let master = Self { process, address, data_dir: data_dir.to_owned() };
        eventually("the master answers", || http::get(address, "/readyz"))?;
        Ok(master)
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        run(&format!("http://{}", self.address), args)
    }

    fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-INT", &self.process.id().to_string()]).status()?;
        ensure!(self.process.wait()?.success(), "the master ends well");
        Ok(())
    }

    /// All objects of a kind, by name, without what the cluster adds to them by itself.
    fn objects(&self, plural: &str) -> Result<BTreeMap<String, Value>> {
        let list: Value = serde_json::from_str(&good(self.run(&["get", plural, "-A", "-o", "json"])?)?)?;
        let items = list["items"].as_array().context("a list has items")?;
        Ok(items.iter().map(|object| (name(object), own_part(object))).collect())
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // Fails when it has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn cluster(master: &Master) -> Result<String> {
    http::get(master.address, "/coracle/v1/cluster").context("the cluster's facts")
}

fn run(master: &str, args: &[&str]) -> Result<Output> {
    Ok(Command::new(coracle()).args(args).env("KUBERNETES_MASTER", master).stdin(Stdio::null()).output()?)
}

/// Standard output of a run that must end well.
fn good(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Standard error of a run that must fail with this status.
fn failed(output: Output, code: i32, parts: &[&str]) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(code), "{output:?}");
    for part in parts {
        ensure!(text.contains(part), "'{part}' is not in: {text}");
    }
    Ok(())
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn own_part(object: &Value) -> Value {
    let mut meta = object["metadata"].clone();
    if let Some(meta) = meta.as_object_mut() {
        meta.remove("resourceVersion");
    }
    json!({"metadata": meta, "spec": object["spec"]})
}

fn post(address: SocketAddr, plural: &str, object: &Value) -> Result<()> {
    http::post(address, &format!("/api/v1/namespaces/default/{plural}"), &object.to_string())
}

fn pod(name: &str, note: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "annotations": {"note": note}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn service(name: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

fn controller(replicas: u32) -> Value {
    json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "rc"},
        "spec": {"replicas": replicas, "selector": {"app": "rc"}, "template": {
            "metadata": {"labels": {"app": "rc"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn write_file(dir: &Path, name: &str, object: &Value) -> Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, object.to_string())?;
    Ok(path.display().to_string())
}

/// Objects of a kind in a backup, by name.
fn in_backup(text: &str, plural: &str) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["key"].as_str().is_some_and(|key| key.starts_with(&format!("{plural}/"))) {
            found.insert(name(&line["object"]), own_part(&line["object"]));
        }
    }
    Ok(found)
}

#[test]
fn a_backup_under_load_is_one_moment_and_comes_back_as_it_was() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let master = Master::start(&dir.path().join("one"))?;
    for (file, object) in [("rc", controller(3)), ("pod", pod("by-cli", "ü \"quoted\"\n")), ("svc", service("web"))] {
        good(master.run(&["create", "-f", &write_file(dir.path(), file, &object)?])?)?;
    }

    eventually("the controller has its pods", || {
        let pods = master.objects("pods").ok()?;
        (pods.keys().filter(|name| name.starts_with("rc-")).count() == 3).then_some(())
    })?;

    // A pod, then a service of the same number, again and again.
    let (stop, written, address) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), master.address);
    let (stopped, count) = (stop.clone(), written.clone());
    let writer = thread::spawn(move || -> Result<()> {
        for n in 0..200 {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            post(address, "pods", &pod(&format!("load-{n}"), &"x".repeat(2000)))?;
            post(address, "services", &service(&format!("load-{n}")))?;
            count.store(n + 1, Ordering::Relaxed);
        }
        Ok(())
    });
    eventually("the load is on", || (written.load(Ordering::Relaxed) > 3).then_some(()))?;
    let before = written.load(Ordering::Relaxed);
    let file = dir.path().join("backup").display().to_string();
    let said = good(master.run(&["backup", "-o", &file])?)?;
    stop.store(true, Ordering::Relaxed);
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;

    let text = std::fs::read_to_string(&file)?;
    let (pods, services) = (in_backup(&text, "pods")?, in_backup(&text, "services")?);
    let numbers = |objects: &BTreeMap<String, Value>| {
        objects.keys().filter_map(|name| name.strip_prefix("load-")?.parse::<usize>().ok()).collect::<Vec<_>>()
    };
    let (loaded_pods, loaded_services) = (numbers(&pods), numbers(&services));
    assert!(loaded_services.len() >= before, "what was acknowledged before is in");
    assert!((0..=1).contains(&(loaded_pods.len() - loaded_services.len())), "{loaded_pods:?} {loaded_services:?}");
    assert_eq!(loaded_pods.iter().max(), Some(&(loaded_pods.len() - 1)), "no earlier one is missing");
    let objects = text.lines().count() - 2;
    assert!(said.contains(&format!("{objects} objects, {} bytes", text.len())), "{said}");
    let facts = cluster(&master)?;
    master.stop()?;

    let two = dir.path().join("two").display().to_string();
    let said = good(run("", &["restore", &file, "--data-dir", &two])?)?;
    assert!(said.contains(&format!("restored {objects} objects")), "{said}");
    let said = good(run("", &["store", "check", "--data-dir", &two])?)?;
    assert!(said.contains(&format!("in order: {objects} objects")), "{said}");
    let master = Master::start(Path::new(&two))?;
    assert_eq!(cluster(&master)?, facts, "minions find their cluster");
    for plural in ["pods", "services", "replicationcontrollers", "namespaces"] {
        let (saved, served) = (in_backup(&text, plural)?, master.objects(plural)?);
        for (name, object) in &saved {
            assert_eq!(served.get(name), Some(object), "{plural}/{name}");
        }
        // The controller's pods were all there: nothing is made twice.
        assert_eq!(served.len(), saved.len(), "{plural}");
    }
    let newest: Value = serde_json::from_str(text.lines().next().context("a header")?)?;
    let list: Value = serde_json::from_str(&http::get(master.address, "/api/v1/pods?limit=1").context("a list")?)?;
    let version: u64 = list["metadata"]["resourceVersion"].as_str().context("a version")?.parse()?;
    assert!(Some(version) > newest["resourceVersion"].as_u64(), "versions go on");
    // A portal that is taken stays taken.
    let portal = services["web"]["spec"]["clusterIP"].clone();
    let mut thief = service("thief");
    thief["spec"]["clusterIP"] = portal;
    assert!(post(master.address, "services", &thief).is_err());
    Ok(())
}

#[test]
fn a_store_that_is_not_empty_and_a_file_that_is_no_backup_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let master = Master::start(&dir.path().join("data"))?;
    let file = dir.path().join("backup").display().to_string();
    good(master.run(&["backup", "-o", &file])?)?;
    let data = master.data_dir.display().to_string();
    let restore = |args: &[&str]| run("", &[&["restore", &file, "--data-dir", &data], args].concat());
    failed(restore(&[])?, 1, &["in use by another master", "stop that one first"])?;
    failed(run("", &["store", "check", "--data-dir", &data])?, 1, &["in use by another master"])?;
    good(master.run(&["run", "late", "--image", "i"])?)?;
    master.stop()?;
    failed(restore(&[])?, 1, &["is not empty", "--replace --yes"])?;
    failed(restore(&["--replace"])?, 1, &["deletes every object", "--yes"])?;
    good(restore(&["--replace", "--yes"])?)?;
    let master = Master::start(Path::new(&data))?;
    assert!(master.objects("pods")?.is_empty(), "what came after the backup is gone");
    master.stop()?;

    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, &text[..text.len() / 2])?;
    let empty = dir.path().join("empty").display().to_string();
    let elsewhere = || run("", &["restore", &file, "--data-dir", &empty]);
    failed(elsewhere()?, 1, &[&file, "line ", "cut short"])?;
    std::fs::write(&file, text.replace("\"default\"", "\"defauld\""))?;
    failed(elsewhere()?, 1, &["was changed: its SHA-256"])?;
    failed(run("", &["restore", "/nowhere", "--data-dir", &empty])?, 1, &["/nowhere can't be read"])?;
    failed(run("", &["store", "check", "--data-dir", "/nowhere"])?, 1, &["holds no store"])?;
    failed(restore(&["--store", "redis://x"])?, 2, &["is no store"])?;
    Ok(())
}

#[test]
fn a_damaged_store_is_found_and_replaced_from_the_backup() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let master = Master::start(&data)?;
    for n in 0..20 {
        post(master.address, "pods", &pod(&format!("p{n}"), &"x".repeat(1000)))?;
    }
    let file = dir.path().join("backup").display().to_string();
    good(master.run(&["backup", "-o", &file])?)?;
    master.stop()?;
    let data = data.display().to_string();
    let check = || run("", &["store", "check", "--data-dir", &data]);
    let said = good(check()?)?;
    assert!(said.contains("is in order") && said.contains("all whole"), "{said}");

    let largest = std::fs::read_dir(Path::new(&data).join("master"))?.filter_map(|entry| {
        let path = entry.ok()?.path();
        Some((path.metadata().ok()?.len(), path))
    });
    let (_, path) = largest.max().context("the store has files")?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.windows(8).position(|w| w == b"xxxxxxxx").context("a pod's note")?;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
    failed(check()?, 1, &["is damaged at", &name, "move the directory away and restore a backup"])?;
    std::fs::rename(Path::new(&data).join("master"), dir.path().join("away"))?;
    good(run("", &["restore", &file, "--data-dir", &data])?)?;
    good(check()?)?;
    Ok(())
}

/// Between a client and a master: passes on this many bytes of the answer, then stalls until it is
/// dropped, or closes.
struct Throttle {
    address: SocketAddr,
    reached: Arc<AtomicBool>,
}

impl Throttle {
    fn start(master: SocketAddr, bytes: u64, closes: bool) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, reached) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let limit = reached.clone();
        thread::spawn(move || -> Result<()> {
            let (mut client, _) = listener.accept()?;
            let mut server = TcpStream::connect(master)?;
            let (mut asked, mut to) = (client.try_clone()?, server.try_clone()?);
            thread::spawn(move || std::io::copy(&mut asked, &mut to));
            std::io::copy(&mut (&mut server).take(bytes), &mut client)?;
            limit.store(true, Ordering::Relaxed);
            if !closes {
                // Until the client goes: it says nothing more.
                client.read_to_end(&mut Vec::new())?;
            }
            client.shutdown(std::net::Shutdown::Both)?;
            Ok(())
        });
        Ok(Self { address, reached })
    }
}

#[test]
fn what_breaks_off_leaves_no_file_under_the_name_of_a_backup() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let master = Master::start(&dir.path().join("data"))?;
    for n in 0..10 {
        post(master.address, "pods", &pod(&format!("p{n}"), &"x".repeat(100_000)))?;
    }
    let here = dir.path().join("here");
    std::fs::create_dir(&here)?;
    let file = here.join("backup");
    let args = ["backup", "-o", &file.display().to_string()];
    let files = || -> Result<Vec<String>> {
        std::fs::read_dir(&here)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };

    // The master dies.
    let broken = Throttle::start(master.address, 400_000, true)?;
    failed(run(&format!("http://{}", broken.address), &args)?, 1, &["broke off", "nothing was kept"])?;
    assert_eq!(files()?, [""; 0]);

    // The client dies.
    let stalled = Throttle::start(master.address, 400_000, false)?;
    let mut client =
        Command::new(coracle()).args(args).env("KUBERNETES_MASTER", stalled.address.to_string()).spawn()?;
    let partial = eventually("a part is written", || {
        let name = files().ok()?.into_iter().find(|name| name.ends_with(".partial"))?;
        let size = std::fs::metadata(here.join(&name)).ok()?.len();
        (stalled.reached.load(Ordering::Relaxed) && size > 100_000).then_some(name)
    });
    client.kill()?;
    client.wait()?;
    let partial = partial?;
    assert_eq!(files()?, std::slice::from_ref(&partial));
    let part = here.join(partial).display().to_string();
    let empty = dir.path().join("empty").display().to_string();
    failed(run("", &["restore", &part, "--data-dir", &empty])?, 1, &["cut short"])?;

    // And once more, whole.
    good(master.run(&args)?)?;
    assert!(file.exists());
    assert_eq!(
        good(master.run(&["backup", "-o", "-"])?)?.lines().count(),
        std::fs::read_to_string(&file)?.lines().count()
    );
    Ok(())
}
