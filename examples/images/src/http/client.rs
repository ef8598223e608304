//! The client: one request, one answer.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::failure::invalid;

const TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Fetches `path` from the server at `address` (`host:port`).
pub async fn get(address: &str, path: &str) -> io::Result<Answer> {
    exchange(address, "GET", path, "").await
}

/// Posts `body` to `path` at the server at `address` (`host:port`).
pub async fn post(address: &str, path: &str, body: &str) -> io::Result<Answer> {
    exchange(address, "POST", path, body).await
}

async fn exchange(address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    timeout(TIMEOUT, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
        parse(&bytes)
    })
    .await?
}

/// The answer up to the end of the stream: `Connection: close` was asked for, so that end is the end of the body.
fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| invalid("the answer has no end of headers"))?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| invalid("the answer is not HTTP/1.x"))?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let answer = parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello").unwrap();
        assert_eq!(answer, Answer { status: 200, body: "hello".into() });
    }

    #[test]
    fn what_is_not_an_answer_is_an_error() {
        for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"] {
            assert_eq!(parse(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
