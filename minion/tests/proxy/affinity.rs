//! Session affinity: a client meets the backend that it met before.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_minion::proxy::{ProxyMode, nft};
use serde_json::{Value, json};

use super::{
    master::Master,
    site::{
        BridgeNetfilter::On, P1, P2, Site, WEB, backend_ports, blocking, clients, cluster, eventually, on_site,
        portal_ports, sh, start_proxy,
    },
};

in_both_modes!(
    a_client_meets_one_backend_and_others_are_spread,
    a_client_that_was_away_too_long_meets_any,
    only_clients_of_a_backend_that_leaves_meet_another,
);

fn service(seconds: u32) -> Value {
    let config = json!({"clientIP": {"timeoutSeconds": seconds}});
    json!({"clusterIP": "10.78.0.5", "ports": portal_ports(), "sessionAffinity": "ClientIP",
           "sessionAffinityConfig": config})
}

/// A master with a service over both pods.
async fn sticky(seconds: u32) -> Master {
    let master = Master::start().await;
    master.service_of("a", service(seconds));
    master.endpoints("a", &[P1, P2], backend_ports());
    master
}

/// Whom each of many clients meets.
async fn visit(site: &Arc<Site>) -> BTreeMap<String, String> {
    let site = site.clone();
    blocking(move || {
        let visits = clients().into_iter().map(|client| {
            let backend = site.ask_as("p3", &client, WEB).unwrap();
            (client, backend)
        });
        visits.collect()
    })
    .await
}

fn a_client_meets_one_backend_and_others_are_spread(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = sticky(600).await;
        let proxy = start_proxy(master.address, mode).await;
        let first = visit(&site).await;
        let of = |host: &str| first.values().filter(|backend| *backend == host).count();
        // 20 clients all meet the same of two once in 2^19.
        assert!(of(P1) > 0 && of(P2) > 0, "{first:?}");
        let inside = site.clone();
        let (client, backend) = first.iter().next().map(|(c, b)| (c.clone(), b.clone())).unwrap();
        blocking(move || (0..50).for_each(|_| assert_eq!(inside.ask_as("p3", &client, WEB).unwrap(), backend))).await;
        assert_eq!(visit(&site).await, first);
        proxy.shutdown().await;
    });
}

fn a_client_that_was_away_too_long_meets_any(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = sticky(1).await;
        let proxy = start_proxy(master.address, mode).await;
        let first = visit(&site).await;
        // No visit meanwhile: each prolongs the time.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_ne!(visit(&site).await, first, "20 clients meet the same again once in 2^20");
        proxy.shutdown().await;
    });
}

/// Rules outlive the minion, and so does what they remember. (Of the userspace plane nothing does.)
#[test]
fn neither_a_restart_nor_a_repair_forgets_whom_a_client_met() {
    on_site(On, async move |site| {
        let master = sticky(600).await;
        let proxy = start_proxy(master.address, ProxyMode::Nftables).await;
        let first = visit(&site).await;
        proxy.shutdown().await;
        let proxy = start_proxy(master.address, ProxyMode::Nftables).await;
        assert_eq!(visit(&site).await, first, "20 clients meet the same again by chance once in 2^20");
        let table = nft::table_name(&cluster());
        let list = |what: &str| site.nft("h", &format!("list {what}"));
        // Who comes again has more time left than there was when he came first.
        master.service_of("a", service(10_800));
        eventually("the new time", async || list(&format!("table ip {table}")).contains("timeout 3h")).await;
        assert_eq!(visit(&site).await, first);
        site.nft("h", &format!("flush chain ip {table} output"));
        let whole = || list(&format!("chain ip {table} output")).contains("jump find");
        eventually("the rules are there again", async || whole()).await;
        assert_eq!(visit(&site).await, first);
        proxy.shutdown().await;
    });
}

fn only_clients_of_a_backend_that_leaves_meet_another(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = sticky(600).await;
        let proxy = start_proxy(master.address, mode).await;
        let first = visit(&site).await;
        master.endpoints("a", &[P2], backend_ports());
        eventually("p2 alone", async || visit(&site).await.values().all(|backend| backend == P2)).await;
        // Whoever comes for the first time may meet p1 when it is back; all others stay with p2.
        master.endpoints("a", &[P1, P2], backend_ports());
        let mut newcomers = (200..250).map(|host| format!("10.77.0.{host}"));
        eventually("p1 is back", async || {
            let (site, newcomer) = (site.clone(), newcomers.next().unwrap());
            let meeting = move || {
                sh(&format!("ip -n {} addr add {newcomer}/24 dev eth0", site.ns("p3")));
                site.ask_as("p3", &newcomer, WEB).unwrap()
            };
            blocking(meeting).await == P1
        })
        .await;
        for (client, backend) in visit(&site).await {
            assert_eq!(backend, P2, "{client}, who met {} first", first[&client]);
        }
        proxy.shutdown().await;
    });
}
