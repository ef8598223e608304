//! A Docker engine of a host, which may be stopped, killed and robbed of its network.
//!
//! It runs in a network namespace of its own, so that its packet filter rules and bridges are not
//! the machine's. An engine alone removes everything when it is dropped, also in a panic.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    docker::{self, IMAGES},
    eventually,
    footprint::Footprint,
    machine::Machine,
    output,
    process::{Process, in_background},
};

/// Where a cluster runs: a network namespace and the engine in it.
#[derive(Debug, Clone)]
pub struct Site {
    netns: String,
    /// Of the engine.
    pub socket: PathBuf,
}

impl Site {
    pub(crate) fn new(netns: String, socket: PathBuf) -> Self {
        Self { netns, socket }
    }

    /// `program`, to be run in the namespace. The process id will be the program's own.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program.as_ref());
        command
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.netns);
        let namespace = std::fs::File::open(&path).with_context(|| path.clone())?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context(path)
    }

    /// Runs a program in the namespace and returns its output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        output(self.command(program).args(args))
    }

    /// Runs `docker` with the engine.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let socket = format!("unix://{}", self.socket.display());
        self.run("docker", &[&["-H", &socket], args].concat())
    }

    /// Ids of the running containers with this label.
    pub fn running(&self, label: &str) -> Result<Vec<String>> {
        let filter = format!("label={label}");
        let listed = self.docker(&["ps", "-q", "--no-trunc", "--filter", &filter])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// The body of a GET made in the namespace.
    pub fn get(&self, address: &str, port: u16, path: &str) -> Result<String> {
        let (head, body) = self.ask(address, port, path)?;
        ensure!(head.contains(" 200 "), "GET {path}: {head}\n{body}");
        Ok(body)
    }

    /// Head and body of the answer to a GET made in the namespace.
    pub fn ask(&self, address: &str, port: u16, path: &str) -> Result<(String, String)> {
        // Debian's static busybox crashes on any address in a namespace without a default route.
        const SCRIPT: &str = r#"exec 3<>"/dev/tcp/$0/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3"#;
        let answer = self.run("timeout", &["3", "bash", "-c", SCRIPT, address, &port.to_string(), path])?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        Ok((head.to_owned(), body.to_owned()))
    }
}

/// An engine, running or not.
#[derive(Debug)]
pub struct Engine {
    process: Option<Process>,
    machine: Arc<Machine>,
    driver: String,
    /// Where it runs.
    pub site: Site,
    /// For an engine alone.
    own: Option<Footprint>,
}

impl Engine {
    /// Starts an engine that has the example images, on a host of its own without any network.
    pub fn start() -> Result<Self> {
        docker::require_engine()?;
        let footprint = Footprint::claim_any()?;
        let machine = Arc::new(Machine::new(&footprint, "h1")?);
        let mut engine = Self::of(machine)?;
        engine.own = Some(footprint);
        engine.machine.boot()?;
        engine.launch()?;
        let images = engine.path("images.tar");
        docker::save(&IMAGES, Path::new(&images))?;
        engine.load(Path::new(&images))?;
        Ok(engine)
    }

    /// The engine of a host, which was not started yet.
    pub(crate) fn of(machine: Arc<Machine>) -> Result<Self> {
        // The machine's engine knows which driver works here.
        let driver = docker::docker(&["info", "--format", "{{.Driver}}"])?;
        let engine = Self { process: None, site: machine.site(), machine, driver, own: None };
        std::fs::write(engine.path("daemon.json"), "{}")?;
        Ok(engine)
    }

    fn path(&self, name: &str) -> String {
        self.machine.run_dir().join(name).display().to_string()
    }

    /// Starts the engine's process and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = self.machine.run_dir().join("docker.log");
        let mut command = self.machine.command("dockerd")?;
        command
            .args(["--config-file", &self.path("daemon.json"), "--storage-driver", &self.driver])
            .args(["--data-root", &self.machine.data_dir().join("docker").display().to_string()])
            .args(["--exec-root", &self.path("docker"), "--pidfile", &self.path("docker.pid")])
            .args(["--host", &format!("unix://{}", self.site.socket.display())])
            // The host has no systemd, whatever the machine has.
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &self.machine.cgroup()]);
        in_background(&mut command, &log)?;
        let mut process = Process::spawn_below(&mut command)?;
        let ended = eventually("the engine answers", || match process.try_wait() {
            Ok(None) => self.site.docker(&["version"]).ok().map(|_| None),
            Ok(Some(status)) => Some(Some(status)),
            Err(_) => None,
        });
        self.process = Some(process);
        match ended? {
            None => Ok(()),
            Some(status) => bail!("dockerd ended with {status}:\n{}", std::fs::read_to_string(log)?),
        }
    }

    /// Gives it the images of a file.
    pub(crate) fn load(&self, images: &Path) -> Result<()> {
        self.site.docker(&["load", "-q", "-i", &images.display().to_string()]).map(drop)
    }

    /// Ends the engine in order: its containers end too.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |process| process.stop().map(drop))
    }

    /// kill -9: its containers keep running.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill()?;
            self.forget_processes()?;
        }
        Ok(())
    }

    /// The host was lost, and the engine with it.
    pub(crate) fn lost(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        self.forget_processes()?;
        // As by a boot: container tasks that are no more.
        let exec = self.path("docker");
        if Path::new(&exec).exists() { std::fs::remove_dir_all(exec).map_err(Into::into) } else { Ok(()) }
    }

    /// Another process that got the id by chance would be taken for the one that is gone.
    fn forget_processes(&self) -> Result<()> {
        for file in ["docker.pid", "docker/containerd/containerd.pid"].map(|name| self.path(name)) {
            if Path::new(&file).exists() {
                std::fs::remove_file(file)?;
            }
        }
        Ok(())
    }
}

impl Drop for Engine {
    #[expect(clippy::print_stderr, reason = "a drop can't return an error, and what is left behind must be seen")]
    fn drop(&mut self) {
        let Some(footprint) = self.own.take() else { return };
        let removed = self.stop().and_then(|()| self.machine.power_off()).and_then(|()| footprint.remove());
        if let Err(error) = removed {
            eprintln!("the engine in {}: {error:#}", footprint.run_dir().display());
        }
    }
}
