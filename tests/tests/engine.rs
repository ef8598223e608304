//! Faults of the Docker engine, of the minion and of the pod network end in the desired state.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_tests::{
    Cluster, docker,
    engine::Engine,
    eventually,
    random::{Random, pass},
};

/// How long the engine is away.
const OUTAGE: Duration = Duration::from_secs(10);

/// The article's Jenkins with its services, on an engine of its own.
struct Jenkins {
    cluster: Cluster,
    id: String,
    portal: String,
    // Last: the cluster's reset needs it.
    engine: Engine,
}

impl Jenkins {
    fn start() -> Result<Self> {
        let engine = Engine::start()?;
        let mut cluster = Cluster::prepare_on(&engine.site)?;
        cluster.launch()?;
        cluster.wait_ready()?;
        for (file, kind) in
            [("pod.json", "pods"), ("service-http.json", "services"), ("service-slave.json", "services")]
        {
            cluster.kubecfg(&["-c", &Cluster::example(&format!("jenkins/{file}")), "create", kind])?;
        }
        let portal = cluster.kubecfg(&["-template", "{{.portalIP}}", "get", "services/jenkins"])?.trim().to_owned();
        Ok(Self { id: cluster.id()?, cluster, portal, engine })
    }

    /// The instance, by the page through the portal.
    fn instance(&self) -> Result<String> {
        eventually("the page answers through the portal", || {
            let json = self.engine.site.get(&self.portal, 8888, "/api/json").ok()?;
            let value: serde_json::Value = serde_json::from_str(&json).ok()?;
            Some(value["instance"].as_str()?.to_owned())
        })
        .with_context(|| self.cluster.log())
    }

    /// What `kubecfg` says of the pod.
    fn status(&self) -> String {
        let args = ["-template", "{{.currentState.status}}", "get", "pods/jenkins"];
        self.cluster.kubecfg(&args).unwrap_or_default().trim().to_owned()
    }

    fn node(&self) -> Option<serde_json::Value> {
        let text = self.cluster.coracle(&["get", "nodes", "-o", "json"]).ok()?;
        let list: serde_json::Value = serde_json::from_str(&text).ok()?;
        let conditions = list["items"][0]["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|c| c["type"] == "Ready")
    }

    fn containers(&self) -> Result<Vec<String>> {
        let mut running = self.engine.site.running(&format!("io.coracle.cluster={}", self.id))?;
        running.sort();
        Ok(running)
    }

    /// The pod, its two containers and its page with the same data; the node is ready.
    fn check_whole(&self, instance: &str) -> Result<()> {
        ensure!(self.instance()? == instance, "the volume was lost");
        eventually("the pod is Running in two containers and the node is ready", || {
            let ready = self.node()?["status"] == "True";
            (ready && self.status() == "Running" && self.containers().ok()?.len() == 2).then_some(())
        })
        .with_context(|| format!("node {:?}, pod {}:\n{}", self.node(), self.status(), self.cluster.log()))
    }

    /// Also after the minion started anew, which adopts what is right and would double what is not.
    fn check_settled(&mut self, instance: &str) -> Result<()> {
        self.check_whole(instance)?;
        let before = self.containers()?;
        self.cluster.kill()?;
        self.cluster.launch()?;
        self.cluster.wait_ready()?;
        self.check_whole(instance)?;
        ensure!(self.containers()? == before, "a container was replaced without need");
        Ok(())
    }
}

#[test]
fn an_engine_that_was_stopped_for_ten_seconds_finds_its_pods_again() -> Result<()> {
    let mut jenkins = Jenkins::start()?;
    let instance = jenkins.instance()?;
    jenkins.check_whole(&instance)?;
    let stopped = Instant::now();
    jenkins.engine.stop()?;
    let condition =
        eventually("the node is not ready", || jenkins.node().filter(|condition| condition["status"] == "False"))?;
    let message = condition["message"].as_str().unwrap_or_default();
    assert_eq!(condition["reason"], "EngineUnreachable", "{condition}");
    assert!(message.contains("docker.sock"), "the message names the engine: {message}");
    while stopped.elapsed() < OUTAGE {
        let status = jenkins.node().context("the master answers without an engine")?["status"].clone();
        assert_eq!(status, "False", "not ready as long as the engine is away");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    jenkins.engine.launch()?;
    let started = Instant::now();
    jenkins.check_whole(&instance)?;
    println!("whole {:?} after the engine answered", started.elapsed());
    jenkins.check_settled(&instance)
}

#[test]
fn an_engine_that_was_killed_finds_its_pods_again() -> Result<()> {
    let mut jenkins = Jenkins::start()?;
    let instance = jenkins.instance()?;
    jenkins.check_whole(&instance)?;
    jenkins.engine.kill()?;
    jenkins.engine.launch()?;
    let started = Instant::now();
    jenkins.check_whole(&instance)?;
    println!("whole {:?} after the engine answered", started.elapsed());
    jenkins.check_settled(&instance)
}

#[test]
fn a_pod_network_that_others_take_apart_is_repaired() -> Result<()> {
    let mut jenkins = Jenkins::start()?;
    let instance = jenkins.instance()?;
    jenkins.check_whole(&instance)?;
    let site = jenkins.engine.site.clone();
    let (network, bridge) = (format!("coracle-{}", jenkins.id), format!("cor-{}", jenkins.id));
    let routes = site.run("ip", &["route", "show", "dev", &bridge])?;
    let services = routes.lines().find(|line| line.contains("/16")).context("no service route")?;
    let range = services.split(' ').next().unwrap_or_default();
    let containers = jenkins.containers()?.join(" ");
    // The infra container is the only one of the two that is on a network.
    let disconnect = format!(
        "export DOCKER_HOST=unix://{}; for c in {containers}; do docker network disconnect -f {network} $c; done; \
         docker network rm {network}",
        site.socket.display()
    );
    for (what, program, args) in [
        ("the rules", "nft", vec!["delete", "table", "ip", &network]),
        ("the service route", "ip", vec!["route", "del", range]),
        ("the bridge's address", "ip", vec!["address", "flush", "dev", &bridge]),
        ("the bridge's state", "ip", vec!["link", "set", &bridge, "down"]),
        ("the bridge", "ip", vec!["link", "del", &bridge]),
        ("the Docker network", "sh", vec!["-c", &disconnect]),
    ] {
        let before = jenkins.containers()?;
        let begun = Instant::now();
        site.run(program, &args).with_context(|| format!("taking away {what}"))?;
        jenkins.check_whole(&instance).with_context(|| format!("after {what} was taken away"))?;
        site.get("127.0.0.1", 8080, "/api/json").with_context(|| format!("the published port after {what}"))?;
        // Their addresses are forgotten with the Docker network: pods start anew.
        ensure!(what == "the Docker network" || jenkins.containers()? == before, "{what}: containers were replaced");
        println!("{what}: whole after {:?}", begun.elapsed());
    }
    jenkins.check_settled(&instance)
}

/// The API's default address is the article's host port.
#[test]
fn the_articles_pod_runs_beside_an_api_on_its_default_port() -> Result<()> {
    let engine = Engine::start()?;
    let site = &engine.site;
    site.run("ip", &["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"])?;
    site.run("ip", &["address", "add", "192.0.2.2/24", "dev", "lan0"])?;
    for end in ["lan0", "lan1"] {
        site.run("ip", &["link", "set", end, "up"])?;
    }
    site.run("ip", &["route", "add", "default", "via", "192.0.2.1"])?;
    let mut cluster = Cluster::prepare_on(site)?;
    cluster.address = "127.0.0.1:8080".parse()?;
    cluster.launch()?;
    cluster.wait_ready()?;
    cluster.kubecfg(&["-c", &Cluster::example("jenkins/pod.json"), "create", "pods"])?;
    eventually("the page answers on the node's address", || site.get("192.0.2.2", 8080, "/api/json").ok())
        .with_context(|| cluster.log())?;
    ensure!(site.get("127.0.0.1", 8080, "/healthz")? == "ok", "the API still answers on loopback");
    Ok(())
}

#[test]
fn a_minion_killed_at_random_instants_while_five_pods_start_doubles_none() -> Result<()> {
    let mut random = Random::new()?;
    println!("{}", random.seed);
    let mut cluster = Cluster::start()?;
    let id = cluster.id()?;
    cluster.coracle(&["run", "five", "--image", "coracle/busybox:1", "--replicas", "5", "--", "sleep", "100000"])?;
    let of = |name: &str| docker::running(&[("io.coracle.cluster", &id), ("io.coracle.container", name)]);
    let all = || docker::running(&[("io.coracle.cluster", &id)]);
    for _ in 0..10 {
        let delay = random.time(Duration::from_millis(300));
        pass(delay);
        cluster.kill()?;
        println!("killed after {delay:?} with {} containers", all()?.len());
        cluster.launch()?;
    }
    cluster.wait_ready()?;
    let whole = || {
        let running = cluster.coracle(&["get", "pods"]).ok()?.matches(" Running").count();
        let containers = all().ok()?;
        (running == 5 && of("five").ok()?.len() == 5 && of("net").ok()?.len() == 5 && containers.len() == 10)
            .then_some(containers)
    };
    let before = eventually("five pods run, once", whole).with_context(|| cluster.log())?;
    cluster.kill()?;
    cluster.launch()?;
    cluster.wait_ready()?;
    let after = eventually("five pods run, once", || {
        let running = cluster.coracle(&["get", "pods"]).ok()?.matches(" Running").count();
        let containers = all().ok()?;
        (running == 5 && containers.len() == 10).then_some(containers)
    })?;
    assert_eq!(before, after, "all were adopted");
    Ok(())
}
