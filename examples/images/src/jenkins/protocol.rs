//! What master and slave say to each other: one line per message, both ways.
//!
//! The slave opens with `hello <name> <executors>` and the master answers `welcome`. From then on the master sends `build <n>`
//! and the slave answers `done <n> <host name>`, where n counts the builds of this connection. Each side sends `ping` at a
//! steady pace and gives the other up when it has been silent for several of them: a host that vanished closes nothing.

use std::{fmt, time::Duration};

use super::name::Name;
use crate::frame::{self, Frame, Malformed};

const LINE_BYTES_MAX: usize = 512;
const EXECUTORS_MAX: u8 = 64;

/// How often each side pings, and how long it bears silence.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two pings.
    pub ping: Duration,
    /// After so long without any message the other side is taken for dead.
    pub silence_max: Duration,
}

impl Default for Pace {
    /// A ping each second; the third that is missed ends the connection.
    fn default() -> Self {
        Self { ping: Duration::from_secs(1), silence_max: Duration::from_secs(3) }
    }
}

/// A message of a slave to the master.
#[derive(Debug, PartialEq, Eq)]
pub enum FromSlave {
    /// The first message: who connects, and how many builds it runs at a time.
    Hello {
        /// Unique to the slave's process.
        name: Name,
        /// From 1 to 64.
        executors: u8,
    },
    /// A sign of life.
    Ping,
    /// A build has ended.
    Done {
        /// As in [`FromMaster::Build`].
        build: u64,
        /// Where it ran.
        hostname: Name,
    },
}

/// A message of the master to a slave.
#[derive(Debug, PartialEq, Eq)]
pub enum FromMaster {
    /// The slave is registered.
    Welcome,
    /// A sign of life.
    Ping,
    /// Run a build.
    Build {
        /// Unique within the connection.
        build: u64,
    },
}

impl fmt::Display for FromSlave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { name, executors } => writeln!(f, "hello {name} {executors}"),
            Self::Ping => writeln!(f, "ping"),
            Self::Done { build, hostname } => writeln!(f, "done {build} {hostname}"),
        }
    }
}

impl fmt::Display for FromMaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Welcome => writeln!(f, "welcome"),
            Self::Ping => writeln!(f, "ping"),
            Self::Build { build } => writeln!(f, "build {build}"),
        }
    }
}

impl Frame for FromSlave {
    const BYTES_MAX: usize = LINE_BYTES_MAX;

    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        decode_line(bytes, |words| {
            Some(match words {
                ["hello", name, executors] => {
                    Self::Hello { name: Name::parse(name)?, executors: parse_executors(executors)? }
                }
                ["ping"] => Self::Ping,
                ["done", build, hostname] => {
                    Self::Done { build: build.parse().ok()?, hostname: Name::parse(hostname)? }
                }
                _ => return None,
            })
        })
    }
}

impl Frame for FromMaster {
    const BYTES_MAX: usize = LINE_BYTES_MAX;

    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        decode_line(bytes, |words| {
            Some(match words {
                ["welcome"] => Self::Welcome,
                ["ping"] => Self::Ping,
                ["build", build] => Self::Build { build: build.parse().ok()? },
                _ => return None,
            })
        })
    }
}

/// A number of executors, within bounds.
pub fn parse_executors(text: &str) -> Option<u8> {
    text.parse().ok().filter(|executors| (1..=EXECUTORS_MAX).contains(executors))
}

fn decode_line<T>(bytes: &[u8], parse: impl FnOnce(&[&str]) -> Option<T>) -> Result<Option<(T, usize)>, Malformed> {
    let Some((line, used)) = frame::line(bytes) else { return Ok(None) };
    if line.len() > LINE_BYTES_MAX {
        return Err(Malformed("the line is too long"));
    }
    let line = str::from_utf8(line).map_err(|_| Malformed("the line is not text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let message = parse(&words).ok_or(Malformed("the line is not a message of this protocol"))?;
    Ok(Some((message, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::parse("slave-1").unwrap()
    }

    fn check<T: Frame + fmt::Display + fmt::Debug + PartialEq>(message: T) {
        let line = message.to_string();
        assert_eq!(T::decode(line.as_bytes()), Ok(Some((message, line.len()))), "{line:?}");
        assert_eq!(T::decode(&line.as_bytes()[..line.len() - 1]), Ok(None), "{line:?}");
    }

    #[test]
    fn every_message_reads_back_as_written() {
        check(FromSlave::Hello { name: name(), executors: 64 });
        check(FromSlave::Ping);
        check(FromSlave::Done { build: u64::MAX, hostname: name() });
        check(FromMaster::Welcome);
        check(FromMaster::Ping);
        check(FromMaster::Build { build: 7 });
    }

    #[test]
    fn garbage_is_refused() {
        let lines = [
            "",
            "hello",
            "hello a",
            "hello a 0",
            "hello a 65",
            "hello a -1",
            "hello <a> 1",
            "hello a 1 1",
            "hello  a 1",
            "done x a",
            "done 1 ",
            "PING",
            "GET / HTTP/1.1",
        ];
        for line in lines {
            assert!(FromSlave::decode(format!("{line}\n").as_bytes()).is_err(), "{line:?}");
        }
        assert!(FromSlave::decode(b"\xff\xfe\n").is_err());
        assert!(FromSlave::decode(format!("done 1 {}\n", "a".repeat(LINE_BYTES_MAX)).as_bytes()).is_err());
        assert!(FromMaster::decode(b"build\n").is_err());
    }
}
