//! Bytes from one socket to the other, both ways, until both have ended.
//!
//! Small messages are copied through one buffer that all connections of a thread share; a read that
//! fills it begins a stream, which goes through a pipe without being copied as long as it is one. An
//! idle connection holds neither.
//!
//! Invariant: what was read is written before more is read, so nothing piles up here.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Poll, ready},
};

use futures_util::future::LocalBoxFuture;
use rustix::pipe::{SpliceFlags, splice};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use crate::pipes::{PIPE_BYTES, Pipe, Pipes};

/// A read of so much begins a stream; one of less ends it.
const BUFFER_BYTES: usize = 16 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Carries bytes both ways. Where one side ends, the other hears of it, and may go on.
///
/// # Errors
///
/// What happened to either side, which must then be told to the other.
///
/// The future is boxed so that its code is this crate's: one that the caller holds would be built as the caller is.
pub fn relay<'a>(
    client: &'a mut TcpStream,
    backend: &'a mut TcpStream,
    pipes: &'a Pipes,
) -> LocalBoxFuture<'a, io::Result<()>> {
    Box::pin(async move {
        let ((mut from_client, to_client), (mut from_backend, to_backend)) = (client.split(), backend.split());
        tokio::try_join!(carry(&mut from_client, to_backend, pipes), carry(&mut from_backend, to_client, pipes))?;
        Ok(())
    })
}

/// How a part of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The stream is at its end.
    End,
    /// More comes than the buffer holds.
    Full,
    /// Less comes than the buffer holds.
    Thin,
}

async fn carry(from: &mut ReadHalf<'_>, mut to: WriteHalf<'_>, pipes: &Pipes) -> io::Result<()> {
    loop {
        if copy(from, &to).await? == Part::End {
            return to.shutdown().await;
        }
        let Some(lease) = pipes.lease() else { continue };
        if let Some(pipe) = lease.pipe()
            && pass(from, &to, pipe).await? == Part::End
        {
            lease.give_back();
            return to.shutdown().await;
        }
        lease.give_back();
    }
}

/// Copies until a read fills the buffer.
async fn copy(from: &mut ReadHalf<'_>, to: &WriteHalf<'_>) -> io::Result<Part> {
    loop {
        let mut rest = Vec::new();
        let count = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                let read = buffer.filled();
                // Nearly always all of it. The rest waits in a buffer of its own.
                let written = if read.is_empty() { 0 } else { at_once(to.try_write(read))? };
                rest.extend_from_slice(read.get(written..).unwrap_or_default());
                Poll::Ready(Ok::<_, io::Error>(read.len()))
            })
        })
        .await?;
        let mut left = rest.as_slice();
        while !left.is_empty() {
            to.writable().await?;
            left = left.get(at_once(to.try_write(left))?..).unwrap_or_default();
        }
        match count {
            0 => return Ok(Part::End),
            BUFFER_BYTES => return Ok(Part::Full),
            _ => {}
        }
    }
}

/// Passes bytes through a pipe, which is empty before and after, until few come at a time.
async fn pass(from: &ReadHalf<'_>, to: &WriteHalf<'_>, pipe: &Pipe) -> io::Result<Part> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let (source, sink) = (from.as_ref(), to.as_ref());
    loop {
        source.readable().await?;
        let read = || Ok(splice(source, None, &pipe.write, None, PIPE_BYTES, flags)?);
        let count = match source.try_io(Interest::READABLE, read) {
            Ok(0) => return Ok(Part::End),
            Ok(count) => count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        let mut left = count;
        while left > 0 {
            let write = || Ok(splice(&pipe.read, None, sink, None, left, flags)?);
            let written = at_once(sink.try_io(Interest::WRITABLE, write))?;
            left = left.saturating_sub(written);
            if written == 0 {
                sink.writable().await?;
            }
        }
        if count < BUFFER_BYTES {
            return Ok(Part::Thin);
        }
    }
}

/// What was written at once: nothing where the socket takes nothing now.
fn at_once(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests;
