//! TCP portals: accepts clients and finds each a backend that answers.
//!
//! Invariant: a client is refused (reset) only if no backend that there is answers. An error on
//! either side reaches the other as a reset, an end as an end.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_relay::relay;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};

use super::{
    portal::Service,
    sockets::{connection_options, random},
    worker::{Context, Task},
};

/// For one backend: a lost packet is sent again after 1 s.
const CONNECT_LIMIT: Duration = Duration::from_millis(2500);
/// For all of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// Backends tried for one client.
const TRIES_MAX: usize = 10;
/// Until the next try to accept when the host has no room for a connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Sockets of a connection.
const FILES: u32 = 2;

/// A client that nobody answers yet.
pub(super) struct Incoming {
    socket: OwnedFd,
    client: SocketAddrV4,
    service: Arc<Service>,
    files: OwnedSemaphorePermit,
}

/// Accepts until the task is dropped.
pub(super) async fn listen(socket: OwnedFd, service: Arc<Service>, context: Rc<Context>) -> io::Result<()> {
    // What replaces it is unsafe, for owners that may change their descriptor; this one does not.
    #[allow(deprecated)]
    let listener = AsyncFd::with_interest(socket, Interest::READABLE)?;
    loop {
        let mut ready = listener.readable().await?;
        // Only for a client that is there: an idle portal takes none.
        let Some(files) = context.budget.take(FILES).await else { return Ok(()) };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = ready.try_io(|listener| Ok(acceptfrom_with(listener, flags)?));
        let (socket, from) = match accepted {
            Ok(Ok(accepted)) => accepted,
            // Somebody else's, or gone again.
            Err(_) => continue,
            Ok(Err(e)) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => continue,
            Ok(Err(error)) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Some(Ok(client)) = from.map(SocketAddrV4::try_from) {
            let incoming = Incoming { socket, client, service: Arc::clone(&service), files };
            context.hand_over(Task::Serve(incoming));
        }
    }
}

/// Serves one client to its end.
pub(super) async fn serve(incoming: Incoming, context: Rc<Context>) {
    let Incoming { socket, client: address, service, files: _files } = incoming;
    let Ok(mut client) = TcpStream::from_std(socket.into()) else { return };
    let Some(mut backend) = connect(address, &service).await else {
        return reset(&client);
    };
    if let Err(error) = relay(&mut client, &mut backend, &context.pipes).await {
        tracing::trace!(%error, client = %address, "a connection failed");
        reset(&client);
        reset(&backend);
    }
}

/// Connects to a backend: the client's own, or any, then the others.
async fn connect(client: SocketAddrV4, service: &Service) -> Option<TcpStream> {
    let begun = Instant::now();
    let choice = service.choose(*client.ip(), begun, random());
    for backend in choice.in_order().take(TRIES_MAX) {
        let left = PATIENCE.saturating_sub(begun.elapsed()).min(CONNECT_LIMIT);
        let failure = match tokio::time::timeout(left, TcpStream::connect(SocketAddr::V4(backend))).await {
            Ok(Ok(stream)) => {
                // A socket without its options serves as well.
                let _ = connection_options(&stream);
                service.met(*client.ip(), backend, Instant::now());
                return Some(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => ErrorKind::TimedOut.into(),
        };
        tracing::debug!(portal = %service.portal(), %backend, error = %failure, "a backend does not answer");
    }
    None
}

/// Makes the end of the socket an error for the other side.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
