//! Simulated minions under a real master: as any minion to those who look, and as many pods as asked for.

use std::{
    fs::File,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use coracle_tests::{coracle, eventually, http, master::Master};
use serde_json::{Value, json};

const MINIONS: usize = 20;
const PODS: usize = 100;
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";

/// The process of simulated minions. Dropping it kills it.
struct Hollow(Child, tempfile::NamedTempFile);

impl Hollow {
    fn start(master: &Master, arguments: &[&str]) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(coracle());
        command.args(["minion", "--master", &master.url(), "--hollow", &MINIONS.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(File::create("/dev/null")?);
        Ok(Self(command.spawn()?, log))
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = format!("ready: {MINIONS} simulated minions");
        let says = || std::fs::read_to_string(self.1.path()).is_ok_and(|log| log.contains(&ready)).then_some(());
        eventually("the simulated minions have joined", says)
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn items(master: SocketAddr, path: &str) -> Vec<Value> {
    let list = http::get(master, path).and_then(|body| serde_json::from_str::<Value>(&body).ok()).unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

fn resize(master: &Master, replicas: usize) -> Result<()> {
    let object = json!({"metadata": {"name": "load"}, "spec": {"replicas": replicas, "selector": {"app": "load"},
        "template": {"metadata": {"labels": {"app": "load"}},
            "spec": {"containers": [{"name": "server", "image": "registry.example/server:1"}]}}}});
    let (method, path) = match items(master.address, CONTROLLERS).is_empty() {
        true => ("POST", CONTROLLERS.to_owned()),
        false => ("PUT", format!("{CONTROLLERS}/load")),
    };
    let (status, answer) = http::exchange(master.address, method, &path, &object.to_string())?;
    ensure!(matches!(status, 200 | 201), "{status} {answer}");
    Ok(())
}

/// Of a node or a pod.
fn is_ready(object: &&Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Waits until there are exactly so many pods, all ready, with addresses of their own.
fn settle(master: &Master, pods: usize) -> Result<Vec<Value>> {
    eventually("the pods are as many as asked for, and ready", || {
        let all = items(master.address, "/api/v1/pods");
        let mut addresses: Vec<_> = all.iter().filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let settled = all.len() == pods && addresses.len() == pods && all.iter().filter(is_ready).count() == pods;
        settled.then_some(all)
    })
}

#[test]
fn simulated_minions_run_as_many_pods_as_asked_for_and_say_what_they_are() -> Result<()> {
    let master = Master::start(&[])?;
    let minions = Hollow::start(&master, &["--hollow-pods", "10", "--hollow-failed-starts", "0.2"])?;
    minions.wait_ready()?;
    let nodes = eventually("all minions are Ready", || {
        let nodes = items(master.address, "/api/v1/nodes");
        (nodes.iter().filter(is_ready).count() == MINIONS).then_some(nodes)
    })?;
    assert_eq!(nodes.len(), MINIONS);
    for node in &nodes {
        let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().context("its runtime")?;
        assert!(runtime.starts_with("hollow://"), "{runtime}");
        assert_eq!(node["status"]["allocatable"]["pods"], "10");
    }
    resize(&master, PODS)?;
    let pods = settle(&master, PODS)?;
    let mut used: Vec<_> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), MINIONS, "they are spread");
    resize(&master, 3)?;
    settle(&master, 3)?;
    resize(&master, 0)?;
    settle(&master, 0)?;
    Ok(())
}

#[test]
fn containers_that_crash_by_themselves_are_started_again() -> Result<()> {
    let master = Master::start(&[])?;
    let minions = Hollow::start(&master, &["--hollow-crash-after", "1"])?;
    minions.wait_ready()?;
    resize(&master, PODS)?;
    eventually("many containers were started again", || {
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
        let all = items(master.address, "/api/v1/pods");
        (all.len() == PODS && all.iter().map(restarts).sum::<u64>() > PODS as u64).then_some(())
    })
}
