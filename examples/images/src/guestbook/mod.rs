//! A guestbook: a front end, a leader that takes the entries and followers that hand them out.
//!
//! The leader keeps a list per key in memory and in a journal on disk. A follower asks it for everything and then stays on the
//! line for what is new. The front end writes to the leader and reads from a follower, and finds both only through the
//! variables of their services. Leader and followers speak a subset of the Redis protocol, so `redis-cli` can look inside.

mod command;
mod connection;
pub mod discovery;
mod entries;
mod follower;
mod form;
mod frontend;
mod journal;
mod leader;
mod resp;

#[cfg(test)]
mod tests;

use std::{io, net::Ipv4Addr, path::PathBuf};

use tokio::net::TcpListener;

use crate::failure::about;

/// The port of the front end.
const HTTP_PORT: u16 = 3000;
/// The port of leader and followers.
const DATA_PORT: u16 = 6379;
/// The one list that the front end uses.
const KEY: &[u8] = b"guestbook";

/// The parts of a guestbook, each with where it finds the others; addresses are `host:port`.
#[derive(Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves the page.
    Frontend {
        /// Where entries are written.
        leader: String,
        /// Where entries are read.
        follower: String,
    },
    /// Takes entries.
    Leader {
        /// The directory of the journal.
        data: PathBuf,
    },
    /// Copies the leader.
    Follower {
        /// The leader to copy.
        leader: String,
    },
}

/// Runs one part until dropped.
pub async fn run(role: Role) -> io::Result<()> {
    match role {
        Role::Frontend { leader, follower } => frontend::run(leader, follower).await,
        Role::Leader { data } => leader::run(&data).await,
        Role::Follower { leader } => follower::run(leader).await,
    }
}

async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(about(format_args!("port {port}")))
}
