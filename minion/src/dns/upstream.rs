//! The host's resolvers, asked one after the other.
//!
//! Each question has a random id and, from the kernel, a random port; a reply counts only from the
//! server that was asked and with the question that it was asked. Invariant: asking takes at most
//! [`ATTEMPTS_MIN`] or as many attempts as there are servers, each of [`ATTEMPT_LIMIT`].
//!
//! The host's order holds, since its resolvers may not all know the same names. One that does not answer is asked
//! last for a while; what it says about one name, be it that it can't tell, moves nobody.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpStream, UdpSocket},
    time::Instant,
};

use super::{HostFiles, message};

/// An answer that takes longer is not waited for.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// A lost datagram is sent again, also where there is only one server.
const ATTEMPTS_MIN: usize = 2;
/// Servers asked; resolvers read no more than these either.
const SERVERS_MAX: usize = 3;
/// How old the knowledge of the host's resolvers may be.
const REREAD: Duration = Duration::from_secs(5);
/// How long a server that did not answer is asked after the others.
const REST: Duration = Duration::from_secs(30);
const PORT: u16 = 53;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("no answer within {} s", ATTEMPT_LIMIT.as_secs())]
    Timeout,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it answered {0}")]
    Refused(ResponseCode),
    #[error("the question can't be asked")]
    Unspeakable,
}

/// An answer: as it came, and read.
pub(super) type Reply = (Bytes, Message);

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Upstreams {
    source: Source,
    /// Servers that did not answer, and until when they are asked last.
    resting: Mutex<HashMap<SocketAddr, Instant>>,
}

#[derive(Debug)]
enum Source {
    /// As the host's files say, but for one address: our own.
    Host { files: HostFiles, own: IpAddr, read: Mutex<Option<(Instant, Arc<[SocketAddr]>)>> },
    #[cfg(test)]
    Fixed(Arc<[SocketAddr]>),
}

impl Upstreams {
    /// Those of the host, without `own`.
    pub(super) fn of_host(files: HostFiles, own: IpAddr) -> Self {
        Self { source: Source::Host { files, own, read: Mutex::default() }, resting: Mutex::default() }
    }

    #[cfg(test)]
    pub(super) fn fixed(servers: &[SocketAddr]) -> Self {
        Self { source: Source::Fixed(servers.into()), resting: Mutex::default() }
    }

    async fn servers(&self) -> Arc<[SocketAddr]> {
        match &self.source {
            Source::Host { files, own, read } => {
                let lock = || read.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((at, servers)) = &*lock()
                    && at.elapsed() < REREAD
                {
                    return Arc::clone(servers);
                }
                let files = files.clone();
                let conf = tokio::task::spawn_blocking(move || files.read()).await.unwrap_or_default();
                let others = conf.nameservers.into_iter().filter(|ip| ip != own);
                let servers: Arc<[SocketAddr]> = others.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, PORT)).collect();
                *lock() = Some((Instant::now(), Arc::clone(&servers)));
                servers
            }
            #[cfg(test)]
            Source::Fixed(servers) => Arc::clone(servers),
        }
    }

    /// Asks until a server answers; `None` when none does, or there is none.
    pub(super) async fn ask(&self, question: &Query) -> Option<Reply> {
        let servers = self.in_order(&self.servers().await);
        let attempts = if servers.is_empty() { 0 } else { servers.len().max(ATTEMPTS_MIN) };
        for server in servers.iter().cycle().take(attempts) {
            let error = match within(ask_server(*server, question)).await {
                Ok(reply) => {
                    self.resting().remove(server);
                    return Some(reply);
                }
                Err(error) => error,
            };
            tracing::debug!(%server, name = %question.name(), %error, "a resolver of the host fails");
            if matches!(error, AttemptError::Timeout | AttemptError::Io(_)) {
                self.resting().insert(*server, Instant::now() + REST);
            }
        }
        None
    }

    /// These, as the host has them, but for those that rest.
    fn in_order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let (mut resting, now) = (self.resting(), Instant::now());
        resting.retain(|server, until| *until > now && servers.contains(server));
        let (last, mut order): (Vec<_>, Vec<_>) = servers.iter().partition(|server| resting.contains_key(server));
        order.extend(last);
        order
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask_server(server: SocketAddr, question: &Query) -> Result<Reply, AttemptError> {
    let mut edns = true;
    loop {
        let reply = over_udp(server, question, edns).await?;
        let reply = if reply.1.metadata.truncation { over_tcp(server, question).await? } else { reply };
        match reply.1.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => return Ok(reply),
            // Servers of before EDNS know no other way to say so.
            ResponseCode::FormErr | ResponseCode::NotImp if edns => edns = false,
            code => return Err(AttemptError::Refused(code)),
        }
    }
}

async fn within<T>(attempt: impl Future<Output = Result<T, AttemptError>>) -> Result<T, AttemptError> {
    tokio::time::timeout(ATTEMPT_LIMIT, attempt).await.unwrap_or(Err(AttemptError::Timeout))
}

async fn over_udp(server: SocketAddr, question: &Query, edns: bool) -> Result<Reply, AttemptError> {
    let id = rand::random();
    let bytes = message::ask(id, question, edns).ok_or(AttemptError::Unspeakable)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From here on only the server is heard, and that it refuses.
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(message::DATAGRAM_MAX)];
    // Ended by the caller's limit.
    loop {
        // Cancel-safe: both only wait, and take a datagram or an error as a whole.
        let len = tokio::select! {
            received = socket.recv(&mut buffer) => received?,
            // Receiving alone does not wake for it.
            refused = socket.async_io(Interest::ERROR, || refusal(&socket)) => refused?,
        };
        if let Some(reply) = message::reply_to(id, question, &buffer[..len]) {
            buffer.truncate(len);
            return Ok((buffer.into(), reply));
        }
    }
}

fn refusal(socket: &UdpSocket) -> io::Result<usize> {
    Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
}

async fn over_tcp(server: SocketAddr, question: &Query) -> Result<Reply, AttemptError> {
    let id = rand::random();
    let bytes = message::ask(id, question, false).ok_or(AttemptError::Unspeakable)?;
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| AttemptError::Unspeakable)?;
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it answered another question");
    let reply = message::reply_to(id, question, &buffer).ok_or_else(wrong)?;
    Ok((buffer.into(), reply))
}

#[cfg(test)]
mod tests;
