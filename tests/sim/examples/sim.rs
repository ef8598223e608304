//! Runs seeds: `make sim SEEDS=1000`, or one of them again with its trace: `make sim SEED=7`.

#[path = "../tests/runtime/mod.rs"]
mod runtime;

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use coracle_test_sim::{Options, Outcome};

/// One seed in so many is run twice, to see that it can be had again.
const REPLAY_EVERY: u64 = 50;

/// Simulates a cluster under many seeds.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this one, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; each runs seeds of its own.
    #[arg(long)]
    jobs: Option<usize>,
    /// Also what the parts log, with --seed.
    #[arg(long)]
    log: bool,
    /// Goes on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => replay(seed, args.log),
        None => run_all(&args),
    }
}

fn out(text: &str) {
    use std::io::Write;
    // A closed pipe is nobody who reads.
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn replay(seed: u64, log: bool) -> ExitCode {
    if log {
        tracing_subscriber::fmt().without_time().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).init();
    }
    let outcome = runtime::run(Options { whole_trace: true, ..Options::new(seed) });
    outcome.trace.iter().for_each(|line| out(line));
    out(&format!("{} lines, hash {:016x}", outcome.lines, outcome.hash));
    match outcome.violation {
        None => {
            out(&format!("seed {seed} is well: {:?} of faults, at rest {:?} later", outcome.faulty, outcome.rest));
            ExitCode::SUCCESS
        }
        Some(violation) => {
            out(&format!("seed {seed} FAILS: {violation}"));
            ExitCode::FAILURE
        }
    }
}

fn run_all(args: &Args) -> ExitCode {
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let (begin, end) = (Instant::now(), args.first.saturating_add(args.seeds));
    let (next, done) = (AtomicU64::new(args.first), AtomicU64::new(0));
    let failures: Mutex<Vec<(u64, Outcome)>> = Mutex::default();
    let rests: Mutex<Vec<Duration>> = Mutex::default();
    let lock = || failures.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while args.keep_going || lock().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let mut outcome = runtime::run(Options::new(seed));
                    if cfg!(tokio_unstable) && seed.is_multiple_of(REPLAY_EVERY) {
                        let again = runtime::run(Options::new(seed));
                        if (again.hash, again.lines) != (outcome.hash, outcome.lines) {
                            let why = "a second run of the seed took another course".to_owned();
                            outcome.violation.get_or_insert(why);
                        }
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    rests.lock().unwrap_or_else(PoisonError::into_inner).push(outcome.rest);
                    if done.is_multiple_of(100) {
                        let rate = done as f64 / begin.elapsed().as_secs_f64();
                        out(&format!("{done} seeds, {rate:.1} a second"));
                    }
                    if outcome.violation.is_some() {
                        lock().push((seed, outcome));
                    }
                }
            });
        }
    });
    let (done, seconds) = (done.into_inner(), begin.elapsed().as_secs_f64());
    let mut rests = rests.into_inner().unwrap_or_else(PoisonError::into_inner);
    rests.sort();
    let rest = |share: usize| rests.get(rests.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
    let rate = done as f64 / seconds;
    out(&format!("{done} seeds in {seconds:.1} s, {rate:.1} a second"));
    out(&format!("at rest after {:?} (median), {:?} (99 %), {:?} (worst)", rest(50), rest(99), rest(100)));
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|(seed, _)| *seed);
    for (seed, outcome) in failures.iter().skip(1) {
        out(&format!("seed {seed} FAILS: {}", outcome.violation.as_deref().unwrap_or_default()));
    }
    let Some((seed, outcome)) = failures.first() else { return ExitCode::SUCCESS };
    outcome.trace.iter().for_each(|line| out(line));
    out(&format!("seed {seed} FAILS: {}", outcome.violation.as_deref().unwrap_or_default()));
    out(&format!("again, with the whole trace: make sim SEED={seed}"));
    ExitCode::FAILURE
}
