//! Masters without minions: `coracle master` processes, on a store of their own or on a shared one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{PATIENCE, coracle, free_port, http};

/// A master process. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Master {
    process: Option<Child>,
    data: tempfile::TempDir,
    /// Where it listens, in all its lives.
    pub address: SocketAddr,
    args: Vec<String>,
}

impl Master {
    /// A master that was not started yet, with further arguments.
    pub fn prepare(args: &[&str]) -> Result<Self> {
        Ok(Self {
            process: None,
            data: tempfile::Builder::new().prefix("coracle-test-").tempdir()?,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
        })
    }

    /// Starts one and waits until it is ready.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut master = Self::prepare(args)?;
        master.launch()?;
        master.wait_ready()?;
        Ok(master)
    }

    /// Starts the process, without waiting.
    pub fn launch(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.data.path().join("log"))?;
        let mut command = Command::new(coracle());
        command
            .arg("master")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen", &self.address.to_string()])
            .args(&self.args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(command.spawn().with_context(|| format!("starting {}", coracle().display()))?);
        Ok(())
    }

    /// Waits for `/readyz`. Fails when the process ends instead.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while http::get_status(self.address, "/readyz") != Some(200) {
            if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("coracle master ended with {status}:\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "not ready within {PATIENCE:?}:\n{}", self.log());
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        Ok(())
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// What the process printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// `http://host:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid().context("it does not run")?.to_string();
        ensure!(Command::new("kill").args([&format!("-{name}"), &pid]).status()?.success(), "kill -{name} {pid}");
        Ok(())
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
        if self.process.is_some() {
            self.signal("INT")?;
        }
        let ended = self.process.take().map(|mut process| process.wait()).transpose()?;
        Ok(ended.is_none_or(|status| status.success()))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        drop(self.kill());
    }
}
