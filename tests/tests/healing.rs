//! Whatever is killed comes back, with its data, and nothing comes back twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_tests::{
    Cluster, docker, eventually, http,
    random::{Random, pass},
    tables,
    walk::{Objects, Walk},
};

struct Jenkins {
    cluster: Cluster,
    id: String,
}

impl Jenkins {
    fn start() -> Result<Self> {
        let cluster = Cluster::start()?;
        cluster.kubecfg(&["-c", &cluster.jenkins_without_host_ports()?, "create", "pods"])?;
        cluster.kubecfg(&["-c", &Cluster::example("jenkins/service-http.json"), "create", "services"])?;
        let id = cluster.id()?;
        let jenkins = Self { cluster, id };
        jenkins.wait_running(None)?;
        Ok(jenkins)
    }

    fn container(&self, name: &str) -> Option<String> {
        let labels = [("io.coracle.cluster", self.id.as_str()), ("io.coracle.container", name)];
        docker::running(&labels).ok()?.pop()
    }

    /// Waits for a running container that is not `old`, for the status, and for the page.
    fn wait_running(&self, old: Option<&str>) -> Result<String> {
        let container =
            eventually("a new container runs", || self.container("jenkins").filter(|new| Some(new.as_str()) != old))?;
        eventually("the pod is Running", || {
            let status =
                self.cluster.kubecfg(&["-template", "{{.currentState.status}}", "get", "pods/jenkins"]).ok()?;
            (status.trim() == "Running").then_some(())
        })?;
        Ok(container)
    }

    fn instance(&self) -> Result<String> {
        let portal = self.cluster.kubecfg(&["-template", "{{.portalIP}}", "get", "services/jenkins"])?;
        eventually("the page answers through the portal", || {
            let json = http::get(format!("{}:8888", portal.trim()).parse().ok()?, "/api/json")?;
            let value: serde_json::Value = serde_json::from_str(&json).ok()?;
            Some(value["instance"].as_str()?.to_owned())
        })
    }
}

#[test]
fn a_killed_container_shows_failed_then_running_and_keeps_its_volume() -> Result<()> {
    let jenkins = Jenkins::start()?;
    let before = jenkins.instance()?;
    let container = jenkins.container("jenkins").context("no container")?;
    let watch = http::Stream::open(jenkins.cluster.address, "/api/v1beta1/watch/pods")?;
    docker::docker(&["kill", &container])?;
    jenkins.wait_running(Some(&container))?;
    let seen = watch.finish()?;
    let statuses: Vec<&str> = seen
        .lines()
        .filter_map(|line| line.split("\"currentState\"").nth(1)?.split("\"status\":\"").nth(1)?.split('"').next())
        .collect();
    let failed = statuses.iter().position(|s| *s == "Terminated").with_context(|| format!("Failed in {statuses:?}"))?;
    assert!(statuses[failed..].contains(&"Running"), "then Running: {statuses:?}");
    assert_eq!(jenkins.instance()?, before, "the volume survived");
    let pod: serde_json::Value = serde_json::from_str(
        &http::get(jenkins.cluster.address, "/api/v1/namespaces/default/pods/jenkins").context("no pod")?,
    )?;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    Ok(())
}

#[test]
fn a_dead_infra_container_or_a_removed_one_ends_in_the_desired_state() -> Result<()> {
    let jenkins = Jenkins::start()?;
    let before = jenkins.instance()?;
    for (what, container) in [("kill", "net"), ("rm", "jenkins"), ("rm", "net")] {
        let old = jenkins.container("jenkins").context("no container")?;
        let victim = jenkins.container(container).context("no victim")?;
        match what {
            "kill" => docker::docker(&["kill", &victim])?,
            _ => docker::docker(&["rm", "-f", &victim])?,
        };
        jenkins.wait_running(Some(&old)).with_context(|| format!("after {what} of {container}"))?;
        assert_eq!(jenkins.instance()?, before, "the volume survived {what} of {container}");
        eventually("one container and one infra container are left", || {
            let labels = [("io.coracle.cluster", jenkins.id.as_str()), ("io.coracle.pod.name", "jenkins")];
            (docker::running(&labels).ok()?.len() == 2).then_some(())
        })?;
    }
    Ok(())
}

/// The longest that a kill comes after a step began. Half of the kills come within [`REQUEST`].
const EFFECTS: Duration = Duration::from_millis(500);
/// About what kubecfg takes for a step: a kill within it cuts many off.
const REQUEST: Duration = Duration::from_millis(10);

#[test]
fn kill_9_at_any_instant_loses_nothing_and_doubles_nothing() -> Result<()> {
    let mut random = Random::new()?;
    println!("{}", random.seed);
    let mut cluster = Cluster::start()?;
    let label = format!("io.coracle.cluster={}", cluster.id()?);
    let mut walk = Walk::default();
    for round in 0..50 {
        let step = walk.step(&mut random);
        let limit = if random.below(2) == 0 { REQUEST } else { EFFECTS };
        let delay = random.time(limit);
        let kubecfg = cluster.start_kubecfg(&step.args(&cluster)?)?;
        pass(delay);
        cluster.kill()?;
        let ended = kubecfg.wait_with_output()?;
        walk.ended(step, ended.status.success(), &String::from_utf8_lossy(&ended.stderr))?;
        println!("round {round}: {step:?}, killed after {delay:?}, {}", ended.status);
        cluster.launch()?;
        cluster
            .wait_ready()
            .and_then(|()| walk.check(Objects::shown(&cluster)?))
            .with_context(|| format!("round {round}, {}:\n{}", random.seed, cluster.log()))?;
        let mut running = docker::running_by_pod(&label)?;
        let all = running.len();
        running.dedup();
        ensure!(running.len() == all, "a container runs twice: {running:?}");
    }
    println!("{} steps were acknowledged, {} cut off", walk.acknowledged, walk.cut_off);
    ensure!(walk.acknowledged >= 10 && walk.cut_off >= 3, "too few to tell anything: {walk:?}");
    // The last step may be unsure. Undisturbed, it or another is acknowledged.
    let step = walk.step(&mut random);
    let ended = cluster.start_kubecfg(&step.args(&cluster)?)?.wait_with_output()?;
    walk.ended(step, ended.status.success(), &String::from_utf8_lossy(&ended.stderr))?;
    let declared = walk.check(Objects::shown(&cluster)?)?;
    let before = settled(&cluster, &declared)?;
    cluster.kill()?;
    cluster.launch()?;
    cluster.wait_ready()?;
    assert_eq!(settled(&cluster, &declared)?, before, "what ran was adopted");
    Ok(())
}

/// Waits until exactly what is declared runs, once; the containers.
fn settled(cluster: &Cluster, declared: &Objects) -> Result<Vec<String>> {
    let id = cluster.id()?;
    let (jenkins, slaves) = (usize::from(declared.pod), declared.replicas.unwrap_or(0));
    let services = cluster.kubecfg(&["list", "services"])?;
    assert_eq!(
        tables::cells(&services).len(),
        4 + usize::from(declared.http) + usize::from(declared.slave),
        "{services}"
    );
    let rows = || Some(tables::cells(&cluster.kubecfg(&["list", "pods"]).ok()?).split_off(2));
    let of = |name: &str| docker::running(&[("io.coracle.cluster", &id), ("io.coracle.container", name)]).ok();
    eventually("exactly what is declared runs", || {
        let pods = rows()?;
        let running = pods.len() == jenkins + slaves && pods.iter().all(|row| row[4] == "Running");
        let (jenkins_of, slaves_of, nets) = (of("jenkins")?, of("jenkins-slave")?, of("net")?);
        let once = (jenkins_of.len(), slaves_of.len(), nets.len()) == (jenkins, slaves, jenkins + slaves);
        let mut all = [jenkins_of, slaves_of, nets].concat();
        all.sort();
        (running && once).then_some(all)
    })
    .with_context(|| format!("declared is {declared:?}, but the pods are {:?}:\n{}", rows(), cluster.log()))
}
