//! What the whole-system tests share: a cluster of its own for each test, on the real engine.
//!
//! A [`Cluster`] is a `coracle up` process with its own data directory, port and address ranges.
//! Dropping it, also in a panic, stops the process and removes every trace with `coracle reset`.

pub mod docker;
pub mod history;
pub mod http;
pub mod lab;
pub mod load;
pub mod master;
pub mod measure;
pub mod random;
pub mod registers;
pub mod tables;
pub mod walk;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
pub use coracle_test_hosts::{PATIENCE, coracle, engine, eventually, root};
use engine::Site;

/// A cluster of one test.
#[derive(Debug)]
pub struct Cluster {
    process: Option<Child>,
    data: tempfile::TempDir,
    /// Where the master listens.
    pub address: SocketAddr,
    ranges: [String; 2],
    kubecfg: PathBuf,
    site: Option<Site>,
}

impl Cluster {
    /// Starts a cluster and waits until it says that it is ready.
    pub fn start() -> Result<Self> {
        let mut cluster = Self::prepare()?;
        cluster.launch()?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// A cluster that was not started yet.
    pub fn prepare() -> Result<Self> {
        docker::require_engine()?;
        static NEXT: AtomicU8 = AtomicU8::new(0);
        // Processes run side by side: the process id keeps their ranges apart.
        let slot =
            (std::process::id() as u8 ^ 0x5a).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(37));
        let data = tempfile::Builder::new().prefix("coracle-test-").tempdir()?;
        let kubecfg = data.path().join("kubecfg");
        std::os::unix::fs::symlink(coracle(), &kubecfg)?;
        Ok(Self {
            process: None,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
            ranges: [format!("10.{}.0.0/16", 100 + slot % 50), format!("10.{}.0.0/16", 160 + slot % 50)],
            kubecfg,
            data,
            site: None,
        })
    }

    /// A cluster on a test's own engine that was not started yet.
    pub fn prepare_on(site: &Site) -> Result<Self> {
        let mut cluster = Self::prepare()?;
        cluster.site = Some(site.clone());
        Ok(cluster)
    }

    /// Starts the process, without waiting.
    pub fn launch(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let child = self
            .engine_command("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen", &self.address.to_string()])
            .args(["--service-cidr", &self.ranges[0], "--pod-cidr", &self.ranges[1]])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!("starting {}: run `cargo build --release --bin coracle` first", coracle().display())
            })?;
        self.process = Some(child);
        Ok(())
    }

    /// Waits until the process says that it is ready. Fails when it ends instead.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.kubecfg(&["list", "minions"]).is_ok_and(|out| out.lines().count() > 2) && self.node_is_ready() {
                return Ok(());
            }
            if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("coracle up ended with {status}:\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "not ready within {PATIENCE:?}:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn node_is_ready(&self) -> bool {
        self.coracle(&["get", "nodes"]).is_ok_and(|out| out.contains(" Ready"))
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.data.path().join("up.log")
    }

    /// What the process printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The cluster's id: part of the name of everything it makes.
    pub fn id(&self) -> Result<String> {
        const PATH: &str = "/coracle/v1/cluster";
        let body = match &self.site {
            Some(site) => site.get(&self.address.ip().to_string(), self.address.port(), PATH)?,
            None => http::get(self.address, PATH).context("the master does not tell its cluster")?,
        };
        let facts: serde_json::Value = serde_json::from_str(&body)?;
        facts["clusterID"].as_str().map(str::to_owned).context("the cluster has no id")
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Ctrl-C, and waits for the end. Returns whether it ended well.
    pub fn interrupt(&mut self) -> Result<bool> {
        let Some(mut process) = self.process.take() else { return Ok(true) };
        Command::new("kill").args(["-INT", &process.id().to_string()]).status()?;
        Ok(process.wait()?.success())
    }

    /// Runs a client verb as `coracle`; standard output, or an error with everything it said.
    pub fn coracle(&self, args: &[&str]) -> Result<String> {
        succeed(&self.output(&coracle(), args)?, args)
    }

    /// Runs a client verb as `kubecfg`.
    pub fn kubecfg(&self, args: &[&str]) -> Result<String> {
        succeed(&self.output(&self.kubecfg, args)?, args)
    }

    /// Runs `kubecfg` whatever comes of it: exit status, standard output, standard error.
    pub fn kubecfg_raw(&self, args: &[&str]) -> Result<(i32, String, String)> {
        let out = self.output(&self.kubecfg, args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr)))
    }

    /// Starts `kubecfg`, without waiting for its end.
    pub fn start_kubecfg(&self, args: &[String]) -> Result<Child> {
        let mut command = self.client(&self.kubecfg);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("starting {}", self.kubecfg.display()))
    }

    fn output(&self, program: &Path, args: &[&str]) -> Result<Output> {
        self.client(program).args(args).output().with_context(|| format!("running {}", program.display()))
    }

    fn client(&self, program: &Path) -> Command {
        let mut command = self.command(program);
        command.env("KUBERNETES_MASTER", self.url()).env("HOME", self.data.path()).stdin(Stdio::null());
        command
    }

    /// The article's pod without its host ports, which only one pod on a machine can have: a path.
    pub fn jenkins_without_host_ports(&self) -> Result<String> {
        let mut pod: serde_json::Value = serde_json::from_slice(&std::fs::read(Self::example("jenkins/pod.json"))?)?;
        let ports = pod.pointer_mut("/desiredState/manifest/containers/0/ports").and_then(|p| p.as_array_mut());
        for port in ports.context("the article's pod has ports")? {
            port["hostPort"] = 0.into();
        }
        let path = self.data.path().join("pod.json");
        std::fs::write(&path, pod.to_string())?;
        Ok(path.display().to_string())
    }

    fn command(&self, program: &Path) -> Command {
        self.site.as_ref().map_or_else(|| Command::new(program), |site| site.command(program))
    }

    /// A verb of `coracle` that uses the engine.
    fn engine_command(&self, verb: &str) -> Command {
        let mut command = self.command(&coracle());
        command.arg(verb);
        if let Some(site) = &self.site {
            command.arg("--docker").arg(&site.socket);
        }
        command
    }

    /// A file of the article.
    pub fn example(name: &str) -> String {
        root().join("examples").join(name).display().to_string()
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "a drop can't return an error, and the trace left behind must be seen")]
    fn drop(&mut self) {
        drop(self.interrupt());
        let reset = self.engine_command("reset").args(["--yes", "--data-dir"]).arg(self.data_dir()).output();
        match reset {
            Ok(out) if out.status.success() => {}
            other => eprintln!("reset of {}: {other:?}\n{}", self.data_dir().display(), self.log()),
        }
    }
}

fn succeed(out: &Output, args: &[&str]) -> Result<String> {
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "{args:?} ended with {}:\n{stdout}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(stdout)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
