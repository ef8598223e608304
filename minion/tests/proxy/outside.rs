//! Clients from outside: node ports, external addresses, and who stays on the node.

use std::{io::ErrorKind::ConnectionRefused, sync::Arc};

use coracle_minion::proxy::ProxyMode;
use serde_json::{Value, json};

use super::{
    master::Master,
    services::AT_ONCE,
    site::{
        BridgeNetfilter::{Off, On},
        EXTERNAL, FORBIDDEN, GATEWAY, NODE, NODE_ADDRESS, P1, P2, Site, backend_ports, blocking, eventually, on_site,
        start_proxy,
    },
};

const NODE_WEB: u16 = 30080;
const NODE_DNS: u16 = 30053;

in_both_modes!(
    node_ports_are_served_to_everybody,
    external_addresses_are_served_where_allowed,
    ports_without_endpoints_refuse_at_once_outside_too,
    local_traffic_meets_backends_of_this_node_only,
    a_local_service_without_backends_here_refuses,
);

async fn service(more: Value, hosts: &[(&str, &str)]) -> Master {
    let master = Master::start().await;
    let ports = json!([{"name": "web", "port": 80, "nodePort": NODE_WEB},
                       {"name": "dns", "port": 53, "nodePort": NODE_DNS, "protocol": "UDP"}]);
    let mut spec = json!({"clusterIP": "10.78.0.5", "type": "NodePort", "ports": ports,
                          "externalIPs": [EXTERNAL, FORBIDDEN]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    master.service_of("a", spec);
    master.endpoints_on("a", hosts, backend_ports());
    master
}

/// Asks by TCP and by UDP; both must be answered by this backend.
async fn meets(site: &Arc<Site>, part: &'static str, (ip, web, dns): (&str, u16, u16), host: &str) {
    let (site, web, dns) = (site.clone(), format!("{ip}:{web}"), format!("{ip}:{dns}"));
    let answers = blocking(move || [site.ask(part, &web), site.ask_udp(part, &dns)]).await;
    for (protocol, answer) in ["tcp", "udp"].into_iter().zip(answers) {
        let answer = answer.unwrap_or_else(|e| panic!("{part} to {ip} with {protocol}: {e:?}"));
        assert!(answer.starts_with(host), "{part} to {ip} with {protocol}: {answer}");
    }
}

fn node_ports_are_served_to_everybody(mode: ProxyMode) {
    for netfilter in [On, Off] {
        on_site(netfilter, async move |site| {
            let master = service(json!({}), &[(P1, NODE)]).await;
            let proxy = start_proxy(master.address, mode).await;
            for part in ["up", "h", "p1", "p2"] {
                meets(&site, part, (NODE_ADDRESS, NODE_WEB, NODE_DNS), P1).await;
            }
            // A node has several addresses; answers come from the one that was asked.
            for part in ["h", "p1", "p2"] {
                meets(&site, part, (GATEWAY, NODE_WEB, NODE_DNS), P1).await;
            }
            proxy.shutdown().await;
        });
    }
}

fn external_addresses_are_served_where_allowed(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = service(json!({}), &[(P1, NODE)]).await;
        let proxy = start_proxy(master.address, mode).await;
        for part in ["up", "h", "p2"] {
            meets(&site, part, (EXTERNAL, 80, 53), P1).await;
        }
        let inside = site.clone();
        blocking(move || {
            for part in ["up", "h", "p2"] {
                assert!(inside.ask(part, &format!("{FORBIDDEN}:80")).is_err(), "{part}");
            }
        })
        .await;
        // It is given up with the service.
        master.service_of("a", json!({"clusterIP": "10.78.0.5", "ports": [{"name": "web", "port": 80}]}));
        eventually("the address is not ours", async || {
            let inside = site.clone();
            blocking(move || inside.ask("up", &format!("{EXTERNAL}:80")).is_err()).await
        })
        .await;
        proxy.shutdown().await;
    });
}

fn ports_without_endpoints_refuse_at_once_outside_too(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = service(json!({}), &[]).await;
        let proxy = start_proxy(master.address, mode).await;
        blocking(move || {
            for portal in [format!("{NODE_ADDRESS}:{NODE_WEB}"), format!("{EXTERNAL}:80")] {
                let (kind, took) = site.ask("up", &portal).unwrap_err();
                assert_eq!(kind, ConnectionRefused, "{portal}");
                assert!(took < AT_ONCE, "{portal} took {took:?}");
            }
            for portal in [format!("{NODE_ADDRESS}:{NODE_DNS}"), format!("{EXTERNAL}:53")] {
                let (kind, took) = site.ask_udp("up", &portal).unwrap_err();
                assert_eq!(kind, ConnectionRefused, "{portal}");
                assert!(took < AT_ONCE, "{portal} took {took:?}");
            }
        })
        .await;
        proxy.shutdown().await;
    });
}

fn local_traffic_meets_backends_of_this_node_only(mode: ProxyMode) {
    on_site(On, async move |site| {
        let policies = json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
        let master = service(policies, &[(P1, "elsewhere"), (P2, NODE)]).await;
        let proxy = start_proxy(master.address, mode).await;
        // Each would meet the other once in 2^10.
        for _ in 0..5 {
            meets(&site, "up", (NODE_ADDRESS, NODE_WEB, NODE_DNS), P2).await;
            meets(&site, "up", (EXTERNAL, 80, 53), P2).await;
            meets(&site, "p1", ("10.78.0.5", 80, 53), P2).await;
        }
        proxy.shutdown().await;
    });
}

fn a_local_service_without_backends_here_refuses(mode: ProxyMode) {
    on_site(On, async move |site| {
        let master = service(json!({"internalTrafficPolicy": "Local"}), &[(P1, "elsewhere")]).await;
        let proxy = start_proxy(master.address, mode).await;
        meets(&site, "up", (NODE_ADDRESS, NODE_WEB, NODE_DNS), P1).await;
        blocking(move || {
            let (kind, took) = site.ask("p1", "10.78.0.5:80").unwrap_err();
            assert_eq!(kind, ConnectionRefused);
            assert!(took < AT_ONCE, "{took:?}");
        })
        .await;
        proxy.shutdown().await;
    });
}
