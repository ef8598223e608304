//! Real etcd clusters on this machine, and what may happen to them.
//!
//! A [`Cluster`] is one or more `etcd` processes on free loopback ports with data in a temporary
//! directory. Between clients and members, and between members, are [`relay`]s: connections can be
//! cut and members isolated without touching the machine's network. Members can be killed, stopped
//! and started again. Dropping the cluster, also in a panic, ends all of it.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub mod certificates;
pub mod relay;

use certificates::Certificates;
use relay::{Isolation, Relay};

/// For a member to start and take part, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// A free port may be taken by somebody else before etcd binds it.
const TRIES: usize = 5;

/// What kind of cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether clients speak TLS and show certificates.
    pub tls: bool,
    /// More arguments for each member.
    pub arguments: Vec<String>,
}

/// Running members.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    isolation: Arc<Isolation>,
    certificates: Option<Certificates>,
    /// Last, as the members write into it until they are gone.
    _dir: TempDir,
}

#[derive(Debug)]
struct Member {
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
    client: SocketAddr,
    metrics: SocketAddr,
    clients: Relay,
    _peers: Relay,
}

impl Cluster {
    /// Starts a cluster of this many members and waits until each is ready.
    pub fn start(members: usize) -> Result<Self> {
        Self::start_with(members, &Options::default())
    }

    /// Starts a cluster with options.
    pub fn start_with(members: usize, options: &Options) -> Result<Self> {
        for _ in 1..TRIES {
            match Self::try_start(members, options) {
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                result => return result,
            }
        }
        Self::try_start(members, options)
    }

    fn try_start(count: usize, options: &Options) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let certificates = options.tls.then(|| Certificates::make(dir.path())).transpose()?;
        let isolation = Arc::new(Isolation::default());
        let ports = (0..count).map(|_| Ports::free()).collect::<Result<Vec<_>>>()?;
        let mut relays = Vec::new();
        for (member, ports) in ports.iter().enumerate() {
            let clients = Relay::to(ports.client)?;
            let peers = Relay::between_members(ports.peer, member, isolation.clone())?;
            relays.push((clients, peers));
        }
        let peers: Vec<String> = relays.iter().map(|(_, peers)| format!("http://{}", peers.address())).collect();
        let all: Vec<String> = peers.iter().enumerate().map(|(i, url)| format!("m{i}={url}")).collect();
        let mut members = Vec::new();
        for (i, (ports, (clients, peer_relay))) in ports.into_iter().zip(relays).enumerate() {
            let data = dir.path().join(format!("m{i}"));
            let scheme = if options.tls { "https" } else { "http" };
            let mut arguments: Vec<String> = [
                ("name", format!("m{i}")),
                ("data-dir", data.display().to_string()),
                ("listen-client-urls", format!("{scheme}://{}", ports.client)),
                ("advertise-client-urls", format!("{scheme}://{}", clients.address())),
                ("listen-metrics-urls", format!("http://{}", ports.metrics)),
                ("listen-peer-urls", format!("http://{}", ports.peer)),
                ("initial-advertise-peer-urls", peers[i].clone()),
                ("initial-cluster", all.join(",")),
                ("initial-cluster-token", dir.path().display().to_string()),
                ("logger", "zap".to_owned()),
                ("log-level", "warn".to_owned()),
            ]
            .into_iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
            if let Some(certificates) = &certificates {
                arguments.extend(certificates.server_arguments());
            }
            arguments.extend(options.arguments.clone());
            let log = dir.path().join(format!("m{i}.log"));
            let (client, metrics) = (ports.client, ports.metrics);
            members.push(Member { arguments, log, process: None, client, metrics, clients, _peers: peer_relay });
        }
        let mut cluster = Self { members, isolation, certificates, _dir: dir };
        for member in 0..count {
            cluster.spawn(member)?;
        }
        for member in 0..count {
            cluster.wait_ready(member)?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, at: usize) -> Result<()> {
        let member = &mut self.members[at];
        let log = File::options().create(true).append(true).open(&member.log)?;
        let process = Command::new("etcd")
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context(
                "etcd can't be started: install it with 'scripts/require.sh etcd' (the package etcd-server on \
                 Debian) and run the tests again",
            )?;
        self.isolation.set_process(at, process.id());
        member.process = Some(process);
        Ok(())
    }

    fn wait_ready(&mut self, at: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let member = &mut self.members[at];
            let ended = member.process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(&member.log).unwrap_or_default();
                bail!("etcd member {at} is not ready ({ended:?}); its log says:\n{log}");
            }
            if get(member.metrics, "/health").is_ok_and(|body| body.contains("true")) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// `host:port` of the members for clients, through relays.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.clients.address().to_string()).collect()
    }

    /// `host:port` of the members without a relay between, for measurements and administration.
    pub fn direct_endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.to_string()).collect()
    }

    /// The files for TLS, if it is spoken.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Which member leads, by what the running ones say.
    pub fn leader(&self) -> Option<usize> {
        let leads =
            |member: &Member| get(member.metrics, "/metrics").is_ok_and(|m| m.contains("\netcd_server_is_leader 1\n"));
        (0..self.members.len()).find(|at| leads(&self.members[*at]))
    }

    /// Waits until a member leads.
    pub fn wait_for_leader(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            ensure!(Instant::now() < deadline, "no etcd member leads within {PATIENCE:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts a member that was killed, on its old data. Does not wait until it is ready.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        ensure!(self.members[member].process.is_none(), "etcd member {member} runs");
        self.spawn(member)
    }

    /// Has a member stand still with SIGSTOP: its connections stay open and nothing answers.
    pub fn freeze(&self, member: usize) -> Result<()> {
        self.signal(member, Signal::STOP)
    }

    /// Has it go on.
    pub fn thaw(&self, member: usize) -> Result<()> {
        self.signal(member, Signal::CONT)
    }

    fn signal(&self, member: usize, signal: Signal) -> Result<()> {
        let process = self.members[member].process.as_ref().context("the member runs")?;
        let pid = Pid::from_raw(i32::try_from(process.id())?).context("a process has a number")?;
        kill_process(pid, signal).context("etcd member")
    }

    /// Has nothing pass between a member and the others, as if a cable were pulled. Clients still
    /// reach it.
    pub fn isolate(&self, member: usize) {
        self.isolation.isolate(member);
    }

    /// Has everything pass between the members again.
    pub fn heal(&self) {
        self.isolation.heal();
    }

    /// Closes the connections that clients have to a member.
    pub fn cut_clients(&self, member: usize) {
        self.members[member].clients.cut();
    }

    /// Has nothing pass between clients and a member, or everything again.
    pub fn stall_clients(&self, member: usize, stalled: bool) {
        self.members[member].clients.stall(stalled);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// Where a member listens.
struct Ports {
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
}

impl Ports {
    fn free() -> Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        // Held together, so that they differ.
        let (client, peer, metrics) = (listen()?, listen()?, listen()?);
        Ok(Self { client: client.local_addr()?, peer: peer.local_addr()?, metrics: metrics.local_addr()? })
    }
}

/// The body of a page, and what comes before it.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let timeout = Duration::from_secs(1);
    let mut connection = TcpStream::connect_timeout(&address, timeout)?;
    connection.set_read_timeout(Some(timeout))?;
    write!(connection, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Runs a command to its end.
fn run(program: &str, dir: &Path, arguments: &[&str]) -> Result<()> {
    let hint =
        || format!("{program} can't be started: install it with 'scripts/require.sh etcd' and run the tests again");
    let output = Command::new(program).current_dir(dir).args(arguments).output().with_context(hint)?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
