//! A server that says who it is, over HTTP and UDP on one port and line by line on the next, and the client that asks it: to
//! see which pod answers where, and for how long.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    time::timeout,
};

use crate::{accept, failure::about, http, machine};

/// Where it listens unless told otherwise.
pub const PORT: u16 = 8080;
const ANSWER_BYTES_MAX: usize = 512;
const QUESTION_BYTES_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 256;
/// UDP has no handshake: whoever does not answer by then is not there.
const UDP_TIMEOUT: Duration = Duration::from_secs(2);
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// With an HTTP request.
    Tcp,
    /// With a datagram.
    Udp,
}

/// Answers with the host name until dropped.
pub async fn serve(port: u16) -> io::Result<()> {
    let name = machine::hostname()?;
    let tcp = TcpListener::bind(("0.0.0.0", port)).await.map_err(about(&format!("TCP port {port}")))?;
    let udp = UdpSocket::bind(("0.0.0.0", port)).await.map_err(about(&format!("UDP port {port}")))?;
    let greeting = name.clone();
    let datagrams = async {
        let mut buffer = [0; 1];
        loop {
            // A client that is gone by now makes an error of a send or receive; it is no reason to stop.
            if let Ok((_, from)) = udp.recv_from(&mut buffer).await {
                let _ = udp.send_to(greeting.as_bytes(), from).await;
            }
        }
    };
    let answer = name.clone();
    let requests = http::serve(tcp, move |_| {
        let name = answer.clone();
        async move { http::Response::text(200, name) }
    });
    let lines_port = port.saturating_add(1);
    let lines = TcpListener::bind(("0.0.0.0", lines_port)).await.map_err(about(&format!("TCP port {lines_port}")))?;
    let lines = accept::serve(lines, CONNECTIONS_MAX, move |mut stream| {
        let name = format!("{name}\n");
        async move {
            let mut question = [0; QUESTION_BYTES_MAX];
            // A connection lasts as long as its client likes.
            while stream.read(&mut question).await.is_ok_and(|length| length > 0) {
                if stream.write_all(name.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    // None ends.
    tokio::select! {
        () = requests => Ok(()),
        () = lines => Ok(()),
        never = datagrams => never,
    }
}

/// Asks the server at `address` (`host:port`) and prints its answer.
pub async fn ask(protocol: Protocol, address: &str) -> io::Result<()> {
    let answer = match protocol {
        Protocol::Tcp => timeout(TCP_TIMEOUT, http::get(address, "/")).await??.body,
        Protocol::Udp => {
            let socket = UdpSocket::bind("0.0.0.0:0").await?;
            socket.connect(address).await?;
            socket.send(b"?").await?;
            let mut buffer = [0; ANSWER_BYTES_MAX];
            let length = timeout(UDP_TIMEOUT, socket.recv(&mut buffer)).await??;
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        }
    };
    print(answer.trim());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer is what this program is run for")]
fn print(text: &str) {
    println!("{text}");
}
