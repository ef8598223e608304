//! Opens the sockets of portals, and sets what sockets of connections have in common.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::Ipv4PacketInfo};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::proxy::table::{Frontend, Portal, Protocol};

/// Clients that wait to be accepted; the kernel's own limit is usually the same.
const BACKLOG: i32 = 4096;
/// Silence after which the other side is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 6;
/// Room for bursts of datagrams.
const DATAGRAM_BUFFER: usize = 1 << 20;

/// Where a portal's socket must be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the host's network namespace.
    Host,
    /// In the portals'.
    Namespace,
}

impl Place {
    pub(super) fn of(portal: &Portal) -> Self {
        match portal.at {
            Frontend::Service(_) => Place::Namespace,
            Frontend::External(_) | Frontend::Node => Place::Host,
        }
    }
}

/// Opens a portal's socket in the namespace of this thread.
pub(super) fn open(portal: &Portal) -> io::Result<OwnedFd> {
    let kind = match portal.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Err(io::Error::new(io::ErrorKind::Unsupported, "SCTP needs nftables")),
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrV4::new(portal.at.address().unwrap_or(Ipv4Addr::UNSPECIFIED), portal.port);
    if portal.protocol == Protocol::Tcp {
        // Connections of a process before this one may linger.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Accepted connections inherit these.
        connection_options(&socket)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
    } else {
        if portal.at == Frontend::Node {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        }
        // As much as the kernel allows.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, DATAGRAM_BUFFER);
        bind(&socket, &address)?;
    }
    Ok(socket)
}

/// Messages go out at once; a side that has vanished is noticed.
pub(super) fn connection_options(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    Ok(())
}

/// Any number: each hasher of the standard library has keys of its own.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}
