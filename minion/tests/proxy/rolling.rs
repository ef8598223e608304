//! Backends that come and go cost no client anything.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use coracle_minion::proxy::ProxyMode;
use tokio::task::JoinHandle;

use super::site::{
    BridgeNetfilter::On, P1, P2, WEB, answers, backend_ports, blocking, connect, eventually, master_with, on_site, set,
    start_proxy,
};

/// Changes of endpoints in a rolling restart; `CORACLE_CHANGES` asks for more.
const CHANGES: usize = 12;
/// Changes between backends that all serve; `CORACLE_CHANGES` asks for more.
const QUICK_CHANGES: usize = 200;
/// How long a pod serves on after nobody is sent to it any more, for those who were sent before.
const GRACE: Duration = Duration::from_secs(1);
const PACE: Duration = Duration::from_millis(1);
/// Between changes that nothing waits for.
const QUICK: Duration = Duration::from_millis(25);

in_both_modes!(a_rolling_restart_fails_no_request, changing_how_many_backends_there_are_fails_no_request);

fn a_rolling_restart_fails_no_request(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1, P2]).await;
        let proxy = start_proxy(master.address, mode).await;
        let clients = Clients::start(PACE);
        let changes = changes(CHANGES);
        for change in 0..changes / 2 {
            let (leaving, staying) = if change % 2 == 0 { (P1, P2) } else { (P2, P1) };
            master.endpoints("a", &[staying], backend_ports());
            eventually("new connections are the other's", async || answers(&site, "h", 30).await.0 == set(&[staying]))
                .await;
            tokio::time::sleep(GRACE).await;
            // Its replacement is up at once, under the same address.
            site.retire(leaving, true);
            tokio::time::sleep(PACE * 20).await;
            site.retire(leaving, false);
            master.endpoints("a", &[P1, P2], backend_ports());
        }
        clients.all_were_answered(changes).await;
        proxy.shutdown().await;
    });
}

/// All backends serve all the time, so whoever meets the change itself must find one too.
fn changing_how_many_backends_there_are_fails_no_request(mode: ProxyMode) {
    on_site(On, async move |_| {
        let master = master_with(&[P1, P2]).await;
        let proxy = start_proxy(master.address, mode).await;
        let clients = Clients::start(Duration::ZERO);
        let changes = changes(QUICK_CHANGES);
        for change in 0..changes {
            let backends: &[&str] = [&[P1][..], &[P1, P2], &[P2], &[P2, P1]][change % 4];
            master.endpoints("a", backends, backend_ports());
            tokio::time::sleep(QUICK).await;
        }
        clients.all_were_answered(changes).await;
        proxy.shutdown().await;
    });
}

fn changes(least: usize) -> usize {
    std::env::var("CORACLE_CHANGES").map_or(least, |text| text.parse().unwrap())
}

/// Clients that ask again and again, on a new connection each time.
struct Clients {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    /// Each the errors that it met, and when.
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(pace: Duration) -> Self {
        // A thousand connections a second would use up the client's ports while they wait out their time.
        std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0").unwrap();
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..2).map(|_| tokio::spawn(client(pace, stop.clone(), asked.clone()))).collect();
        Self { stop, asked, tasks }
    }

    async fn all_were_answered(mut self, changes: usize) {
        self.stop.store(true, Relaxed);
        let mut failures = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            failures.extend(task.await.unwrap());
        }
        let asked = self.asked.load(Relaxed);
        println!("{asked} requests during {changes} changes");
        assert!(asked > changes, "{asked} requests say nothing");
        assert!(failures.is_empty(), "{} of {asked} requests failed: {failures:#?}", failures.len());
    }
}

/// A test that fails must not wait for clients that nobody stops.
impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn client(pace: Duration, stop: Arc<AtomicBool>, asked: Arc<AtomicUsize>) -> impl Future<Output = Vec<String>> {
    let to: SocketAddr = WEB.parse().unwrap();
    let started = Instant::now();
    blocking(move || {
        let mut failures = Vec::new();
        while !stop.load(Relaxed) {
            let begun = Instant::now();
            match connect(to).map(|c| c.greeting) {
                Ok(greeting) if greeting.starts_with(P1) || greeting.starts_with(P2) => {}
                other => failures.push(format!("at {:?}, after {:?}: {other:?}", started.elapsed(), begun.elapsed())),
            }
            asked.fetch_add(1, Relaxed);
            std::thread::park_timeout(pace.saturating_sub(begun.elapsed()));
        }
        failures
    })
}
