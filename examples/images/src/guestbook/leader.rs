//! The leader: the one place where entries are written.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::spawn_blocking,
    time::interval,
};

use super::{
    DATA_PORT, bind,
    command::Command,
    connection::Connection,
    entries::{Entries, Entry},
    journal::Journal,
    resp::{Reply, Words},
};
use crate::{accept, log};

const CONNECTIONS_MAX: usize = 1024;
/// Tells a follower that the leader is there; see its bound on silence.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Entries per write to a follower, so that a large copy does not hold the lock for long.
const BATCH_ENTRIES: usize = 256;

/// A leader with its journal open. Readers see an entry only when it is durable.
#[derive(Debug)]
pub(super) struct Leader {
    journal: Mutex<Journal>,
    entries: watch::Sender<Entries>,
}

/// Runs the leader on its port, with its journal under `data`, until dropped.
pub(super) async fn run(data: &Path) -> io::Result<()> {
    let leader = Leader::open(data)?;
    let listener = bind(DATA_PORT).await?;
    let entries = leader.entries.borrow().len();
    log::info(format_args!(
        "guestbook leader: started with {entries} entries in {} on port {DATA_PORT}",
        data.display()
    ));
    leader.serve(listener).await;
    Ok(())
}

impl Leader {
    /// Opens the journal in a directory, which is made if missing.
    pub(super) fn open(data: &Path) -> io::Result<Arc<Self>> {
        let (journal, entries) = Journal::open(data)?;
        Ok(Arc::new(Self { journal: Mutex::new(journal), entries: watch::Sender::new(entries) }))
    }

    /// Serves clients and followers until dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        accept::serve(listener, CONNECTIONS_MAX, |stream| {
            let leader = Arc::clone(&self);
            async move {
                // A client that went away needs no answer.
                let _ = leader.attend(stream).await;
            }
        })
        .await;
    }

    async fn attend(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut connection = Connection::new(stream);
        loop {
            let command = connection.next_command().await?;
            let read = self.entries.borrow().read(&command);
            let reply = match (read, command) {
                (Some(reply), _) => reply,
                (None, Command::Push { key, values }) => {
                    let leader = Arc::clone(&self);
                    let entries = values.into_iter().map(|value| Entry { key: key.clone(), value }).collect();
                    spawn_blocking(move || leader.append(entries)).await.map_err(io::Error::other)?
                }
                (None, _) => return self.feed(connection).await,
            };
            connection.send(&reply.encode()).await?;
        }
    }

    fn append(&self, entries: Vec<Entry>) -> Reply {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.entries.borrow().have_room_for(&entries) {
            return Reply::Error("OOM the guestbook is full".to_owned());
        }
        if let Err(error) = journal.append(&entries) {
            log::info(format_args!("guestbook leader: an entry could not be written: {error}"));
            return Reply::Error("MISCONF the entry could not be written to disk".to_owned());
        }
        let mut length = 0;
        self.entries.send_modify(|all| {
            for entry in entries {
                length = all.push(entry);
            }
        });
        Reply::Integer(length)
    }

    /// Feeds a follower until it hangs up: a cursor into the entries, which never shrink, so nothing is queued for a slow one.
    async fn feed(&self, mut follower: Connection) -> io::Result<()> {
        let mut entries = self.entries.subscribe();
        let count = entries.borrow().len();
        log::info(format_args!("guestbook leader: a follower copies {count} entries"));
        follower.send(&Reply::Simple(format!("FULLSYNC {count}")).encode()).await?;
        let mut ping = interval(PING_EVERY);
        let mut sent = 0;
        loop {
            let (batch, bytes) = encode_batch(&entries.borrow_and_update(), sent);
            if batch > 0 {
                follower.send(&bytes).await?;
                sent += batch;
                continue;
            }
            // All arms are cancel safe; none of them takes anything that the loop does not look at again.
            tokio::select! {
                changed = entries.changed() => changed.map_err(io::Error::other)?,
                _ = ping.tick() => follower.send(&Command::Ping(None).words().encode()).await?,
                // A follower only listens: what it says, if anything, is that it is gone.
                gone = follower.receive::<Words>() => return gone.map(drop),
            }
        }
    }
}

fn encode_batch(entries: &Entries, from: usize) -> (usize, Vec<u8>) {
    let batch = entries.since(from, BATCH_ENTRIES);
    (batch.len(), batch.iter().flat_map(|entry| entry.encode()).collect())
}
