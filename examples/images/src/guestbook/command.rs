//! What can be asked of a leader or a follower; no I/O here.

use super::resp::Words;

/// A command that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `PING [text]`
    Ping(Option<Vec<u8>>),
    /// `RPUSH key value...`: append to a list.
    Push { key: Vec<u8>, values: Vec<Vec<u8>> },
    /// `LRANGE key start stop`: part of a list, both ends included, negative positions counted from its end.
    Range { key: Vec<u8>, start: i64, stop: i64 },
    /// `SYNC`: all there is and, on the same connection, all that comes. Not the command of that name in Redis: the answer is
    /// `FULLSYNC <n>`, followed by n pushes of one value each, by further ones as they happen, and by pings in between.
    Sync,
}

impl Command {
    /// Understands a command, or says why not in the words of an error reply.
    pub(super) fn parse(words: Words) -> Result<Self, String> {
        let mut words = words.0.into_iter();
        let name = String::from_utf8_lossy(&words.next().unwrap_or_default()).to_uppercase();
        let mut arguments: Vec<Vec<u8>> = words.collect();
        match (name.as_str(), arguments.len()) {
            ("PING", 0 | 1) => Ok(Self::Ping(arguments.pop())),
            ("RPUSH", 2..) => {
                let values = arguments.split_off(1);
                Ok(Self::Push { key: arguments.remove(0), values })
            }
            ("LRANGE", 3) => {
                let position = |index: usize| {
                    let text = str::from_utf8(&arguments[index]).ok();
                    text.and_then(|text| text.parse().ok()).ok_or("ERR value is not an integer or out of range")
                };
                let (start, stop) = (position(1)?, position(2)?);
                Ok(Self::Range { key: arguments.remove(0), start, stop })
            }
            ("SYNC", 0) => Ok(Self::Sync),
            ("PING" | "RPUSH" | "LRANGE" | "SYNC", _) => {
                Err(format!("ERR wrong number of arguments for '{}'", name.to_lowercase()))
            }
            _ => Err("ERR unknown command; this server knows PING, RPUSH, LRANGE and SYNC".to_owned()),
        }
    }

    /// The command as sent.
    pub(super) fn words(self) -> Words {
        Words(match self {
            Self::Ping(text) => [b"PING".to_vec()].into_iter().chain(text).collect(),
            Self::Push { key, values } => [b"RPUSH".to_vec(), key].into_iter().chain(values).collect(),
            Self::Range { key, start, stop } => {
                vec![b"LRANGE".to_vec(), key, start.to_string().into_bytes(), stop.to_string().into_bytes()]
            }
            Self::Sync => vec![b"SYNC".to_vec()],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(Words(line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()))
    }

    #[test]
    fn commands_are_understood_in_any_case_and_read_back() {
        let push = Command::Push { key: b"k".to_vec(), values: vec![b"a".to_vec(), b"b".to_vec()] };
        assert_eq!(parse("rpush k a b"), Ok(push));
        let range = Command::Range { key: b"k".to_vec(), start: 0, stop: -1 };
        assert_eq!(parse("LRANGE k 0 -1"), Ok(range));
        for line in ["PING", "PING hello", "RPUSH k a b", "LRANGE k 0 -1", "SYNC"] {
            let command = parse(line).unwrap();
            assert_eq!(Command::parse(parse(line).unwrap().words()), Ok(command), "{line}");
        }
    }

    #[test]
    fn the_rest_gets_an_error_reply() {
        for line in ["", "FLUSHALL", "PING a b", "RPUSH k", "LRANGE k 0", "LRANGE k a b", "SYNC now"] {
            assert!(parse(line).unwrap_err().starts_with("ERR "), "{line}");
        }
    }
}
