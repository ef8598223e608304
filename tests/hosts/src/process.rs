//! Processes of a host: found by their network namespace, signalled by their id.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// A process that was started on a host. It outlives its handle.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts a program directly.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { pid: child.id(), child })
    }

    /// Starts a program through one that forks it and waits for it, as `nsenter` and `unshare` do
    /// when process ids change.
    pub fn spawn_below(command: &mut Command) -> Result<Self> {
        let mut process = Self::spawn(command)?;
        let parent = process.pid;
        process.pid = eventually("the program starts", || {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Some(Err(status));
            }
            children(parent).first().map(|pid| Ok(*pid))
        })?
        .or_else(|status| bail!("{command:?} ended with {status}"))?;
        Ok(process)
    }

    /// The program's id on this machine.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its standard output and error, where they are pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Ends it in order, and waits for that.
    pub fn stop(mut self) -> Result<ExitStatus> {
        signal(self.pid, Signal::TERM);
        self.wait()
    }

    /// kill -9.
    pub fn kill(mut self) -> Result<()> {
        signal(self.pid, Signal::KILL);
        self.wait().map(drop)
    }
}

/// Sends a signal; a process that is gone needs none.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// A command that survives the terminal it was typed in, with all output appended to a file.
pub(crate) fn in_background(command: &mut Command, log: &Path) -> Result<()> {
    let log = std::fs::File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(())
}

/// All processes that have a thread in a named network namespace. The first one may have left it:
/// where a process is killed its threads end one by one, each after what the kernel does for it.
pub fn in_namespace(netns: &str) -> Vec<u32> {
    let Ok(wanted) = std::fs::metadata(Path::new("/run/netns").join(netns)) else { return Vec::new() };
    let is_in = |thread: std::fs::DirEntry| {
        let found = std::fs::metadata(thread.path().join("ns/net"));
        found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    let threads = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    all().filter(|pid| threads(pid).any(is_in)).collect()
}

/// Kills every process in a namespace, until none is left. Where one of them is the first of a
/// process tree of its own, all of that goes with it, whatever its namespaces.
pub(crate) fn kill_all_in(netns: &str) -> Result<()> {
    eventually(&format!("no process is left in {netns}"), || {
        signal_all_in(netns);
        others_in(netns).is_empty().then_some(())
    })
}

/// Kills every process that is in a namespace now, without waiting.
pub(crate) fn signal_all_in(netns: &str) {
    others_in(netns).into_iter().for_each(|pid| signal(pid, Signal::KILL));
}

/// All but this one, whose threads may enter a host and are not gone at once when they were joined.
fn others_in(netns: &str) -> Vec<u32> {
    let mut all = in_namespace(netns);
    all.retain(|pid| *pid != std::process::id());
    all
}

fn children(of: u32) -> Vec<u32> {
    all().filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == of)).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// When a process started, which tells it from another one that got its id later.
pub(crate) fn started(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.started)
}

struct Stat {
    parent: u32,
    started: u64,
}

/// From `/proc/PID/stat`, as in proc(5).
fn stat(pid: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first one here is the third there.
    Some(Stat { parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
}
