//! The sockets: datagrams and connections on the node's address on its bridge.
//!
//! What the cluster or the cache knows is answered by the task that reads; only what must be asked
//! elsewhere gets one of its own. Invariant: a client is a pod of the cluster or this node; others
//! are not answered, so that nobody outside uses the node as a resolver.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use ipnet::Ipv4Net;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    answer::{Answer, answer},
    forward::Forwarder,
    message::{self, Decoded, Request},
    zone::Zone,
};

/// Questions of datagrams under way to upstreams; more are answered that it failed.
const FORWARDS_MAX: usize = 512;
/// Open connections; more are closed at once.
const CONNECTIONS_MAX: usize = 128;
/// A connection on which nothing comes, or goes, is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// A question is a fraction of that.
const REQUEST_BYTES_MAX: usize = 4096;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;
/// After an error of a socket, so that one that stays costs little.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Both sockets, bound.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: StdUdpSocket,
    tcp: StdTcpListener,
}

impl Sockets {
    /// Binds an address that the host need not have: the bridge may go and come.
    pub(super) fn bind(listen: SocketAddrV4) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = |kind| -> io::Result<_> {
            let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
            sockopt::set_ip_freebind(&socket, true)?;
            Ok(socket)
        };
        let udp = socket(SocketType::DGRAM)?;
        rustix::net::bind(&udp, &listen)?;
        let tcp = socket(SocketType::STREAM)?;
        // Connections of the process before linger in the kernel for a minute.
        sockopt::set_socket_reuseaddr(&tcp, true)?;
        rustix::net::bind(&tcp, &listen)?;
        rustix::net::listen(&tcp, BACKLOG)?;
        Ok(Self { udp: udp.into(), tcp: tcp.into() })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// Who is answered.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) pods_cidr: Ipv4Net,
    pub(super) node_ip: IpAddr,
}

impl Clients {
    fn include(&self, ip: IpAddr) -> bool {
        let is_pod = matches!(ip, IpAddr::V4(ip) if self.pods_cidr.contains(&ip));
        is_pod || ip == self.node_ip || ip.is_loopback()
    }
}

/// What all sockets answer from.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) zone: RwLock<Zone>,
    pub(super) forwarder: Forwarder,
    pub(super) clients: Clients,
}

/// What becomes of a message.
enum Response {
    Nothing,
    Now(Vec<u8>),
    Later(Box<(Request, Answer)>),
}

impl Service {
    /// Answers what can be answered without waiting. `limit` is that of the way back.
    fn respond(&self, bytes: &[u8], limit: impl Fn(&Request) -> u16) -> Response {
        let request = match message::decode(bytes) {
            Decoded::Noise => return Response::Nothing,
            Decoded::Refused(bytes) => return Response::Now(bytes),
            Decoded::Request(request) => request,
        };
        let answer = {
            let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
            answer(&zone, &request.question, &mut rand::rng())
        };
        let limit = limit(&request);
        let Some(asked) = &answer.upstream else { return Response::Now(message::encode(&request, answer, limit)) };
        match self.forwarder.cached(asked) {
            Some(known) => {
                let answer = message::complete(answer, &known.message, known.age);
                Response::Now(message::encode(&request, answer, limit))
            }
            None => Response::Later(Box::new((request, answer))),
        }
    }

    /// Asks upstreams for what is left of an answer.
    async fn finish(&self, request: &Request, answer: Answer, limit: u16) -> Vec<u8> {
        let known = match &answer.upstream {
            Some(asked) => self.forwarder.resolve(asked).await,
            None => None,
        };
        let answer = match known {
            Some(known) => message::complete(answer, &known.message, known.age),
            None => Answer::only(ResponseCode::ServFail),
        };
        message::encode(request, answer, limit)
    }
}

/// Serves until `stop`, and returns when nothing of it runs any more. Fails where the sockets can't be
/// used.
pub(super) async fn serve(service: Arc<Service>, sockets: Sockets, stop: &CancellationToken) -> io::Result<()> {
    let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
    let tcp = TcpListener::from_std(sockets.tcp)?;
    let tasks = TaskTracker::new();
    tasks.spawn(stop.clone().run_until_cancelled_owned(datagrams(
        Arc::clone(&service),
        udp,
        tasks.clone(),
        stop.clone(),
    )));
    tasks.spawn(stop.clone().run_until_cancelled_owned(connections(service, tcp, tasks.clone(), stop.clone())));
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn datagrams(service: Arc<Service>, socket: Arc<UdpSocket>, tasks: TaskTracker, stop: CancellationToken) {
    let forwards = Arc::new(Semaphore::new(FORWARDS_MAX));
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a DNS datagram can't be received");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        if !service.clients.include(from.ip()) {
            continue;
        }
        let (request, answer) = match service.respond(&buffer[..len], Request::datagram_limit) {
            Response::Nothing => continue,
            Response::Now(bytes) => {
                send(&socket, &bytes, from);
                continue;
            }
            Response::Later(pending) => *pending,
        };
        let limit = request.datagram_limit();
        let Ok(permit) = Arc::clone(&forwards).try_acquire_owned() else {
            let failed = Answer::only(ResponseCode::ServFail);
            send(&socket, &message::encode(&request, failed, limit), from);
            continue;
        };
        let (service, socket) = (Arc::clone(&service), Arc::clone(&socket));
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let bytes = service.finish(&request, answer, limit).await;
            send(&socket, &bytes, from);
            drop(permit);
        }));
    }
}

/// A datagram for which there is no room is lost, as others are on their way: the client asks again.
fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(bytes, to) {
        tracing::debug!(%to, %error, "a DNS answer is lost");
    }
}

async fn connections(service: Arc<Service>, listener: TcpListener, tasks: TaskTracker, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a DNS connection can't be accepted");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned();
        let (true, Ok(place)) = (service.clients.include(from.ip()), place) else { continue };
        let service = Arc::clone(&service);
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            if let Err(error) = converse(&service, stream).await {
                tracing::debug!(%from, %error, "a DNS connection ends");
            }
            drop(place);
        }));
    }
}

/// Answers the questions of a connection, one after the other, until it is closed or idle.
async fn converse(service: &Service, mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let read = async {
            let len = usize::from(stream.read_u16().await?);
            let request = buffer.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
            stream.read_exact(request).await
        };
        let len = tokio::time::timeout(IDLE_LIMIT, read).await??;
        let bytes = match service.respond(&buffer[..len], |_| message::STREAM_MAX) {
            Response::Nothing => return Ok(()),
            Response::Now(bytes) => bytes,
            Response::Later(pending) => {
                let (request, answer) = *pending;
                service.finish(&request, answer, message::STREAM_MAX).await
            }
        };
        let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let bytes = [&length.to_be_bytes(), bytes.as_slice()].concat();
        tokio::time::timeout(IDLE_LIMIT, stream.write_all(&bytes)).await??;
    }
}
