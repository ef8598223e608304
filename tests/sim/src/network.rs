//! A network in memory: connections between hosts and the master that take time, stand still while a host is
//! cut off, and break. Bytes arrive in order or not at all, as with TCP; what is lost is an answer, a
//! request, or a watch in the middle of a line.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use coracle_api::client::{Dial, Duplex};
use coracle_master::server::{Ends, Listen};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, mpsc},
    time::{Instant, Sleep},
};

use crate::random::Random;

/// Where the master is.
pub const MASTER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 8080);
/// Bytes on the way in one direction; a writer waits for more room.
const WINDOW: usize = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 256;

/// How a network treats its users.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// One piece in so many breaks its connection; 0 for none.
    pub break_one_in: usize,
}

/// The network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    weather: Weather,
    hosts: BTreeMap<usize, Link>,
    listener: Option<mpsc::Sender<(Connection, Ends)>>,
    pipes: Vec<(usize, Arc<Mutex<Pipe>>)>,
}

/// A host's way to the network.
#[derive(Debug)]
struct Link {
    cut: bool,
    /// More time for each piece, at most.
    slowness: Duration,
    /// Rung when the link is whole again.
    mended: Arc<Notify>,
    /// Readers that wait for that.
    waiting: Vec<Waker>,
}

impl Default for Link {
    fn default() -> Self {
        Self { cut: false, slowness: Duration::ZERO, mended: Arc::default(), waiting: Vec::new() }
    }
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Pipe {
    broken: bool,
    directions: [Direction; 2],
}

#[derive(Debug, Default)]
struct Direction {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    /// Of the first piece, already read.
    read: usize,
    bytes: usize,
    closed: bool,
    /// Nobody will read it.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn shatter(&mut self) {
        self.broken = true;
        for direction in &mut self.directions {
            direction.pieces.clear();
            direction.reader.take().into_iter().chain(direction.writer.take()).for_each(Waker::wake);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// A network without hosts.
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed, "network");
        let (hosts, pipes) = (BTreeMap::new(), Vec::new());
        Self(Arc::new(Mutex::new(State { random, weather: Weather::default(), hosts, listener: None, pipes })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Sets how pieces fare from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// The master's ear. The one before hears nothing more.
    pub fn listen(&self) -> Ear {
        let (sender, connections) = mpsc::channel(BACKLOG);
        self.state().listener = Some(sender);
        Ear(connections)
    }

    /// The master is gone: all connections break, and none comes about.
    pub fn lose_master(&self) {
        let pipes = {
            let mut state = self.state();
            state.listener = None;
            std::mem::take(&mut state.pipes)
        };
        pipes.iter().for_each(|(_, pipe)| lock(pipe).shatter());
    }

    /// The connections of a host break.
    pub fn shatter(&self, host: usize) {
        let (gone, kept) = std::mem::take(&mut self.state().pipes).into_iter().partition(|(of, _)| *of == host);
        self.state().pipes = kept;
        let gone: Vec<(usize, Arc<Mutex<Pipe>>)> = gone;
        gone.iter().for_each(|(_, pipe)| lock(pipe).shatter());
    }

    /// Nothing passes between the host and the master, until mended.
    pub fn cut(&self, host: usize, cut: bool) {
        let mut state = self.state();
        let link = state.hosts.entry(host).or_default();
        link.cut = cut;
        if !cut {
            link.mended.notify_waiters();
            std::mem::take(&mut link.waiting).into_iter().for_each(Waker::wake);
        }
    }

    /// Whether a host is cut off.
    pub fn is_cut(&self, host: usize) -> bool {
        self.state().hosts.get(&host).is_some_and(|link| link.cut)
    }

    /// Makes each piece of a host take up to so much longer.
    pub fn slow(&self, host: usize, slowness: Duration) {
        self.state().hosts.entry(host).or_default().slowness = slowness;
    }

    /// What a process on a host connects with, as long as `alive`.
    pub fn dialer(&self, host: usize, alive: crate::gate::Gate) -> Arc<dyn Dial> {
        Arc::new(Line { network: self.clone(), host, alive })
    }

    async fn connect(self, host: usize) -> io::Result<Box<dyn Duplex>> {
        let wait = {
            let mut state = self.state();
            let slowness = state.hosts.entry(host).or_default().slowness;
            state.delay(slowness)
        };
        tokio::time::sleep(wait).await;
        loop {
            let mended = self.state().hosts.entry(host).or_default().mended.clone();
            let mended = mended.notified();
            if !self.is_cut(host) {
                break;
            }
            mended.await;
        }
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let mut state = self.state();
        let listener = state.listener.clone().ok_or_else(refused)?;
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let end = |side| Connection { network: self.clone(), host, side, pipe: pipe.clone(), timer: None };
        let peer = SocketAddr::from(([192, 0, 2, u8::try_from(10 + host).unwrap_or(u8::MAX)], 40000));
        listener.try_send((end(1), Ends { peer, local: MASTER.ip() })).map_err(|_| refused())?;
        state.pipes.retain(|(_, pipe)| Arc::strong_count(pipe) > 1 && !lock(pipe).broken);
        state.pipes.push((host, pipe.clone()));
        Ok(Box::new(end(0)))
    }
}

impl State {
    /// How long a piece takes: mostly a moment, now and then much longer.
    fn delay(&mut self, slowness: Duration) -> Duration {
        let extra = if slowness.is_zero() { 0 } else { self.random.below(slowness.as_millis() as usize) };
        let base = if self.random.one_in(50) { self.random.range(5, 60) } else { self.random.range(0, 1) };
        Duration::from_millis((base + extra) as u64)
    }

    fn breaks(&mut self) -> bool {
        self.weather.break_one_in > 0 && self.random.one_in(self.weather.break_one_in)
    }
}

#[derive(Debug)]
struct Line {
    network: Network,
    host: usize,
    alive: crate::gate::Gate,
}

impl Dial for Line {
    fn dial(&self, _authority: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let (network, host, alive) = (self.network.clone(), self.host, self.alive.clone());
        async move {
            let connected = alive.pass(network.connect(host)).await;
            connected.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))
        }
        .boxed()
    }
}

/// Where the master gets its connections from.
#[derive(Debug)]
pub struct Ear(mpsc::Receiver<(Connection, Ends)>);

impl Listen for Ear {
    type Stream = Connection;

    async fn accept(&mut self) -> io::Result<(Connection, Ends)> {
        match self.0.recv().await {
            Some(connection) => Ok(connection),
            None => std::future::pending().await,
        }
    }

    fn limit_stalls(_: &Connection, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    network: Network,
    host: usize,
    side: usize,
    pipe: Arc<Mutex<Pipe>>,
    timer: Option<Pin<Box<Sleep>>>,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        {
            let mut state = this.network.state();
            let link = state.hosts.entry(this.host).or_default();
            if link.cut && !lock(&this.pipe).broken {
                link.waiting.push(cx.waker().clone());
                lock(&this.pipe).directions[1 - this.side].reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let mut pipe = lock(&this.pipe);
        if pipe.broken {
            return Poll::Ready(Err(reset()));
        }
        let direction = &mut pipe.directions[1 - this.side];
        let Some((due, piece)) = direction.pieces.front() else {
            if direction.closed {
                return Poll::Ready(Ok(()));
            }
            direction.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if *due > Instant::now() {
            direction.reader = Some(cx.waker().clone());
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*due)));
            if timer.deadline() != *due {
                timer.as_mut().reset(*due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        let rest = &piece[direction.read..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        direction.read += taken;
        direction.bytes -= taken;
        if direction.read == piece.len() {
            direction.pieces.pop_front();
            direction.read = 0;
        }
        if let Some(writer) = direction.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (wait, breaks) = {
            let mut state = self.network.state();
            let slowness = state.hosts.entry(self.host).or_default().slowness;
            (state.delay(slowness), state.breaks())
        };
        let mut pipe = lock(&self.pipe);
        if breaks {
            pipe.shatter();
        }
        if pipe.broken {
            return Poll::Ready(Err(reset()));
        }
        let direction = &mut pipe.directions[self.side];
        if direction.deaf {
            return Poll::Ready(Err(reset()));
        }
        if direction.bytes >= WINDOW {
            direction.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let due = Instant::now() + wait;
        let due = direction.pieces.back().map_or(due, |(last, _)| due.max(*last));
        direction.pieces.push_back((due, bytes.to_vec()));
        direction.bytes += bytes.len();
        if let Some(reader) = direction.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.pipe).close(self.side);
        Poll::Ready(Ok(()))
    }
}

impl Pipe {
    fn close(&mut self, side: usize) {
        let direction = &mut self.directions[side];
        direction.closed = true;
        if let Some(reader) = direction.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What the other end still writes meets nobody.
        let mut pipe = lock(&self.pipe);
        pipe.close(self.side);
        let back = &mut pipe.directions[1 - self.side];
        back.deaf = true;
        if let Some(writer) = back.writer.take() {
            writer.wake();
        }
    }
}
