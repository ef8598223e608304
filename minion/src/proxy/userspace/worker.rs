//! The threads that move the bytes: one for each core, each with a runtime of its own, so that both
//! sockets of a connection are on one thread and no lock or wake-up goes between cores.
//!
//! A portal is accepted on one thread, which hands each client to the thread that has the fewest.
//!
//! Invariant: the threads stay in the host's network namespace; sockets belong to the one that they
//! were opened in. They end, with all they serve, when [`Workers`] is dropped.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use coracle_relay::{Budget, Pipes};
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use super::{
    portal::Service,
    tcp::{self, Incoming},
    udp::{self, Flows},
};
use crate::proxy::table::{Portal, Protocol};

/// Work that waits for a thread; beyond that, it is done where it comes up.
const QUEUE: usize = 4096;

/// Something for a thread to do.
pub(super) enum Task {
    /// Serve a portal on its socket until the other end of `stop` is dropped.
    Listen { socket: OwnedFd, service: Arc<Service>, stop: oneshot::Receiver<()>, ended: oneshot::Sender<()> },
    /// Serve a client.
    Serve(Incoming),
    /// End flows to backends that are gone.
    Cut(Arc<[(Portal, SocketAddrV4)]>),
}

/// What the tasks of one thread share.
pub(super) struct Context {
    pub(super) budget: Budget,
    pub(super) pipes: Pipes,
    pub(super) flows: Flows,
    own: usize,
    peers: Arc<OnceLock<Vec<Peer>>>,
}

#[derive(Debug)]
struct Peer {
    queue: mpsc::Sender<Task>,
    clients: Arc<AtomicUsize>,
}

impl Context {
    /// Gives a client to the thread with the fewest.
    pub(super) fn hand_over(self: &Rc<Self>, task: Task) {
        let peers = self.peers.get().map(Vec::as_slice).unwrap_or_default();
        // The own thread first: it wins where several have the same.
        let order = (self.own..peers.len()).chain(0..self.own);
        let least = order.min_by_key(|i| peers.get(*i).map_or(usize::MAX, |p| p.clients.load(Ordering::Relaxed)));
        let task = match least.filter(|i| *i != self.own).and_then(|i| peers.get(i)) {
            Some(peer) => match peer.queue.try_send(task) {
                Ok(()) => {
                    peer.clients.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(mpsc::error::TrySendError::Full(task) | mpsc::error::TrySendError::Closed(task)) => task,
            },
            None => task,
        };
        if let Some(own) = peers.get(self.own) {
            own.clients.fetch_add(1, Ordering::Relaxed);
        }
        self.start(task);
    }

    fn start(self: &Rc<Self>, task: Task) {
        let context = Rc::clone(self);
        match task {
            Task::Serve(incoming) => {
                tokio::task::spawn_local(async move {
                    tcp::serve(incoming, Rc::clone(&context)).await;
                    if let Some(own) = context.peers.get().and_then(|peers| peers.get(context.own)) {
                        own.clients.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
            Task::Listen { socket, service, stop, ended } => {
                tokio::task::spawn_local(async move {
                    let portal = service.portal();
                    let serving = async {
                        match portal.protocol {
                            Protocol::Udp => udp::serve(socket, service, context).await,
                            _ => tcp::listen(socket, service, context).await,
                        }
                    };
                    // Both may be dropped anywhere: a client between two steps is reset.
                    tokio::select! {
                        _ = stop => {}
                        result = serving => tracing::warn!(%portal, ?result, "a portal's socket failed"),
                    }
                    // The socket is closed by now.
                    drop(ended);
                });
            }
            Task::Cut(gone) => context.flows.cut(&gone),
        }
    }
}

/// All threads.
#[derive(Debug)]
pub(super) struct Workers {
    peers: Arc<OnceLock<Vec<Peer>>>,
    stops: Vec<mpsc::Sender<()>>,
    next: usize,
}

impl Workers {
    /// Starts one for each core.
    pub(super) fn start(budget: &Budget) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(OnceLock::new());
        let (mut peers, mut stops) = (Vec::new(), Vec::new());
        for own in 0..count {
            let (queue, tasks) = mpsc::channel(QUEUE);
            let (stop, stopped) = mpsc::channel(1);
            let (budget, peers_of) = (budget.clone(), Arc::clone(&shared));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("portals-{own}")).spawn(move || {
                let flows = Flows::new(budget.clone(), budget.flows_max() / count);
                let context =
                    Rc::new(Context { pipes: Pipes::new(budget.clone()), budget, flows, own, peers: peers_of });
                LocalSet::new().block_on(&runtime, work(context, tasks, stopped));
            })?;
            peers.push(Peer { queue, clients: Arc::default() });
            stops.push(stop);
        }
        // Nobody else sets it.
        let _ = shared.set(peers);
        Ok(Self { peers: shared, stops, next: 0 })
    }

    /// Has some thread serve a portal.
    pub(super) async fn listen(&mut self, socket: OwnedFd, service: Arc<Service>) -> io::Result<Listening> {
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let peers = self.peers.get().map(Vec::as_slice).unwrap_or_default();
        let peer = peers.get(self.next % peers.len().max(1)).ok_or_else(gone)?;
        self.next = self.next.wrapping_add(1);
        peer.queue.send(Task::Listen { socket, service, stop: stopped, ended: ending }).await.map_err(|_| gone())?;
        Ok(Listening { stop, ended })
    }

    /// Ends flows to backends that are gone.
    pub(super) fn cut(&self, flows: Vec<(Portal, SocketAddrV4)>) -> impl Future<Output = ()> + Send + 'static {
        let (flows, peers): (Arc<[_]>, _) = (flows.into(), Arc::clone(&self.peers));
        async move {
            for peer in peers.get().into_iter().flatten() {
                // A thread that has ended has no flows.
                let _ = peer.queue.send(Task::Cut(Arc::clone(&flows))).await;
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stops.clear();
    }
}

/// A portal that is being served. Dropped, it ends soon.
#[derive(Debug)]
pub(super) struct Listening {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Listening {
    /// Closes the socket.
    pub(super) async fn end(self) {
        drop(self.stop);
        // An error is what tells it.
        let _ = self.ended.await;
    }
}

async fn work(context: Rc<Context>, mut tasks: mpsc::Receiver<Task>, mut stopped: mpsc::Receiver<()>) {
    let of_flows = Rc::clone(&context);
    tokio::task::spawn_local(async move { of_flows.flows.tidy().await });
    loop {
        // Cancel-safe: receiving takes a task or nothing.
        tokio::select! {
            biased;
            _ = stopped.recv() => return,
            task = tasks.recv() => match task {
                Some(task) => context.start(task),
                None => return,
            },
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the proxy's threads have ended")
}
