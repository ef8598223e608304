//! HTTP/1.1 as little of it as measuring needs: requests as bytes, and a parser of answers that is
//! fed whatever a read returns. No I/O.

use std::{borrow::Cow, io::Write as _};

use anyhow::{Context, Result, bail, ensure};

/// A status line or header longer than this is none.
const LINE_MAX: usize = 64 << 10;

/// Appends a request without a body. `headers` are whole lines: those of every request to the server.
pub(crate) fn request(out: &mut Vec<u8>, method: &str, path: &str, headers: &str) {
    // Writing to a vector can't fail.
    let _ = write!(out, "{method} {path} HTTP/1.1\r\n{headers}Accept: application/json\r\n\r\n");
}

/// Appends a request with a body.
pub(crate) fn request_with(out: &mut Vec<u8>, method: &str, path: &str, headers: &str, media: &str, body: &[u8]) {
    let _ = write!(
        out,
        "{method} {path} HTTP/1.1\r\n{headers}Accept: application/json\r\nContent-Type: {media}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(body);
}

/// Where in an answer the parser is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    StatusLine,
    Headers,
    /// Bytes left of a body with a length.
    Body(u64),
    ChunkSize,
    /// Bytes left of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

/// Reads one answer after the other.
#[derive(Debug)]
pub(crate) struct Parser {
    place: Place,
    status: u16,
    length: Option<u64>,
    chunked: bool,
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
}

impl Default for Parser {
    fn default() -> Self {
        Self { place: Place::StatusLine, status: 0, length: None, chunked: false, partial: Vec::new() }
    }
}

impl Parser {
    /// The status code, once the head was read.
    pub(crate) fn status(&self) -> Option<u16> {
        (!matches!(self.place, Place::StatusLine | Place::Headers)).then_some(self.status)
    }

    /// Whether the answer is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// Takes what arrived, hands the body's bytes to `body`, and returns how much belongs to this
    /// answer: all, unless the answer is complete.
    pub(crate) fn feed(&mut self, input: &[u8], mut body: impl FnMut(&[u8])) -> Result<usize> {
        let mut rest = input;
        while !rest.is_empty() && self.place != Place::Done {
            match self.place {
                Place::Body(left) | Place::Chunk(left) => {
                    let (now, later) = rest.split_at(rest.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                    body(now);
                    rest = later;
                    let left = left - now.len() as u64;
                    self.place = match self.place {
                        Place::Chunk(_) if left > 0 => Place::Chunk(left),
                        Place::Chunk(_) => Place::ChunkEnd,
                        _ if left > 0 => Place::Body(left),
                        _ => Place::Done,
                    };
                }
                _ => {
                    let mut partial = std::mem::take(&mut self.partial);
                    let line = next_line(&mut partial, &mut rest)?;
                    if let Some(line) = line {
                        self.line(&line)?;
                        // Its memory is for the next line that is cut.
                        if let Cow::Owned(mut line) = line {
                            line.clear();
                            partial = line;
                        }
                    }
                    self.partial = partial;
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    /// Makes ready for the next answer.
    pub(crate) fn restart(&mut self) {
        (self.place, self.status, self.length, self.chunked) = (Place::StatusLine, 0, None, false);
        self.partial.clear();
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.place = match self.place {
            Place::StatusLine => {
                self.status = status(line)?;
                Place::Headers
            }
            Place::Headers if line.is_empty() => self.after_head()?,
            Place::Headers => {
                self.header(line)?;
                Place::Headers
            }
            Place::ChunkSize => match chunk_size(line)? {
                0 => Place::Trailers,
                size => Place::Chunk(size),
            },
            Place::ChunkEnd => {
                ensure!(line.is_empty(), "a chunk is longer than it said");
                Place::ChunkSize
            }
            Place::Trailers if line.is_empty() => Place::Done,
            place => place,
        };
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<()> {
        let colon = line.iter().position(|b| *b == b':').context("a header without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(std::str::from_utf8(value)?.parse().context("Content-Length")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = value.eq_ignore_ascii_case(b"chunked");
            ensure!(self.chunked, "an unknown transfer encoding");
        }
        Ok(())
    }

    fn after_head(&mut self) -> Result<Place> {
        Ok(match (self.status, self.chunked, self.length) {
            (100..200, ..) => Place::StatusLine,
            (204 | 304, ..) | (_, false, Some(0)) => Place::Done,
            (_, true, _) => Place::ChunkSize,
            (_, false, Some(length)) => Place::Body(length),
            (_, false, None) => bail!("an answer that ends with its connection can't be measured"),
        })
    }
}

/// The next whole line without its end. Keeps the beginning of one that is cut.
fn next_line<'a>(partial: &mut Vec<u8>, rest: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>> {
    let end = memchr::memchr(b'\n', rest);
    let (now, later) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
    *rest = later;
    ensure!(partial.len() + now.len() <= LINE_MAX, "a header line of more than {LINE_MAX} bytes");
    if end.is_some() && partial.is_empty() {
        return Ok(Some(Cow::Borrowed(without_end(now))));
    }
    partial.extend_from_slice(now);
    if end.is_none() {
        return Ok(None);
    }
    let mut line = std::mem::take(partial);
    line.truncate(without_end(&line).len());
    Ok(Some(Cow::Owned(line)))
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn status(line: &[u8]) -> Result<u16> {
    let code = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)).context("no HTTP/1.1 status line")?;
    std::str::from_utf8(code)?.parse().context("the status code")
}

fn chunk_size(line: &[u8]) -> Result<u64> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits)?, 16).context("a chunk's size")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in reads of `step` bytes; the status, the body, and what was left over.
    fn read(text: &str, step: usize) -> Result<(u16, String, usize)> {
        let (mut parser, mut body, mut used) = (Parser::default(), Vec::new(), 0);
        for part in text.as_bytes().chunks(step) {
            used += parser.feed(part, |bytes| body.extend_from_slice(bytes))?;
            if parser.is_done() {
                return Ok((parser.status().unwrap(), String::from_utf8(body)?, text.len() - used));
            }
        }
        bail!("not complete")
    }

    fn check(text: &str, status: u16, body: &str) {
        for step in 1..=text.len() {
            assert_eq!(read(text, step).unwrap(), (status, body.to_owned(), 0), "{text:?} in steps of {step}");
        }
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", 200, "hello");
        check("HTTP/1.1 201 Created\r\ncontent-length:0\r\n\r\n", 201, "");
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, "");
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x");
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nB;x=y\r\n, chunked w\r\n0\r\nT: u\r\n\r\n",
            200,
            "hello, chunked w",
        );
    }

    #[test]
    fn what_follows_an_answer_is_left() {
        let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404";
        assert_eq!(read(two, two.len()).unwrap(), (200, "ok".into(), "HTTP/1.1 404".len()));
    }

    #[test]
    fn one_parser_reads_answer_after_answer() {
        let mut parser = Parser::default();
        for (text, code) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
            ("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", 404),
        ] {
            parser.restart();
            assert_eq!(parser.status(), None);
            assert_eq!(parser.feed(text.as_bytes(), |_| ()).unwrap(), text.len());
            assert_eq!((parser.is_done(), parser.status()), (true, Some(code)));
        }
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        for bad in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 abc\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnonsense\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        ] {
            let error = read(bad, 7).unwrap_err().to_string();
            assert_ne!(error, "not complete", "{bad}");
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut parser = Parser::default();
        let part = vec![b'x'; 1 << 10];
        assert!((0..100).any(|_| parser.feed(&part, |_| ()).is_err()));
    }

    #[test]
    fn requests_say_their_length() {
        let mut out = Vec::new();
        request_with(&mut out, "POST", "/p", "Host: h:1\r\n", "application/json", b"{}");
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("POST /p HTTP/1.1\r\nHost: h:1\r\n") && text.ends_with("Content-Length: 2\r\n\r\n{}"));
    }
}
