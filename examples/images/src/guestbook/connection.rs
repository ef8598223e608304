//! A connection that speaks the protocol, at either end.

use std::{io, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    command::Command,
    resp::{Reply, Words},
};
use crate::{
    failure::invalid,
    frame::{Frame, FrameReader},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that keeps its connection for later has to say something now and then.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// One end of a connection.
pub(super) struct Connection {
    reader: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (read, writer) = stream.into_split();
        Self { reader: FrameReader::new(read), writer }
    }

    pub(super) async fn connect(address: &str) -> io::Result<Self> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// Sends what was encoded.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.writer.write_all(bytes)).await?
    }

    /// The next message of the other end; that it hung up is an error. Cancel safe.
    pub(super) async fn receive<F: Frame>(&mut self) -> io::Result<F> {
        self.reader
            .next()
            .await?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"))
    }

    /// As a server: the next command. What is not one gets its error reply here.
    pub(super) async fn next_command(&mut self) -> io::Result<Command> {
        loop {
            let refusal = match timeout(IDLE_MAX, self.receive::<Words>()).await? {
                // An empty line; people press the key twice.
                Ok(words) if words.0.is_empty() => continue,
                Ok(words) => match Command::parse(words) {
                    Ok(command) => return Ok(command),
                    Err(refusal) => refusal,
                },
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    // What follows cannot be told apart any more, so this is the last word.
                    self.send(&Reply::Error(format!("ERR Protocol error: {error}")).encode()).await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            self.send(&Reply::Error(refusal).encode()).await?;
        }
    }

    /// As a client: sends a command and waits for its reply; an error reply is an error.
    pub(super) async fn ask(&mut self, command: Command, wait_max: Duration) -> io::Result<Reply> {
        self.send(&command.words().encode()).await?;
        match timeout(wait_max, self.receive::<Reply>()).await?? {
            Reply::Error(text) => Err(invalid(text)),
            reply => Ok(reply),
        }
    }
}
