//! The network namespace that the portals are served in: named, so that it can be found again, and
//! entered by one thread that works there for everybody else.
//!
//! Invariant: the thread is in the namespace from its first job to its last, so the namespace lives
//! as long as the [`Namespace`], whatever becomes of the name.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::proxy::ProxyError;

/// Where `ip netns` has its names.
const NAMES: &str = "/run/netns";
const CURRENT: &str = "/proc/thread-self/ns/net";

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread in it.
#[derive(Debug)]
pub(super) struct Namespace {
    path: PathBuf,
    /// Device and inode: what tells namespaces apart.
    id: (u64, u64),
    jobs: mpsc::Sender<Job>,
}

/// Name of the cluster's namespace.
pub(super) fn name(cluster_id: &str) -> String {
    format!("coracle-{cluster_id}")
}

impl Namespace {
    /// Enters the cluster's namespace, which is made where there is none.
    pub(super) async fn open(cluster_id: &str) -> Result<Self, ProxyError> {
        let path = Path::new(NAMES).join(name(cluster_id));
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, waiting) = oneshot::channel();
        let own_path = path.clone();
        let work = move || {
            let id = enter(&own_path).and_then(|()| configure()).and_then(|()| identity(Path::new(CURRENT)));
            let failed = id.is_err();
            if entered.send(id).is_err() || failed {
                return;
            }
            queue.into_iter().for_each(|job| job());
        };
        let failed = |source| ProxyError::Namespace { name: name(cluster_id), source };
        thread::Builder::new().name("portals".into()).spawn(work).map_err(failed)?;
        let id = waiting.await.unwrap_or_else(|_| Err(io::Error::other("its thread ended"))).map_err(failed)?;
        let namespace = Self { path, id, jobs };
        namespace.keep_name().await?;
        Ok(namespace)
    }

    /// Runs `f` in the namespace. It must be short: there is one thread.
    pub(super) async fn within<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ProxyError> {
        let (answer, waiting) = oneshot::channel();
        let job = move || {
            // Nobody waits for the answer of work that was given up.
            let _ = answer.send(f());
        };
        let ended = |_| self.failed(io::Error::other("its thread ended"));
        self.jobs.send(Box::new(job)).map_err(|_| self.failed(io::Error::other("its thread ended")))?;
        waiting.await.map_err(ended)
    }

    /// Whether the name leads here.
    pub(super) fn is_named(&self) -> bool {
        identity(&self.path).is_ok_and(|id| id == self.id)
    }

    /// Makes the name lead here.
    pub(super) async fn keep_name(&self) -> Result<(), ProxyError> {
        if self.is_named() {
            return Ok(());
        }
        let path = self.path.clone();
        self.within(move || give_name(&path)).await?.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> ProxyError {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ProxyError::Namespace { name, source }
    }
}

/// Takes the cluster's name away; the namespace ends with the last who is in it.
pub(super) fn remove(cluster_id: &str) -> Result<(), ProxyError> {
    take_name(&Path::new(NAMES).join(name(cluster_id)))
        .map_err(|source| ProxyError::Namespace { name: name(cluster_id), source })
}

/// Moves the thread into the namespace of that name, or into a new one.
fn enter(path: &Path) -> io::Result<()> {
    let found = File::open(path).and_then(|file| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
    });
    // A name that leads nowhere is what a crash between its making and its mount leaves.
    if found.is_ok() { Ok(()) } else { unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from) }
}

/// Settings of the kernel, for all interfaces that come.
fn configure() -> io::Result<()> {
    let settings = [
        // Nothing passes through. First, since it sets others.
        ("ip_forward", "0"),
        // Answers take the way that requests come, which keeps connection tracking whole.
        ("conf/all/accept_redirects", "0"),
        ("conf/default/accept_redirects", "0"),
        // Requests of one client may come by either pair of links, see `links`.
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "0"),
        // The host knows the way; pods must not find it, see `links`.
        ("conf/all/arp_ignore", "8"),
        // Every refusal is told, not only the first few to each client.
        ("icmp_ratelimit", "0"),
    ];
    let set = |setting: &str, value| {
        std::fs::write(Path::new("/proc/sys/net/ipv4").join(setting), value)
            .map_err(|e| io::Error::new(e.kind(), format!("setting {setting}: {e}")))
    };
    settings.into_iter().try_for_each(|(setting, value)| set(setting, value))?;
    // Of a namespace that was there before, with links that have it from an earlier version.
    for link in ["eth0", "eth1"] {
        match set(&format!("conf/{link}/rp_filter"), "0") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Mounts the thread's namespace on a name.
fn give_name(path: &Path) -> io::Result<()> {
    take_name(path)?;
    std::fs::create_dir_all(NAMES)?;
    File::create(path)?;
    mount(Some(CURRENT), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io::Error::from)
}

fn take_name(path: &Path) -> io::Result<()> {
    // Several may be mounted over each other; what is no mount (any more) is refused.
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
