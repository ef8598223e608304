//! Notices that someone else changed an nftables table, the proxy's or one that the network's filter
//! is in: the kernel announces every change of the ruleset to a netlink group.
//!
//! Costs nothing while nobody changes a ruleset.

use std::{collections::VecDeque, io};

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFTA_*_TABLE`, and `NFTA_TABLE_NAME` in messages about tables: all are 1.
const ATTRIBUTE_TABLE: u16 = 1;
/// `NFT_MSG_NEWGEN`: a transaction ended. Names no table.
const MESSAGE_NEWGEN: u8 = 15;
const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;
const NLA_HEADER: usize = 4;
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

/// (sender's port, table) of each change that a datagram announces. Stops at what it can't read.
fn changes(datagram: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let length = u32_at(rest, 0)? as usize;
            let message = rest.get(..length.max(NLMSG_HEADER))?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            let (kind, port) = (u16_at(message, 4)?, u32_at(message, 12)?);
            let [number, subsystem] = [kind as u8, (kind >> 8) as u8];
            if u16::from(subsystem) != SUBSYSTEM || number == MESSAGE_NEWGEN {
                continue;
            }
            if let Some(table) = message.get(NLMSG_HEADER + NFGEN_HEADER..).and_then(table_of) {
                return Some((port, table));
            }
        }
    })
}

/// The table's name among attributes.
fn table_of(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        let value = attributes.get(NLA_HEADER..length)?;
        if kind == ATTRIBUTE_TABLE {
            return Some(value.strip_suffix(&[0]).unwrap_or(value));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (NLA_HEADER + value.len()) as u16;
        let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, port: u32, attributes: &[u8]) -> Vec<u8> {
        let length = (NLMSG_HEADER + NFGEN_HEADER + attributes.len()) as u32;
        let mut out = length.to_ne_bytes().to_vec();
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&port.to_ne_bytes());
        out.extend_from_slice(&[2, 0, 0, 0]);
        out.extend_from_slice(attributes);
        out
    }

    #[test]
    fn changes_tell_the_table_and_who_made_them() {
        let of = |name: &[u8]| [attribute(9, b"x"), attribute(ATTRIBUTE_TABLE, name)].concat();
        let datagram = [
            message(SUBSYSTEM << 8 | 2, 7, &of(b"coracle-1\0")),
            message(SUBSYSTEM << 8 | 15, 7, &attribute(1, &[0, 0, 0, 9])),
            message(1 << 8 | 2, 7, &of(b"conntrack\0")),
            message(SUBSYSTEM << 8 | 14, 8, &of(b"nat\0")),
        ]
        .concat();
        let expected: [(u32, &[u8]); 2] = [(7, b"coracle-1"), (8, b"nat")];
        assert_eq!(changes(&datagram).collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(changes(&bytes).count() <= bytes.len());
        }
    }
}
