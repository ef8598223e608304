//! What the proxy promises to clients on the node and in pods.

use std::{
    io::ErrorKind::{ConnectionRefused, PermissionDenied},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_minion::proxy::ProxyMode;
use serde_json::json;

use super::site::{
    BridgeNetfilter::{self, Off, On},
    DNS, GATEWAY, P1, P2, PORT, Site, WEB, answers, ask_over, backend_ports, blocking, connect, eventually,
    master_with, on_site, portal_ports, set, start_proxy, udp_socket,
};

/// No connection of the few in a test may take as long as one lost packet would.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(50);

in_both_modes!(
    everybody_reaches_every_backend_with_bridge_netfilter,
    everybody_reaches_every_backend_without_bridge_netfilter,
    each_of_several_ports_leads_to_its_own_backends,
    a_change_of_endpoints_takes_effect_within_a_tenth_of_a_second,
    what_no_portal_answers_is_refused_at_once_and_never_leaves_the_node,
    established_connections_outlive_their_backends,
    a_side_that_has_ended_is_still_answered,
    a_udp_client_changes_over_when_its_backend_goes,
    a_change_among_two_thousand_services_is_as_quick,
);

fn everybody_reaches_every_backend(mode: ProxyMode, netfilter: BridgeNetfilter) {
    on_site(netfilter, async move |site| {
        let master = master_with(&[P1, P2]).await;
        let proxy = start_proxy(master.address, mode).await;
        // 30 connections miss one of two backends once in 2^29.
        for part in ["h", "p1"] {
            assert_eq!(answers(&site, part, 30).await.0, set(&[P1, P2]), "{part}");
        }
        master.endpoints("a", &[P1], backend_ports());
        eventually("p1 alone", async || answers(&site, "h", 20).await.0 == set(&[P1])).await;
        assert_eq!(answers(&site, "p1", 5).await, (set(&[P1]), set(&[GATEWAY])), "a pod reaches itself");
        let inside = site.clone();
        let udp = blocking(move || ["h", "p1", "p2"].map(|part| inside.ask_udp(part, DNS).unwrap())).await;
        assert!(udp.iter().all(|answer| answer.starts_with(P1)), "{udp:?}");
        assert_eq!(site.leaks(), 0);
        proxy.shutdown().await;
    });
}

fn everybody_reaches_every_backend_with_bridge_netfilter(mode: ProxyMode) {
    everybody_reaches_every_backend(mode, On);
}

fn everybody_reaches_every_backend_without_bridge_netfilter(mode: ProxyMode) {
    everybody_reaches_every_backend(mode, Off);
}

fn each_of_several_ports_leads_to_its_own_backends(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[]).await;
        let ports = |numbers: [u16; 2]| json!([{"name": "x", "port": numbers[0]}, {"name": "y", "port": numbers[1]}]);
        master.service("two", "10.78.0.7", ports([80, 81]));
        // Nobody listens on the port behind y.
        master.endpoints("two", &[P1], ports([PORT, PORT + 1]));
        master.service("other", "10.78.0.8", ports([80, 81]));
        master.endpoints("other", &[P2], ports([PORT + 1, PORT]));
        let proxy = start_proxy(master.address, mode).await;
        blocking(move || {
            for (portal, host) in [("10.78.0.7:80", P1), ("10.78.0.8:81", P2)] {
                assert!(site.ask("p1", portal).unwrap().starts_with(host), "{portal}");
            }
            for portal in ["10.78.0.7:81", "10.78.0.8:80"] {
                assert!(site.ask("p1", portal).is_err(), "{portal}");
            }
        })
        .await;
        proxy.shutdown().await;
    });
}

fn a_change_of_endpoints_takes_effect_within_a_tenth_of_a_second(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, mode).await;
        let mut took = Vec::new();
        for round in 0..10 {
            let host = if round % 2 == 0 { P2 } else { P1 };
            took.push(change_over(&master, host).await);
        }
        took.sort_unstable();
        println!("endpoints to traffic: {took:?}");
        assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
        assert_eq!(site.leaks(), 0);
        proxy.shutdown().await;
    });
}

/// From the master's change to the first connection that follows it.
async fn change_over(master: &super::master::Master, host: &'static str) -> Duration {
    let started = Instant::now();
    master.endpoints("a", &[host], backend_ports());
    eventually("the other pod answers", async || {
        let to: SocketAddr = WEB.parse().unwrap();
        blocking(move || connect(to).unwrap().greeting.starts_with(host)).await
    })
    .await;
    started.elapsed()
}

fn what_no_portal_answers_is_refused_at_once_and_never_leaves_the_node(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[]).await;
        master.service("b", "10.78.0.6", portal_ports());
        master.endpoints("b", &[P1], backend_ports());
        let proxy = start_proxy(master.address, mode).await;
        let inside = site.clone();
        blocking(move || {
            // No endpoints; a port that the service does not have; an address that nobody has.
            for portal in [WEB, "10.78.0.6:81", "10.78.200.200:80"] {
                for part in ["h", "p1"] {
                    for (protocol, result) in [("tcp", inside.ask(part, portal)), ("udp", inside.ask_udp(part, portal))]
                    {
                        let (kind, took) = result.expect_err("nobody is there");
                        // With nftables `send` of UDP on the node itself fails at once: EPERM.
                        let local_udp = part == "h" && protocol == "udp" && kind == PermissionDenied;
                        assert!(kind == ConnectionRefused || local_udp, "{part} to {portal}/{protocol}: {kind}");
                        assert!(took < AT_ONCE, "{part} to {portal}/{protocol} took {took:?}");
                    }
                }
            }
            assert!(inside.ask("p1", "10.78.0.6:80").unwrap().starts_with(P1));
        })
        .await;
        assert_eq!(site.leaks(), 0);
        proxy.shutdown().await;
    });
}

fn established_connections_outlive_their_backends(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, mode).await;
        let to: SocketAddr = WEB.parse().unwrap();
        let inside = site.clone();
        let (mut from_node, mut from_pod) =
            blocking(move || (connect(to).unwrap(), inside.within("p2", move || connect(to).unwrap()))).await;
        let mut alive = move || from_node.echoes() && from_pod.echoes();
        assert!(alive());

        // The backend is no longer one; its connections are not new ones.
        master.endpoints("a", &[P2], backend_ports());
        eventually("p2 alone", async || answers(&site, "h", 20).await.0 == set(&[P2])).await;
        assert_eq!(answers(&site, "p1", 20).await.0, set(&[P2]));
        assert!(alive());

        master.endpoints("a", &[], backend_ports());
        eventually("refused", async || {
            let inside = site.clone();
            blocking(move || inside.ask("h", WEB).is_err()).await
        })
        .await;
        assert!(alive());
        proxy.shutdown().await;
    });
}

fn a_side_that_has_ended_is_still_answered(mode: ProxyMode) {
    on_site(On, async move |_| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, mode).await;
        // The server echoes until the end of what it hears, and ends then.
        blocking(|| assert_eq!(connect(WEB.parse().unwrap()).unwrap().last_words(), "ping\n")).await;
        proxy.shutdown().await;
    });
}

fn a_udp_client_changes_over_when_its_backend_goes(mode: ProxyMode) {
    on_site(On, async move |_| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, mode).await;
        let socket = Arc::new(udp_socket(DNS.parse().unwrap()));
        let ask = async |host: &'static str| {
            let socket = socket.clone();
            // A datagram to a backend that just went is lost or refused; the next one is not.
            blocking(move || ask_over(&socket).is_ok_and(|answer| answer.starts_with(host))).await
        };
        assert!(ask(P1).await);
        master.endpoints("a", &[P2], backend_ports());
        let took = eventually("the same socket reaches p2", async || ask(P2).await).await;
        println!("udp changed over in {took:?}");
        proxy.shutdown().await;
    });
}

fn a_change_among_two_thousand_services_is_as_quick(mode: ProxyMode) {
    on_site(On, async move |_: Arc<Site>| {
        let master = master_with(&[P1]).await;
        for i in 0..2000 {
            let name = format!("s{i}");
            master.service(&name, &format!("10.78.{}.{}", 1 + i / 250, 1 + i % 250), portal_ports());
            master.endpoints(&name, &[P1, P2], backend_ports());
        }
        let started = Instant::now();
        let proxy = start_proxy(master.address, mode).await;
        println!("4,000 portals loaded in {:?}", started.elapsed());
        let mut took = Vec::new();
        for host in [P2, P1, P2, P1, P2] {
            took.push(change_over(&master, host).await);
        }
        took.sort_unstable();
        println!("endpoints to traffic: {took:?}");
        assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
        proxy.shutdown().await;
    });
}
