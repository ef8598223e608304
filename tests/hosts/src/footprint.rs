//! What a lab leaves on the machine: names, directories, control groups; and its removal.
//!
//! Everything follows from the lab's name, which is empty for the one of `make hosts-up`. Namespaces
//! are written down before they are made. A lab belongs to the process that made it, until it is
//! kept; labs of processes that are gone are removed by the next one that starts.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    ip,
    process::{kill_all_in, signal_all_in, started},
};

const RUN: &str = "/run";
const DATA: &str = "/var/lib";
const CGROUPS: &str = "/sys/fs/cgroup";
const BASE: &str = "coracle-hosts";
/// In the run directory: `PID START` of the process it belongs to, or [`KEPT`].
const OWNER: &str = "owner";
const KEPT: &str = "nobody";
/// In the run directory: namespaces, one a line.
const NAMESPACES: &str = "namespaces";
/// With it, interface names stay below the kernel's 15 bytes.
const NAME_MAX: usize = 11;

/// The traces of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    name: String,
}

impl Footprint {
    /// Of the lab with this name, whether there is one or not.
    pub fn of(name: &str) -> Result<Self> {
        let fits = name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(fits, "the name of a lab is made of at most {NAME_MAX} lower case letters and digits, unlike '{name}'");
        Ok(Self { name: name.to_owned() })
    }

    /// Takes the name for this process, after removing what dead processes left. Fails when the lab
    /// exists.
    pub fn claim(name: &str) -> Result<Self> {
        let footprint = Self::of(name)?;
        ensure!(rustix::process::geteuid().is_root(), "hosts are made of namespaces, which needs root");
        for left in all().into_iter().filter(Self::is_left_over) {
            left.remove().with_context(|| format!("removing what is left in {}", left.run_dir().display()))?;
        }
        ensure!(!footprint.exists(), "there are hosts in {} already", footprint.run_dir().display());
        fs::create_dir_all(footprint.run_dir())?;
        let pid = std::process::id();
        let owner = format!("{pid} {}", started(pid).context("this process is running")?);
        fs::write(footprint.run_dir().join(OWNER), owner)?;
        // It outlives a boot of the machine, unlike the rest.
        remove_dir(&footprint.data_dir())?;
        fs::create_dir_all(footprint.data_dir())?;
        Ok(footprint)
    }

    /// A name that no other lab of this machine has.
    pub fn claim_any() -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::claim(&format!("t{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Whether there is such a lab.
    pub fn exists(&self) -> bool {
        self.run_dir().exists()
    }

    /// Lets it outlive this process.
    pub fn keep(&self) -> Result<()> {
        Ok(fs::write(self.run_dir().join(OWNER), KEPT)?)
    }

    /// How many hosts it has, besides the master's.
    pub fn hosts(&self) -> usize {
        let entries = fs::read_dir(self.run_dir()).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with('h'))).count()
    }

    /// Whether it outlives the process that made it.
    pub fn is_kept(&self) -> bool {
        fs::read_to_string(self.run_dir().join(OWNER)).is_ok_and(|owner| owner == KEPT)
    }

    fn is_left_over(&self) -> bool {
        if self.is_kept() {
            return false;
        }
        let owner = fs::read_to_string(self.run_dir().join(OWNER)).unwrap_or_default();
        let alive = owner.split_once(' ').and_then(|(pid, start)| {
            let now = started(pid.parse().ok()?)?;
            Some(now == start.parse().ok()?)
        });
        alive != Some(true)
    }

    fn base(&self) -> String {
        if self.name.is_empty() { BASE.to_owned() } else { format!("{BASE}.{}", self.name) }
    }

    /// Sockets, logs, and what a boot forgets.
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(self.base())
    }

    /// What a boot keeps.
    pub fn data_dir(&self) -> PathBuf {
        Path::new(DATA).join(self.base())
    }

    /// The parent of the control groups of a host's containers.
    pub fn cgroup(&self, host: &str) -> String {
        format!("/{}/{host}", self.base())
    }

    /// The interface of the machine that leads into the lab.
    pub fn uplink(&self) -> String {
        if self.name.is_empty() { BASE.to_owned() } else { format!("ch-{}", self.name) }
    }

    /// The namespace of a host.
    pub fn netns(&self, host: &str) -> String {
        if self.name.is_empty() { host.to_owned() } else { format!("{}-{host}", self.name) }
    }

    /// Makes the namespace of a host.
    pub(crate) fn add_netns(&self, host: &str) -> Result<()> {
        let netns = self.netns(host);
        ensure!(!Path::new("/run/netns").join(&netns).exists(), "there is a network namespace {netns} already");
        let mut list = fs::File::options().create(true).append(true).open(self.run_dir().join(NAMESPACES))?;
        list.write_all(format!("{netns}\n").as_bytes())?;
        ip(&["netns", "add", &netns])?;
        ip(&["-n", &netns, "link", "set", "dev", "lo", "up"])?;
        Ok(())
    }

    /// Ends every process of a host and removes its namespace and control groups.
    pub(crate) fn remove_host(&self, host: &str) -> Result<()> {
        remove_netns(&self.netns(host))?;
        remove_cgroups(&self.cgroup(host))
    }

    /// Removes everything.
    pub fn remove(&self) -> Result<()> {
        let namespaces = fs::read_to_string(self.run_dir().join(NAMESPACES)).unwrap_or_default();
        let mut failed = Vec::new();
        // All hosts die at once; that takes its time.
        namespaces.lines().for_each(signal_all_in);
        for netns in namespaces.lines() {
            failed.extend(remove_netns(netns).err());
        }
        // It goes with the other end, but not at once.
        if Path::new("/sys/class/net").join(self.uplink()).exists() {
            drop(ip(&["link", "del", "dev", &self.uplink()]));
        }
        failed.extend(remove_cgroups(&format!("/{}", self.base())).err());
        failed.extend(remove_dir(&self.data_dir()).err());
        if let Some(error) = failed.pop() {
            return Err(error);
        }
        // Last: what it says is needed to try again.
        remove_dir(&self.run_dir())
    }
}

/// All labs of this machine.
fn all() -> Vec<Footprint> {
    let entries = fs::read_dir(RUN).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| {
        let file = entry.file_name();
        let rest = file.to_str()?.strip_prefix(BASE)?;
        let name = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
        Footprint::of(name).ok()
    };
    entries.filter_map(name).collect()
}

fn remove_netns(netns: &str) -> Result<()> {
    kill_all_in(netns)?;
    if Path::new("/run/netns").join(netns).exists() {
        ip(&["netns", "del", netns])?;
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("{} can't be removed: {error}", dir.display())
        }
        _ => Ok(()),
    }
}

/// Removes a control group with those below it, in every hierarchy.
fn remove_cgroups(group: &str) -> Result<()> {
    let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    for root in hierarchies.chain([PathBuf::from(CGROUPS)]) {
        let group = root.join(group.trim_start_matches('/'));
        // A group is busy until the kernel has buried its last process.
        crate::eventually(&format!("{} goes", group.display()), || {
            remove_cgroup(&group);
            (!group.exists()).then_some(())
        })?;
    }
    Ok(())
}

fn remove_cgroup(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    drop(fs::remove_dir(group));
}
