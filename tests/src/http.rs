//! HTTP by hand: one request a connection, so that nothing of ours is in the way.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// The status code of a GET; `None` while nobody listens.
pub fn get_status(address: SocketAddr, path: &str) -> Option<u16> {
    exchange(address, "GET", path, "").ok().map(|(code, _)| code)
}

/// The body of a GET that was answered with 200.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    exchange(address, "GET", path, "").ok().filter(|(code, _)| *code == 200).map(|(_, body)| body)
}

/// Posts JSON; an error unless it was created.
pub fn post(address: SocketAddr, path: &str, body: &str) -> Result<()> {
    let (code, answer) = exchange(address, "POST", path, body)?;
    anyhow::ensure!(code == 201, "POST {path}: {code} {answer}");
    Ok(())
}

/// One request and its answer: status code and body.
pub fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    exchange_all(address, method, path, body).map(|(code, _, body)| (code, body))
}

/// One request and its answer: status code, head and body.
pub fn exchange_all(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // 1.0: a body in one piece, whatever its size.
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n");
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    // Which connection it was tells where to look.
    let read = stream.read_to_string(&mut answer);
    read.with_context(|| format!("reading on {:?} after {} bytes", stream.local_addr(), answer.len()))?;
    let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no status line")?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((code, head.to_owned(), body.to_owned()))
}

/// An answer that goes on, read in the background.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    reader: std::thread::JoinHandle<std::io::Result<Vec<u8>>>,
}

impl Stream {
    /// Opens it and returns once the answer has begun.
    pub fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut first = [0];
        socket.read_exact(&mut first)?;
        let mut reading = socket.try_clone()?;
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            reading.read_to_end(&mut seen)?;
            Ok(seen)
        });
        Ok(Self { socket, reader })
    }

    /// Closes it and returns all that came.
    pub fn finish(self) -> Result<String> {
        self.socket.shutdown(std::net::Shutdown::Both)?;
        let seen = self.reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }
}
