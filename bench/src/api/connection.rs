//! One kept-alive connection with one request in flight.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::wire::Parser;

/// Bytes of each body that are kept for a look: what the load depends on is at the beginning.
const KEPT: usize = 4 << 10;
/// One read at most. Lists are read in pieces of this size, which stay in the cache.
const READ: usize = 256 << 10;

/// What came back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) bytes: u64,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    parser: Parser,
    buffer: Box<[u8]>,
    start: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        Self::open_with(address, READ).await
    }

    /// Connects, to read small pieces: for connections in large numbers.
    pub(crate) async fn open_with(address: SocketAddr, read: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, parser: Parser::default(), buffer: vec![0; read].into(), start: Vec::with_capacity(KEPT) })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request).await?;
        let (start, mut bytes) = (&mut self.start, 0);
        while !self.parser.is_done() {
            let read = self.stream.read(&mut self.buffer).await.context("reading an answer")?;
            ensure!(read > 0, "the server closed the connection in the middle of an answer");
            let used = self.parser.feed(&self.buffer[..read], |part| {
                bytes += part.len() as u64;
                start.extend_from_slice(&part[..part.len().min(KEPT - start.len())]);
            })?;
            ensure!(used == read, "the server sent more than the answer");
        }
        Ok(Answer { status: self.parser.status().unwrap_or_default(), bytes })
    }

    /// Sends a request whose answer goes on, to be read with [`Connection::read`].
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<()> {
        self.parser.restart();
        self.start.clear();
        self.stream.write_all(request).await.context("sending a request")
    }

    /// Waits for the next piece of an answer and hands its part of the body to `body`. Returns
    /// whether the answer goes on.
    pub(crate) async fn read(&mut self, body: impl FnMut(&[u8])) -> Result<bool> {
        let read = self.stream.read(&mut self.buffer).await.context("reading a stream")?;
        if read == 0 {
            return Ok(false);
        }
        self.parser.feed(&self.buffer[..read], body)?;
        Ok(!self.parser.is_done())
    }

    /// The status code of the answer under way.
    pub(crate) fn status(&self) -> Option<u16> {
        self.parser.status()
    }

    /// The first bytes of the last body.
    pub(crate) fn start_of_body(&self) -> &[u8] {
        &self.start
    }
}
