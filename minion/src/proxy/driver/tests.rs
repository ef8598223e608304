//! The driver with a data plane in memory and with scripted feeds.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    sync::{Arc, Mutex},
};

use coracle_api::{
    client::Change,
    core::{Endpoints, Service},
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{super::table::Portal, *};

/// What a data plane was told, and what it does about it.
#[derive(Default)]
struct World {
    calls: Vec<String>,
    held: Option<BTreeMap<Portal, Vec<SocketAddrV4>>>,
    fail: usize,
    gate: Option<oneshot::Receiver<()>>,
    cut_gate: Option<oneshot::Receiver<()>>,
    spared: Spared,
}

struct FakePlane {
    world: Arc<Mutex<World>>,
    disturbances: mpsc::Receiver<()>,
}

impl FakePlane {
    async fn call(&mut self, name: String) -> Result<(), ProxyError> {
        let gate = {
            let mut world = self.world.lock().unwrap();
            world.calls.push(name);
            if world.fail > 0 {
                world.fail -= 1;
                world.held = None;
                return Err(ProxyError::Refused { what: "a change", output: "scripted".into() });
            }
            world.gate.take()
        };
        if let Some(gate) = gate {
            let _ = gate.await;
        }
        Ok(())
    }
}

impl DataPlane for FakePlane {
    async fn load(&mut self, table: &Table) -> Result<(), ProxyError> {
        self.call("load".into()).await?;
        let held = table.portals().iter().map(|(p, f)| (*p, f.backends.to_vec())).filter(|(_, b)| !b.is_empty());
        self.world.lock().unwrap().held = Some(held.collect());
        Ok(())
    }

    async fn update(&mut self, delta: &Delta) -> Result<(), ProxyError> {
        self.call(format!("update {}", delta.portals.len())).await?;
        let mut world = self.world.lock().unwrap();
        let held = world.held.as_mut().expect("an update needs a loaded table");
        for (portal, (_, after)) in &delta.portals {
            held.remove(portal);
            if let Some(after) = after {
                held.insert(*portal, after.backends.to_vec());
            }
        }
        Ok(())
    }

    fn cut(&self, flows: Vec<Stale>, _: &Table, spared: Spared) -> impl Future<Output = ()> + Send + 'static {
        let gate = {
            let mut world = self.world.lock().unwrap();
            world.calls.push(format!("cut {}", flows.len()));
            world.spared = spared;
            world.cut_gate.take()
        };
        async {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
        }
    }

    async fn disturbed(&mut self) -> &'static str {
        match self.disturbances.recv().await {
            Some(()) => "scripted",
            None => std::future::pending().await,
        }
    }
}

struct Bench {
    world: Arc<Mutex<World>>,
    services: mpsc::Sender<Change<Service>>,
    endpoints: mpsc::Sender<Change<Endpoints>>,
    disturb: mpsc::Sender<()>,
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let (services, to_services) = mpsc::channel(feed::QUEUE);
        let (endpoints, to_endpoints) = mpsc::channel(feed::QUEUE);
        let (disturb, disturbances) = mpsc::channel(1);
        let (to_synced, synced) = watch::channel(false);
        let stop = CancellationToken::new();
        let plane = FakePlane { world: world.clone(), disturbances };
        let site = Site { service_cidr: "10.0.0.0/16".parse().unwrap(), ..Site::default() };
        let feeds = Feeds { services: to_services, endpoints: to_endpoints, in_force: watch::Sender::new(0) };
        let task = tokio::spawn(run(plane, site, feeds, to_synced, stop.clone()));
        Self { world, services, endpoints, disturb, synced, stop, task }
    }

    async fn list(&self) {
        self.services.send(Change::replaced(vec![service()])).await.unwrap();
        self.endpoints.send(Change::replaced(vec![endpoints(&["10.244.0.2"])])).await.unwrap();
    }

    /// Waits until the plane was told exactly this since the last wait, then forgets it.
    async fn expect(&self, calls: &[&str]) {
        let heard = async {
            while self.world.lock().unwrap().calls.len() < calls.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("the data plane was not told");
        assert_eq!(std::mem::take(&mut self.world.lock().unwrap().calls), calls);
    }

    /// Waits until the plane holds these backends of the one portal.
    async fn holds(&self, hosts: &[&str]) {
        let equal = || {
            let world = self.world.lock().unwrap();
            let held = world.held.iter().flat_map(|h| h.values().flatten());
            held.map(|b| b.ip().to_string()).collect::<Vec<_>>() == hosts
        };
        let reached = async {
            while !equal() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.expect("the data plane holds something else");
    }
}

fn service() -> Service {
    let spec = json!({"clusterIP": "10.0.0.5", "ports": [{"port": 53, "protocol": "UDP"}]});
    let meta = json!({"namespace": "default", "name": "a"});
    serde_json::from_value(json!({"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": spec})).unwrap()
}

fn endpoints(hosts: &[&str]) -> Endpoints {
    let addresses: Vec<_> = hosts.iter().map(|ip| json!({"ip": ip})).collect();
    let subsets = json!([{"addresses": addresses, "ports": [{"port": 53, "protocol": "UDP"}]}]);
    let meta = json!({"namespace": "default", "name": "a"});
    serde_json::from_value(json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": meta, "subsets": subsets}))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_loaded_before_both_kinds_are_listed() {
    let bench = Bench::start();
    bench.services.send(Change::replaced(vec![service()])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!*bench.synced.borrow());
    bench.expect(&[]).await;
    bench.endpoints.send(Change::replaced(vec![])).await.unwrap();
    bench.expect(&["load", "cut 1"]).await;
    bench.synced.clone().wait_for(|s| *s).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_go_as_deltas_and_lost_udp_backends_are_cut() {
    let bench = Bench::start();
    bench.list().await;
    bench.expect(&["load", "cut 1"]).await;
    bench.endpoints.send(Change::applied(endpoints(&["10.244.0.3"]))).await.unwrap();
    bench.expect(&["update 1", "cut 1"]).await;
    bench.holds(&["10.244.0.3"]).await;
    bench.endpoints.send(Change::applied(endpoints(&["10.244.0.3"]))).await.unwrap();
    bench.endpoints.send(Change::Interrupted("gone".into())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.expect(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_run_is_one_more_run() {
    let bench = Bench::start();
    let (open, gate) = oneshot::channel();
    bench.world.lock().unwrap().gate = Some(gate);
    bench.list().await;
    bench.expect(&["load"]).await;
    // More than a queue holds: the driver takes them in while it waits for the run.
    for host in 0..200 {
        bench.endpoints.send(Change::applied(endpoints(&[&format!("10.244.1.{host}")]))).await.unwrap();
    }
    open.send(()).unwrap();
    bench.expect(&["cut 1", "update 1", "cut 1"]).await;
    bench.holds(&["10.244.1.199"]).await;
}

#[tokio::test(start_paused = true)]
async fn changes_do_not_wait_for_flows_to_be_cut() {
    let bench = Bench::start();
    let (open, gate) = oneshot::channel();
    bench.list().await;
    bench.expect(&["load", "cut 1"]).await;
    bench.world.lock().unwrap().cut_gate = Some(gate);
    for (host, told) in
        [("10.244.0.3", &["update 1", "cut 1"][..]), ("10.244.0.4", &["update 1"]), ("10.244.0.5", &["update 1"])]
    {
        bench.endpoints.send(Change::applied(endpoints(&[host]))).await.unwrap();
        bench.expect(told).await;
        bench.holds(&[host]).await;
    }
    let spared = bench.world.lock().unwrap().spared.clone();
    assert_eq!(spared.lock().unwrap().len(), 1, "the cut under way leaves alone what was changed since");
    // What was lost meanwhile is cut together.
    open.send(()).unwrap();
    bench.expect(&["cut 2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_followed_by_a_full_load() {
    let bench = Bench::start();
    bench.list().await;
    bench.expect(&["load", "cut 1"]).await;
    bench.world.lock().unwrap().fail = 3;
    bench.endpoints.send(Change::applied(endpoints(&["10.244.0.3"]))).await.unwrap();
    bench.expect(&["update 1", "load", "load", "load", "cut 2"]).await;
    bench.holds(&["10.244.0.3"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_others_undo_is_loaded_again_within_a_second() {
    let bench = Bench::start();
    bench.list().await;
    bench.expect(&["load", "cut 1"]).await;
    for _ in 0..3 {
        let before = Instant::now();
        bench.disturb.send(()).await.unwrap();
        bench.expect(&["load", "cut 1"]).await;
        assert!(before.elapsed() <= Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_and_when_a_feed_ends() {
    let bench = Bench::start();
    bench.list().await;
    bench.expect(&["load", "cut 1"]).await;
    bench.stop.cancel();
    bench.task.await.unwrap();

    let bench = Bench::start();
    drop(bench.services);
    bench.task.await.unwrap();
}
