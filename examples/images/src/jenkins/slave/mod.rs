//! The slave: finds the master, runs its builds, and finds the next master when this one is replaced.

mod options;

use std::{io, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

pub use self::options::{Options, OptionsError};
use super::{
    name::Name,
    protocol::{FromMaster, FromSlave, Pace},
};
use crate::{
    backoff::Backoff,
    failure::{about, invalid},
    frame::FrameReader,
    http, log, machine,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A slave and what it tells a master about itself.
#[derive(Debug)]
pub struct Slave {
    options: Options,
    name: Name,
    hostname: Name,
    pace: Pace,
}

/// Runs a slave on this host until dropped.
pub async fn run(options: Options) -> io::Result<()> {
    let hostname = machine::hostname()?;
    // Two slaves may share a host's name; two processes never share a UUID.
    let uuid = machine::random_uuid()?;
    let name = format!("{hostname}-{}", &uuid[..8]);
    let parse = |text: &str| Name::parse(text).ok_or_else(|| invalid(format_args!("{text} cannot name a slave")));
    let slave = Slave { options, name: parse(&name)?, hostname: parse(&hostname)?, pace: Pace::default() };
    slave.serve().await;
    Ok(())
}

impl Slave {
    /// A slave of that name on a host of that name.
    pub fn new(options: Options, name: Name, hostname: Name, pace: Pace) -> Self {
        Self { options, name, hostname, pace }
    }

    /// Serves one master after the other, until dropped.
    pub async fn serve(&self) {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.connect().await {
                Ok(session) => {
                    backoff.reset();
                    log::info(format_args!("jenkins-slave: {} connected to {}", self.name, self.options.tunnel));
                    session.run().await
                }
                Err(error) => error,
            };
            let delay = backoff.delay();
            log::info(format_args!("jenkins-slave: {error}; trying again in {} ms", delay.as_millis()));
            sleep(delay).await;
        }
    }

    /// Asks the master over HTTP whether it is there, then registers with it.
    async fn connect(&self) -> io::Result<Session<'_>> {
        let Options { master, tunnel, executors } = &self.options;
        let login = timeout(CONNECT_TIMEOUT, http::get(master, "/login")).await.map_err(io::Error::from).flatten();
        let login = login.map_err(about(format_args!("http://{master}")))?;
        if login.status != 200 {
            return Err(invalid(format_args!("http://{master}/login: status {}", login.status)));
        }
        let register = async {
            let stream = TcpStream::connect(tunnel).await?;
            stream.set_nodelay(true)?;
            let (read, writer) = stream.into_split();
            let mut session = Session { slave: self, reader: FrameReader::new(read), writer };
            session.send(FromSlave::Hello { name: self.name.clone(), executors: *executors }).await?;
            match session.reader.next().await? {
                Some(FromMaster::Welcome) => Ok(session),
                _ => Err(invalid("the master did not welcome this slave")),
            }
        };
        timeout(CONNECT_TIMEOUT, register).await.map_err(io::Error::from).flatten().map_err(about(tunnel))
    }
}

struct Session<'a> {
    slave: &'a Slave,
    reader: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Session<'_> {
    /// Runs builds until the connection ends; says why it did.
    async fn run(mut self) -> io::Error {
        match self.serve().await {
            Ok(why) => io::Error::other(format!("the master {why}")),
            Err(error) => about(&self.slave.options.tunnel)(error),
        }
    }

    async fn serve(&mut self) -> io::Result<&'static str> {
        let pace = self.slave.pace;
        let mut ping = interval(pace.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = Instant::now() + pace.silence_max;
        loop {
            // Every arm is cancel safe: the reader keeps what it has, and time is only looked at.
            tokio::select! {
                message = self.reader.next() => {
                    silent_at = Instant::now() + pace.silence_max;
                    match message? {
                        None => return Ok("closed the connection"),
                        Some(FromMaster::Build { build }) => self.build(build).await?,
                        Some(FromMaster::Welcome | FromMaster::Ping) => {}
                    }
                }
                _ = ping.tick() => self.send(FromSlave::Ping).await?,
                () = sleep_until(silent_at) => return Ok("missed its pings"),
            }
        }
    }

    async fn build(&mut self, build: u64) -> io::Result<()> {
        log::info(format_args!("jenkins-slave: ran build {build} of this connection"));
        self.send(FromSlave::Done { build, hostname: self.slave.hostname.clone() }).await
    }

    async fn send(&mut self, message: FromSlave) -> io::Result<()> {
        timeout(self.slave.pace.silence_max, self.writer.write_all(message.to_string().as_bytes())).await?
    }
}
