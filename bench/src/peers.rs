//! `coracle-bench peers`: what Docker Swarm can do too, on the same engine, by turns.
//!
//! Both are asked over their HTTP APIs, and both are timed by the engine's own events: a container has started or
//! died when the engine says so. A Swarm task is one container on the engine's default network; a pod of Coracle has a
//! network of its own, held by a second container.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use coracle_tests::{Cluster, docker::docker, http};
use serde_json::{Value, json};

use crate::table::Row;

const ENGINE: &str = "/var/run/docker.sock";
const IMAGE: &str = "coracle/busybox:1";
/// Ends at once when it is asked to.
const SCRIPT: &str = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
const REPLICAS: usize = 20;
const NAME: &str = "coracle-bench-peers";
const LIMIT: Duration = Duration::from_secs(120);
/// Rounds of what takes seconds.
const LONG_ROUNDS: usize = 3;

/// Who runs the containers.
enum Side {
    Swarm,
    Coracle(Box<Cluster>),
}

/// Takes the figures.
pub(crate) fn rows(rounds: usize) -> Result<Vec<Row>> {
    let _swarm = Swarm::begin()?;
    let sides = [Side::Coracle(Box::new(Cluster::start()?)), Side::Swarm];
    let mut times: [[Vec<Duration>; 4]; 2] = Default::default();
    for round in 0..rounds {
        for (side, times) in sides.iter().zip(&mut times) {
            let changes = side.create()?;
            times[0].push(changes.started(1)?);
            let container = side.container()?;
            let changes = side.follow()?;
            call("POST", &format!("/containers/{container}/kill"), "")?;
            times[1].push(changes.started(1)?);
            if round < LONG_ROUNDS {
                let changes = side.scale(REPLICAS)?;
                times[2].push(changes.started(REPLICAS - 1)?);
                let changes = side.scale(1)?;
                times[3].push(changes.died(REPLICAS - 1)?);
            }
            side.remove()?;
        }
    }
    let names = ["one replica, created to started", "container killed, to its successor started"];
    let scales = [format!("1 to {REPLICAS} replicas, all started"), format!("{REPLICAS} to 1, all ended")];
    let [ours, theirs] = times;
    let measured = names.map(str::to_owned).into_iter().chain(scales).zip(ours.iter().zip(&theirs));
    Ok(measured.map(|(what, (ours, theirs))| Row::beside(what, ours, "Docker Swarm", theirs)).collect())
}

impl Side {
    /// The label that its containers have.
    fn label(&self) -> Result<String> {
        Ok(match self {
            Side::Swarm => format!("com.docker.swarm.service.name={NAME}"),
            Side::Coracle(cluster) => format!("io.coracle.cluster={}", cluster.id()?),
        })
    }

    /// Another one that only the containers of the replicas have.
    fn filters(&self) -> Result<Vec<String>> {
        let own = matches!(self, Side::Coracle(_)).then(|| "io.coracle.container=c".to_owned());
        Ok([self.label()?].into_iter().chain(own).collect())
    }

    fn container(&self) -> Result<String> {
        let filters: Vec<String> = self.filters()?.into_iter().map(|label| format!("label={label}")).collect();
        let mut args = vec!["ps", "-q", "--no-trunc"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        let found = docker(&args)?;
        found.lines().next().map(str::to_owned).context("no container runs")
    }

    /// What becomes of its containers from now on.
    fn follow(&self) -> Result<Changes> {
        Changes::follow(&self.filters()?)
    }

    fn create(&self) -> Result<Changes> {
        let changes = self.follow()?;
        match self {
            Side::Swarm => drop(call("POST", "/services/create", &swarm_service(1))?),
            Side::Coracle(cluster) => {
                http::post(cluster.address, "/api/v1/namespaces/default/replicationcontrollers", &controller(1))?;
            }
        }
        Ok(changes)
    }

    fn scale(&self, replicas: usize) -> Result<Changes> {
        let changes = self.follow()?;
        match self {
            Side::Swarm => {
                let now: Value = serde_json::from_str(&call("GET", &format!("/services/{NAME}"), "")?)?;
                let path = format!("/services/{NAME}/update?version={}", now["Version"]["Index"]);
                call("POST", &path, &swarm_service(replicas))?;
            }
            Side::Coracle(cluster) => {
                let path = format!("/api/v1/namespaces/default/replicationcontrollers/{NAME}");
                let (code, answer) = http::exchange(cluster.address, "PUT", &path, &controller(replicas))?;
                ensure!(code == 200, "PUT {path}: {code} {answer}");
            }
        }
        Ok(changes)
    }

    /// Removes everything and waits until it is gone.
    fn remove(&self) -> Result<()> {
        match self {
            Side::Swarm => drop(call("DELETE", &format!("/services/{NAME}"), "")?),
            Side::Coracle(cluster) => {
                cluster.coracle(&["delete", "rc", NAME, "--cascade=background", "--now"])?;
            }
        }
        let deadline = Instant::now() + LIMIT;
        let filter = format!("label={}", self.label()?);
        while !docker(&["ps", "-aq", "--filter", &filter])?.is_empty() {
            ensure!(Instant::now() < deadline, "containers are left after {LIMIT:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn controller(replicas: usize) -> String {
    json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": NAME},
        "spec": {"replicas": replicas, "selector": {"app": NAME}, "template": {"metadata": {"labels": {"app": NAME}},
            "spec": {"containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", SCRIPT]}]}}}})
    .to_string()
}

fn swarm_service(replicas: usize) -> String {
    json!({"Name": NAME, "Mode": {"Replicated": {"Replicas": replicas}}, "TaskTemplate": {
        "ContainerSpec": {"Image": IMAGE, "Command": ["sh", "-c", SCRIPT]},
        "RestartPolicy": {"Condition": "any", "Delay": 0}}})
    .to_string()
}

/// A swarm of this engine alone, which ends with it.
struct Swarm {
    /// The network that it makes on the host was there before.
    had_bridge: bool,
}

const BRIDGE: &str = "docker_gwbridge";

impl Swarm {
    fn begin() -> Result<Self> {
        let state = docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
        ensure!(state == "inactive", "this engine is part of a swarm ({state}), which is left alone");
        let had_bridge = docker(&["network", "ls", "--format", "{{.Name}}"])?.lines().any(|name| name == BRIDGE);
        let address = "127.0.0.1:2377";
        call("POST", "/swarm/init", &json!({"ListenAddr": address, "AdvertiseAddr": address}).to_string())?;
        Ok(Self { had_bridge })
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // Whatever is left of it goes with it.
        drop(docker(&["swarm", "leave", "--force"]));
        if !self.had_bridge {
            drop(docker(&["network", "rm", BRIDGE]));
        }
    }
}

/// One request to the engine; the body of its answer.
fn call(method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(ENGINE)?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n")?;
    write!(stream, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code: u16 = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    ensure!(code < 300, "{method} {path}: {code} {body}");
    Ok(body.to_owned())
}

/// Starts and deaths of containers, as the engine tells of them.
struct Changes {
    since: Instant,
    seen: Receiver<(Instant, String)>,
}

impl Changes {
    fn follow(labels: &[String]) -> Result<Self> {
        let filters = json!({"type": ["container"], "event": ["start", "die"], "label": labels}).to_string();
        let mut stream = UnixStream::connect(ENGINE)?;
        let path = format!("/events?filters={}", coracle_api::client::encode(&filters));
        write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut lines = BufReader::new(stream).lines();
        // The head comes once the engine listens.
        while !lines.next().context("the engine's events ended")??.is_empty() {}
        let (sender, seen) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                let action = event["Action"].as_str().unwrap_or_default().to_owned();
                if sender.send((Instant::now(), action)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { since: Instant::now(), seen })
    }

    fn started(&self, count: usize) -> Result<Duration> {
        self.wait("start", count)
    }

    fn died(&self, count: usize) -> Result<Duration> {
        self.wait("die", count)
    }

    /// Until the engine has told of so many, from the beginning.
    fn wait(&self, action: &str, count: usize) -> Result<Duration> {
        let mut left = count;
        loop {
            let patience = LIMIT.saturating_sub(self.since.elapsed());
            match self.seen.recv_timeout(patience) {
                Ok((at, seen)) if seen == action => {
                    left -= 1;
                    if left == 0 {
                        return Ok(at - self.since);
                    }
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{left} of {count} times '{action}' are missing after {LIMIT:?}")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the engine's events ended"),
            }
        }
    }
}
