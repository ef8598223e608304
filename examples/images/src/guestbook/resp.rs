//! The Redis serialisation protocol, as much of it as the guestbook speaks; no I/O here.
//!
//! A client sends [`Words`]: an array of bulk strings or, typed by hand, a line. A server answers with a [`Reply`].

use crate::frame::{self, Frame, Malformed};

const WORDS_MAX: usize = 1024;

/// What a client sends: a command and its arguments. Empty after an empty line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words(pub(super) Vec<Vec<u8>>);

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Simple(String),
    /// By convention the first word tells a program what went wrong.
    Error(String),
    Integer(usize),
    Bulk(Vec<u8>),
    Array(Vec<Vec<u8>>),
}

impl Frame for Words {
    const BYTES_MAX: usize = 64 * 1024;

    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        if bytes.first().is_some_and(|&b| b != b'*') {
            let Some((line, used)) = frame::line(bytes) else { return Ok(None) };
            let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            return Ok(Some((Self(words.map(<[u8]>::to_vec).collect()), used)));
        }
        whole(bytes, |cursor| {
            cursor.expect(b'*')?;
            cursor.array(WORDS_MAX, Self::BYTES_MAX).map(Self)
        })
    }
}

impl Frame for Reply {
    const BYTES_MAX: usize = 4 * 1024 * 1024;

    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        whole(bytes, |cursor| {
            Ok(match cursor.byte()? {
                b'+' => Self::Simple(cursor.text()?),
                b'-' => Self::Error(cursor.text()?),
                b':' => Self::Integer(cursor.number(usize::MAX)?),
                b'$' => Self::Bulk(cursor.bulk(Self::BYTES_MAX)?),
                b'*' => Self::Array(cursor.array(Self::BYTES_MAX, Self::BYTES_MAX)?),
                _ => return Err(Stop::Malformed(Malformed("unknown type of reply"))),
            })
        })
    }
}

impl Words {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_array(&mut out, &self.0);
        out
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
            Self::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
            Self::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Self::Bulk(bytes) => encode_bulk(&mut out, bytes),
            Self::Array(items) => encode_array(&mut out, items),
        }
        out
    }
}

fn encode_array(out: &mut Vec<u8>, items: &[Vec<u8>]) {
    out.extend(format!("*{}\r\n", items.len()).bytes());
    for item in items {
        encode_bulk(out, item);
    }
}

fn encode_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(format!("${}\r\n", bytes.len()).bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Why decoding stopped before the end of a message.
enum Stop {
    NeedMore,
    Malformed(Malformed),
}

/// Runs `decode` and turns "need more" into `None`.
fn whole<T>(
    bytes: &[u8],
    decode: impl FnOnce(&mut Cursor<'_>) -> Result<T, Stop>,
) -> Result<Option<(T, usize)>, Malformed> {
    let mut cursor = Cursor { rest: bytes };
    match decode(&mut cursor) {
        Ok(message) => Ok(Some((message, bytes.len() - cursor.rest.len()))),
        Err(Stop::NeedMore) => Ok(None),
        Err(Stop::Malformed(malformed)) => Err(malformed),
    }
}

/// A position in the bytes received so far.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Stop::NeedMore)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.byte()? == byte { Ok(()) } else { Err(Stop::Malformed(Malformed("unexpected type"))) }
    }

    fn text(&mut self) -> Result<String, Stop> {
        let (line, used) = frame::line(self.rest).ok_or(Stop::NeedMore)?;
        self.rest = &self.rest[used..];
        str::from_utf8(line).map(str::to_owned).map_err(|_| Stop::Malformed(Malformed("a line is not text")))
    }

    fn number(&mut self, max: usize) -> Result<usize, Stop> {
        let number = self.text()?.parse().map_err(|_| Stop::Malformed(Malformed("a length is not a number")))?;
        if number > max { Err(Stop::Malformed(Malformed("a length is out of bounds"))) } else { Ok(number) }
    }

    fn bulk(&mut self, bytes_max: usize) -> Result<Vec<u8>, Stop> {
        let length = self.number(bytes_max)?;
        let bytes = self.take(length)?;
        if self.take(2)? != b"\r\n" {
            return Err(Stop::Malformed(Malformed("a string is longer than it says")));
        }
        Ok(bytes.to_vec())
    }

    fn array(&mut self, items_max: usize, bytes_max: usize) -> Result<Vec<Vec<u8>>, Stop> {
        let count = self.number(items_max)?;
        // Nothing is set aside for items that are only announced.
        let mut items = Vec::new();
        for _ in 0..count {
            self.expect(b'$')?;
            items.push(self.bulk(bytes_max)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Words {
        Words(list.iter().map(|word| word.as_bytes().to_vec()).collect())
    }

    /// Every proper beginning of a message asks for more; the whole reads back and leaves what follows alone.
    fn check<T: Frame + PartialEq + std::fmt::Debug>(bytes: &[u8], expected: T) {
        for end in 0..bytes.len() {
            assert_eq!(T::decode(&bytes[..end]), Ok(None), "{end} bytes of {bytes:?}");
        }
        let longer = [bytes, b"+next"].concat();
        assert_eq!(T::decode(&longer), Ok(Some((expected, bytes.len()))));
    }

    #[test]
    fn messages_read_back_whole() {
        let push = words(&["RPUSH", "guestbook", "two\r\nlines", ""]);
        check(&push.encode(), words(&["RPUSH", "guestbook", "two\r\nlines", ""]));
        check(b"PING  hello \r\n", words(&["PING", "hello"]));
        check(b"\n", words(&[]));
        for reply in
            ["+PONG\r\n", "-ERR no\r\n", ":42\r\n", "$3\r\n\0\r\n\r\n", "*2\r\n$1\r\na\r\n$0\r\n\r\n", "*0\r\n"]
        {
            let decoded = Reply::decode(reply.as_bytes()).unwrap().unwrap().0;
            assert_eq!(decoded.encode(), reply.as_bytes());
            check(reply.as_bytes(), decoded);
        }
    }

    #[test]
    fn garbage_is_refused_without_believing_its_lengths() {
        let refused = [
            &b"*x\r\n"[..],
            b"*-1\r\n",
            b"*99999999999999999999\r\n",
            b"*1025\r\n",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$70000\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$1\r\nabc",
            b"*\xff\r\n",
        ];
        for bytes in refused {
            assert!(Words::decode(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&b"hello\r\n"[..], b":-1\r\n", b"$18446744073709551615\r\n", b"+\xff\r\n"] {
            assert!(Reply::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        // All short strings over the bytes that mean something to it.
        let alphabet = b"*$+-:019\r\nA\xff";
        let mut inputs = vec![Vec::new()];
        for _ in 0..5 {
            inputs =
                inputs.iter().flat_map(|input| alphabet.iter().map(move |&b| [&input[..], &[b]].concat())).collect();
            for input in &inputs {
                let _ = (Words::decode(input), Reply::decode(input));
            }
        }
    }
}
