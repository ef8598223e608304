//! What the proxy promises to clients on the node and in pods.

use std::{
    collections::BTreeSet,
    io::ErrorKind::{ConnectionRefused, PermissionDenied},
    net::SocketAddr,
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_minion::proxy;
use serde_json::{Value, json};

use super::{
    master::Master,
    site::{
        BridgeNetfilter::{self, Off, On},
        CLUSTER, GATEWAY, P1, P2, PORT, Site, ask_over, blocking, connect, eventually, start_proxy, udp_socket,
    },
};

const WEB: &str = "10.78.0.5:80";
const DNS: &str = "10.78.0.5:53";
/// No connection of the few in a test may take as long as one lost packet would.
const AT_ONCE: Duration = Duration::from_millis(50);

fn ports(port: fn(&str) -> u16) -> Value {
    let one = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": port(name)});
    json!([one("web", "TCP"), one("dns", "UDP")])
}

fn portal_ports() -> Value {
    ports(|name| if name == "web" { 80 } else { 53 })
}

fn backend_ports() -> Value {
    ports(|_| PORT)
}

/// A master with one service over these pods.
async fn master_with(hosts: &[&str]) -> Master {
    let master = Master::start().await;
    master.service("a", "10.78.0.5", portal_ports());
    master.endpoints("a", hosts, backend_ports());
    master
}

fn on_site(netfilter: BridgeNetfilter, test: impl AsyncFnOnce(Arc<Site>) + Send + 'static) {
    let site = Arc::new(Site::new(netfilter));
    let inside = site.clone();
    site.on_node(move || test(inside));
}

/// Who answers to repeated connections, and as whom they see the client.
async fn answers(site: &Arc<Site>, from: &'static str, times: usize) -> (BTreeSet<String>, BTreeSet<String>) {
    let site = site.clone();
    blocking(move || {
        let greetings = (0..times).map(|_| site.ask(from, WEB).unwrap());
        let pairs = greetings.map(|g| g.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap());
        pairs.unzip()
    })
    .await
}

fn set(hosts: &[&str]) -> BTreeSet<String> {
    hosts.iter().map(|h| (*h).to_owned()).collect()
}

fn everybody_reaches_every_backend(netfilter: BridgeNetfilter) {
    on_site(netfilter, async move |site| {
        let master = master_with(&[P1, P2]).await;
        let proxy = start_proxy(master.address).await;
        // 30 connections miss one of two backends once in 2^29.
        assert_eq!(answers(&site, "h", 30).await, (set(&[P1, P2]), set(&[GATEWAY])));
        let (servers, clients) = answers(&site, "p1", 30).await;
        assert_eq!(servers, set(&[P1, P2]));
        // With bridge netfilter only a pod that meets itself is seen as the gateway.
        let expected = if netfilter == On { set(&[GATEWAY, P1]) } else { set(&[GATEWAY]) };
        assert_eq!(clients, expected);

        master.endpoints("a", &[P1], backend_ports());
        eventually("p1 alone", async || answers(&site, "h", 5).await.0 == set(&[P1])).await;
        assert_eq!(answers(&site, "p1", 5).await, (set(&[P1]), set(&[GATEWAY])), "a pod reaches itself");
        let inside = site.clone();
        let udp = blocking(move || ["h", "p1", "p2"].map(|part| inside.ask_udp(part, DNS).unwrap())).await;
        let seen = if netfilter == On { P2 } else { GATEWAY };
        assert_eq!(udp, [GATEWAY, GATEWAY, seen].map(|client| format!("{P1} {client}")));
        proxy.shutdown().await;
    });
}

#[test]
fn everybody_reaches_every_backend_with_bridge_netfilter() {
    everybody_reaches_every_backend(On);
}

#[test]
fn everybody_reaches_every_backend_without_bridge_netfilter() {
    everybody_reaches_every_backend(Off);
}

#[test]
fn a_change_of_endpoints_takes_effect_within_a_tenth_of_a_second() {
    on_site(On, async |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address).await;
        let mut took = Vec::new();
        for round in 0..10 {
            let host = if round % 2 == 0 { P2 } else { P1 };
            let started = Instant::now();
            master.endpoints("a", &[host], backend_ports());
            eventually("the other pod answers", async || {
                let to: SocketAddr = WEB.parse().unwrap();
                blocking(move || connect(to).unwrap().greeting.starts_with(host)).await
            })
            .await;
            took.push(started.elapsed());
        }
        took.sort_unstable();
        println!("endpoints to traffic: {took:?}");
        assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
        assert_eq!(site.leaks(), 0);
        proxy.shutdown().await;
    });
}

#[test]
fn what_no_portal_answers_is_refused_at_once_and_never_leaves_the_node() {
    on_site(On, async |site| {
        let master = master_with(&[]).await;
        master.service("b", "10.78.0.6", portal_ports());
        master.endpoints("b", &[P1], backend_ports());
        let proxy = start_proxy(master.address).await;
        let inside = site.clone();
        blocking(move || {
            // No endpoints; a port that the service does not have; an address that nobody has.
            for portal in [WEB, "10.78.0.6:81", "10.78.200.200:80"] {
                for part in ["h", "p1"] {
                    for (protocol, result) in [("tcp", inside.ask(part, portal)), ("udp", inside.ask_udp(part, portal))]
                    {
                        let (kind, took) = result.expect_err("nobody is there");
                        // On the node itself `send` of UDP fails at once: EPERM.
                        let local_udp = part == "h" && protocol == "udp" && kind == PermissionDenied;
                        assert!(kind == ConnectionRefused || local_udp, "{part} to {portal}/{protocol}: {kind}");
                        assert!(took < AT_ONCE, "{part} to {portal}/{protocol} took {took:?}");
                    }
                }
            }
            assert_eq!(inside.ask("p1", "10.78.0.6:80").unwrap(), format!("{P1} {GATEWAY}"));
        })
        .await;
        assert_eq!(site.leaks(), 0);
        // The counter does count: without rules and route the packets would be on the uplink.
        proxy.shutdown().await;
        site.nft("h", "flush ruleset");
        let inside = site.clone();
        blocking(move || {
            super::site::sh(&format!("ip route del {}", super::site::SERVICE_CIDR));
            udp_socket("10.78.200.200:80".parse().unwrap()).send(b"x").unwrap();
            assert_eq!(inside.leaks(), 1);
        })
        .await;
    });
}

#[test]
fn a_flushed_ruleset_is_repaired_within_a_second() {
    on_site(On, async |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address).await;
        let table = proxy::nft::table_name(CLUSTER);
        for harm in [
            "flush ruleset".to_owned(),
            format!("delete table ip {table}"),
            format!("flush map ip {table} portals"),
            format!("flush chain ip {table} output"),
        ] {
            site.nft("h", &harm);
            let took = eventually("the portal answers again", async || {
                // Short, since an attempt that came too early is never answered.
                let knock = |limit| TcpStream::connect_timeout(&WEB.parse().unwrap(), limit);
                blocking(move || knock(Duration::from_millis(50)).is_ok()).await
            })
            .await;
            println!("{harm}: repaired in {took:?}");
            assert!(took < Duration::from_secs(1), "{harm}: {took:?}");
        }
        proxy.shutdown().await;
    });
}

#[test]
fn established_connections_outlive_reloads_backends_and_the_proxy() {
    on_site(On, async |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address).await;
        let to: SocketAddr = WEB.parse().unwrap();
        let inside = site.clone();
        let (mut from_node, mut from_pod) =
            blocking(move || (connect(to).unwrap(), inside.within("p2", move || connect(to).unwrap()))).await;
        let mut alive = move || from_node.echoes() && from_pod.echoes();
        assert!(alive());

        // A full load, as after a restart of the minion.
        proxy.shutdown().await;
        assert_eq!(answers(&site, "h", 3).await.0, set(&[P1]), "rules stay without the proxy");
        let proxy = start_proxy(master.address).await;
        assert!(alive());

        // The backend is no longer one; its connections are not new ones.
        master.endpoints("a", &[P2], backend_ports());
        eventually("p2 alone", async || answers(&site, "h", 3).await.0 == set(&[P2])).await;
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
        proxy::remove(CLUSTER).await.unwrap();
        proxy::remove(CLUSTER).await.unwrap();
        assert!(!site.nft("h", "list tables").contains(CLUSTER));
    });
}

#[test]
fn a_udp_client_changes_over_when_its_backend_goes() {
    on_site(On, async |_| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address).await;
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

#[test]
fn a_change_among_two_thousand_services_is_as_quick() {
    on_site(On, async |_| {
        let master = master_with(&[P1]).await;
        for i in 0..2000 {
            let name = format!("s{i}");
            master.service(&name, &format!("10.78.{}.{}", 1 + i / 250, 1 + i % 250), portal_ports());
            master.endpoints(&name, &[P1, P2], backend_ports());
        }
        let started = Instant::now();
        let proxy = start_proxy(master.address).await;
        println!("4,000 portals loaded in {:?}", started.elapsed());
        let mut took = Vec::new();
        for host in [P2, P1, P2, P1, P2] {
            let started = Instant::now();
            master.endpoints("a", &[host], backend_ports());
            eventually("the other pod answers", async || {
                let to: SocketAddr = WEB.parse().unwrap();
                blocking(move || connect(to).unwrap().greeting.starts_with(host)).await
            })
            .await;
            took.push(started.elapsed());
        }
        took.sort_unstable();
        println!("endpoints to traffic: {took:?}");
        assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
        proxy.shutdown().await;
    });
}
