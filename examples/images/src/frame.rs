//! Messages cut from a byte stream.
//!
//! Every protocol here is a [`Frame`]: a pure function that looks at the bytes received so far and finds a whole message, asks
//! for more, or refuses. [`FrameReader`] does the reading around it. No message is ever larger than its type's bound.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::failure::invalid;

const CHUNK: usize = 4096;

/// The sentence that says how some bytes break their protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A message of some protocol.
pub trait Frame: Sized {
    /// A message that has not ended after so many bytes is refused.
    const BYTES_MAX: usize;

    /// The first message in `bytes` and how many bytes it takes up; `None` when its end has not arrived yet.
    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed>;
}

/// The first line of `bytes` without its end (`\n` or `\r\n`), and how many bytes it takes up with it.
pub fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// Reads messages from a stream, keeping what arrived beyond the last one.
#[derive(Debug)]
pub struct FrameReader<R> {
    source: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self { source, buffer: Vec::new() }
    }

    /// The next message, or `None` when the stream ended between two messages. Malformed and oversized messages are errors of
    /// kind `InvalidData`. Cancel safe: what was read so far is kept for the next call.
    pub async fn next<F: Frame>(&mut self) -> io::Result<Option<F>> {
        loop {
            let decoded = F::decode(&self.buffer).map_err(|Malformed(text)| invalid(text))?;
            if let Some((frame, used)) = decoded {
                self.buffer.drain(..used);
                return Ok(Some(frame));
            }
            if self.buffer.len() >= F::BYTES_MAX {
                return Err(invalid("the message is too long"));
            }
            self.buffer.reserve(CHUNK);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                let whole = self.buffer.is_empty();
                return if whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads and forgets up to `limit` bytes or the end of the stream.
    pub async fn discard(&mut self, limit: usize) -> io::Result<()> {
        let mut left = limit;
        while left > 0 {
            self.buffer.clear();
            self.buffer.reserve(CHUNK);
            match self.source.read_buf(&mut self.buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Word(String);

    impl Frame for Word {
        const BYTES_MAX: usize = 16;

        fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
            let Some((line, used)) = line(bytes) else { return Ok(None) };
            let word = str::from_utf8(line).map_err(|_| Malformed("not text"))?;
            Ok(Some((Self(word.to_owned()), used)))
        }
    }

    async fn words(input: &[u8]) -> (Vec<String>, Option<io::ErrorKind>) {
        let mut reader = FrameReader::new(input);
        let mut words = Vec::new();
        loop {
            match reader.next::<Word>().await {
                Ok(Some(Word(word))) => words.push(word),
                Ok(None) => return (words, None),
                Err(error) => return (words, Some(error.kind())),
            }
        }
    }

    #[tokio::test]
    async fn several_messages_in_one_read_come_out_one_by_one() {
        assert_eq!(words(b"one\r\ntwo\n\n").await, (vec!["one".into(), "two".into(), String::new()], None));
    }

    #[tokio::test]
    async fn a_message_cut_short_by_the_end_is_an_error() {
        assert_eq!(words(b"one\ntw").await, (vec!["one".into()], Some(io::ErrorKind::UnexpectedEof)));
    }

    #[tokio::test]
    async fn a_message_without_end_is_refused_at_the_bound() {
        assert_eq!(words(&[b'x'; 100_000]).await, (vec![], Some(io::ErrorKind::InvalidData)));
        assert_eq!(words(b"\xff\n").await, (vec![], Some(io::ErrorKind::InvalidData)));
    }

    #[tokio::test]
    async fn a_message_in_single_bytes_survives_cancelled_reads() {
        let (near, far) = tokio::io::duplex(1);
        let mut reader = FrameReader::new(far);
        let writing = tokio::spawn(async move {
            let mut near = near;
            tokio::io::AsyncWriteExt::write_all(&mut near, b"slowly\n").await
        });
        let word = loop {
            // The second arm is always ready, so the first is dropped halfway whenever it has to wait.
            tokio::select! {
                biased;
                word = reader.next::<Word>() => break word,
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(word.unwrap(), Some(Word("slowly".into())));
        writing.await.unwrap().unwrap();
    }
}
