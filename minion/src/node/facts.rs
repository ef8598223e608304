//! What there is to say about this machine: its size, its systems, its address.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use coracle_api::core::NodeSystemInfo;

use crate::runtime::{RuntimeError, docker::Engine};

/// A name that is not found by then is done without.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Pods a node takes at most, as in Kubernetes.
const PODS_MAX: u32 = 110;

/// A node's description of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Where other nodes reach it.
    pub address: IpAddr,
    /// Processors, in thousandths.
    pub cpu_milli: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Pods it takes.
    pub pods_max: u32,
    /// Versions and identities.
    pub system: NodeSystemInfo,
}

impl NodeFacts {
    /// Asks the engine and the kernel.
    pub async fn gather(engine: &Engine, name: &str, address: IpAddr) -> Result<Self, RuntimeError> {
        let info = engine.info().await?;
        let version = env!("CARGO_PKG_VERSION");
        let meminfo = read("/proc/meminfo");
        let engine_memory = info.mem_total.and_then(|n| u64::try_from(n).ok());
        Ok(Self {
            name: name.to_owned(),
            address,
            cpu_milli: info.ncpu.and_then(|n| u64::try_from(n).ok()).unwrap_or(1) * 1000,
            memory_bytes: total_memory(&meminfo).or(engine_memory).unwrap_or(0),
            pods_max: PODS_MAX,
            system: NodeSystemInfo {
                architecture: engine.arch().to_owned(),
                boot_id: read("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: format!("docker://{}", engine.version()),
                kernel_version: read("/proc/sys/kernel/osrelease"),
                kube_proxy_version: format!("coracle-{version}"),
                kubelet_version: format!("coracle-{version}"),
                machine_id: read("/etc/machine-id"),
                operating_system: "linux".into(),
                os_image: info.operating_system.unwrap_or_default(),
                system_uuid: read("/sys/class/dmi/id/product_uuid"),
                ..Default::default()
            },
        })
    }
}

/// A small file of the kernel; empty when it is not there (containers, other architectures).
fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// The host's name as a node name: lower case, and nothing that a name may not contain.
pub fn host_name() -> String {
    node_name(&read("/proc/sys/kernel/hostname"))
}

fn node_name(host: &str) -> String {
    let name: String = host
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(253)
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// The source address of the default route, or loopback on a host without one. Sends nothing:
/// connecting a UDP socket only looks up the route.
pub fn default_address() -> IpAddr {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    // TEST-NET-1: routed by the default route wherever there is one.
    let outside = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    UdpSocket::bind(any)
        .and_then(|socket| socket.connect(outside).and_then(|()| socket.local_addr()))
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// The source address of the route to a master at `host:port`: also a host without a default route has
/// one. That of the default route where the master is on this host or its name is not known.
pub async fn address_towards(authority: &str) -> IpAddr {
    let source = async {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(authority).await?;
        socket.local_addr()
    };
    match tokio::time::timeout(LOOKUP_LIMIT, source).await {
        Ok(Ok(address)) if !address.ip().is_loopback() => address.ip(),
        _ => default_address(),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, process::Command};

    use super::*;

    #[test]
    fn on_a_network_without_a_default_route_the_address_is_that_towards_the_master() {
        let name = format!("coracle-facts-{}", std::process::id());
        let run =
            |line: &str| assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
        run(&format!("netns add {name}"));
        for line in ["link set lo up", "link add d0 type bridge", "addr add 198.51.100.7/24 dev d0", "link set d0 up"] {
            run(&format!("-n {name} {line}"));
        }
        let namespace = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
        let found = std::thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                [address_towards("198.51.100.1:8080").await, address_towards("127.0.0.1:8080").await]
            })
        });
        let found = found.join();
        run(&format!("netns del {name}"));
        assert_eq!(found.unwrap(), [IpAddr::from([198, 51, 100, 7]), IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn a_host_name_becomes_a_valid_node_name() {
        for (host, expected) in [
            ("Minion-1.Example.com", "minion-1.example.com"),
            ("my_host", "my-host"),
            ("-x-", "x"),
            ("", "localhost"),
            ("(none)", "none"),
        ] {
            assert_eq!(node_name(host), expected);
        }
    }

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB"), Some(16 << 20));
        assert_eq!(total_memory(""), None);
    }
}
