//! The node and its pods as network namespaces, the servers in the pods, and the peers on the node.
//!
//! Dropping it ends every process by its id and removes the namespaces.

use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// Names the bridge, as a cluster's id would.
pub(super) const CLUSTER: &str = "be7c4001";
pub(super) const NODE: &str = "bench";
pub(super) const PODS_CIDR: &str = "10.91.0.0/16";
pub(super) const POD_CIDR: &str = "10.91.1.0/24";
pub(super) const SERVICE_CIDR: &str = "10.92.0.0/16";
pub(super) const GATEWAY: &str = "10.91.1.1";
pub(super) const POD: [&str; 2] = ["10.91.1.2", "10.91.1.3"];
/// nginx in the pods, and the port of its service.
pub(super) const HTTP: u16 = 8080;
/// iperf3 in the first pod, and the port of its service.
pub(super) const BULK: u16 = 5201;
/// Added to a port on the node, to reach it through HAProxy.
pub(super) const HAPROXY: u16 = 20_000;
/// The same for docker-proxy.
pub(super) const DOCKER: u16 = 30_000;
const READY_LIMIT: Duration = Duration::from_secs(10);

/// The namespaces and the processes in them.
#[derive(Debug)]
pub(super) struct Range {
    processes: Vec<Child>,
    namespaces: Vec<String>,
    /// Files of the servers.
    pub(super) dir: TempDir,
}

impl Range {
    /// One of several, told apart by this letter.
    pub(super) fn new(letter: char) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
        let mut range = Self { processes: Vec::new(), namespaces: Vec::new(), dir };
        for part in ["h", "p0", "p1"] {
            let name = format!("coracle-bench-{}-{letter}{part}", std::process::id());
            ip(&format!("netns add {name}"))?;
            range.namespaces.push(name.clone());
            ip(&format!("-n {name} link set lo up"))?;
        }
        let node = range.node().to_owned();
        let bridge = format!("cor-{CLUSTER}");
        // As Docker's bridges have one: without, it changes with the ports, and pods look for the old one.
        ip(&format!("-n {node} link add {bridge} address 02:42:0a:5b:01:01 type bridge"))?;
        ip(&format!("-n {node} addr add {GATEWAY}/24 dev {bridge}"))?;
        ip(&format!("-n {node} link set {bridge} up"))?;
        // As the pod network leaves it to the userspace plane to have a better one.
        ip(&format!("-n {node} route add {SERVICE_CIDR} dev {bridge} src {GATEWAY} metric 1024"))?;
        for (i, address) in POD.iter().enumerate() {
            let pod = range.namespaces[i + 1].clone();
            ip(&format!("-n {node} link add p{i} type veth peer name eth0 netns {pod}"))?;
            ip(&format!("-n {node} link set p{i} master {bridge} up"))?;
            ip(&format!("-n {pod} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {pod} link set eth0 up"))?;
            ip(&format!("-n {pod} route add default via {GATEWAY}"))?;
        }
        range.within(|| {
            let shown = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
            let shown = shown.is_ok_and(|on| on.trim() == "1");
            ensure!(
                shown,
                "bridges show netfilter nothing here, so that pods would be measured otherwise: modprobe br_netfilter"
            );
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            // Thousands of closed connections a second would fill the table otherwise.
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")?;
            Ok(())
        })?;
        for namespace in &range.namespaces {
            // Connections that ended would be in the way of others of the same ports and another path: the
            // clocks of their senders differ.
            let enter = in_namespace(namespace, Path::new("sysctl"))
                .args(["-qw", "net.ipv4.tcp_max_tw_buckets=0"])
                .status()
                .context("sysctl")?;
            ensure!(enter.success(), "sysctl in {namespace}");
        }
        range.serve()?;
        range.start_peers()?;
        Ok(range)
    }

    /// The node's namespace.
    fn node(&self) -> &str {
        &self.namespaces[0]
    }

    /// A program in the node's namespace.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        in_namespace(self.node(), program.as_ref())
    }

    /// A program in a pod's namespace.
    pub(super) fn command_in_pod(&self, pod: usize, program: impl AsRef<Path>) -> Command {
        in_namespace(&self.namespaces[pod + 1], program.as_ref())
    }

    /// Runs code on a thread of its own in the node's namespace.
    pub(super) fn within<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.node()))?;
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            f()
        };
        std::thread::scope(|scope| scope.spawn(enter).join())
            .map_err(|_| anyhow::anyhow!("a thread of the measurement panicked"))?
    }

    /// Forgets the connections that the kernel tracks, so that no figure pays for the one before.
    pub(super) fn forget_flows(&self) -> Result<()> {
        let out = self.command("conntrack").arg("-F").output().context("conntrack")?;
        ensure!(out.status.success(), "conntrack -F: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    /// Removes the rules that a data plane leaves when it ends.
    pub(super) fn forget_rules(&self) -> Result<()> {
        let out = self.command("nft").args(["flush", "ruleset"]).output().context("nft")?;
        ensure!(out.status.success(), "nft flush ruleset: {}", String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        for (i, _) in POD.iter().enumerate() {
            let pod = self.namespaces[i + 1].clone();
            let config = self.dir.path().join(format!("nginx-{i}.conf"));
            let dir = self.dir.path().display();
            let text = format!(
                "worker_processes 1; daemon off; pid {dir}/nginx-{i}.pid; error_log {dir}/nginx-{i}.log;\n\
                 events {{ worker_connections 8192; }}\n\
                 http {{ access_log off; keepalive_requests 1000000000;\n\
                 server {{ listen {HTTP} backlog=8192; location / {{ return 200 \"pod {i}\\n\"; }} }} }}\n"
            );
            std::fs::write(&config, text)?;
            let mut nginx = in_namespace(&pod, Path::new("nginx"));
            nginx.arg("-e").arg(self.dir.path().join(format!("nginx-{i}.log"))).arg("-c").arg(&config);
            self.spawn(nginx)?;
        }
        let mut iperf = in_namespace(&self.namespaces[1].clone(), Path::new("iperf3"));
        iperf.args(["-s", "-p", &BULK.to_string()]);
        self.spawn(iperf)?;
        self.wait_for([(POD[0], HTTP), (POD[1], HTTP), (POD[0], BULK)])
    }

    fn start_peers(&mut self) -> Result<()> {
        let config = self.dir.path().join("haproxy.cfg");
        let mut text = "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                        timeout client 1h\n  timeout server 1h\n"
            .to_owned();
        for port in [HTTP, BULK] {
            let listen = port + HAPROXY;
            text += &format!("listen l{port}\n  bind 127.0.0.1:{listen}\n  server pod {}:{port}\n", POD[0]);
        }
        std::fs::write(&config, text)?;
        let mut haproxy = self.command("haproxy");
        haproxy.arg("-db").arg("-f").arg(&config);
        self.spawn(haproxy)?;
        for port in [HTTP, BULK] {
            let mut proxy = self.command("sh");
            // It tells its parent how it started on file 3, and takes whatever has that number for it.
            proxy.args(["-c", r#"exec 3>/dev/null; exec docker-proxy "$@""#, "sh"]);
            let listen = (port + DOCKER).to_string();
            proxy.args(["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", &listen]);
            proxy.args(["-container-ip", POD[0], "-container-port", &port.to_string()]);
            self.spawn(proxy)?;
        }
        let all = [HAPROXY + HTTP, HAPROXY + BULK, DOCKER + HTTP, DOCKER + BULK];
        self.wait_for(all.map(|port| ("127.0.0.1", port)))
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.path().join("servers.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.push(command.spawn().with_context(|| format!("starting {command:?}"))?);
        Ok(())
    }

    fn wait_for<const N: usize>(&self, all: [(&'static str, u16); N]) -> Result<()> {
        self.within(move || {
            let deadline = Instant::now() + READY_LIMIT;
            for address in all {
                while std::net::TcpStream::connect(address).is_err() {
                    ensure!(Instant::now() < deadline, "nothing listens on {address:?}");
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            }
            Ok(())
        })
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // nginx's worker ends with its master only when that is asked politely.
            drop(Command::new("kill").args(["-TERM", &process.id().to_string()]).status());
            drop(process.wait());
        }
        // The last is the userspace plane's own, which stays when the plane ends.
        for namespace in self.namespaces.iter().cloned().chain([format!("coracle-{CLUSTER}")]) {
            drop(ip(&format!("netns del {namespace}")));
        }
    }
}

fn in_namespace(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    command
}

fn ip(line: &str) -> Result<()> {
    let out = Command::new("ip").args(line.split(' ')).output().context("ip")?;
    ensure!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
