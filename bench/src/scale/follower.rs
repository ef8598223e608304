//! An outside client that watches all pods and notes when each reaches each stage.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use memchr::memmem;

use crate::api::{connection::Connection, deliveries::Lines, target::Target, wire};

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Created,
    Bound,
    Running,
}

impl Stage {
    pub(super) const ALL: [Stage; 3] = [Stage::Created, Stage::Bound, Stage::Running];

    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::Created => "created",
            Stage::Bound => "bound",
            Stage::Running => "Running",
        }
    }

    /// Of a line of the watch.
    fn of(line: &[u8]) -> Self {
        let has = |what: &[u8]| memmem::find(line, what).is_some();
        match () {
            () if has(b"\"phase\":\"Running\"") => Stage::Running,
            () if has(b"\"nodeName\":\"") => Stage::Bound,
            () => Stage::Created,
        }
    }
}

/// When the first and the last pod reached a stage, and how many did.
#[derive(Debug, Clone, Copy, Default)]
struct Passed {
    first: Option<Instant>,
    last: Option<Instant>,
    count: usize,
}

/// What others may ask while the watch goes on.
#[derive(Debug, Default)]
struct Board {
    passed: Mutex<[Passed; 3]>,
    live: AtomicUsize,
    /// Paths of pods that began to run, those of the earliest first. Some may be gone again.
    running: Mutex<VecDeque<String>>,
}

/// Paths that are kept at most: of the pods that began to run first, and of later ones as those are taken.
const PATHS_MAX: usize = 20_000;

impl Board {
    fn running(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, seen: &mut Seen) {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = seen.passed;
        self.live.store(seen.pods.len(), Ordering::Relaxed);
        let mut running = self.running();
        let room = PATHS_MAX.saturating_sub(running.len());
        running.extend(seen.begun.drain(..).take(room));
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Paths of the pods that began to run since somebody looked.
    begun: Vec<String>,
    /// By uid, how far each pod is.
    pods: HashMap<u128, Stage>,
    passed: [Passed; 3],
}

impl Passed {
    /// A second, from the first to the last.
    fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.first, self.last) else { return 0.0 };
        self.count as f64 / last.duration_since(first).as_secs_f64().max(1e-3)
    }
}

impl Seen {
    fn take(&mut self, line: &[u8], now: Instant) -> Result<()> {
        ensure!(!line.starts_with(br#"{"type":"ERROR""#), "the watch ended: {}", String::from_utf8_lossy(line));
        let uid = uid(line).with_context(|| format!("no uid: {}", String::from_utf8_lossy(line)))?;
        if line.starts_with(br#"{"type":"DELETED""#) {
            self.pods.remove(&uid);
            return Ok(());
        }
        let stage = Stage::of(line);
        let reached = stage as usize + 1;
        let before = self.pods.insert(uid, stage).map_or(0, |stage| stage as usize + 1);
        if stage == Stage::Running && before < reached {
            self.begun.extend(path(line));
        }
        for passed in self.passed.iter_mut().take(reached).skip(before) {
            passed.first.get_or_insert(now);
            passed.last = Some(now);
            passed.count += 1;
        }
        Ok(())
    }
}

/// The pod's own, not that of its owner: the last one in its metadata.
fn uid(line: &[u8]) -> Option<u128> {
    const KEY: &[u8] = b"\"uid\":\"";
    let metadata = &line[..memmem::find(line, b"\"spec\":{")?];
    let text = metadata.get(memmem::rfind(metadata, KEY)? + KEY.len()..)?.get(..36)?;
    let digits: String = std::str::from_utf8(text).ok()?.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok()
}

/// Of the pod itself: the first name and namespace that stand in its metadata.
fn path(line: &[u8]) -> Option<String> {
    let value = |key: &str| {
        let rest = &line[memmem::find(line, key.as_bytes())? + key.len()..];
        std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
    };
    Some(format!("/api/v1/namespaces/{}/pods/{}", value("\"namespace\":\"")?, value("\"name\":\"")?))
}

/// A watch under way, on a thread of its own.
#[derive(Debug)]
pub(super) struct Follower {
    thread: Option<JoinHandle<Result<Seen>>>,
    stop: Arc<AtomicBool>,
    board: Arc<Board>,
}

impl Follower {
    /// Begins to watch; what exists already is not counted.
    pub(super) fn start(master: SocketAddr) -> Result<Self> {
        let (stop, board) = (Arc::new(AtomicBool::new(false)), Arc::new(Board::default()));
        let (stopped, noted) = (stop.clone(), board.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || runtime.block_on(follow(master, &stopped, &noted)));
        Ok(Self { thread: Some(thread), stop, board })
    }

    /// How many pods have reached a stage so far.
    pub(super) fn count(&self, stage: Stage) -> usize {
        self.passed(stage).count
    }

    /// Pods a second at a stage so far, from the first to the last.
    pub(super) fn rate(&self, stage: Stage) -> f64 {
        self.passed(stage).rate()
    }

    fn passed(&self, stage: Stage) -> Passed {
        self.board.passed.lock().unwrap_or_else(PoisonError::into_inner)[stage as usize]
    }

    /// The path of a pod that runs, as far as known longest of all. Each is told once.
    pub(super) fn oldest(&self) -> Option<String> {
        self.board.running().pop_front()
    }

    /// Waits until no pod is there; gives up when none went for `patience`.
    pub(super) fn wait_for_none(&self, patience: Duration) -> Result<()> {
        let (mut last, mut since) = (usize::MAX, Instant::now());
        loop {
            let live = self.board.live.load(Ordering::Relaxed);
            if live == 0 {
                return Ok(());
            }
            ensure!(self.thread.as_ref().is_some_and(|t| !t.is_finished()), "the watch ended with {live} pods left");
            if live != last {
                (last, since) = (live, Instant::now());
            }
            ensure!(since.elapsed() < patience, "no pod went for {patience:?}, {live} are left");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until so many pods have reached the stage; gives up when none did for `patience`.
    pub(super) fn wait_for(&self, stage: Stage, pods: usize, patience: Duration) -> Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let counts = Stage::ALL.map(|stage| self.count(stage));
            if counts[stage as usize] >= pods {
                return Ok(());
            }
            ensure!(self.thread.as_ref().is_some_and(|t| !t.is_finished()), "the watch ended at {counts:?} of {pods}");
            let now: usize = counts.iter().sum();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            ensure!(since.elapsed() < patience, "nothing changed for {patience:?} at {counts:?} of {pods}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Ends the watch.
    pub(super) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was started")?;
        thread.join().map_err(|_| anyhow!("the follower panicked"))??;
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn follow(master: SocketAddr, stop: &AtomicBool, board: &Board) -> Result<Seen> {
    let target = Target::plain(master);
    let mut connection = Connection::open(&target).await?;
    let mut request = Vec::new();
    wire::request(&mut request, "GET", "/api/v1/pods?watch=true", &target.headers);
    connection.send(&request).await?;
    let (mut seen, mut lines) = (Seen::default(), Lines::default());
    while !stop.load(Ordering::Relaxed) {
        let mut failed = None;
        let read = connection.read(|part| {
            let now = Instant::now();
            lines.push(part, |line| {
                if let Err(error) = seen.take(line, now) {
                    failed.get_or_insert(error);
                }
            });
        });
        // Dropped with the connection, when the time is over.
        if let Ok(goes_on) = tokio::time::timeout(Duration::from_millis(200), read).await {
            ensure!(goes_on?, "the master ended the watch");
        }
        if let Some(error) = failed {
            return Err(error);
        }
        board.note(&mut seen);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(uid: u32, kind: &str, rest: &str) -> String {
        format!(
            r#"{{"type":"{kind}","object":{{"metadata":{{"name":"a","namespace":"n","ownerReferences":[{{"uid":"ffffffff-0000-0000-0000-000000000000"}}],
            "uid":"{uid:08x}-0000-0000-0000-000000000000"}},"spec":{{{rest}}}}}}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn each_pod_counts_once_at_each_stage_it_reaches_or_skips() {
        let mut seen = Seen::default();
        let begun = Instant::now();
        let running = r#""nodeName":"n"},"status":{"phase":"Running""#;
        let lines = [
            (1, "ADDED", ""),
            (1, "MODIFIED", r#""nodeName":"n""#),
            (1, "MODIFIED", running),
            (1, "MODIFIED", running),
            (2, "ADDED", running),
            (2, "DELETED", running),
        ];
        for (second, (uid, kind, rest)) in lines.into_iter().enumerate() {
            seen.take(line(uid, kind, rest).as_bytes(), begun + Duration::from_secs(second as u64)).unwrap();
        }
        assert_eq!(seen.passed.map(|p| p.count), [2, 2, 2]);
        assert!((seen.passed[Stage::Running as usize].rate() - 1.0).abs() < 1e-9, "two in two seconds");
        assert_eq!(seen.pods.len(), 1);
        assert_eq!(seen.begun, ["/api/v1/namespaces/n/pods/a"; 2]);
        assert!(seen.take(br#"{"type":"ERROR","object":{}}"#, begun).is_err());
    }
}
