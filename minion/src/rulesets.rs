//! nftables' tables in the kernel. Notices that someone else changed one, the proxy's or one that the
//! network's filter is in: the kernel announces every change of the ruleset to a netlink group, which
//! costs nothing while nobody changes any. And removes one, also where the tool that made it has gone.

use std::{collections::VecDeque, io, time::Duration};

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};

use crate::nfnetlink::{ACKNOWLEDGED, attribute, batch, messages, put, request};

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
/// `NFT_MSG_DELTABLE`
const MESSAGE_DELTABLE: u16 = 2;
/// The kernel answers at once, but a large table takes its time to go.
const LIMIT: Duration = Duration::from_secs(30);

/// Removes a table of IPv4 with all that is in it. False where there is none, or no nftables. Needs root.
pub(crate) async fn remove(table: &str) -> io::Result<bool> {
    /// `ENOENT`; `EOPNOTSUPP`, `EPROTONOSUPPORT`.
    const ABSENT: [i32; 3] = [2, 95, 93];
    let change = change(MESSAGE_DELTABLE, table);
    let changed = tokio::time::timeout(LIMIT, change).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    match changed {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error().is_some_and(|number| ABSENT.contains(&number)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Carries out one message about a table.
async fn change(message: u16, table: &str) -> io::Result<()> {
    let mut attributes = Vec::new();
    put(&mut attributes, ATTRIBUTE_TABLE, &[table.as_bytes(), &[0]].concat());
    let change = request(SUBSYSTEM << 8 | message, ACKNOWLEDGED, &attributes);
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
    socket.send(&batch(SUBSYSTEM, &[change])).await?;
    loop {
        let (datagram, _) = socket.recv_from_full().await?;
        if let Some(outcome) = messages(&datagram).find_map(|message| message.outcome()) {
            return outcome;
        }
    }
}

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
    use crate::nfnetlink::testing::alone;

    #[test]
    fn a_table_is_removed_and_one_that_is_not_there_is_no_fault() {
        /// `NFT_MSG_NEWTABLE`
        const NEWTABLE: u16 = 0;
        alone(async || {
            change(NEWTABLE, "coracle-1").await.unwrap();
            change(NEWTABLE, "coracle-2").await.unwrap();
            assert!(remove("coracle-1").await.unwrap());
            assert!(!remove("coracle-1").await.unwrap(), "it is gone");
            assert!(remove("coracle-2").await.unwrap(), "the other stayed");
        });
    }

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
