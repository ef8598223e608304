//! UDP portals: a flow for each client, with a socket of its own to one backend.
//!
//! Invariant: no more flows than the table holds; the one that was silent longest makes room. A flow
//! that is taken out of the table ends at once.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_relay::Budget;
use nix::{
    cmsg_space, libc,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg},
};
use rustix::net::{RecvFlags, SendFlags, recv, send, sendto};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::{Notify, OwnedSemaphorePermit},
    task::AbortHandle,
};

use super::{portal::Service, sockets::random, worker::Context};
use crate::proxy::table::{Frontend, Portal};

/// Silence after which a flow ends, as long as the kernel tracks one that was answered.
const IDLE: Duration = Duration::from_secs(120);
/// Between looks for silent flows.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);
/// Backends that may refuse a datagram before it is given up.
const REFUSALS_MAX: usize = 10;
/// Datagrams kept for a second backend: those of a usual link.
const KEPT_BYTES: usize = 1500;
const DATAGRAM_MAX: usize = 65_535;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; DATAGRAM_MAX].into());
}

/// A portal's socket.
#[derive(Debug)]
struct PortalSocket {
    socket: UdpSocket,
    service: Arc<Service>,
}

/// Who talks to whom: the portal, its address at a node port, and the client.
type Key = (Portal, Ipv4Addr, SocketAddrV4);

/// A client's way to a backend.
#[derive(Debug)]
struct Flow {
    shared: Rc<Shared>,
    /// Reads the answers.
    task: AbortHandle,
    /// Tells it from those of the same client before and after.
    number: u64,
    _files: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Shared {
    socket: UdpSocket,
    backend: Cell<SocketAddrV4>,
    used: Cell<Instant>,
    /// Refusals since the client's last datagram.
    refusals: Cell<usize>,
    /// The last datagram, until an answer comes.
    unanswered: RefCell<Vec<u8>>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The flows of one thread.
#[derive(Debug)]
pub(super) struct Flows {
    budget: Budget,
    max: usize,
    table: RefCell<HashMap<Key, Flow>>,
    /// Each flow with when it was used, as far as this knows: not later than it was. The first ones
    /// are brought up to date when it matters.
    order: RefCell<BinaryHeap<Reverse<(Instant, u64, Key)>>>,
    next_number: Cell<u64>,
    filled: Notify,
}

impl Flows {
    pub(super) fn new(budget: Budget, max: usize) -> Self {
        let (table, order, filled) = (RefCell::default(), RefCell::default(), Notify::new());
        Self { budget, max: max.max(1), table, order, next_number: Cell::default(), filled }
    }

    /// Ends flows of portals to backends.
    pub(super) fn cut(&self, gone: &[(Portal, SocketAddrV4)]) {
        let gone: HashSet<_> = gone.iter().copied().collect();
        self.table.borrow_mut().retain(|(portal, ..), flow| !gone.contains(&(*portal, flow.shared.backend.get())));
    }

    /// Ends flows that were silent too long, for ever.
    pub(super) async fn tidy(&self) {
        loop {
            if self.order.borrow().is_empty() {
                self.filled.notified().await;
            }
            tokio::time::sleep(TIDY_INTERVAL).await;
            self.expire(Instant::now());
        }
    }

    fn expire(&self, now: Instant) {
        let silent = |at: Instant| now.saturating_duration_since(at) >= IDLE;
        while self.order.borrow().peek().is_some_and(|Reverse((at, ..))| silent(*at)) {
            self.advance();
        }
    }

    /// Ends the first flow of the order, unless it was used meanwhile: then it takes its place.
    fn advance(&self) {
        let Some(Reverse((noted, number, key))) = self.order.borrow_mut().pop() else { return };
        let mut table = self.table.borrow_mut();
        let Some(flow) = table.get(&key).filter(|flow| flow.number == number) else { return };
        let used = flow.shared.used.get();
        if used > noted {
            self.order.borrow_mut().push(Reverse((used, number, key)));
        } else {
            table.remove(&key);
        }
    }

    /// Makes room for one more flow.
    fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        while self.table.borrow().len() >= self.max {
            self.advance();
        }
        self.budget.try_take(1).or_else(|| {
            // Others took all there is: one of ours for this one.
            let had = self.table.borrow().len();
            while had > 0 && self.table.borrow().len() == had {
                self.advance();
            }
            self.budget.try_take(1)
        })
    }

    fn insert(&self, key: Key, shared: &Rc<Shared>, task: AbortHandle, files: OwnedSemaphorePermit) {
        let number = self.next_number.get();
        self.next_number.set(number.wrapping_add(1));
        self.order.borrow_mut().push(Reverse((shared.used.get(), number, key)));
        self.table.borrow_mut().insert(key, Flow { shared: Rc::clone(shared), task, number, _files: files });
        self.filled.notify_one();
    }
}

/// Serves a portal until the task is dropped.
pub(super) async fn serve(socket: OwnedFd, service: Arc<Service>, context: Rc<Context>) -> io::Result<()> {
    let portal = Rc::new(PortalSocket { socket: UdpSocket::from_std(socket.into())?, service });
    let result = receive(&portal, &context.flows).await;
    drop(portal);
    result
}

async fn receive(portal: &Rc<PortalSocket>, flows: &Flows) -> io::Result<()> {
    // However this ends, the portal's flows end with it.
    let _ending = Ending { portal: portal.service.portal(), flows };
    loop {
        portal.socket.readable().await?;
        BUFFER.with_borrow_mut(|buffer| {
            match portal.receive(buffer) {
                Ok((length, client, local)) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    forward(portal, flows, (portal.service.portal(), local, client), datagram);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Of an earlier answer to a client that is gone.
                Err(error) => tracing::trace!(%error, "receiving a datagram"),
            }
        });
    }
}

/// Takes a portal's flows along.
struct Ending<'a> {
    portal: Portal,
    flows: &'a Flows,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.flows.table.borrow_mut().retain(|(portal, ..), _| *portal != self.portal);
    }
}

/// Sends a client's datagram to its backend. Datagrams may be lost; nothing here waits.
fn forward(portal: &Rc<PortalSocket>, flows: &Flows, key: Key, datagram: &[u8]) {
    let now = Instant::now();
    let known = flows.table.borrow().get(&key).map(|flow| Rc::clone(&flow.shared));
    let shared = match known {
        Some(shared) => shared,
        None => match open(portal, flows, key, now) {
            Ok(shared) => shared,
            Err(error) => return tracing::debug!(portal = %key.0, client = %key.2, %error, "a client's flow"),
        },
    };
    shared.used.set(now);
    let mut unanswered = shared.unanswered.borrow_mut();
    unanswered.clear();
    if datagram.len() <= KEPT_BYTES {
        unanswered.extend_from_slice(datagram);
    }
    drop(unanswered);
    shared.refusals.set(0);
    // An earlier datagram's refusal may be told now, and this one is not sent then.
    if shared.send(datagram).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
        shared.refused(&portal.service, *key.2.ip());
    }
}

fn open(portal: &Rc<PortalSocket>, flows: &Flows, key: Key, now: Instant) -> io::Result<Rc<Shared>> {
    let client = *key.2.ip();
    let choice = portal.service.choose(client, now, random());
    let backend = choice.in_order().next().ok_or(ErrorKind::ConnectionRefused)?;
    let files = flows.make_room().ok_or_else(|| io::Error::other("too many files are open"))?;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(backend)?;
    socket.set_nonblocking(true)?;
    let shared = Rc::new(Shared {
        socket: UdpSocket::from_std(socket)?,
        backend: Cell::new(backend),
        used: Cell::new(now),
        refusals: Cell::new(0),
        unanswered: RefCell::default(),
    });
    portal.service.met(client, backend, now);
    let answering = answer(Rc::downgrade(portal), Rc::clone(&shared), key);
    let task = tokio::task::spawn_local(answering).abort_handle();
    flows.insert(key, &shared, task, files);
    Ok(shared)
}

/// Carries answers back, and moves on when the backend refuses. Ends when the flow is dropped; it
/// does not keep the portal's socket, which must be closed when the portal says so.
async fn answer(portal: Weak<PortalSocket>, flow: Rc<Shared>, (_, local, client): Key) {
    // A refusal makes a socket erroneous without making it readable.
    while let Ok(ready) = flow.socket.ready(Interest::READABLE | Interest::ERROR).await {
        // One of them: for both at once the runtime would take the socket for neither.
        let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        let Some(portal) = portal.upgrade() else { return };
        let refused = BUFFER.with_borrow_mut(|buffer| {
            let receive = || Ok(recv(&flow.socket, &mut **buffer, RecvFlags::empty())?);
            let length = match flow.socket.try_io(interest, receive) {
                Ok((length, _)) => length,
                Err(e) => return e.kind() == ErrorKind::ConnectionRefused,
            };
            flow.used.set(Instant::now());
            flow.unanswered.borrow_mut().clear();
            // A client that is gone, or a full queue: datagrams may be lost.
            let _ = portal.send(buffer.get(..length).unwrap_or_default(), client, local);
            false
        });
        if refused {
            flow.refused(&portal.service, *client.ip());
        }
    }
}

impl Shared {
    /// Not through the runtime, which takes a new socket for one that can't be written to yet.
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        Ok(send(&self.socket, datagram, SendFlags::empty())?)
    }

    /// The next backend gets the datagram that was refused.
    fn refused(&self, service: &Service, client: Ipv4Addr) {
        self.refusals.set(self.refusals.get() + 1);
        let now = Instant::now();
        let backends: Vec<_> = service.choose(client, now, 0).in_order().collect();
        let at = backends.iter().position(|b| *b == self.backend.get()).map_or(0, |at| at + 1);
        let Some(next) = backends.get(at % backends.len().max(1)) else { return };
        let again = rustix::net::connect(&self.socket, next).is_ok();
        self.backend.set(*next);
        service.met(client, *next, now);
        tracing::debug!(portal = %service.portal(), backend = %next, "a flow moves to another backend");
        let unanswered = self.unanswered.borrow();
        let tries = backends.len().min(REFUSALS_MAX);
        if again && !unanswered.is_empty() && self.refusals.get() < tries {
            let _ = self.send(&unanswered);
        }
    }
}

impl PortalSocket {
    /// A datagram: its length, who sent it, and to which address, where there are several.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddrV4, Ipv4Addr)> {
        if self.service.portal().at != Frontend::Node {
            return match self.socket.try_recv_from(buffer)? {
                (length, std::net::SocketAddr::V4(client)) => Ok((length, client, Ipv4Addr::UNSPECIFIED)),
                _ => Err(ErrorKind::Unsupported.into()),
            };
        }
        self.socket.try_io(Interest::READABLE, || {
            let mut control = cmsg_space!(libc::in_pktinfo);
            let mut parts = [IoSliceMut::new(buffer)];
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
            let client = message.address.ok_or(ErrorKind::Unsupported)?;
            let local = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)))
                }
                _ => None,
            });
            let client = SocketAddrV4::new(client.ip(), client.port());
            Ok((message.bytes, client, local.unwrap_or(Ipv4Addr::UNSPECIFIED)))
        })
    }

    /// Answers a client from the address that it knows.
    fn send(&self, datagram: &[u8], client: SocketAddrV4, local: Ipv4Addr) -> io::Result<usize> {
        if local.is_unspecified() {
            return Ok(sendto(&self.socket, datagram, SendFlags::empty(), &client)?);
        }
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(local).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let fd = self.socket.as_raw_fd();
        Ok(sendmsg(fd, &[IoSlice::new(datagram)], &control, MsgFlags::empty(), Some(&SockaddrIn::from(client)))?)
    }
}

#[cfg(test)]
mod tests;
