//! A host without its network: a network namespace, and a process tree with its own mounts and
//! name, which ends as a whole.
//!
//! The first process of the tree does nothing but bury the dead. When it is killed the kernel ends
//! every other process of the tree, containers included, and takes the mounts away: a loss of power.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use crate::{
    engine::Site,
    eventually,
    footprint::Footprint,
    process::{Process, in_background},
};

/// `$0` is the host's name, `$1` a file that says that it is up. Names of network namespaces that the
/// host makes are its own, and go with it.
const INIT: &str =
    r#"hostname "$0"; mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns; : >"$1"; sleep infinity & wait"#;

/// A host, on or off.
#[derive(Debug)]
pub struct Machine {
    footprint: Footprint,
    name: String,
    init: Mutex<Option<Process>>,
}

impl Machine {
    /// A host that is off.
    pub fn new(footprint: &Footprint, name: &str) -> Result<Self> {
        let machine = Self { footprint: footprint.clone(), name: name.to_owned(), init: Mutex::default() };
        std::fs::create_dir_all(machine.data_dir())?;
        std::fs::create_dir_all(machine.run_dir())?;
        Ok(machine)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn netns(&self) -> String {
        self.footprint.netns(&self.name)
    }

    /// Sockets and logs.
    pub fn run_dir(&self) -> PathBuf {
        self.footprint.run_dir().join(&self.name)
    }

    /// Its disk.
    pub fn data_dir(&self) -> PathBuf {
        self.footprint.data_dir().join(&self.name)
    }

    /// The parent of its containers' control groups.
    pub(crate) fn cgroup(&self) -> String {
        self.footprint.cgroup(&self.name)
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.init.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Makes the namespace anew and starts the process tree.
    pub fn boot(&self) -> Result<()> {
        let mut init = self.init.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(init.is_none(), "{} is on", self.name);
        self.footprint.add_netns(&self.name)?;
        let up = self.run_dir().join("up");
        drop(std::fs::remove_file(&up));
        let mut command = Command::new("setsid");
        command
            .args(["nsenter", &format!("--net=/run/netns/{}", self.netns()), "unshare", "--uts", "--ipc", "--pid"])
            .args(["--mount-proc", "--fork", "bash", "-c", INIT, &self.name])
            .arg(&up);
        in_background(&mut command, &self.run_dir().join("init.log"))?;
        *init = Some(Process::spawn_below(&mut command)?);
        eventually(&format!("{} boots", self.name), || up.exists().then_some(()))
    }

    /// Takes its power: every process dies, its network is gone, its disk stays.
    pub fn power_off(&self) -> Result<()> {
        let init = self.init.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.footprint.remove_host(&self.name)?;
        if let Some(mut init) = init {
            init.wait()?;
        }
        Ok(())
    }

    /// `program` as a process of the host, for [`Process::spawn_below`]. Paths are the machine's.
    pub fn command(&self, program: &str) -> Result<Command> {
        let init = self.init.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = init.as_ref().with_context(|| format!("{} is off", self.name))?.pid().to_string();
        let mut command = Command::new("setsid");
        // Not `ip netns exec`: it hides the control groups, without which no engine starts.
        command.args(["nsenter", "-t", &pid, "--net", "--uts", "--ipc", "--pid", "--mount", "--", program]);
        Ok(command)
    }

    /// Its network and its engine.
    pub fn site(&self) -> Site {
        Site::new(self.netns(), self.run_dir().join("docker.sock"))
    }
}
