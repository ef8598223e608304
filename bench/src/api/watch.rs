//! Watches: how long an update takes to reach many watchers, and how many changes a second can be
//! delivered. Every watcher checks that it gets every change, once, in order.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use tokio::sync::Notify;

use super::{
    args::ApiArgs,
    connection::Connection,
    deliveries::{Expected, Lines, Watcher},
    histogram::Histogram,
    objects::collection,
    pods::write_json,
    report::{Report, Row},
    scan,
    subject::Subject,
    usage::Usage,
    wire,
};

/// Its pods are the writers' own, one each.
const NAMESPACE: &str = "bench-watch";
/// Connections that update.
const WRITERS: usize = 16;
/// Single updates of the latency measurement, and the time between them.
const SINGLE_UPDATES: u64 = 200;
const SINGLE_PAUSE: Duration = Duration::from_millis(5);
/// One read of a watcher; it holds some dozens of lines.
const READ: usize = 64 << 10;
/// How long the last delivery may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Updates of one writer at most, whatever the rate.
const UPDATES_MAX: u64 = 1 << 20;

/// Measures all kinds of watches.
pub(super) async fn measure(subject: &Subject, report: &mut Report, objects: u64, args: &ApiArgs) -> Result<()> {
    prepare(subject).await?;
    for watchers in args.watchers.iter().copied() {
        singly(subject, report, objects, watchers).await?;
    }
    let time = Duration::from_secs_f64(args.stream_seconds);
    for rate in args.stream_rate.iter().copied() {
        let what = if rate == 0 { "as fast as possible".to_owned() } else { format!("{rate} updates/s") };
        if let Err(error) = stream(subject, report, objects, args.stream_watchers, rate, time).await {
            report.missing(format!("{} watchers, {what}: {error:#}", args.stream_watchers));
        }
    }
    Ok(())
}

/// Makes the writers' pods.
async fn prepare(subject: &Subject) -> Result<()> {
    let (mut connection, headers) = (Connection::open(&subject.target).await?, subject.headers());
    let (mut request, mut body) = (Vec::new(), Vec::new());
    let namespace = format!(r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"{NAMESPACE}"}}}}"#);
    wire::request_with(&mut request, "POST", "/api/v1/namespaces", &headers, "application/json", namespace.as_bytes());
    ensure!(matches!(connection.exchange(&request).await?.status, 201 | 409), "creating {NAMESPACE}");
    for writer in 0..WRITERS {
        request.clear();
        body.clear();
        write_json(&mut body, NAMESPACE, &pod(writer), writer as u64, "0-0");
        wire::request_with(&mut request, "POST", &collection(NAMESPACE), &headers, "application/json", &body);
        let status = connection.exchange(&request).await?.status;
        ensure!(matches!(status, 201 | 409), "creating {}: {status}", pod(writer));
    }
    Ok(())
}

fn pod(writer: usize) -> String {
    format!("writer-{writer}")
}

/// One round: watchers, the updates that were sent, and what arrived.
struct Round {
    /// Makes each update a change, also where the number is that of an earlier round.
    id: u32,
    started: Instant,
    /// When each writer sent each update, in nanoseconds after `started`.
    sent: Vec<RefCell<Vec<u64>>>,
    /// Time from sending to having it, of all watchers.
    times: RefCell<Histogram>,
    bytes: Cell<u64>,
    /// Deliveries of all watchers so far.
    delivered: Cell<u64>,
    /// The number of deliveries that somebody waits for.
    awaited: Cell<u64>,
    arrived: Notify,
}

impl Round {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            started: Instant::now(),
            sent: (0..WRITERS).map(|_| RefCell::default()).collect(),
            times: RefCell::default(),
            bytes: Cell::new(0),
            delivered: Cell::new(0),
            awaited: Cell::new(u64::MAX),
            arrived: Notify::new(),
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits until so many deliveries have arrived.
    async fn wait_for(&self, deliveries: u64) -> Result<()> {
        self.awaited.set(deliveries);
        let wait = async {
            while self.delivered.get() < deliveries {
                self.arrived.notified().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.with_context(|| format!("{} of {deliveries} deliveries came", self.delivered.get()))
    }

    /// Reads one watch, for ever.
    async fn follow(&self, mut connection: Connection) -> Result<()> {
        let (mut watcher, mut lines) = (Watcher::new(WRITERS), Lines::default());
        loop {
            let (mut failed, mut news) = (None, 0);
            let goes_on = connection
                .read(|part| {
                    let now = self.nanos();
                    self.bytes.set(self.bytes.get() + part.len() as u64);
                    lines.push(part, |line| match watcher.take(line) {
                        Ok(Expected { writer, number }) => {
                            let sent = self.sent[writer].borrow().get(number as usize - 1).copied();
                            self.times.borrow_mut().record_nanos(now.saturating_sub(sent.unwrap_or(now)));
                            news += 1;
                        }
                        Err(error) => failed = Some(error),
                    });
                })
                .await?;
            if let Some(error) = failed {
                return Err(error);
            }
            self.delivered.set(self.delivered.get() + news);
            if self.delivered.get() >= self.awaited.get() {
                self.arrived.notify_one();
            }
            ensure!(goes_on, "the server ended a watch");
        }
    }

    /// Makes one update and waits for its answer.
    async fn update(&self, connection: &mut Connection, headers: &str, writer: usize) -> Result<()> {
        let number = self.sent[writer].borrow().len() + 1;
        let (mut request, mut body) = (Vec::new(), Vec::new());
        // Writing to a vector can't fail.
        let _ = write!(body, r#"{{"metadata":{{"labels":{{"seq":"{writer}-{number}","round":"{}"}}}}}}"#, self.id);
        let path = format!("{}/{}", collection(NAMESPACE), pod(writer));
        wire::request_with(&mut request, "PATCH", &path, headers, "application/merge-patch+json", &body);
        self.sent[writer].borrow_mut().push(self.nanos());
        let status = connection.exchange(&request).await?.status;
        ensure!(status == 200, "an update was answered with {status}");
        Ok(())
    }

    fn updates(&self) -> u64 {
        self.sent.iter().map(|sent| sent.borrow().len() as u64).sum()
    }
}

/// Opens watches from the present on.
async fn open(subject: &Subject, watchers: usize) -> Result<Vec<Connection>> {
    let (mut connection, headers) = (Connection::open(&subject.target).await?, subject.headers());
    let mut request = Vec::new();
    wire::request(&mut request, "GET", &format!("{}?limit=1", collection(NAMESPACE)), &headers);
    ensure!(connection.exchange(&request).await?.status == 200, "listing {NAMESPACE}");
    let version = scan::version(connection.start_of_body()).context("a list without resourceVersion")?;
    request.clear();
    let path = format!("{}?watch=1&resourceVersion={version}&timeoutSeconds=3000", collection(NAMESPACE));
    wire::request(&mut request, "GET", &path, &headers);
    try_join_all((0..watchers).map(async |_| {
        let mut connection = Connection::open_with(&subject.target, READ).await?;
        connection.send(&request).await?;
        while connection.status().is_none() {
            ensure!(connection.read(|_| ()).await?, "the server ended a watch");
        }
        let status = connection.status().unwrap_or_default();
        ensure!(status == 200, "a watch was answered with {status}");
        Ok(connection)
    }))
    .await
}

/// Updates one at a time: the next when all have the one before.
async fn singly(subject: &Subject, report: &mut Report, objects: u64, watchers: usize) -> Result<()> {
    let (connections, headers) = (open(subject, watchers).await?, subject.headers());
    let mut writer = Connection::open(&subject.target).await?;
    let (round, last) = (Round::new(), RefCell::new(Histogram::default()));
    let before = Usage::now(subject)?;
    let updates = async {
        for number in 1..=SINGLE_UPDATES {
            let sent = Instant::now();
            let (answered, arrived) =
                tokio::join!(round.update(&mut writer, &headers, 0), round.wait_for(number * watchers as u64));
            answered?;
            arrived?;
            last.borrow_mut().record(sent.elapsed());
            tokio::time::sleep(SINGLE_PAUSE).await;
        }
        anyhow::Ok(())
    };
    // The watches never end well.
    tokio::select! {
        result = updates => result?,
        result = try_join_all(connections.into_iter().map(|c| round.follow(c))) => bail!("{:?}", result.err()),
    }
    let (cost, elapsed) = (before.until(subject)?, round.started.elapsed());
    let times = round.times.borrow();
    report.row(
        "watch: one update, each watcher",
        objects,
        Row::of(watchers, elapsed, &times, round.bytes.get(), cost.clone()),
    );
    report.row("watch: one update, the last watcher", objects, Row::of(watchers, elapsed, &last.borrow(), 0, cost));
    Ok(())
}

/// A stream of updates at a rate, or as many as there can be.
async fn stream(
    subject: &Subject,
    report: &mut Report,
    objects: u64,
    watchers: usize,
    rate: u64,
    time: Duration,
) -> Result<()> {
    let (connections, headers) = (open(subject, watchers).await?, subject.headers());
    let writers = try_join_all((0..WRITERS).map(|_| Connection::open(&subject.target))).await?;
    let before = Usage::now(subject)?;
    let round = Round::new();
    let pause = (rate > 0).then(|| Duration::from_secs_f64(WRITERS as f64 / rate as f64));
    let write = async |(writer, mut connection): (usize, Connection)| {
        // Writers take turns within a period.
        let offset = pause.unwrap_or_default() * writer as u32 / WRITERS as u32;
        for number in 0..UPDATES_MAX {
            if let Some(pause) = pause {
                let due = round.started + offset + pause.mul_f64(number as f64);
                tokio::time::sleep_until(due.into()).await;
            }
            if round.started.elapsed() >= time {
                break;
            }
            round.update(&mut connection, &headers, writer).await?;
        }
        anyhow::Ok(())
    };
    let updates = async {
        try_join_all(writers.into_iter().enumerate().map(write)).await?;
        round.wait_for(round.updates() * watchers as u64).await
    };
    tokio::select! {
        result = updates => result?,
        result = try_join_all(connections.into_iter().map(|c| round.follow(c))) => bail!("{:?}", result.err()),
    }
    let (cost, elapsed) = (before.until(subject)?, round.started.elapsed());
    let (times, updates) = (round.times.borrow(), round.updates());
    ensure!(times.count() == updates * watchers as u64, "{} deliveries of {updates} updates", times.count());
    let name = if rate == 0 { "watch: updates at full speed".to_owned() } else { format!("watch: {rate} updates/s") };
    report.row(name.clone(), objects, Row::of(watchers, elapsed, &times, round.bytes.get(), cost));
    report.fact(format!("{name}: updates made"), updates as f64 / elapsed.as_secs_f64(), "/s");
    Ok(())
}
