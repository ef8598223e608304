//! kill -9: a process writes under load and says what was acknowledged; it is killed at a random
//! instant; all that it said is there, and nothing by halves.
//!
//! The child is this test binary again. `CORACLE_CRASH_ROUNDS` sets how often it dies.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bytes::Bytes;
use coracle_master::store::{Expect, Loaded, Op, Options, Outcome, Store, Write};

use super::open;

/// Set for the child: where the store is.
const CHILD: &str = "CORACLE_CRASH_CHILD";
const ROUNDS: &str = "CORACLE_CRASH_ROUNDS";
const ROUNDS_DEFAULT: usize = 120;
const PAIRS: u64 = 60;

/// Small, so that the child dies while segments are made and compacted, too.
fn options() -> Options {
    Options { segment_bytes: 60_000, garbage_bytes: 60_000, step_bytes: 8_000, frame_bytes: 10_000 }
}

/// Numbers that differ from run to run: which rounds are bad is the machine's choice anyway.
struct Random(u64);

impl Random {
    fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(0))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn killed_at_any_instant_it_keeps_what_it_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Some(directory) = std::env::var_os(CHILD) {
        return runtime.block_on(write_until_killed(&PathBuf::from(directory)));
    }
    let rounds = std::env::var(ROUNDS).map_or(ROUNDS_DEFAULT, |rounds| rounds.parse().expect("a number of rounds"));
    // In memory a sync costs nothing, so the child dies between its steps, not always in a sync.
    let memory = Some(Path::new("/dev/shm")).filter(|path| path.is_dir());
    let directory = memory.map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let mut random = Random::new();
    let mut acknowledged = BTreeMap::new();
    let (mut last, mut total) = (0, 0);
    for round in 0..rounds {
        total += run_and_kill(directory.path(), random.below(3000), &mut acknowledged, &mut last);
        let loaded = runtime.block_on(async {
            let store = open(directory.path(), options()).await;
            store.load().await.expect("it loads").0
        });
        verify(round, &loaded, &mut acknowledged, last);
    }
    assert!(total > 10 * rounds, "the child wrote: {total} writes in {rounds} rounds");
}

/// Runs the child until it has said `lines`, kills it, and takes down all that it said.
fn run_and_kill(directory: &Path, lines: u64, acknowledged: &mut BTreeMap<u64, u64>, last: &mut u64) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::killed_at_any_instant_it_keeps_what_it_acknowledged", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut heard = 0;
    for line in said {
        // Half a line was cut off by the kill; the test harness of the child says things, too.
        let line = line.unwrap();
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        if let (Some("ack"), [version, pair, count], Some("end")) =
            (line.split(' ').next(), &numbers[..], line.split(' ').next_back())
        {
            acknowledged.insert(*pair, *count);
            *last = (*last).max(*version + 1);
            heard += 1;
        }
        if heard as u64 >= lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    heard
}

/// What a pair's values are made of: both of them, all of it, or none.
fn value(pair: u64, count: u64) -> Bytes {
    format!("{pair} {count} ").repeat(1 + (count % 40) as usize).into()
}

fn verify(round: usize, loaded: &Loaded, acknowledged: &mut BTreeMap<u64, u64>, last: u64) {
    assert!(loaded.version >= last, "round {round}: versions go on from {}, and {last} was seen", loaded.version);
    let values: BTreeMap<_, _> = loaded.items.iter().map(|item| (item.key.as_str(), &item.value)).collect();
    for pair in 0..PAIRS {
        let (left, right) = (values.get(&*format!("left/{pair}")), values.get(&*format!("right/{pair}")));
        assert_eq!(left, right, "round {round}: a write happens wholly");
        let count = left.map_or(0, |value| {
            std::str::from_utf8(value).unwrap().split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap()
        });
        if let Some(left) = left {
            assert_eq!(**left, value(pair, count), "round {round}");
        }
        // What was written and not acknowledged may be there.
        let heard = acknowledged.get(&pair).copied().unwrap_or_default();
        assert!(count >= heard, "round {round}: pair {pair} has {count}, and {heard} was acknowledged");
        acknowledged.insert(pair, count);
    }
}

async fn write_until_killed(directory: &Path) {
    let store = open(directory, options()).await;
    let (loaded, mut updates) = store.load().await.unwrap();
    tokio::spawn(async move { while updates.recv().await.is_some() {} });
    let mut random = Random::new();
    // A pair without values was deleted or never written. Counts rise above all that were.
    let mut count = loaded.version;
    loop {
        let first = random.below(PAIRS);
        let pairs: Vec<_> = (0..1 + random.below(12)).map(|i| (first + i) % PAIRS).collect();
        count += 1;
        let write = |pair: &u64| {
            let op = |side| Op { key: format!("{side}/{pair}"), value: Some(value(*pair, count)), expect: Expect::Any };
            Write { ops: vec![op("left"), op("right")], fence: None }
        };
        let outcomes = store.commit(pairs.iter().map(write).collect()).await;
        let mut said = String::new();
        for (pair, outcome) in pairs.iter().zip(outcomes) {
            let Outcome::Committed(version) = outcome else { panic!("{outcome:?}") };
            said += &format!("ack {version} {pair} {count} end\n");
        }
        if std::io::stdout().write_all(said.as_bytes()).is_err() {
            return;
        }
    }
}
