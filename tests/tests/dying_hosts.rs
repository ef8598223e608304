//! Hosts that die, are cut off, and come back: what ran there runs elsewhere, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coracle_test_hosts::{Lab, Options, eventually, root};
use coracle_tests::{
    lab::{Pod, apply, describe, pods},
    measure,
    random::pass,
};
use serde_json::json;

/// All must run elsewhere by then.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Shorter than a minion's grace.
const SHORT_CUT: Duration = Duration::from_secs(2);
/// Much longer than it.
const LONG_CUT: Duration = Duration::from_secs(15);
const REPLICAS: usize = 10;
/// Deaths of hosts; `CORACLE_DEATHS` asks for more.
const DEATHS: usize = 1;

/// The article's Jenkins, its page's service, and ten pods of a controller.
struct Site {
    lab: Lab,
    portal: String,
}

impl Site {
    fn start() -> Result<Self> {
        let lab = Lab::ready(&Options::new(3))?;
        let example = |name: &str| root().join("examples/jenkins").join(name).display().to_string();
        for (file, kind) in [("pod.json", "pods"), ("service-http.json", "services")] {
            lab.kubecfg(&["-c", &example(file), "create", kind])?;
        }
        let container = json!({"name": "c", "image": "coracle/busybox:1", "command": ["sleep", "1000000"]});
        let labels = json!({"app": "many"});
        let template = json!({"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
        let many = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "many"},
            "spec": {"replicas": REPLICAS, "selector": labels, "template": template}});
        apply(&lab, &[many])?;
        let portal = lab.kubecfg(&["-template", "{{.portalIP}}", "get", "services/jenkins"])?.trim().to_owned();
        let site = Self { lab, portal };
        site.whole()?;
        Ok(site)
    }

    /// Waits until all pods run; which they are.
    fn whole(&self) -> Result<Vec<Pod>> {
        eventually("all pods run", || pods(&self.lab).ok().filter(|pods| pods.len() == REPLICAS + 1))
            .with_context(|| describe(&self.lab))
    }

    fn answers(&self, host: usize) -> bool {
        self.lab.host(host).get(&self.portal, 8888, "/api/json").is_ok()
    }

    /// Every pod has its two containers on its host, and there are no others anywhere.
    fn check_once(&self) -> Result<()> {
        let doubled = |containers: &BTreeMap<String, usize>, pods: &[Pod]| {
            let expected: BTreeMap<String, usize> = pods.iter().map(|pod| (pod.uid.clone(), 2)).collect();
            *containers != expected
        };
        eventually("each pod is there once", || {
            let mut containers: BTreeMap<String, usize> = BTreeMap::new();
            for host in self.lab.hosts() {
                let format = r#"{{.Label "io.coracle.pod.uid"}}"#;
                let listed = host.docker(&["ps", "--filter", "label=io.coracle.cluster", "--format", format]).ok()?;
                listed.lines().for_each(|uid| *containers.entry(uid.to_owned()).or_default() += 1);
            }
            let pods = pods(&self.lab).ok()?;
            (pods.len() == REPLICAS + 1 && !doubled(&containers, &pods)).then_some(())
        })
        .with_context(|| describe(&self.lab))
    }

    /// Kills the host of Jenkins; how long until all run elsewhere and the page answers.
    fn kill_host(&self) -> Result<Duration> {
        let before = self.whole()?;
        let victim = before.iter().find(|pod| pod.name == "jenkins").context("no Jenkins")?.host;
        let other = (1..=3).find(|host| *host != victim).context("no other host")?;
        self.lab.host(victim).kill()?;
        let begun = Instant::now();
        eventually("all run elsewhere and the page answers", || {
            let pods = pods(&self.lab).ok()?;
            (pods.len() == REPLICAS + 1 && pods.iter().all(|pod| pod.host != victim) && self.answers(other))
                .then_some(())
        })
        .with_context(|| describe(&self.lab))?;
        let took = begun.elapsed();
        self.lab.host(victim).revive()?;
        let name = format!("h{victim}");
        self.lab.wait_status(&name, "Ready")?;
        self.check_once()?;
        Ok(took)
    }
}

/// Who runs where.
fn places(pods: &[Pod]) -> BTreeSet<(String, usize)> {
    pods.iter().map(|pod| (pod.uid.clone(), pod.host)).collect()
}

#[test]
fn the_pods_of_a_dead_host_run_elsewhere_within_ten_seconds_and_only_there() -> Result<()> {
    let site = Site::start()?;
    let deaths = std::env::var("CORACLE_DEATHS").map_or(Ok(DEATHS), |text| text.parse())?;
    let times = (0..deaths).map(|_| site.kill_host()).collect::<Result<Vec<_>>>()?;
    println!("host lost to all running elsewhere and the service answering: {times:?}");
    ensure!(measure::median(&times) <= ELSEWHERE, "{times:?}");
    Ok(())
}

#[test]
fn a_host_that_is_cut_off_for_a_moment_and_most_hosts_at_once_move_nothing() -> Result<()> {
    let site = Site::start()?;
    let before = places(&site.whole()?);
    site.lab.host(1).cut()?;
    pass(SHORT_CUT);
    site.lab.host(1).heal()?;
    site.lab.wait_ready()?;
    ensure!(places(&site.whole()?) == before, "two seconds moved something");

    for host in [1, 2] {
        site.lab.host(host).cut()?;
    }
    let cut = Instant::now();
    for name in ["h1", "h2"] {
        site.lab.wait_status(name, "NotReady")?;
    }
    pass(LONG_CUT.saturating_sub(cut.elapsed()));
    for host in [1, 2] {
        site.lab.host(host).heal()?;
    }
    site.lab.wait_ready()?;
    ensure!(places(&site.whole()?) == before, "something moved while most hosts were cut off");
    site.check_once()
}
