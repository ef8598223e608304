//! The server that is measured: a `coracle master` of our own, with etcd if asked for, or one that
//! runs already.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use coracle_tests::{coracle, http, measure};
use tempfile::TempDir;

use super::{
    args::{StoreKind, Watched},
    target::Target,
};

/// How long a server may take to be ready; with a million objects that is a while.
const READY_LIMIT: Duration = Duration::from_secs(300);

/// How many threads a process of ours has for its tasks.
pub(crate) const THREADS: &str = "TOKIO_WORKER_THREADS";

/// A process whose costs are measured.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// What the table calls it.
    pub(crate) name: String,
    /// Its id.
    pub(crate) pid: u32,
}

/// A server under load.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Where it answers.
    pub(crate) target: Target,
    /// Its processes. None for a foreign server whose processes were not named.
    pub(crate) processes: Vec<Process>,
    own: Option<Own>,
}

/// A server that this program started, and stops and removes.
#[derive(Debug)]
struct Own {
    master: Option<Child>,
    etcd: Option<(Child, u16)>,
    /// Of the master, besides the usual ones.
    arguments: Vec<String>,
    threads: Option<usize>,
    /// Dropped, and thereby removed, after the processes were killed.
    dir: TempDir,
}

impl Subject {
    /// Starts a master with an empty store in a directory of its own below `dir`.
    pub(crate) fn start(store: StoreKind, dir: &Path) -> Result<Self> {
        Self::start_with(store, dir, &[], None)
    }

    /// The same with more arguments for the master, and so many threads for its tasks; without, one a core.
    pub(crate) fn start_with(store: StoreKind, dir: &Path, arguments: &[&str], threads: Option<usize>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("api-").tempdir_in(dir)?;
        let target = Target::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let own = Own { master: None, etcd: None, arguments, threads, dir };
        let mut subject = Self { target, processes: Vec::new(), own: Some(own) };
        if store == StoreKind::Etcd {
            subject.start_etcd()?;
        }
        subject.launch()?;
        Ok(subject)
    }

    /// A server that runs already.
    pub(crate) fn at(target: Target, processes: &[Watched]) -> Self {
        let processes = processes.iter().map(|w| Process { name: w.name.clone(), pid: w.pid }).collect();
        Self::running(target, processes)
    }

    /// A server that somebody else started and stops.
    pub(crate) fn running(target: Target, processes: Vec<Process>) -> Self {
        Self { target, processes, own: None }
    }

    /// The header lines of each request.
    pub(crate) fn headers(&self) -> String {
        self.target.headers.clone()
    }

    /// Where a server of our own keeps its files.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.dir.path())
    }

    /// Resident bytes of all its processes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.processes.iter().map(|p| measure::resident_bytes(p.pid)).sum()
    }

    /// Kills the master with SIGKILL and starts it again on the same data; the time until it is
    /// ready.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        let own = self.own.as_mut().context("a server that runs already is not restarted")?;
        kill(own.master.take());
        self.launch()
    }

    /// The time from starting the process until `/readyz` answers 200.
    fn launch(&mut self) -> Result<Duration> {
        let own = self.own.as_mut().context("a server that runs already is not started")?;
        let log = own.dir.path().join("master.log");
        let mut command = Command::new(coracle());
        command.arg("master").arg("--data-dir").arg(own.dir.path().join("data"));
        command.args(["--listen", &self.target.address.to_string()]).args(&own.arguments);
        command.envs(own.threads.map(|threads| (THREADS, threads.to_string())));
        if let Some((_, port)) = &own.etcd {
            command.args(["--store", &format!("etcd://127.0.0.1:{port}")]);
        }
        let begun = Instant::now();
        let child = spawn(&mut command, &log)?;
        let pid = child.id();
        own.master = Some(child);
        self.processes.retain(|p| p.name != "master");
        self.processes.insert(0, Process { name: "master".into(), pid });
        let child = own.master.as_mut().context("the master was just started")?;
        wait_ready(child, &log, || http::get_status(self.target.address, "/readyz") == Some(200))?;
        Ok(begun.elapsed())
    }

    fn start_etcd(&mut self) -> Result<()> {
        let own = self.own.as_mut().context("a server that runs already has its store")?;
        let (client, peer) = (free_port()?, free_port()?);
        let (clients, peers) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let log = own.dir.path().join("etcd.log");
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(own.dir.path().join("etcd"));
        command.args(["--name", "bench", "--initial-cluster", &format!("bench={peers}")]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--quota-backend-bytes", "8589934592", "--auto-compaction-retention", "5m"]);
        let child = spawn(&mut command, &log)?;
        self.processes.push(Process { name: "etcd".into(), pid: child.id() });
        let (child, _) = own.etcd.insert((child, client));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, client));
        wait_ready(child, &log, || http::get(address, "/health").is_some_and(|body| body.contains("true")))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        kill(self.master.take());
        kill(self.etcd.take().map(|(child, _)| child));
    }
}

pub(crate) fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        // It may have ended by itself.
        drop(child.kill());
        drop(child.wait());
    }
}

pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let program = PathBuf::from(command.get_program());
    command.spawn().with_context(|| format!("starting {}: is it built, or in PATH?", program.display()))
}

fn wait_ready(child: &mut Child, log: &Path, is_ready: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    while !is_ready() {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}:\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
        ensure!(Instant::now() < deadline, "not ready within {READY_LIMIT:?}: {}", log.display());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
