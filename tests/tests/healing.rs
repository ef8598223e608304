//! Whatever is killed comes back, with its data, and nothing comes back twice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_tests::{Cluster, docker, eventually, http};

/// Stands for the Jenkins pod in a list of steps.
const POD: &str = "the Jenkins pod";

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

#[test]
fn kill_9_at_any_instant_loses_nothing_and_doubles_nothing() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let id = cluster.id()?;
    let rounds = 50;
    let steps: [&[&str]; 6] = [
        &["-c", POD, "create", "pods"],
        &["-c", "jenkins/service-http.json", "create", "services"],
        &["-c", "jenkins/service-slave.json", "create", "services"],
        &["-c", "jenkins/replication.json", "create", "replicationControllers"],
        &["resize", "jenkins-slave", "2"],
        &["resize", "jenkins-slave", "3"],
    ];
    let mut acknowledged = 0;
    for round in 0..rounds {
        // Spread over the half second in which a step has its effects.
        let delay = Duration::from_millis((round * 7919 % 500) as u64);
        let at = Instant::now() + delay;
        if let Some(step) = steps.get(acknowledged) {
            let file = |a: &&str| match *a {
                POD => cluster.jenkins_without_host_ports(),
                a if a.ends_with(".json") => Ok(Cluster::example(a)),
                a => Ok(a.to_owned()),
            };
            let args: Vec<String> = step.iter().map(file).collect::<Result<_>>()?;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            cluster.kubecfg(&args)?;
            acknowledged += 1;
        }
        while Instant::now() < at {
            std::thread::park_timeout(at - Instant::now());
        }
        cluster.kill()?;
        cluster.launch()?;
        cluster.wait_ready().with_context(|| format!("round {round}"))?;
    }
    eventually("everything declared runs, once", || {
        let table = cluster.kubecfg(&["list", "pods"]).ok()?;
        let running = table.lines().filter(|line| line.ends_with("Running")).count();
        let of = |name: &str| docker::running(&[("io.coracle.cluster", &id), ("io.coracle.container", name)]).ok();
        (running == 4 && of("jenkins")?.len() == 1 && of("jenkins-slave")?.len() == 3 && of("net")?.len() == 4)
            .then_some(())
    })?;
    let services = cluster.kubecfg(&["list", "services"])?;
    assert!(services.contains("\njenkins ") && services.contains("\njenkins-slave "), "{services}");
    Ok(())
}
