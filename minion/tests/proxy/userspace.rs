//! What only the data plane in userspace promises, and which data plane is taken.

use std::{
    io::ErrorKind,
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use coracle_minion::proxy::ProxyMode::{Auto, Userspace};
use serde_json::json;

use super::site::{
    BridgeNetfilter::On, DNS, GATEWAY, NODE_ADDRESS, P1, WEB, answers, backend_ports, blocking, cluster, eventually,
    master_with, on_site, set, sh, start_proxy,
};

#[test]
fn a_backend_that_refuses_is_skipped() {
    on_site(On, async |site| {
        // Nobody listens on the gateway.
        let master = master_with(&[GATEWAY, P1]).await;
        let proxy = start_proxy(master.address, Userspace).await;
        assert_eq!(answers(&site, "p1", 30).await.0, set(&[P1]));
        let inside = site.clone();
        blocking(move || {
            for _ in 0..10 {
                assert!(inside.ask_udp("p1", DNS).unwrap().starts_with(P1));
            }
        })
        .await;
        proxy.shutdown().await;
    });
}

#[test]
fn a_client_is_reset_when_every_backend_refuses() {
    on_site(On, async |site| {
        let master = master_with(&[GATEWAY]).await;
        let proxy = start_proxy(master.address, Userspace).await;
        blocking(move || {
            let (kind, _) = site.ask("p1", WEB).unwrap_err();
            assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused), "{kind}");
        })
        .await;
        proxy.shutdown().await;
    });
}

#[test]
fn listeners_of_the_host_on_every_address_are_in_nobodys_way() {
    on_site(On, async |site| {
        let inside = site.clone();
        let _busy = blocking(move || inside.within("h", || TcpListener::bind("0.0.0.0:80").unwrap())).await;
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, Userspace).await;
        for part in ["h", "p1"] {
            assert_eq!(answers(&site, part, 3).await.0, set(&[P1]), "{part}");
        }
        proxy.shutdown().await;
    });
}

/// A kernel that wants every packet to come by the way that its answer would go.
#[test]
fn the_nodes_own_clients_go_past_the_bridge_and_all_are_answered_by_the_way_they_came() {
    on_site(On, async |site| {
        for interface in ["all", "default"] {
            sh(&format!("sysctl -qw net.ipv4.conf.{interface}.rp_filter=1"));
        }
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, Userspace).await;
        let carried = |link: &str| {
            let seen = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let line = seen.lines().find_map(|l| l.trim().strip_prefix(&format!("{link}-{}:", cluster()))).unwrap();
            // The second of those that were sent: bytes, then packets.
            line.split_whitespace().nth(9).unwrap().parse::<u64>().unwrap()
        };
        blocking(move || {
            let before = site.within("h", move || [carried("corn"), carried("corp")]);
            for _ in 0..10 {
                assert!(site.ask("h", WEB).unwrap().starts_with(P1));
                assert!(site.ask_udp("h", DNS).unwrap().starts_with(P1));
            }
            let after = site.within("h", move || [carried("corn"), carried("corp")]);
            assert!(after[0] >= before[0] + 40, "{before:?} {after:?}");
            // The bridge has a word with its ports at times, but carries none of it.
            assert!(after[1] < before[1] + 10, "{before:?} {after:?}");
            let unconnected = site.within("h", || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                socket.send_to(b"who", DNS).unwrap();
                let mut answer = [0; 64];
                let (length, from) = socket.recv_from(&mut answer).unwrap();
                (String::from_utf8_lossy(&answer[..length]).into_owned(), from.to_string())
            });
            assert!(unconnected.0.starts_with(P1) && unconnected.1 == DNS, "{unconnected:?}");
            assert!(site.ask_as("h", GATEWAY, WEB).unwrap().starts_with(P1), "a client with another address");
            assert!(site.ask("p1", WEB).unwrap().starts_with(P1));
            assert!(site.ask_udp("p1", DNS).unwrap().starts_with(P1));
        })
        .await;
        proxy.shutdown().await;
    });
}

#[test]
fn a_node_port_that_another_has_is_served_when_it_is_free() {
    on_site(On, async |site| {
        let inside = site.clone();
        let busy = blocking(move || inside.within("h", || TcpListener::bind("0.0.0.0:30080").unwrap())).await;
        let master = master_with(&[P1]).await;
        let ports = json!([{"name": "web", "port": 80, "nodePort": 30080}]);
        master.service_of("b", json!({"clusterIP": "10.78.0.6", "type": "NodePort", "ports": ports}));
        master.endpoints("b", &[P1], backend_ports());
        let proxy = start_proxy(master.address, Userspace).await;
        assert_eq!(answers(&site, "h", 20).await.0, set(&[P1]), "others are served");
        drop(busy);
        // The next full load tries again, as time does.
        sh(&format!("ip link del corp-{}", cluster()));
        eventually("the node port is served", async || {
            let site = site.clone();
            blocking(move || site.ask("up", &format!("{NODE_ADDRESS}:30080")).is_ok()).await
        })
        .await;
        proxy.shutdown().await;
    });
}

#[test]
fn without_a_choice_the_kernel_is_taken_where_it_can_be() {
    on_site(On, async |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, Auto).await;
        assert!(site.nft("h", "list tables").contains(&cluster()));
        assert!(!site.nft("h", "list tables").contains("probe"));
        proxy.shutdown().await;
    });
}
