//! A master with services: one that is measured, one whose backend moves, and any number of others.

use std::{
    cell::Cell,
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coracle_api::{
    client::Client,
    core::{Endpoints, Service},
};
use coracle_tests::coracle;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::range::{BULK, HTTP, POD, PODS_CIDR, Range, SERVICE_CIDR};

/// Of the service that is measured.
pub(super) const WEB: &str = "10.92.0.10";
/// Of the service whose backend moves.
const MOVING: &str = "10.92.0.11";
pub(super) const MASTER: &str = "http://127.0.0.1:8080";
const NAMESPACE: &str = "default";
const BETWEEN_CHANGES: Duration = Duration::from_millis(100);
const READY_LIMIT: Duration = Duration::from_secs(30);
const CREATIONS_IN_FLIGHT: usize = 64;

/// The master and what it has.
#[derive(Debug)]
pub(super) struct Services<'a> {
    range: &'a Range,
    master: Child,
    others: AtomicUsize,
}

impl<'a> Services<'a> {
    pub(super) fn start(range: &'a Range) -> Result<Self> {
        let mut command = range.command(coracle());
        command.arg("master").arg("--data-dir").arg(range.dir.path().join("data"));
        command.args(["--service-cidr", SERVICE_CIDR, "--pod-cidr", PODS_CIDR]);
        let said = range.dir.path().join("master.log");
        let log = std::fs::File::create(&said)?;
        let master = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let services = Self { range, master, others: AtomicUsize::new(0) };
        services.with_client(async |client| {
            let deadline = Instant::now() + READY_LIMIT;
            let web = [("web", WEB, 0), ("moving", MOVING, 0)];
            for (name, ip, pod) in web {
                while let Err(error) = create(&client, name, Some(ip), pod).await {
                    let said = || std::fs::read_to_string(&said).unwrap_or_default();
                    ensure!(
                        Instant::now() < deadline,
                        "the master does not answer: {error}; it said: {}",
                        said().trim()
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Ok(())
        })?;
        Ok(services)
    }

    /// Creates services until there are so many.
    pub(super) fn fill(&self, count: usize) -> Result<()> {
        let have = self.others.swap(count, Ordering::Relaxed);
        self.with_client(async |client| {
            let creations = (have..count).map(|i| {
                let client = client.clone();
                async move { create(&client, &format!("s{i}"), None, i % POD.len()).await }
            });
            stream::iter(creations).buffer_unordered(CREATIONS_IN_FLIGHT).try_collect::<()>().await
        })
    }

    /// How many portals there are, each with a backend.
    pub(super) fn portals(&self) -> usize {
        // The two services have two ports each; the master's own services stand beside.
        2 * (self.others.load(Ordering::Relaxed) + 2)
    }

    /// Moves the backend of a service to and fro; from each request's start until a new connection
    /// meets the other pod.
    pub(super) fn changes(&self, count: usize) -> Result<Vec<Duration>> {
        self.with_client(async |client| {
            let endpoints = client.namespaced::<Endpoints>(NAMESPACE);
            let portal: SocketAddr = format!("{MOVING}:{HTTP}").parse()?;
            let mut all = Vec::new();
            let at = Cell::new(0);
            for _ in 0..count {
                // One at a time, as changes come: what a plane does after one would delay the next.
                tokio::time::sleep(BETWEEN_CHANGES).await;
                let next = 1 - at.get();
                let begun = Instant::now();
                endpoints.update("moving", &self::endpoints("moving", next)).await?;
                while meets(portal).ok() != Some(next) {
                    ensure!(begun.elapsed() < READY_LIMIT, "the change has no effect");
                }
                all.push(begun.elapsed());
                at.set(next);
            }
            Ok(all)
        })
    }

    fn with_client<T: Send>(&self, f: impl AsyncFnOnce(Client) -> Result<T> + Send) -> Result<T> {
        self.range.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(f(Client::new(MASTER)?))
        })
    }
}

impl Drop for Services<'_> {
    fn drop(&mut self) {
        drop(self.master.kill());
        drop(self.master.wait());
    }
}

async fn create(client: &Client, name: &str, ip: Option<&str>, pod: usize) -> Result<()> {
    let ports = json!([{"name": "http", "port": HTTP}, {"name": "bulk", "port": BULK}]);
    let service =
        json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"clusterIP": ip, "ports": ports}});
    let service: Service = serde_json::from_value(service)?;
    if let Err(error) = client.namespaced::<Service>(NAMESPACE).create(&service).await {
        ensure!(error.is_already_exists(), error);
    }
    client.namespaced::<Endpoints>(NAMESPACE).create(&endpoints(name, pod)).await?;
    Ok(())
}

fn endpoints(name: &str, pod: usize) -> Endpoints {
    let ports = json!([{"name": "http", "port": HTTP}, {"name": "bulk", "port": BULK}]);
    let subsets = json!([{"addresses": [{"ip": POD[pod]}], "ports": ports}]);
    let json = json!({"metadata": {"name": name, "namespace": NAMESPACE}, "subsets": subsets});
    serde_json::from_value(json).unwrap_or_default()
}

/// Which pod answers at a portal.
fn meets(portal: SocketAddr) -> Result<usize> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&portal, Duration::from_secs(1))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let pod = text.trim_end().rsplit_once("pod ").context("no pod answered")?.1;
    Ok(pod.parse()?)
}
