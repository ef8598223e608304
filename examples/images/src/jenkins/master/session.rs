//! The master's end of one slave's connection.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::slaves::{Membership, Slaves, Work};
use crate::{
    frame::FrameReader,
    jenkins::protocol::{FromMaster, FromSlave, Pace},
    log,
};

/// Why a slave's connection ended, when no error did it.
enum End {
    Closed,
    Silent,
    Replaced,
}

/// Attends to a slave from its first message to the end of its connection.
pub(super) async fn attend(stream: TcpStream, slaves: Arc<Slaves>, pace: Pace) {
    let (read, writer) = stream.into_split();
    let mut reader = FrameReader::new(read);
    // Whoever connects and says something else, or nothing, is no slave and not worth a line.
    let Ok(Ok(Some(FromSlave::Hello { name, executors }))) = timeout(pace.silence_max, reader.next()).await else {
        return;
    };
    let membership = slaves.join(name.clone(), executors);
    log::info(format_args!("jenkins: slave {name} connected with {executors} executors"));
    let session = Session { reader, writer, membership, pace, builds: 0, running: BTreeMap::new() };
    match session.run().await {
        Ok(end) => log::info(format_args!("jenkins: slave {name} disconnected: {end}")),
        Err(error) => log::info(format_args!("jenkins: slave {name} disconnected: {error}")),
    }
}

struct Session {
    reader: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    membership: Membership,
    pace: Pace,
    builds: u64,
    running: BTreeMap<u64, Work>,
}

impl Session {
    async fn run(mut self) -> io::Result<End> {
        self.send(FromMaster::Welcome).await?;
        let mut ping = interval(self.pace.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = Instant::now() + self.pace.silence_max;
        loop {
            // Every arm is cancel safe: the reader keeps what it has, the queue its work, and time is only looked at.
            tokio::select! {
                message = self.reader.next() => match message? {
                    None => return Ok(End::Closed),
                    Some(message) => {
                        silent_at = Instant::now() + self.pace.silence_max;
                        self.hear(message);
                    }
                },
                work = self.membership.work() => match work {
                    None => return Ok(End::Replaced),
                    Some(work) => self.start(work).await?,
                },
                _ = ping.tick() => self.send(FromMaster::Ping).await?,
                () = sleep_until(silent_at) => return Ok(End::Silent),
            }
        }
    }

    fn hear(&mut self, message: FromSlave) {
        if let FromSlave::Done { build, hostname } = message
            && let Some(work) = self.running.remove(&build)
        {
            // The one who asked may have stopped waiting.
            let _ = work.send(hostname);
        }
    }

    async fn start(&mut self, work: Work) -> io::Result<()> {
        // What was given up on must not pile up on a slave that never answers.
        self.running.retain(|_, work| !work.is_closed());
        self.builds += 1;
        self.running.insert(self.builds, work);
        self.send(FromMaster::Build { build: self.builds }).await
    }

    async fn send(&mut self, message: FromMaster) -> io::Result<()> {
        timeout(self.pace.silence_max, self.writer.write_all(message.to_string().as_bytes())).await?
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "it closed the connection",
            Self::Silent => "it missed its pings",
            Self::Replaced => "it connected anew",
        })
    }
}
