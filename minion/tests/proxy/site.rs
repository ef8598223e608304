//! One node, three pods and an uplink as network namespaces, with what Docker sets on such a host.
//!
//! ```text
//!   p1 10.77.0.2 ─┐
//!   p2 10.77.0.3 ─┼─ bridge 10.77.0.1 ── h ── 198.51.100.1 ─── 198.51.100.2 up (default route)
//!   p3 10.77.0.4 ─┘ (and other addresses; serves nothing)
//! ```

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use coracle_api::client::Client;
use coracle_minion::{
    network::bridge_name,
    proxy::{Proxy, ProxyConfig, ProxyMode},
};
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::{Value, json};

pub(crate) use super::namespaces::{blocking, eventually, sh};
use super::{
    master::Master,
    namespaces::{self, Namespaces},
};

pub(crate) const NODE: &str = "n1";
pub(crate) const PODS_CIDR: &str = "10.76.0.0/15";
pub(crate) const POD_CIDR: &str = "10.77.0.0/24";
pub(crate) const SERVICE_CIDR: &str = "10.78.0.0/16";
/// Where services may have external addresses.
pub(crate) const EXTERNAL_CIDR: &str = "203.0.113.0/24";
pub(crate) const GATEWAY: &str = "10.77.0.1";
pub(crate) const P1: &str = "10.77.0.2";
pub(crate) const P2: &str = "10.77.0.3";
/// Where pods listen, with TCP and UDP.
pub(crate) const PORT: u16 = 8080;
/// An address that is in the allowed range of external addresses, and one that is not.
pub(crate) const EXTERNAL: &str = "203.0.113.7";
pub(crate) const FORBIDDEN: &str = "192.0.2.7";
/// The node's address on the uplink.
pub(crate) const NODE_ADDRESS: &str = "198.51.100.1";
const PREFIX: &str = "cortest";
/// Less than the second after which a lost first packet is sent again.
const CONNECT_LIMIT: Duration = Duration::from_millis(900);

/// The cluster of this test's process: names of network namespaces are the whole machine's.
pub(crate) fn cluster() -> String {
    cluster_of(std::process::id())
}

fn cluster_of(process: u32) -> String {
    format!("7e{process:06x}")
}

/// Other addresses of p3: clients in their own right.
pub(crate) fn clients() -> Vec<String> {
    (100..120).map(|host| format!("10.77.0.{host}")).collect()
}

/// Whether bridges show their frames to netfilter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum BridgeNetfilter {
    On,
    Off,
}

const PARTS: &[&str] = &["h", "up", "p1", "p2", "p3"];

/// The namespaces; removed when dropped.
pub(crate) struct Site {
    namespaces: Namespaces,
    /// Addresses of pods that serve nobody any more.
    retired: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Site {
    pub(crate) fn new(netfilter: BridgeNetfilter) -> Self {
        // What a failure needs to be understood; the runner shows it only then.
        let log = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG);
        drop(log.with_target(false).with_test_writer().try_init());
        let site = Self { namespaces: Namespaces::new(PREFIX, PARTS, remove_portals), retired: Arc::default() };
        let (h, up, bridge) = (site.ns("h"), site.ns("up"), bridge_name(&cluster()));
        // Docker gives its bridges one too; without, it changes with the ports that come and go.
        sh(&format!("ip -n {h} link add {bridge} address 02:42:0a:4d:00:01 type bridge"));
        sh(&format!("ip -n {h} addr add {GATEWAY}/24 dev {bridge}"));
        sh(&format!("ip -n {h} link set {bridge} up"));
        sh(&format!("ip -n {h} route add {SERVICE_CIDR} dev {bridge} src {GATEWAY} metric 1024"));
        sh(&format!("ip -n {h} route add unreachable {PODS_CIDR} metric 4000000"));
        for (pod, ip) in [("p1", P1), ("p2", P2), ("p3", "10.77.0.4")] {
            let ns = site.ns(pod);
            sh(&format!("ip -n {h} link add {pod} type veth peer name eth0 netns {ns}"));
            sh(&format!("ip -n {h} link set {pod} master {bridge} up"));
            sh(&format!("ip -n {h} link set {pod} type bridge_slave hairpin on"));
            sh(&format!("ip -n {ns} addr add {ip}/24 dev eth0"));
            sh(&format!("ip -n {ns} link set eth0 up"));
            sh(&format!("ip -n {ns} route add default via {GATEWAY}"));
        }
        sh(&format!("ip -n {h} link add eth0 type veth peer name eth0 netns {up}"));
        for (ns, ip) in [(&h, NODE_ADDRESS), (&up, "198.51.100.2")] {
            sh(&format!("ip -n {ns} addr add {ip}/24 dev eth0"));
            sh(&format!("ip -n {ns} link set eth0 up"));
        }
        sh(&format!("ip -n {h} route add default via 198.51.100.2"));
        for range in [EXTERNAL_CIDR, "192.0.2.0/24"] {
            sh(&format!("ip -n {up} route add {range} via {NODE_ADDRESS}"));
        }
        for client in clients() {
            sh(&format!("ip -n {} addr add {client}/24 dev eth0", site.ns("p3")));
        }
        let switch = if netfilter == BridgeNetfilter::On { "1" } else { "0" };
        site.within("h", move || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", switch).unwrap();
        });
        // What Docker's filter and translation do to a bridge of its own.
        for rule in [
            "-P FORWARD DROP".to_owned(),
            "-N DOCKER-USER".to_owned(),
            // As the pod network has it.
            format!("-A DOCKER-USER -o {bridge} -m conntrack --ctstate DNAT -j ACCEPT"),
            "-A DOCKER-USER -j RETURN".to_owned(),
            "-A FORWARD -j DOCKER-USER".to_owned(),
            format!("-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
            format!("-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT"),
            format!("-A FORWARD -i {bridge} -o {bridge} -j ACCEPT"),
            format!("-t nat -A POSTROUTING -s {POD_CIDR} ! -o {bridge} -j MASQUERADE"),
        ] {
            sh(&format!("ip netns exec {h} iptables {rule}"));
        }
        site.nft(
            "up",
            &format!(
                "add table ip leak
                 add counter ip leak leaks
                 add chain ip leak pre {{ type filter hook prerouting priority 0; }}
                 add rule ip leak pre ip daddr {SERVICE_CIDR} counter name leaks"
            ),
        );
        for (pod, ip) in [("p1", P1), ("p2", P2)] {
            site.serve(pod, ip);
        }
        site
    }

    pub(crate) fn ns(&self, part: &str) -> String {
        self.namespaces.ns(part)
    }

    /// Runs nft in a part.
    pub(crate) fn nft(&self, part: &str, script: &str) -> String {
        let ns = self.ns(part);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &ns, "nft", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Packets to the service range that left the node.
    pub(crate) fn leaks(&self) -> u64 {
        let listing = self.nft("up", "list counter ip leak leaks");
        let packets = listing.split_whitespace().skip_while(|w| *w != "packets").nth(1);
        packets.unwrap().parse().unwrap()
    }

    /// Runs `f` on a thread of its own in a part's namespace.
    pub(crate) fn within<T: Send + 'static>(&self, part: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.namespaces.within(part, f)
    }

    /// Runs an async test body in the node's namespace, with its processes.
    pub(crate) fn on_node<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send + 'static) {
        self.namespaces.run_within("h", body);
    }

    /// A server that greets with its own and the client's address, then echoes.
    fn serve(&self, pod: &str, ip: &'static str) {
        let (tcp, udp) =
            self.within(pod, move || (TcpListener::bind((ip, PORT)).unwrap(), UdpSocket::bind((ip, PORT)).unwrap()));
        let retired = self.retired.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let retired = retired.clone();
                std::thread::spawn(move || -> std::io::Result<()> {
                    let mut stream = stream?;
                    if retired.lock().unwrap().contains(ip) {
                        return Ok(());
                    }
                    writeln!(stream, "{ip} {}", stream.peer_addr()?.ip())?;
                    let mut buffer = [0; 256];
                    loop {
                        let n = stream.read(&mut buffer)?;
                        if n == 0 {
                            return Ok(());
                        }
                        stream.write_all(&buffer[..n])?;
                    }
                });
            }
        });
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut buffer = [0; 256];
            loop {
                let (_, from) = udp.recv_from(&mut buffer)?;
                udp.send_to(format!("{ip} {}", from.ip()).as_bytes(), from)?;
            }
        });
    }

    /// Has a pod serve new connections, or end them without a word.
    pub(crate) fn retire(&self, ip: &'static str, retired: bool) {
        let mut all = self.retired.lock().unwrap();
        if retired {
            all.insert(ip)
        } else {
            all.remove(ip)
        };
    }

    /// Connects from a part; the greeting, or the error and how long it took.
    pub(crate) fn ask(&self, part: &str, portal: &str) -> Result<String, (std::io::ErrorKind, Duration)> {
        let portal: SocketAddr = portal.parse().unwrap();
        self.within(part, move || {
            let started = Instant::now();
            connect(portal).map(|c| c.greeting).map_err(|e| (e.kind(), started.elapsed()))
        })
    }

    /// As [`Site::ask`], from an address of its own; only who answers.
    pub(crate) fn ask_as(&self, part: &str, source: &str, portal: &str) -> std::io::Result<String> {
        let (source, portal): (Ipv4Addr, SocketAddrV4) = (source.parse().unwrap(), portal.parse().unwrap());
        self.within(part, move || {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
            rustix::net::connect(&socket, &portal)?;
            let greeting = Connection::over(socket.into())?.greeting;
            Ok(greeting.split(' ').next().unwrap_or_default().to_owned())
        })
    }

    /// As [`Site::ask`], with UDP from a socket of its own.
    pub(crate) fn ask_udp(&self, part: &str, portal: &str) -> Result<String, (std::io::ErrorKind, Duration)> {
        let portal: SocketAddr = portal.parse().unwrap();
        self.within(part, move || {
            let started = Instant::now();
            let socket = udp_socket(portal);
            ask_over(&socket).map_err(|e| (e.kind(), started.elapsed()))
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        remove_portals(std::process::id());
    }
}

fn remove_portals(process: u32) {
    namespaces::remove(&format!("coracle-{}", cluster_of(process)));
}

/// An open connection to a server.
pub(crate) struct Connection {
    pub(crate) greeting: String,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn over(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut reader = BufReader::new(stream);
        let mut greeting = String::new();
        if reader.read_line(&mut greeting)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { greeting: greeting.trim().to_owned(), reader })
    }

    /// Says something and that this was all; what the server says until it ends.
    pub(crate) fn last_words(mut self) -> String {
        let stream = self.reader.get_mut();
        stream.write_all(b"ping\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut words = String::new();
        self.reader.read_to_string(&mut words).unwrap();
        words
    }

    /// Whether the server still answers on it.
    pub(crate) fn echoes(&mut self) -> bool {
        let mut line = String::new();
        let sent = self.reader.get_mut().write_all(b"ping\n");
        sent.is_ok() && self.reader.read_line(&mut line).is_ok() && line == "ping\n"
    }
}

/// Connects from where the thread is.
pub(crate) fn connect(to: SocketAddr) -> std::io::Result<Connection> {
    Connection::over(TcpStream::connect_timeout(&to, CONNECT_LIMIT)?)
}

/// [`connect`] from a port that the caller chose.
pub(crate) fn connect_from(port: u16, to: SocketAddrV4) -> std::io::Result<Connection> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(CONNECT_LIMIT))?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    rustix::net::connect(&socket, &to)?;
    Connection::over(socket.into())
}

/// A socket that hears of refusals.
pub(crate) fn udp_socket(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket
}

/// Asks once over a socket that may have asked before.
pub(crate) fn ask_over(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"ping")?;
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Where the service of most tests is.
pub(crate) const WEB: &str = "10.78.0.5:80";
pub(crate) const DNS: &str = "10.78.0.5:53";

fn ports(port: fn(&str) -> u16) -> Value {
    let one = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": port(name)});
    json!([one("web", "TCP"), one("dns", "UDP")])
}

pub(crate) fn portal_ports() -> Value {
    ports(|name| if name == "web" { 80 } else { 53 })
}

pub(crate) fn backend_ports() -> Value {
    ports(|_| PORT)
}

/// A master with one service over these pods.
pub(crate) async fn master_with(hosts: &[&str]) -> Master {
    let master = Master::start().await;
    master.service("a", "10.78.0.5", portal_ports());
    master.endpoints("a", hosts, backend_ports());
    master
}

/// Runs a test on the node of a site of its own.
pub(crate) fn on_site(netfilter: BridgeNetfilter, test: impl AsyncFnOnce(Arc<Site>) + Send + 'static) {
    let site = Arc::new(Site::new(netfilter));
    let inside = site.clone();
    site.on_node(move || test(inside));
}

/// Who answers to repeated connections, and as whom they see the client.
pub(crate) async fn answers(
    site: &Arc<Site>,
    from: &'static str,
    times: usize,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let site = site.clone();
    blocking(move || {
        let greetings = (0..times).map(|_| site.ask(from, WEB).unwrap());
        let pairs = greetings.map(|g| g.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap());
        pairs.unzip()
    })
    .await
}

pub(crate) fn set(hosts: &[&str]) -> BTreeSet<String> {
    hosts.iter().map(|h| (*h).to_owned()).collect()
}

/// Starts the proxy of the site and waits until it has loaded its table.
pub(crate) async fn start_proxy(master: SocketAddr, mode: ProxyMode) -> Proxy {
    let config = ProxyConfig {
        cluster_id: cluster(),
        mode,
        node: NODE.into(),
        service_cidr: SERVICE_CIDR.parse().unwrap(),
        pods_cidr: PODS_CIDR.parse().unwrap(),
        external: vec![EXTERNAL_CIDR.parse().unwrap()],
        pod_cidr: POD_CIDR.parse().unwrap(),
    };
    let proxy = Proxy::start(&Client::new(&master.to_string()).unwrap(), config);
    proxy.ready().await;
    assert!(*proxy.synced().borrow(), "the proxy ended before its table was loaded");
    proxy
}
