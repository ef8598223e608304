//! A small TCP relay that can stall what passes, or cut it.
//!
//! Stalled bytes are held, not lost, and new connections are accepted and stay silent: to both
//! ends it looks like a network that drops packets. It runs on plain threads, so it works beside
//! any runtime, paused or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Result;

/// Which members are cut off from the others.
#[derive(Debug, Default)]
pub struct Isolation {
    state: Mutex<Isolated>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Isolated {
    members: BTreeSet<usize>,
    processes: BTreeMap<usize, u32>,
    /// The relays are going: nothing is held any more.
    over: bool,
}

impl Isolation {
    pub(crate) fn set_process(&self, member: usize, process: u32) {
        lock(&self.state).processes.insert(member, process);
    }

    pub(crate) fn isolate(&self, member: usize) {
        lock(&self.state).members.insert(member);
    }

    pub(crate) fn heal(&self) {
        lock(&self.state).members.clear();
        self.changed.notify_all();
    }

    /// Waits until neither of both is cut off.
    fn pass(&self, between: [Option<usize>; 2]) {
        let held = |state: &mut Isolated| {
            !state.over && between.into_iter().flatten().any(|member| state.members.contains(&member))
        };
        drop(self.changed.wait_while(lock(&self.state), held).unwrap_or_else(PoisonError::into_inner));
    }

    fn end(&self) {
        lock(&self.state).over = true;
        self.changed.notify_all();
    }

    /// The member whose process holds the socket that was connected from this port.
    fn owner(&self, port: u16) -> Option<usize> {
        let processes = lock(&self.state).processes.clone();
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        // Each line: number, local address, remote address, ..., the tenth field is the inode.
        let local = format!(":{port:04X}");
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|fields| fields.get(1).is_some_and(|address| address.ends_with(&local)))?;
        let socket = format!("socket:[{}]", line.get(9)?);
        processes.into_iter().find(|(_, process)| holds(*process, &socket)).map(|(member, _)| member)
    }
}

fn holds(process: u32, socket: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == socket)
}

/// Takes connections and passes them on.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    /// For a relay before a member's port for other members: which member, and who is cut off.
    peers: Option<(usize, Arc<Isolation>)>,
}

#[derive(Debug, Default)]
struct State {
    stalled: bool,
    over: bool,
    connections: Vec<TcpStream>,
}

impl Relay {
    /// A relay to an address.
    pub fn to(target: SocketAddr) -> Result<Self> {
        Self::start(target, None)
    }

    pub(crate) fn between_members(target: SocketAddr, member: usize, isolation: Arc<Isolation>) -> Result<Self> {
        Self::start(target, Some((member, isolation)))
    }

    fn start(target: SocketAddr, peers: Option<(usize, Arc<Isolation>)>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new(), peers });
        let accept = shared.clone();
        thread::Builder::new().name("relay".to_owned()).spawn(move || accept.accept(&listener))?;
        Ok(Self { address, shared })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds all that passes, or lets it go on.
    pub fn stall(&self, stalled: bool) {
        lock(&self.shared.state).stalled = stalled;
        self.shared.changed.notify_all();
    }

    /// Closes all connections.
    pub fn cut(&self) {
        for connection in lock(&self.shared.state).connections.drain(..) {
            // It may be closed already.
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        lock(&self.shared.state).over = true;
        self.shared.changed.notify_all();
        if let Some((_, isolation)) = &self.shared.peers {
            isolation.end();
        }
        self.cut();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for from in listener.incoming() {
            if lock(&self.state).over {
                return;
            }
            let Ok(from) = from else { continue };
            let shared = self.clone();
            // Without a thread the connection is dropped, as by a machine that is out of memory.
            drop(thread::Builder::new().spawn(move || shared.relay(&from)));
        }
    }

    /// Passes on what comes over one connection. A broken connection ends both directions.
    fn relay(&self, from: &TcpStream) -> Option<()> {
        let dialer = match &self.peers {
            Some((_, isolation)) => isolation.owner(from.peer_addr().ok()?.port()),
            None => None,
        };
        self.pass(dialer);
        let to = TcpStream::connect(self.target).ok()?;
        for end in [from, &to] {
            end.set_nodelay(true).ok()?;
        }
        {
            let mut state = lock(&self.state);
            state.connections.retain(|connection| connection.peer_addr().is_ok());
            state.connections.extend([from.try_clone().ok()?, to.try_clone().ok()?]);
        }
        thread::scope(|scope| {
            scope.spawn(|| self.pump(from, &to, dialer));
            self.pump(&to, from, dialer);
        });
        Some(())
    }

    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, dialer: Option<usize>) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.pass(dialer);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        for end in [from, to] {
            drop(end.shutdown(Shutdown::Both));
        }
    }

    /// Waits until bytes may pass.
    fn pass(&self, dialer: Option<usize>) {
        let held = |state: &mut State| state.stalled && !state.over;
        drop(self.changed.wait_while(lock(&self.state), held).unwrap_or_else(PoisonError::into_inner));
        if let Some((member, isolation)) = &self.peers {
            isolation.pass([dialer, Some(*member)]);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
