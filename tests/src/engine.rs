//! A Docker engine for one test, which may be stopped, killed and robbed of its network.
//!
//! It runs in a network namespace of its own, so that its packet filter rules and bridges are not
//! the machine's. Dropping it, also in a panic, ends every process that it started, by process id,
//! and removes its files.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{docker, eventually};

/// The images that the article's cluster needs.
const IMAGES: [&str; 3] =
    ["csanchez/jenkins-swarm:1.565.3.3", "csanchez/jenkins-swarm-slave:1.21", "coracle/busybox:1"];

/// Where a cluster runs: a network namespace and the engine in it.
#[derive(Debug, Clone)]
pub struct Site {
    netns: String,
    /// Of the engine.
    pub socket: PathBuf,
}

impl Site {
    /// `program`, to be run in the namespace. The process id will be the program's own.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        // Not `ip netns exec`: it hides the control groups, without which no engine starts.
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program.as_ref());
        command
    }

    /// Runs a program in the namespace and returns its output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self.command(program).args(args).output().with_context(|| format!("running {program}"))?;
        ensure!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
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
        // Debian's static busybox crashes on any address in a namespace without a default route.
        const SCRIPT: &str = r#"exec 3<>"/dev/tcp/$0/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3"#;
        let answer = self.run("timeout", &["3", "bash", "-c", SCRIPT, address, &port.to_string(), path])?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.contains(" 200 "), "GET {path}: {head}");
        Ok(body.to_owned())
    }
}

/// An engine of one test.
#[derive(Debug)]
pub struct Engine {
    process: Option<Child>,
    dir: tempfile::TempDir,
    driver: String,
    /// Where it runs.
    pub site: Site,
}

impl Engine {
    /// Starts an engine that has the example images.
    pub fn start() -> Result<Self> {
        docker::require_engine()?;
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let dir = tempfile::Builder::new().prefix("coracle-engine-").tempdir()?;
        let netns = format!("coracle-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &netns])?;
        let site = Site { netns, socket: dir.path().join("docker.sock") };
        // The machine's engine knows which driver works here.
        let driver = docker::docker(&["info", "--format", "{{.Driver}}"])?;
        let mut engine = Self { process: None, dir, driver, site };
        engine.site.run("ip", &["link", "set", "lo", "up"])?;
        std::fs::write(engine.path("daemon.json"), "{}")?;
        engine.launch()?;
        let images = engine.path("images.tar");
        docker::docker(&[&["save", "-o", &images], &IMAGES[..]].concat())?;
        engine.site.docker(&["load", "-q", "-i", &images])?;
        Ok(engine)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Starts the engine's process and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        let mut child = self
            .site
            .command("dockerd")
            .args(["--config-file", &self.path("daemon.json"), "--storage-driver", &self.driver])
            .args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec")])
            .args(["--pidfile", &self.path("pid"), "--host", &format!("unix://{}", self.site.socket.display())])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting dockerd")?;
        let ended = eventually("the engine answers", || match child.try_wait() {
            Ok(None) => self.site.docker(&["version"]).ok().map(|_| None),
            Ok(Some(status)) => Some(Some(status)),
            Err(_) => None,
        });
        self.process = Some(child);
        match ended? {
            None => Ok(()),
            Some(status) => bail!("dockerd ended with {status}:\n{}", std::fs::read_to_string(self.path("log"))?),
        }
    }

    /// Ends the engine in order: its containers end too.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        Command::new("kill").args(["-TERM", &process.id().to_string()]).status()?;
        process.wait()?;
        Ok(())
    }

    /// kill -9: its containers keep running.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
            // Its containerd dies with it. Where nobody reaps that, the next engine would take it for
            // alive by its process id, and wait for it in vain.
            for file in ["pid", "exec/containerd/containerd.pid"] {
                std::fs::remove_file(self.path(file))?;
            }
        }
        Ok(())
    }

    /// What this engine started: what names its directory, and the children of that.
    fn processes(&self) -> Vec<u32> {
        let dir = self.dir.path().as_os_str().as_encoded_bytes();
        let all: Vec<u32> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let named = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(dir.len()).any(|part| part == dir)
        };
        let own: Vec<u32> = all.iter().copied().filter(named).collect();
        let child = |pid: &u32| parent(*pid).is_some_and(|parent| own.contains(&parent));
        let children: Vec<u32> = all.iter().copied().filter(|pid| !own.contains(pid) && child(pid)).collect();
        [own, children].concat()
    }
}

/// From `/proc/PID/stat`, as in proc(5).
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().context("running ip")?;
    ensure!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

impl Drop for Engine {
    #[expect(clippy::print_stderr, reason = "a drop can't return an error, and what is left behind must be seen")]
    fn drop(&mut self) {
        drop(self.stop());
        let left = eventually("no process of the engine is left", || {
            let left = self.processes();
            for pid in &left {
                drop(Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status());
            }
            left.is_empty().then_some(())
        });
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        // Inner mounts come later.
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(point).starts_with(self.dir.path()) {
                drop(Command::new("umount").args(["-l", point]).status());
            }
        }
        if let Err(error) = left.and_then(|()| ip(&["netns", "del", &self.site.netns])) {
            eprintln!("the engine in {}: {error}", self.dir.path().display());
        }
    }
}
