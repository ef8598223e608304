//! What only the data plane in the kernel promises.

use std::{net::SocketAddr, path::Path, time::Duration};

use coracle_minion::proxy::ProxyMode::{Nftables, Userspace};

use super::site::{
    BridgeNetfilter::{self, Off, On},
    GATEWAY, P1, P2, SERVICE_CIDR, WEB, answers, blocking, cluster, connect, eventually, master_with, on_site, set, sh,
    start_proxy, udp_socket,
};

fn the_clients_address(netfilter: BridgeNetfilter) {
    on_site(netfilter, async move |site| {
        let master = master_with(&[P1, P2]).await;
        let proxy = start_proxy(master.address, Nftables).await;
        assert_eq!(answers(&site, "h", 30).await.1, set(&[GATEWAY]));
        // With bridge netfilter only a pod that meets itself is seen as the gateway.
        let expected = if netfilter == On { set(&[GATEWAY, P1]) } else { set(&[GATEWAY]) };
        assert_eq!(answers(&site, "p1", 30).await.1, expected);
        proxy.shutdown().await;
    });
}

#[test]
fn backends_see_the_clients_address_with_bridge_netfilter() {
    the_clients_address(On);
}

#[test]
fn backends_see_the_node_without_bridge_netfilter() {
    the_clients_address(Off);
}

#[test]
fn established_connections_and_rules_outlive_the_proxy() {
    on_site(On, async |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, Nftables).await;
        let to: SocketAddr = WEB.parse().unwrap();
        let mut connection = blocking(move || connect(to).unwrap()).await;
        proxy.shutdown().await;
        assert!(connection.echoes());
        assert_eq!(answers(&site, "h", 20).await.0, set(&[P1]), "rules stay without the proxy");
        // A full load, as after a restart of the minion.
        let proxy = start_proxy(master.address, Nftables).await;
        assert!(connection.echoes());
        proxy.shutdown().await;
    });
}

/// The other plane's clients on the node have an address of its links, which go with it.
#[test]
fn a_connection_that_begins_as_the_kernel_takes_over_stays() {
    on_site(On, async |site| {
        let master = master_with(&[P1]).await;
        let proxy = start_proxy(master.address, Userspace).await;
        assert_eq!(answers(&site, "h", 1).await.0, set(&[P1]));
        proxy.shutdown().await;
        let proxy = start_proxy(master.address, Nftables).await;
        let to: SocketAddr = WEB.parse().unwrap();
        let mut connection = blocking(move || connect(to).unwrap()).await;
        // The last to go is the name of its namespace.
        let name = Path::new("/run/netns").join(format!("coracle-{}", cluster()));
        eventually("what the other plane left is gone", async || !name.exists()).await;
        assert!(blocking(move || connection.echoes()).await);
        proxy.shutdown().await;
    });
}

#[test]
fn an_address_of_no_node_is_refused_to_pods_however_often_they_ask() {
    on_site(On, async |site| {
        let master = master_with(&[P2]).await;
        let proxy = start_proxy(master.address, Nftables).await;
        // Asking uses up what ICMP errors the kernel sends to a pod.
        answers(&site, "p1", 20).await;
        blocking(move || {
            for _ in 0..20 {
                let (error, after) = site.ask("p1", "10.76.9.9:80").unwrap_err();
                assert_eq!(error, std::io::ErrorKind::ConnectionRefused);
                assert!(after < Duration::from_millis(500), "after {after:?}");
            }
        })
        .await;
        proxy.shutdown().await;
    });
}

#[test]
fn without_rules_and_route_packets_would_leave_the_node() {
    // What other tests count is counted.
    on_site(On, async |site| {
        let master = master_with(&[]).await;
        start_proxy(master.address, Nftables).await.shutdown().await;
        site.nft("h", "flush ruleset");
        blocking(move || {
            sh(&format!("ip route del {SERVICE_CIDR}"));
            let socket = udp_socket("10.78.200.200:80".parse().unwrap());
            socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(site.leaks(), 1);
        })
        .await;
    });
}
