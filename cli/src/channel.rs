//! The channels of `v5.channel.k8s.io`: every message starts with the number of its channel.

use serde_json::Value;

use crate::json::{list, text};

/// The WebSocket subprotocol.
pub(crate) const PROTOCOL: &str = "v5.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A message from the master.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    Stdout(&'a [u8]),
    Stderr(&'a [u8]),
    /// The command ended.
    Ended(Result<(), Ending>),
    /// Of no interest to us.
    Other,
}

/// How a command ended, when not well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With this exit status.
    Code(u8),
    /// It could not be run.
    Failed(String),
}

/// Reads a message.
pub(crate) fn receive(message: &[u8]) -> Received<'_> {
    match message.split_first() {
        Some((&STDOUT, data)) => Received::Stdout(data),
        Some((&STDERR, data)) => Received::Stderr(data),
        Some((&ERROR, status)) => Received::Ended(ending(status)),
        _ => Received::Other,
    }
}

fn ending(status: &[u8]) -> Result<(), Ending> {
    let Ok(status) = serde_json::from_slice::<Value>(status) else {
        return Err(Ending::Failed(String::from_utf8_lossy(status).into_owned()));
    };
    if text(&status, "/status") == "Success" {
        return Ok(());
    }
    let causes = list(&status, "/details/causes");
    let code =
        causes.iter().find(|c| text(c, "/reason") == "ExitCode").and_then(|c| text(c, "/message").parse::<i64>().ok());
    Err(match code {
        // A shell shows what does not fit in a byte by its low bits; never as success.
        Some(code) => Ending::Code(u8::try_from(code).unwrap_or(255).max(1)),
        None => Ending::Failed(text(&status, "/message").to_owned()),
    })
}

/// Input for the command.
pub(crate) fn stdin(data: &[u8]) -> Vec<u8> {
    tagged(STDIN, data)
}

/// No more input.
pub(crate) fn close_stdin() -> Vec<u8> {
    vec![CLOSE, STDIN]
}

/// The terminal's size.
pub(crate) fn resize(columns: u16, rows: u16) -> Vec<u8> {
    tagged(RESIZE, format!("{{\"Width\":{columns},\"Height\":{rows}}}").as_bytes())
}

fn tagged(channel: u8, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_by_their_channel() {
        let exit = |code: &str| {
            format!(
                "\x03{{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\",\"message\":\"m\",\
                \"details\":{{\"causes\":[{{\"reason\":\"ExitCode\",\"message\":\"{code}\"}}]}}}}"
            )
        };
        assert_eq!(receive(b"\x01out"), Received::Stdout(b"out"));
        assert_eq!(receive(b"\x02err"), Received::Stderr(b"err"));
        assert_eq!(receive(b"\x03{\"status\":\"Success\"}"), Received::Ended(Ok(())));
        assert_eq!(receive(exit("3").as_bytes()), Received::Ended(Err(Ending::Code(3))));
        assert_eq!(receive(exit("-1").as_bytes()), Received::Ended(Err(Ending::Code(255))));
        assert_eq!(
            receive(b"\x03{\"status\":\"Failure\",\"message\":\"no such container\"}"),
            Received::Ended(Err(Ending::Failed("no such container".into())))
        );
        assert_eq!(receive(b""), Received::Other);
        assert_eq!(receive(b"\x09x"), Received::Other);
    }

    #[test]
    fn messages_are_written_with_their_channel() {
        assert_eq!(stdin(b"x"), b"\x00x");
        assert_eq!(close_stdin(), [255, 0]);
        assert_eq!(resize(80, 24), b"\x04{\"Width\":80,\"Height\":24}");
    }
}
