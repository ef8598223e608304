//! Bare hyper with static bytes: what no server on hyper can be faster than, on this machine, with
//! this client.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::subject::Process;

/// The largest body it makes.
const BYTES_MAX: usize = 1 << 30;

/// The bodies made so far, by size.
type Bodies = Arc<Mutex<HashMap<usize, Bytes>>>;

/// Serves `GET` and `POST /N` with N bytes until standard input ends, that is until whoever started
/// it is gone.
pub(super) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            result = accept(listener) => result,
            _ = ended => Ok(()),
        }
    })
}

async fn accept(listener: TcpListener) -> Result<()> {
    let bodies = Bodies::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bodies = bodies.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &bodies));
            // A client that goes away in the middle is no news.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(request: Request<Incoming>, bodies: &Bodies) -> Result<Response<Full<Bytes>>, Infallible> {
    let size = request.uri().path().trim_start_matches('/').parse().unwrap_or(0).min(BYTES_MAX);
    let created = request.method() == Method::POST;
    // What a broken request said is of no interest.
    drop(request.into_body().collect().await);
    let body = {
        let mut bodies = bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.entry(size).or_insert_with(|| vec![b'x'; size].into()).clone()
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = if created { hyper::StatusCode::CREATED } else { hyper::StatusCode::OK };
    Ok(response)
}

/// A raw server in a process of its own.
#[derive(Debug)]
pub(super) struct RawServer {
    /// Where it answers.
    pub(super) address: SocketAddr,
    child: Child,
    /// Closing it ends the server.
    _alive: ChildStdin,
}

impl RawServer {
    /// Starts it.
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["api", "raw-server"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the raw server")?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).context("pipes were asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().context("the raw server tells no address")?;
        Ok(Self { address, child, _alive: stdin })
    }

    /// The process.
    pub(super) fn process(&self) -> Process {
        Process { name: "raw".into(), pid: self.child.id() }
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
