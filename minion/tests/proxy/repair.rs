//! What others take away is restored; what the proxy set is removed.

use std::{
    net::{TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use coracle_minion::{
    network::bridge_name,
    proxy::{self, ProxyMode},
};
use serde_json::json;

use super::site::{
    BridgeNetfilter::On, DNS, EXTERNAL, NODE_ADDRESS, P1, P2, SERVICE_CIDR, Site, WEB, ask_over, backend_ports,
    blocking, cluster, connect_from, eventually, master_with, on_site, portal_ports, sh, start_proxy, udp_socket,
};

in_both_modes!(
    what_others_flush_is_repaired,
    who_asked_before_there_were_rules_is_answered,
    a_client_whose_backend_went_while_nobody_looked_meets_another,
    removal_leaves_nothing,
    the_other_mode_takes_over_and_cleans_up,
);

/// For the node as for pods.
async fn repaired(site: &Arc<Site>, harm: &str) {
    let took = eventually("the portal answers again", async || {
        // Short: an attempt that came too early tries again after a second only.
        let knock = || TcpStream::connect_timeout(&WEB.parse().unwrap(), Duration::from_millis(50)).is_ok();
        let site = site.clone();
        blocking(move || site.within("h", knock) && site.within("p2", knock)).await
    })
    .await;
    println!("{harm}: repaired in {took:?}");
    assert!(took < Duration::from_secs(2), "{harm}: {took:?}");
}

fn what_others_flush_is_repaired(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, mode).await;
        let (table, namespace) = (proxy::nft::table_name(&cluster()), format!("coracle-{}", cluster()));
        match mode {
            ProxyMode::Nftables | ProxyMode::Auto => {
                for harm in [
                    "flush ruleset".to_owned(),
                    format!("delete table ip {table}"),
                    format!("flush map ip {table} portals"),
                    format!("flush chain ip {table} output"),
                ] {
                    site.nft("h", &harm);
                    repaired(&site, &harm).await;
                }
            }
            ProxyMode::Userspace => {
                let whole = remains(&site).await.1.len();
                for harm in [
                    format!("ip link del corp-{}", cluster()),
                    format!("ip link set corp-{} down", cluster()),
                    format!("ip link del corn-{}", cluster()),
                    format!("ip link set corn-{} down", cluster()),
                    format!("ip addr flush dev corn-{}", cluster()),
                    format!("ip rule del to {SERVICE_CIDR}"),
                    format!("ip route del {SERVICE_CIDR} metric 0"),
                    format!("ip -n {namespace} link set eth0 down"),
                    format!("ip -n {namespace} link set eth1 down"),
                    format!("ip -n {namespace} route flush dev eth1"),
                    format!("ip -n {namespace} route del default"),
                    format!("ip -n {namespace} route del local {SERVICE_CIDR} table local"),
                ] {
                    sh(&harm);
                    repaired(&site, &harm).await;
                    // The node's clients may find a way that is left.
                    let took = eventually("all is there", async || remains(&site).await.1.len() == whole).await;
                    assert!(took < Duration::from_secs(2), "{harm}: {took:?}");
                }
                sh(&format!("ip netns del {namespace}"));
                let named = || sh("ip netns list").contains(&namespace);
                let took = eventually("the namespace has its name again", async || named()).await;
                assert!(took < Duration::from_secs(2), "{took:?}");
                repaired(&site, "the namespace").await;
            }
        }
        proxy.shutdown().await;
    });
}

/// The kernel records a flow as untranslated when its first packet meets no rules, and asks no more.
fn who_asked_before_there_were_rules_is_answered(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        let ports = json!([{"name": "web", "port": 80, "nodePort": 30080},
                           {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"}]);
        let spec = json!({"clusterIP": "10.78.0.6", "type": "NodePort", "ports": ports, "externalIPs": [EXTERNAL]});
        let outside = [("up", format!("{NODE_ADDRESS}:30053")), ("h", format!("{EXTERNAL}:53"))];
        let inside = ["h", "p1", "p2"].map(|part| (part, DNS.to_owned()));
        let client = |(part, to): (&'static str, String)| {
            let address = to.parse().unwrap();
            let socket = site.within(part, move || udp_socket(address));
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            (format!("{part} to {to}"), Arc::new(socket))
        };
        // A flow stays on record as long as its client goes on asking.
        let ask = async |clients: &[(String, Arc<UdpSocket>)]| {
            let clients = clients.to_vec();
            blocking(move || {
                let unanswered = clients.iter().filter(|(_, s)| !ask_over(s).is_ok_and(|a| a.starts_with(P1)));
                unanswered.map(|(client, _)| client.clone()).collect::<Vec<_>>()
            })
            .await
        };
        let from_port = |from: u16| blocking(move || connect_from(from, WEB.parse().unwrap()));
        for (port, round) in [(3001, "before there are rules"), (3002, "while there are none")] {
            let clients: Vec<_> = inside.clone().into_iter().chain(outside.clone()).map(client).collect();
            assert_eq!(ask(&clients).await.len(), clients.len(), "{round}");
            assert!(from_port(port).await.is_err(), "{round}");
            let proxy = start_proxy(master.address, mode).await;
            if round.starts_with("before") {
                // One that comes later, too.
                master.service_of("b", spec.clone());
                master.endpoints("b", &[P1], backend_ports());
            }
            eventually("all clients are answered", async || ask(&clients).await.is_empty()).await;
            eventually("a connection from the same port", async || from_port(port).await.is_ok()).await;
            proxy.shutdown().await;
            proxy::remove(&cluster()).await.unwrap();
        }
    });
}

/// The kernel's rules serve on while the minion is away, and what they began goes on after it.
fn a_client_whose_backend_went_while_nobody_looked_meets_another(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, mode).await;
        let portal = DNS.parse().unwrap();
        let client = Arc::new(site.within("p2", move || udp_socket(portal)));
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let answered_by = async |backend: &str| {
            let client = Arc::clone(&client);
            blocking(move || ask_over(&client)).await.is_ok_and(|answer| answer.starts_with(backend))
        };
        eventually("the client is answered", async || answered_by(P1).await).await;
        proxy.shutdown().await;
        master.endpoints("a", &[P2], backend_ports());
        let proxy = start_proxy(master.address, mode).await;
        eventually("it meets the other backend", async || answered_by(P2).await).await;
        proxy.shutdown().await;
    });
}

/// What there is of the cluster's proxy: in nftables, as names and as routes.
async fn remains(site: &Arc<Site>) -> (bool, Vec<String>) {
    let (site, id, bridge) = (site.clone(), cluster(), bridge_name(&cluster()));
    blocking(move || {
        let table = site.nft("h", "list tables").contains(&id);
        let mut all = Vec::new();
        all.extend(sh("ip netns list").lines().filter(|l| l.contains(&format!("coracle-{id}"))).map(str::to_owned));
        let links = ["corp", "corn"].map(|link| format!("{link}-{id}"));
        all.extend(sh("ip -o link").lines().filter(|l| links.iter().any(|link| l.contains(link))).map(str::to_owned));
        all.extend(sh("ip route show table all proto 67").lines().map(str::to_owned));
        all.extend(sh("ip rule").lines().filter(|l| l.contains("proto 67")).map(str::to_owned));
        all.extend(sh(&format!("ip neigh show dev {bridge} nud permanent")).lines().map(str::to_owned));
        (table, all)
    })
    .await
}

fn removal_leaves_nothing(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        let spec = json!({"clusterIP": "10.78.0.6", "ports": portal_ports(), "externalIPs": [EXTERNAL]});
        master.service_of("b", spec);
        master.endpoints("b", &[P1], backend_ports());
        start_proxy(master.address, mode).await.shutdown().await;
        let (table, all) = remains(&site).await;
        // Name, two links, three routes, rule, next hop.
        let expected = if mode == ProxyMode::Userspace { (false, 8) } else { (true, 0) };
        assert_eq!((table, all.len()), expected, "{all:?}");
        proxy::remove(&cluster()).await.unwrap();
        assert_eq!(remains(&site).await, (false, vec![]));
        proxy::remove(&cluster()).await.unwrap();
    });
}

fn the_other_mode_takes_over_and_cleans_up(mode: ProxyMode) {
    let other = if mode == ProxyMode::Userspace { ProxyMode::Nftables } else { ProxyMode::Userspace };
    on_site(On, async move |site| {
        let master = master_with(&[P1]).await;
        start_proxy(master.address, other).await.shutdown().await;
        let proxy = start_proxy(master.address, mode).await;
        eventually("nothing of the other mode is left", async || {
            let (table, all) = remains(&site).await;
            if mode == ProxyMode::Userspace { !table && !all.is_empty() } else { table && all.is_empty() }
        })
        .await;
        for part in ["h", "p1"] {
            let inside = site.clone();
            blocking(move || assert!(inside.ask(part, WEB).unwrap().starts_with(P1), "{part}")).await;
        }
        proxy.shutdown().await;
    });
}
