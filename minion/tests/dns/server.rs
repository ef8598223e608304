//! What clients get, over UDP and TCP, from pods, the node and elsewhere.

use std::{
    net::{SocketAddrV4, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_api::{
    client::Change,
    core::{Endpoints, Service},
};
use coracle_minion::dns::{CLUSTER_DOMAIN, Dns, DnsConfig, Feeds, HostFiles, PORT, Site as Names};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::site::{
    GATEWAY, NODE, SILENCE, Site, UPSTREAM, addresses, ask_tcp, ask_udp, blocking, eventually, question,
};

const WEB: &str = "web.default.svc.cluster.local.";
const MANY: &str = "many.default.svc.cluster.local.";

/// What the master would say.
struct Master {
    services: mpsc::Sender<Change<Service>>,
    endpoints: mpsc::Sender<Change<Endpoints>>,
}

impl Master {
    async fn list(&self) {
        let many: Vec<_> = (1..=200).map(|i| json!({"ip": format!("10.77.1.{i}")})).collect();
        let services = [
            ("web", json!({"clusterIP": "10.78.0.5"})),
            ("many", json!({"clusterIP": "None"})),
            ("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        ];
        let services = services.map(|(name, spec)| object(name, json!({"spec": spec})));
        let many = object("many", json!({"subsets": [{"addresses": many}]}));
        self.services.send(Change::replaced(services.to_vec())).await.unwrap();
        self.endpoints.send(Change::replaced(vec![many])).await.unwrap();
    }

    async fn service(&self, name: &str, ip: &str) {
        let service = object(name, json!({"spec": {"clusterIP": ip}}));
        self.services.send(Change::applied(service)).await.unwrap();
    }
}

fn object<T: serde::de::DeserializeOwned>(name: &str, rest: Value) -> T {
    let mut object = json!({"metadata": {"namespace": "default", "name": name}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

/// Starts a server in the thread's namespace; the host's resolv.conf says `resolv_conf`.
fn start(resolv_conf: &str) -> (Dns, Master, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let host = HostFiles { resolv_conf: dir.path().join("resolv.conf"), behind_stub: dir.path().join("none") };
    std::fs::write(&host.resolv_conf, resolv_conf).unwrap();
    let (to_services, services) = mpsc::channel(16);
    let (to_endpoints, endpoints) = mpsc::channel(16);
    let config = DnsConfig {
        listen: SocketAddrV4::new(GATEWAY, PORT),
        site: Names {
            domain: CLUSTER_DOMAIN.into(),
            service_cidr: "10.78.0.0/16".parse().unwrap(),
            pods_cidr: "10.76.0.0/15".parse().unwrap(),
        },
        node_ip: NODE.into(),
        host,
    };
    let dns = Dns::start(config, Feeds { services, endpoints });
    (dns, Master { services: to_services, endpoints: to_endpoints }, dir)
}

fn on_site(test: impl AsyncFnOnce(Arc<Site>) + Send + 'static) {
    let site = Arc::new(Site::new());
    let inside = site.clone();
    site.on_node(move || test(inside));
}

async fn ask(site: &Arc<Site>, part: &'static str, name: &'static str) -> Option<(ResponseCode, Vec<String>)> {
    let site = site.clone();
    let reply = blocking(move || site.ask(part, name, RecordType::A)).await?;
    Some((reply.metadata.response_code, addresses(&reply)))
}

fn found(address: &str) -> Option<(ResponseCode, Vec<String>)> {
    Some((ResponseCode::NoError, vec![address.to_owned()]))
}

#[test]
fn pods_and_the_node_are_answered_and_nobody_else_is() {
    on_site(async |site| {
        let upstream = site.serve_upstream();
        let (dns, master, _dir) = start(&format!("nameserver {UPSTREAM}\n"));
        assert_eq!(ask(&site, "p", WEB).await, Some((ResponseCode::ServFail, vec![])), "before the lists");
        master.list().await;
        assert_eq!(dns.ready().await.unwrap().to_string(), "10.77.0.1:53");
        for part in ["p", "h"] {
            assert_eq!(ask(&site, part, WEB).await, found("10.78.0.5"), "{part}");
            assert_eq!(ask(&site, part, "www.example.com.").await, found("192.0.2.7"), "{part}");
        }
        assert_eq!(ask(&site, "p", "none.example.com.").await, Some((ResponseCode::NXDomain, vec![])));
        let none = ask(&site, "p", "www.example.com.default.svc.cluster.local.").await;
        assert_eq!(none, Some((ResponseCode::NXDomain, vec![])));
        let alias = ask(&site, "p", "out.default.svc.cluster.local.").await;
        assert_eq!(alias, found("192.0.2.7"), "the alias and its addresses in one answer");
        let asked = upstream.lock().unwrap().clone();
        assert_eq!(asked, ["www.example.com.", "none.example.com."], "once each, and nothing of the cluster");

        let stranger = site.clone();
        let heard = blocking(move || {
            stranger.within("up", || {
                let question = question(WEB, RecordType::A, None);
                (ask_udp(GATEWAY, &question, SILENCE).is_some(), ask_tcp(GATEWAY, &[question]).is_ok())
            })
        });
        assert_eq!(heard.await, (false, false));
        dns.shutdown().await;
    });
}

#[test]
fn what_a_datagram_cannot_hold_comes_over_tcp() {
    on_site(async |site| {
        let (dns, master, _dir) = start("");
        master.list().await;
        dns.ready().await.unwrap();
        blocking(move || {
            site.within("p", || {
                for (payload, least, most) in [(None, 20, 512), (Some(1232), 60, 1232), (Some(9000), 60, 1232)] {
                    let question = question(MANY, RecordType::A, payload);
                    let reply = ask_udp(GATEWAY, &question, Duration::from_secs(5)).unwrap();
                    assert!(reply.metadata.truncation && reply.answers.len() > least, "{}", reply.answers.len());
                    assert!(reply.to_vec().unwrap().len() <= most);
                }
                let questions =
                    [MANY, WEB, "none.default.svc.cluster.local."].map(|n| question(n, RecordType::A, None));
                let replies = ask_tcp(GATEWAY, &questions).unwrap();
                assert_eq!(replies.iter().map(|r| r.answers.len()).collect::<Vec<_>>(), [200, 1, 0]);
                assert!(!replies[0].metadata.truncation);
            });
        })
        .await;
        dns.shutdown().await;
    });
}

#[test]
fn a_change_is_answered_within_a_tenth_of_a_second() {
    on_site(async |site| {
        let (dns, master, _dir) = start("");
        master.list().await;
        dns.ready().await.unwrap();
        let mut took = Vec::new();
        for round in 0..10 {
            let ip: &'static str = if round % 2 == 0 { "10.78.0.6" } else { "10.78.0.7" };
            let started = Instant::now();
            master.service("web", ip).await;
            eventually("the new address", async || ask(&site, "p", WEB).await == found(ip)).await;
            took.push(started.elapsed());
        }
        took.sort_unstable();
        println!("change to answer: {took:?}");
        assert!(took[5] < Duration::from_millis(100), "{took:?}");
        dns.shutdown().await;
    });
}

#[test]
fn without_a_resolver_of_the_host_only_the_cluster_has_names() {
    on_site(async |site| {
        let (dns, master, _dir) = start("nameserver 10.77.0.1\n");
        master.list().await;
        dns.ready().await.unwrap();
        let started = Instant::now();
        assert_eq!(ask(&site, "p", "www.example.com.").await, Some((ResponseCode::ServFail, vec![])));
        assert!(started.elapsed() < Duration::from_secs(1), "at once");
        assert_eq!(ask(&site, "p", WEB).await, found("10.78.0.5"));
        dns.shutdown().await;
    });
}

#[test]
fn the_bridge_may_go_and_come_back() {
    on_site(async |site| {
        let (dns, master, _dir) = start("");
        master.list().await;
        dns.ready().await.unwrap();
        site.remove_bridge();
        site.add_bridge();
        eventually("answers again", async || ask(&site, "p", WEB).await == found("10.78.0.5")).await;
        dns.shutdown().await;
        site.remove_bridge();
        let (dns, master, _dir) = start("");
        master.list().await;
        dns.ready().await.expect("binds without the bridge");
        site.add_bridge();
        eventually("answers", async || ask(&site, "p", WEB).await == found("10.78.0.5")).await;
        dns.shutdown().await;
    });
}

#[test]
fn a_taken_port_is_waited_for() {
    on_site(async |site| {
        let holder = UdpSocket::bind("0.0.0.0:53").unwrap();
        let (dns, master, _dir) = start("");
        master.list().await;
        let ready = tokio::time::timeout(Duration::from_millis(50), dns.ready()).await;
        assert!(ready.is_err(), "somebody else has the port");
        drop(holder);
        dns.ready().await.unwrap();
        assert_eq!(ask(&site, "p", WEB).await, found("10.78.0.5"));
        dns.shutdown().await;
        // What was bound is free again.
        UdpSocket::bind("0.0.0.0:53").unwrap();
    });
}

#[test]
fn no_question_of_a_busy_client_is_lost() {
    on_site(async |site| {
        let (dns, master, _dir) = start("");
        master.list().await;
        dns.ready().await.unwrap();
        let client = std::thread::spawn(move || {
            site.within("p", || {
                const ROUNDS: usize = 30_000;
                // What fits into the socket's buffer at once.
                const WINDOW: usize = 32;
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((GATEWAY, PORT)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let bytes = question(WEB, RecordType::A, Some(1232)).to_vec().unwrap();
                let mut buffer = [0; 512];
                let started = Instant::now();
                (0..WINDOW).for_each(|_| assert!(socket.send(&bytes).is_ok()));
                for _ in 0..ROUNDS {
                    socket.recv(&mut buffer).unwrap();
                    socket.send(&bytes).unwrap();
                }
                ROUNDS as f64 / started.elapsed().as_secs_f64()
            })
        });
        let client = blocking(move || client.join().unwrap());
        println!("{:.0} questions a second, client and server on one machine", client.await);
        dns.shutdown().await;
    });
}
