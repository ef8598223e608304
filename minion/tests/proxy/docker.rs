//! The pod network and the proxy on the engine of this machine, with Docker's own rules in force.

use std::{
    net::{Ipv4Addr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use bollard::Docker;
use coracle_api::{
    client::{Change, Client},
    core::Node,
};
use coracle_minion::{
    network::{self, NetworkConfig, NetworkError, PodNetwork, PodRoutes, bridge_name, network_name},
    proxy::{self, Proxy, ProxyConfig, ProxyMode},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    master::Master,
    site::{blocking, eventually, sh},
};

const LABEL: &str = "io.coracle.test=net";

/// Ranges and names of one test; everything made under them is removed when dropped.
struct Scene {
    cluster: &'static str,
    pod_cidr: &'static str,
    service_cidr: &'static str,
}

impl Scene {
    fn new(cluster: &'static str, pod_cidr: &'static str, service_cidr: &'static str) -> Self {
        sh("docker version --format {{.Server.Version}}");
        let scene = Self { cluster, pod_cidr, service_cidr };
        scene.clean();
        scene
    }

    fn clean(&self) {
        let quiet = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut command = Command::new(words[0]);
            let output = command.args(&words[1..]).stdin(Stdio::null()).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let mine = format!("label=io.coracle.cluster={}", self.cluster);
        for id in quiet(&format!("docker ps -aq --filter label={LABEL} --filter {mine}")).split_whitespace() {
            quiet(&format!("docker rm -fv {id}"));
        }
        quiet(&format!("docker network rm {} {}", network_name(self.cluster), self.foreign()));
        let rules = quiet("iptables -S DOCKER-USER");
        for rule in rules.lines().filter(|rule| rule.contains(&bridge_name(self.cluster))) {
            quiet(&rule.replacen("-A", "iptables -D", 1));
        }
        quiet(&format!("docker image rm {}", self.image()));
        quiet(&format!("nft delete table ip {}", proxy::nft::table_name(self.cluster)));
        quiet(&format!("ip netns del coracle-{}", self.cluster));
    }

    fn image(&self) -> String {
        format!("coracle-test-net:{}", self.cluster)
    }

    fn foreign(&self) -> String {
        format!("coracle-test-foreign-{}", self.cluster)
    }

    fn config(&self) -> NetworkConfig {
        NetworkConfig {
            cluster_id: self.cluster.into(),
            node: "test".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            pods_cidr: self.pod_cidr.parse().unwrap(),
            routes: PodRoutes::Auto,
            pod_cidr: self.pod_cidr.parse().unwrap(),
            service_cidr: self.service_cidr.parse().unwrap(),
        }
    }

    fn import_image(&self) {
        let dir = tempfile::tempdir().unwrap();
        let (root, tar) = (dir.path().join("root"), dir.path().join("image.tar"));
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        sh(&format!("tar -C {} -cf {} .", root.display(), tar.display()));
        sh(&format!("docker import {} {}", tar.display(), self.image()));
    }

    /// Starts a container that answers each connection to port 8080 with its name; its address.
    fn serve(&self, name: &str) -> String {
        let (cluster, image, network) = (self.cluster, self.image(), network_name(self.cluster));
        let run = format!("docker run -d --network {network} --label {LABEL} --label io.coracle.cluster={cluster}");
        // `-ll`: again after each connection; the command's output is the answer.
        let server = format!("/bin/busybox nc -ll -p 8080 -e /bin/busybox echo {name}");
        let id = sh(&format!("{run} --name coracle-test-{cluster}-{name} {image} {server}"));
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let output = Command::new("docker").args(["inspect", "-f", format, &id]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What a container gets from an address, or `None` where it can't connect.
    fn ask_from(&self, name: &str, ip: &str, port: u16) -> Option<String> {
        let container = format!("coracle-test-{}-{name}", self.cluster);
        let port = port.to_string();
        let output = Command::new("docker")
            .args(["exec", &container, "/bin/busybox", "nc", "-w", "2", ip, &port])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.clean();
    }
}

/// News of no other node.
fn alone() -> mpsc::Receiver<Change<Node>> {
    mpsc::channel(1).1
}

fn engine() -> Docker {
    Docker::connect_with_local_defaults().unwrap()
}

fn ask(ip: &str, port: u16) -> std::io::Result<String> {
    let to = format!("{ip}:{port}").parse().unwrap();
    let mut text = String::new();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(900))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    std::io::Read::read_to_string(&mut stream, &mut text)?;
    Ok(text.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_docker_reach_services_each_other_and_themselves_with_nftables() {
    pods_on_docker_reach_services(Scene::new("7e57d001", "10.213.1.0/24", "10.212.0.0/16"), ProxyMode::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_docker_reach_services_each_other_and_themselves_with_userspace() {
    pods_on_docker_reach_services(Scene::new("7e57d003", "10.213.4.0/24", "10.215.0.0/16"), ProxyMode::Userspace).await;
}

async fn pods_on_docker_reach_services(scene: Scene, mode: ProxyMode) {
    scene.import_image();
    let network = PodNetwork::ensure(&engine(), scene.config(), alone()).await.unwrap();
    // The 5th, 6th.. address of the service range.
    let portal = |host: u32| Ipv4Addr::from(u32::from(scene.config().service_cidr.addr()) + host).to_string();
    let (a, b) = (scene.serve("a"), scene.serve("b"));

    let master = Master::start().await;
    let ports = json!([{"port": 80}]);
    for (service, ip, hosts) in [("both", 5, vec![&*a, &*b]), ("a", 6, vec![&*a]), ("none", 7, vec![])] {
        master.service(service, &portal(ip), ports.clone());
        master.endpoints(service, &hosts, json!([{"port": 8080}]));
    }
    let config = ProxyConfig {
        cluster_id: scene.cluster.into(),
        node: "n1".into(),
        service_cidr: scene.config().service_cidr,
        pods_cidr: scene.config().pod_cidr,
        external: Vec::new(),
        mode,
        pod_cidr: scene.config().pod_cidr,
    };
    let proxy = Proxy::start(&Client::new(&master.address.to_string()).unwrap(), config);
    proxy.ready().await;

    // The server is up some time after its container.
    eventually("b serves", async || scene.ask_from("a", &b, 8080).as_deref() == Some("b")).await;
    eventually("the node reaches both", async || {
        let both = portal(5);
        let seen: Vec<_> = blocking(move || (0..20).filter_map(|_| ask(&both, 80).ok()).collect()).await;
        ["a", "b"].iter().all(|name| seen.iter().any(|s| s == name))
    })
    .await;
    assert_eq!(scene.ask_from("b", &portal(6), 80).as_deref(), Some("a"), "pod to pod");
    // Needs the bridge port in hairpin mode, which the pod network sets when the port appears.
    assert_eq!(scene.ask_from("a", &portal(6), 80).as_deref(), Some("a"), "pod to itself");
    let nobody = format!("{}.200", network.gateway().to_string().rsplit_once('.').unwrap().0);
    let started = std::time::Instant::now();
    let refused = blocking(move || ask(&nobody, 80)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable);
    assert!(started.elapsed() < Duration::from_millis(500), "a pod address that nobody has: {:?}", started.elapsed());
    for portal in [portal(7), portal(9 * 256 + 9)] {
        let to = portal.clone();
        let refused = blocking(move || ask(&to, 80)).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{portal}");
        assert_eq!(scene.ask_from("a", &portal, 80), None, "{portal}");
    }
    proxy.shutdown().await;
    proxy::remove(scene.cluster).await.unwrap();
    network.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_network_is_adopted_restored_and_removed() {
    let scene = Scene::new("7e57d002", "10.213.2.0/24", "10.214.0.0/16");
    let bridge = bridge_name(scene.cluster);
    let network = PodNetwork::ensure(&engine(), scene.config(), alone()).await.unwrap();
    let id = |name: &str| sh(&format!("docker network inspect -f {{{{.Id}}}} {name}"));
    let first = id(&network.name());
    let route = format!("{} dev {bridge}", scene.service_cidr);
    let routed = || sh("ip route").lines().any(|l| l.starts_with(&route) && l.contains("src 10.213.2.1"));
    assert!(routed());
    // A portal has a source address: the bridge's.
    assert!(sh("ip route get 10.214.7.7").contains("src 10.213.2.1"));

    for harm in [
        format!("ip route del {}", scene.service_cidr),
        format!("ip link set {bridge} down"),
        format!("ip addr flush dev {bridge}"),
        format!("ip link del {bridge}"),
    ] {
        sh(&harm);
        let took = eventually("restored", async || routed()).await;
        println!("{harm}: restored in {took:?}");
        assert!(took < Duration::from_secs(3), "{harm}: {took:?}");
        assert!(sh(&format!("ip addr show {bridge}")).contains("inet 10.213.2.1/24"), "{harm}");
    }
    network.shutdown().await;

    let kept = id(&network_name(scene.cluster));
    assert_ne!(kept, first, "a deleted bridge needs a new network");
    PodNetwork::ensure(&engine(), scene.config(), alone()).await.unwrap().shutdown().await;
    assert_eq!(id(&network_name(scene.cluster)), kept, "the right network is adopted");

    let moved = NetworkConfig { pod_cidr: "10.213.3.0/24".parse().unwrap(), ..scene.config() };
    PodNetwork::ensure(&engine(), moved.clone(), alone()).await.unwrap().shutdown().await;
    assert_ne!(id(&network_name(scene.cluster)), kept, "a wrong network that nobody uses is replaced");
    assert!(sh(&format!("ip addr show {bridge}")).contains("inet 10.213.3.1/24"));

    network::remove(&engine(), scene.cluster).await.unwrap();
    network::remove(&engine(), scene.cluster).await.unwrap();
    assert!(!routed());

    sh(&format!("docker network create --label {LABEL} --subnet 10.213.2.128/25 {}", scene.foreign()));
    let error = PodNetwork::ensure(&engine(), scene.config(), alone()).await.unwrap_err();
    assert!(matches!(error, NetworkError::Overlap { .. }), "{error}");
    let expected = format!("--pod-cidr 10.213.2.0/24 overlaps 10.213.2.128/25 of Docker network {}", scene.foreign());
    assert!(error.to_string().starts_with(&expected), "{error}");
    let used = network::used_cidrs(None).await.unwrap();
    assert!(used.iter().any(|u| u.cidr == "10.213.2.128/25".parse().unwrap()), "{used:?}");
}
