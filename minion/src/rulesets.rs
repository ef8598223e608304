//! Notices that someone else changed an nftables table, the proxy's or one that the network's filter
//! is in: the kernel announces every change of the ruleset to a netlink group.
//!
//! Costs nothing while nobody changes a ruleset.

use std::{collections::VecDeque, io};

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};

use crate::nfnetlink::{attribute, messages};

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFTA_*_TABLE`, and `NFTA_TABLE_NAME` in messages about tables: all are 1.
const ATTRIBUTE_TABLE: u16 = 1;
/// `NFT_MSG_NEWGEN`: a transaction ended. Names no table.
const MESSAGE_NEWGEN: u8 = 15;
/// Room for the announcements of a full load of thousands of services.
const BUFFER_BYTES: u32 = 4 << 20;
/// Own processes remembered: more than can have announcements waiting.
const OWN_MAX: usize = 64;
const ENOBUFS: i32 = 105;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Someone else changed our table.
    ForeignChange,
    /// Announcements were lost: anything may have happened.
    Gap,
}

/// A subscription to changes of one table.
pub(crate) struct Monitor {
    socket: TokioSocket,
    table: String,
    own: VecDeque<u32>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Listens from now on. Needs root.
    pub(crate) fn open(table: &str) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().set_rx_buf_sz(BUFFER_BYTES)?;
        socket.socket_ref().add_membership(GROUP)?;
        Ok(Self { socket, table: table.to_owned(), own: VecDeque::new() })
    }

    /// Changes by this process are our own. A netlink socket's default port is its process' id.
    pub(crate) fn expect(&mut self, pid: u32) {
        if self.own.len() == OWN_MAX {
            self.own.pop_front();
        }
        self.own.push_back(pid);
    }

    /// The next thing of interest. Cancel-safe: a datagram is read whole or not at all.
    pub(crate) async fn next(&mut self) -> io::Result<Heard> {
        loop {
            match self.socket.recv_from_full().await {
                Ok((datagram, _)) => {
                    let foreign =
                        |(port, table): (u32, &[u8])| table == self.table.as_bytes() && !self.own.contains(&port);
                    if changes(&datagram).any(foreign) {
                        return Ok(Heard::ForeignChange);
                    }
                }
                Err(e) if e.raw_os_error() == Some(ENOBUFS) => return Ok(Heard::Gap),
                Err(e) => return Err(e),
            }
        }
    }
}

/// (sender's port, table) of each change that a datagram announces.
fn changes(datagram: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let announced = messages(datagram).filter(|m| m.kind >> 8 == SUBSYSTEM && m.kind as u8 != MESSAGE_NEWGEN);
    announced.filter_map(|message| {
        let table = attribute(message.attributes(), ATTRIBUTE_TABLE)?;
        Some((message.port, table.strip_suffix(&[0]).unwrap_or(table)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfnetlink::{put, request};

    #[test]
    fn changes_tell_the_table_and_who_made_them() {
        let of = |name: &[u8]| {
            let mut attributes = Vec::new();
            put(&mut attributes, 9, b"x");
            put(&mut attributes, ATTRIBUTE_TABLE, name);
            attributes
        };
        let message = |kind, port: u32, attributes: &[u8]| {
            let mut message = request(kind, 0, attributes);
            message[12..16].copy_from_slice(&port.to_ne_bytes());
            message
        };
        let datagram = [
            message(SUBSYSTEM << 8 | 2, 7, &of(b"coracle-1\0")),
            message(SUBSYSTEM << 8 | 15, 7, &of(b"x\0")),
            message(1 << 8 | 2, 7, &of(b"conntrack\0")),
            message(SUBSYSTEM << 8 | 14, 8, &of(b"nat\0")),
        ]
        .concat();
        let expected: [(u32, &[u8]); 2] = [(7, b"coracle-1"), (8, b"nat")];
        assert_eq!(changes(&datagram).collect::<Vec<_>>(), expected);
    }
}
