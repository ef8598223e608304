//! What happened in a run, line by line, and a hash of all of it: two runs of a seed are the same if their
//! hashes are.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Lines that are kept for the report of a failure.
const TAIL: usize = 60;

/// The trace of one run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trace {
    start: Instant,
    violated: CancellationToken,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    /// Keeps all lines.
    whole: bool,
    violation: Option<String>,
}

impl Trace {
    /// A trace that begins now. `whole` keeps all of it.
    pub fn new(whole: bool) -> Self {
        Self {
            start: Instant::now(),
            violated: CancellationToken::new(),
            state: Arc::new(Mutex::new(State { whole, ..State::default() })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much simulated time has passed.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Notes that something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:9.3}  {what}", self.elapsed().as_secs_f64());
        let mut state = self.state();
        state.lines += 1;
        state.hash = line.bytes().fold(state.hash ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        if !state.whole && state.tail.len() == TAIL {
            state.tail.pop_front();
        }
        state.tail.push_back(line);
    }

    /// Notes that an invariant does not hold. The first one ends the run.
    pub fn violate(&self, what: String) {
        self.note(format_args!("VIOLATION {what}"));
        self.state().violation.get_or_insert(what);
        self.violated.cancel();
    }

    /// Returns when an invariant does not hold.
    pub async fn violated(&self) {
        self.violated.cancelled().await;
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.state().hash
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.state().lines
    }

    /// The last lines, or all of them.
    pub fn tail(&self) -> Vec<String> {
        self.state().tail.iter().cloned().collect()
    }
}

/// Notes a line with the arguments of `format!`.
#[macro_export]
macro_rules! note {
    ($trace:expr, $($text:tt)*) => { $trace.note(format_args!($($text)*)) };
}
