//! A follower: a copy of the leader that answers reads.
//!
//! Each connection to a leader begins with a full copy, which replaces the old one at once when it is whole. In between, the
//! old copy stays readable. The port opens with the first whole copy: until then the follower is not ready, and says so in
//! the way that every probe understands.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    DATA_PORT, bind,
    command::Command,
    connection::Connection,
    entries::{Entries, Entry},
    resp::{Reply, Words},
};
use crate::{accept, backoff::Backoff, failure::invalid, log};

const CONNECTIONS_MAX: usize = 1024;
/// Three missed pings of the leader: its host has vanished without closing the connection.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A follower and its copy; none before the first time.
#[derive(Debug)]
pub(super) struct Follower {
    leader: String,
    copy: watch::Sender<Option<Entries>>,
}

/// Runs a follower of the leader at that address until dropped.
pub(super) async fn run(leader: String) -> io::Result<()> {
    log::info(format_args!("guestbook follower: started, the leader is at {leader}"));
    let follower = Follower::new(leader);
    let serve = async {
        follower.first_copy().await;
        let listener = bind(DATA_PORT).await?;
        log::info(format_args!("guestbook follower: serving on port {DATA_PORT}"));
        Arc::clone(&follower).serve(listener).await;
        Ok(())
    };
    tokio::select! {
        () = follower.replicate() => Ok(()),
        outcome = serve => outcome,
    }
}

impl Follower {
    pub(super) fn new(leader: String) -> Arc<Self> {
        Arc::new(Self { leader, copy: watch::Sender::new(None) })
    }

    /// Returns once there is a whole copy.
    pub(super) async fn first_copy(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.copy.subscribe().wait_for(Option::is_some).await;
    }

    /// Copies the leader, whichever answers at its address, until dropped.
    pub(super) async fn replicate(&self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.follow(&mut backoff).await;
            let delay = backoff.delay();
            let leader = &self.leader;
            log::info(format_args!(
                "guestbook follower: leader {leader}: {error}; trying again in {} ms",
                delay.as_millis()
            ));
            sleep(delay).await;
        }
    }

    /// Serves reads until dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        accept::serve(listener, CONNECTIONS_MAX, |stream| {
            let follower = Arc::clone(&self);
            async move {
                // A client that went away needs no answer.
                let _ = follower.attend(stream).await;
            }
        })
        .await;
    }

    async fn attend(&self, stream: TcpStream) -> io::Result<()> {
        let mut connection = Connection::new(stream);
        loop {
            let command = connection.next_command().await?;
            let read = self.copy.borrow().as_ref().and_then(|entries| entries.read(&command));
            let reply = read.unwrap_or_else(|| Reply::Error("READONLY this is a follower: ask the leader".to_owned()));
            connection.send(&reply.encode()).await?;
        }
    }

    /// One connection to a leader, which only ends with an error.
    async fn follow(&self, backoff: &mut Backoff) -> io::Result<std::convert::Infallible> {
        let mut leader = Connection::connect(&self.leader).await?;
        let count = match leader.ask(Command::Sync, SILENCE_MAX).await? {
            Reply::Simple(text) => text.strip_prefix("FULLSYNC ").and_then(|count| count.parse::<usize>().ok()),
            _ => None,
        };
        let count = count.ok_or_else(|| invalid("it does not answer like a leader"))?;
        let mut entries = Entries::default();
        while entries.len() < count {
            push(&mut entries, next_entry(&mut leader).await?)?;
        }
        self.copy.send_replace(Some(entries));
        backoff.reset();
        log::info(format_args!("guestbook follower: copied {count} entries from {}", self.leader));
        loop {
            let entry = next_entry(&mut leader).await?;
            let mut pushed = Ok(());
            self.copy.send_modify(|copy| pushed = push(copy.get_or_insert_default(), entry));
            pushed?;
        }
    }
}

fn push(entries: &mut Entries, entry: Entry) -> io::Result<()> {
    if !entries.have_room_for(std::slice::from_ref(&entry)) {
        return Err(invalid("it has more entries than a leader can have"));
    }
    entries.push(entry);
    Ok(())
}

async fn next_entry(leader: &mut Connection) -> io::Result<Entry> {
    loop {
        let words = timeout(SILENCE_MAX, leader.receive::<Words>()).await?;
        match Command::parse(words?).map_err(invalid)? {
            Command::Ping(_) => {}
            Command::Push { key, mut values } if values.len() == 1 => {
                return Ok(Entry { key, value: values.remove(0) });
            }
            _ => return Err(invalid("it sent something else than an entry")),
        }
    }
}
