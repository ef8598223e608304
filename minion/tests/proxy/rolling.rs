//! Backends that come and go one after the other, in order, cost no client anything.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use coracle_minion::proxy::ProxyMode;

use super::site::{
    BridgeNetfilter::On, P1, P2, WEB, backend_ports, blocking, connect, master_with, on_site, start_proxy,
};

/// Changes of endpoints; `CORACLE_CHANGES` asks for more.
const CHANGES: usize = 12;
/// How long a pod serves on after it has left the endpoints, as a preStop hook has it.
const GRACE: Duration = Duration::from_secs(1);
const PACE: Duration = Duration::from_millis(1);

in_both_modes!(a_rolling_restart_fails_no_request);

fn a_rolling_restart_fails_no_request(mode: ProxyMode) {
    let changes = std::env::var("CORACLE_CHANGES").map_or(CHANGES, |text| text.parse().unwrap());
    on_site(On, async move |site| {
        // A thousand connections a second would use up the client's ports while they wait out their time.
        std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0").unwrap();
        let master = master_with(&[P1, P2]).await;
        let proxy = start_proxy(master.address, mode).await;
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let asked = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> =
            (0..2).map(|_| tokio::spawn(client(stop.clone(), asked.clone(), failed.clone()))).collect();
        for change in 0..changes / 2 {
            let (leaving, staying) = if change % 2 == 0 { (P1, P2) } else { (P2, P1) };
            master.endpoints("a", &[staying], backend_ports());
            tokio::time::sleep(GRACE).await;
            // Its replacement is up at once, under the same address.
            site.retire(leaving, true);
            tokio::time::sleep(PACE * 20).await;
            site.retire(leaving, false);
            master.endpoints("a", &[P1, P2], backend_ports());
        }
        stop.store(true, Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        let asked = asked.load(Relaxed);
        println!("{asked} requests during {changes} changes");
        assert!(asked > changes, "{asked} requests say nothing");
        assert_eq!(failed.load(Relaxed), 0, "of {asked} requests");
        proxy.shutdown().await;
    });
}

/// Asks again and again, on a new connection each time, at its pace.
fn client(stop: Arc<AtomicBool>, asked: Arc<AtomicUsize>, failed: Arc<AtomicUsize>) -> impl Future<Output = ()> {
    let to: SocketAddr = WEB.parse().unwrap();
    blocking(move || {
        while !stop.load(Relaxed) {
            let begun = Instant::now();
            let greeted = connect(to).is_ok_and(|c| c.greeting.starts_with(P1) || c.greeting.starts_with(P2));
            asked.fetch_add(1, Relaxed);
            failed.fetch_add(usize::from(!greeted), Relaxed);
            std::thread::park_timeout(PACE.saturating_sub(begun.elapsed()));
        }
    })
}
