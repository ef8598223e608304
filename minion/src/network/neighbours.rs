//! How long the kernel asks for the hardware address of a pod that may be gone: on the bridge, for
//! what the host sends, and inside pods, for what they send to pods of their own node.
//!
//! The kernel's own 3 s are for networks that lose packets; a client of a dead pod would wait that
//! long to be refused.

use std::{fs::File, io, os::fd::AsFd, os::unix::fs::MetadataExt, path::Path};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

const SETTINGS: &str = "/proc/sys/net/ipv4/neigh";
/// Three times, 80 ms apart: on a busy host 0.1 s is too short for a pod that is there.
const PATIENCE: [(&str, &str); 2] = [("mcast_solicit", "3"), ("retrans_time_ms", "80")];

/// Whether the interface asks no longer than we want.
pub(super) fn gives_up_early(interface: &str) -> bool {
    let set = |name: &str, value: &str| {
        std::fs::read_to_string(Path::new(SETTINGS).join(interface).join(name)).is_ok_and(|now| now.trim() == value)
    };
    PATIENCE.iter().all(|(name, value)| set(name, value))
}

/// Makes it so.
pub(super) fn give_up_early(interface: &str) -> io::Result<()> {
    PATIENCE.iter().try_for_each(|(name, value)| std::fs::write(Path::new(SETTINGS).join(interface).join(name), value))
}

/// The same for the interfaces of a container, of which `pid` is a process. Best effort: a container
/// that has ended needs nothing, and one that is not reached waits as long as any other would.
pub(crate) async fn give_up_early_in(pid: i64) {
    let (done, waiting) = oneshot::channel();
    // A thread of its own, which ends in the other namespace.
    let spawned = std::thread::Builder::new().name("neighbours".into()).spawn(move || {
        // Nobody waits any more where this fails.
        let _ = done.send(within(pid));
    });
    let result = match spawned {
        Ok(_) => waiting.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(pid, %error, "a pod will learn late of addresses that nobody has");
    }
}

fn within(pid: i64) -> io::Result<()> {
    let namespace = namespace_of(pid)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    for interface in std::fs::read_dir(SETTINGS)? {
        give_up_early(&interface?.file_name().to_string_lossy())?;
    }
    Ok(())
}

/// The network namespace of a process. Never the host's own: its settings are its owner's, and would
/// outlive the pod.
fn namespace_of(pid: i64) -> io::Result<File> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    let id = |file: &std::fs::Metadata| (file.dev(), file.ino());
    if id(&namespace.metadata()?) == id(&std::fs::metadata("/proc/self/ns/net")?) {
        return Err(io::Error::other("it is on the host's network"));
    }
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_host_itself_are_left_alone() {
        let read = |name: &str| std::fs::read_to_string(Path::new(SETTINGS).join("lo").join(name)).unwrap();
        let settings = || PATIENCE.map(|(name, _)| read(name));
        let before = settings();
        let refused = within(std::process::id().into()).unwrap_err();
        assert!(refused.to_string().contains("the host's network"), "{refused}");
        assert_eq!(settings(), before);
    }
}
