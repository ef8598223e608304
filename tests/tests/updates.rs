//! Updates and drains under load: no request fails, whatever becomes of the update.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Child,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use coracle_test_hosts::{Lab, Options, eventually};
use coracle_tests::{
    Cluster,
    docker::docker,
    http,
    lab::{self, describe},
    load::Load,
};
use serde_json::{Value, json};

const ECHO: &str = "coracle/echo:1";
const PORT: u16 = 8080;
const REPLICAS: usize = 6;
/// Requests a second.
const PACE: u32 = 1000;
/// Updates in a row; `CORACLE_UPDATES` asks for more.
const UPDATES: usize = 2;
/// Nobody listens there: a pull fails at once.
const MISSING: &str = "127.0.0.1:1/missing:1";
/// Its program ends at once.
const CRASHING: &str = "coracle/busybox:1";

/// The echo image under another name, as long as this lives.
struct Tag(String);

impl Tag {
    fn new() -> Result<Self> {
        let name = format!("coracle/echo:test-{}", std::process::id());
        docker(&["tag", ECHO, &name])?;
        Ok(Self(name))
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        drop(docker(&["rmi", &self.0]));
    }
}

/// A controller of echo pods, and a service over them.
fn echo(name: &str, replicas: usize) -> [Value; 2] {
    let labels = json!({"app": name});
    let container = json!({"name": "echo", "image": ECHO, "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 30}});
    [
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": labels, "template": template}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": PORT}]}}),
    ]
}

/// A cluster with the controller `web`, all ready.
struct Site {
    cluster: Cluster,
    replicas: usize,
    portal: SocketAddr,
}

/// A pod as far as it matters here.
#[derive(Debug)]
struct Pod {
    uid: String,
    image: String,
    ready: bool,
}

impl Site {
    fn start(replicas: usize) -> Result<Self> {
        let cluster = Cluster::start()?;
        for (object, kind) in echo("web", replicas).iter().zip(["replicationcontrollers", "services"]) {
            http::post(cluster.address, &format!("/api/v1/namespaces/default/{kind}"), &object.to_string())?;
        }
        let service: Value = serde_json::from_str(&cluster.coracle(&["get", "services", "web", "-o", "json"])?)?;
        let portal = format!("{}:80", service["spec"]["clusterIP"].as_str().context("no portal")?).parse()?;
        let site = Self { cluster, replicas, portal };
        site.whole(ECHO)?;
        Ok(site)
    }

    /// The pods that are not on their way out.
    fn pods(&self) -> Result<Vec<Pod>> {
        let list: Value = serde_json::from_str(&self.cluster.coracle(&["get", "pods", "-o", "json"])?)?;
        let living = list["items"].as_array().context("no list")?.iter();
        let living = living.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod = |pod: &Value| Pod {
            uid: text(&pod["metadata"]["uid"]),
            image: text(&pod["spec"]["containers"][0]["image"]),
            ready: pod["status"]["containerStatuses"][0]["ready"] == true,
        };
        Ok(living.map(pod).collect())
    }

    /// Waits until all replicas, and no others, are of this image and serve.
    fn whole(&self, image: &str) -> Result<Vec<String>> {
        eventually(&format!("all are {image}"), || {
            let pods = self.pods().ok()?;
            let good = pods.len() == self.replicas && pods.iter().all(|p| p.ready && p.image == image);
            let served = http::get_status(self.portal, "/") == Some(200);
            (good && served).then(|| pods.into_iter().map(|p| p.uid).collect())
        })
        .with_context(|| format!("{:?}\n{}", self.pods(), self.cluster.log()))
    }

    fn update(&self, image: &str) -> Result<String> {
        self.cluster.coracle(&["rollingupdate", "web", "--image", image, "--min-ready", "500ms"])
    }

    /// An update that must fail; what it says.
    fn fail(&self, image: &str) -> Result<String> {
        match self.update(image) {
            Ok(said) => bail!("the update to {image} went through:\n{said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Begins to note how many pods the service is made of.
    fn observe(&self) -> Result<http::Stream> {
        http::Stream::open(self.cluster.address, "/api/v1/watch/namespaces/default/endpoints/web")
    }

    /// The least number of pods that the service had.
    fn fewest(&self, seen: http::Stream) -> Result<usize> {
        let mut fewest = None;
        // A line of a chunked answer is an event, or the length of a chunk; the last may be cut off.
        for event in seen.finish()?.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if !["ADDED", "MODIFIED"].contains(&event["type"].as_str().unwrap_or_default()) {
                continue;
            }
            let addresses = |subset: &Value| subset["addresses"].as_array().map_or(0, Vec::len);
            let count = event["object"]["subsets"].as_array().map_or(0, |all| all.iter().map(addresses).sum());
            fewest = Some(fewest.map_or(count, |least: usize| least.min(count)));
        }
        fewest.context("nothing was seen of the endpoints")
    }
}

#[test]
fn rolling_updates_fail_no_request_and_never_lack_a_pod() -> Result<()> {
    let updates = std::env::var("CORACLE_UPDATES").map_or(Ok(UPDATES), |text| text.parse())?;
    let (site, other) = (Site::start(REPLICAS)?, Tag::new()?);
    let seen = site.observe()?;
    let load = Load::start(site.portal, PACE, None);
    let begun = Instant::now();
    for round in 0..updates {
        let image = if round % 2 == 0 { &other.0 } else { ECHO };
        let said = site.update(image)?;
        ensure!(said.contains(&format!("{REPLICAS}/{REPLICAS} ")) && said.contains("up to date"), "{said}");
        site.whole(image)?;
        println!("{said}");
    }
    let took = begun.elapsed();
    let report = load.finish()?;
    let fewest = site.fewest(seen)?;
    println!("{} requests in {took:?}, {updates} updates: the slowest took {:?}", report.asked, report.slowest);
    ensure!(fewest >= REPLICAS, "the service had only {fewest} pods at one time");
    ensure!(report.answers.len() >= REPLICAS * (updates + 1), "not all were asked: {:?}", report.answers);
    Ok(())
}

#[test]
fn a_broken_update_stops_by_itself_goes_back_with_one_command_and_an_interrupted_one_goes_on() -> Result<()> {
    let (site, other) = (Site::start(3)?, Tag::new()?);
    let load = Load::start(site.portal, PACE / 2, None);
    let seen = site.observe()?;
    let first = site.whole(ECHO)?;
    for (image, reason) in [(MISSING, "ImagePull"), (CRASHING, "CrashLoopBackOff")] {
        let said = site.fail(image)?;
        ensure!(said.contains(reason) && said.contains("coracle rollingupdate web --rollback"), "{said}");
        println!("{said}");
        let pods = site.pods()?;
        let serving = pods.iter().filter(|p| p.ready && first.contains(&p.uid)).count();
        ensure!(serving == first.len(), "the old pods serve on: {pods:?}");
        site.cluster.coracle(&["rollingupdate", "web", "--rollback"])?;
        ensure!(site.whole(ECHO)? == first, "nothing was replaced");
    }

    let line = ["-image", &other.0, "rollingupdate", "web"].map(str::to_owned);
    let mut client = site.cluster.start_kubecfg(&line)?;
    let heard = wait_for_line(&mut client, "1/3 ")?;
    // kill -9
    client.kill()?;
    client.wait()?;
    let said = site.update(&other.0)?;
    ensure!(said.contains("going on") && !said.contains("\n1/3 "), "{heard}\nthen:\n{said}");
    site.whole(&other.0)?;
    // A finished update goes back too, and once.
    for _ in 0..2 {
        site.cluster.kubecfg(&["-rollback", "rollingupdate", "web"])?;
        site.whole(ECHO)?;
    }
    // Nor does a broken one keep the next from its end.
    site.fail(MISSING)?;
    site.update(&other.0)?;
    site.whole(&other.0)?;
    let report = load.finish()?;
    println!("{} requests: the slowest took {:?}", report.asked, report.slowest);
    let fewest = site.fewest(seen)?;
    ensure!(fewest >= 3, "the service had only {fewest} pods at one time");
    Ok(())
}

/// Reads what a client says until a line begins so.
fn wait_for_line(client: &mut Child, start: &str) -> Result<String> {
    let mut said = BufReader::new(client.stderr.take().context("no output")?);
    let mut heard = String::new();
    loop {
        let before = heard.len();
        if said.read_line(&mut heard)? == 0 {
            bail!("it ended without '{start}': {heard}");
        }
        if heard[before..].starts_with(start) {
            return Ok(heard);
        }
    }
}

#[test]
fn a_drain_fails_no_request_of_one_pod_or_of_six() -> Result<()> {
    let mut options = Options::new(3);
    options.images.push(ECHO.into());
    let lab = Lab::ready(&options)?;
    let bare = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"},
        "spec": {"nodeName": "h2", "terminationGracePeriodSeconds": 1, "containers": [{"name": "echo", "image": ECHO}]}});
    lab::apply(&lab, &[echo("six", REPLICAS), echo("one", 1)].concat())?;
    lab::apply(&lab, &[bare])?;
    let ready = |count: usize| {
        eventually("all pods are ready", || lab::pods(&lab).ok().filter(|pods| pods.len() == count))
            .with_context(|| describe(&lab))
    };
    ready(REPLICAS + 2)?;
    let client = lab.host(1);
    let portal = |name: &str| -> Result<SocketAddr> {
        let service: Value = serde_json::from_str(&lab.coracle(&["get", "services", name, "-o", "json"])?)?;
        Ok(format!("{}:80", service["spec"]["clusterIP"].as_str().context("no portal")?).parse()?)
    };
    let portals = [portal("six")?, portal("one")?];
    for portal in &portals {
        eventually("the service answers", || client.get(&portal.ip().to_string(), 80, "/").ok())?;
    }
    let loads = portals.map(|portal| Load::start(portal, PACE / 2, Some(&client.site())));

    let refused = format!("{:#}", lab.coracle(&["drain", "h2"]).err().context("a pod of its own was drained unasked")?);
    ensure!(refused.contains("bare") && refused.contains("--bare move"), "{refused}");
    let home = |pods: &[lab::Pod]| pods.iter().find(|p| p.name.starts_with("one-")).map(|p| p.host);
    for _ in 0..2 {
        // Where the single pod is, each time.
        let host = home(&ready(REPLICAS + 2)?).context("no single pod")?;
        let name = format!("h{host}");
        let said = lab.coracle(&["drain", &name, "--bare", "move"]).with_context(|| describe(&lab))?;
        println!("{said}");
        let after = ready(REPLICAS + 2)?;
        ensure!(after.iter().all(|pod| pod.host != host), "{after:?}");
        lab.coracle(&["uncordon", &name])?;
    }
    for load in loads {
        let report = load.finish().with_context(|| describe(&lab))?;
        println!("{} requests: the slowest took {:?}", report.asked, report.slowest);
    }
    Ok(())
}
