//! `coracle-bench store`: the embedded store beside the bare limit of the disk under it, which is one
//! file that is appended to and synced.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use coracle_master::store::{EmbeddedStore, Expect, Outcome, Store, StoreError, Write};
use coracle_tests::measure;

use crate::machine;

/// What `coracle-bench store` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// A directory on the disk to measure.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Writes in a commit.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 1000])]
    groups: Vec<usize>,
    /// Seconds of each measurement of throughput.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Records that are read back, in thousands.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    thousands: Vec<usize>,
}

/// Bytes of a value that is written, about those of a pod.
const WRITTEN_BYTES: usize = 1200;
/// Bytes of a value that is read back at the start.
const LOADED_BYTES: usize = 1500;
/// Objects that writes go to in turn.
const KEYS: usize = 10_000;

/// Records that stay while all of them are overwritten, and how often that happens.
const CHURN_RECORDS: usize = 100_000;
const CHURN_TIMES: usize = 6;
/// Writes in a commit meanwhile.
const CHURN_GROUP: usize = 200;

/// Takes the figures and prints them.
pub(crate) fn run(args: &StoreArgs) -> Result<()> {
    println!("machine: {}, load {}\n", machine::describe()?, machine::load()?);
    let (directory, period) = (&args.directory, Duration::from_secs(args.seconds));
    std::fs::create_dir_all(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    bare(directory, period)?;
    for group in &args.groups {
        runtime.block_on(commits(&scratch(directory)?.0, *group, period))?;
    }
    runtime.block_on(churn(&scratch(directory)?.0, CHURN_GROUP))?;
    for thousands in &args.thousands {
        runtime.block_on(start(&scratch(directory)?.0, thousands * 1000))?;
    }
    Ok(())
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn scratch(directory: &Path) -> Result<Scratch> {
    let path = directory.join(format!("store-{}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(Scratch(path))
}

fn bare(directory: &Path, period: Duration) -> Result<()> {
    let path = directory.join(format!("bare-{}", std::process::id()));
    let file = File::create_new(&path)?;
    let value = value(0, WRITTEN_BYTES);
    let (mut appends, begin) = (0, Instant::now());
    while begin.elapsed() < period {
        file.write_all_at(&value, appends * WRITTEN_BYTES as u64)?;
        file.sync_data()?;
        appends += 1;
    }
    let took = begin.elapsed();
    std::fs::remove_file(&path)?;
    println!("{:<40} {:>9.0} /s", "bare append and fdatasync", appends as f64 / took.as_secs_f64());
    Ok(())
}

async fn commits(directory: &Path, group: usize, period: Duration) -> Result<()> {
    let store = EmbeddedStore::open(directory).await?;
    let (cpu, disk, begin) = (cpu()?, written()?, Instant::now());
    let mut writes = 0;
    while begin.elapsed() < period {
        write(&store, writes..writes + group, WRITTEN_BYTES, KEYS).await?;
        writes += group;
    }
    let took = begin.elapsed().as_secs_f64();
    let bytes = (writes * WRITTEN_BYTES) as f64;
    println!(
        "{:<40} {:>9.0} /s  {:>8.0} writes/s  {:>6.1} MB/s  {:>5.1} us CPU a write  {:.2} bytes written a byte",
        format!("commits of {group}"),
        (writes / group) as f64 / took,
        writes as f64 / took,
        bytes / took / 1e6,
        (self::cpu()? - cpu).as_secs_f64() * 1e6 / writes as f64,
        (written()? - disk) as f64 / bytes,
    );
    Ok(())
}

async fn start(directory: &Path, records: usize) -> Result<()> {
    let store = EmbeddedStore::open(directory).await?;
    for from in (0..records).step_by(1000) {
        let writes = (from..from + 1000)
            .map(|i| Write::one(format!("pods/default/name-{i:08}"), Some(value(i, LOADED_BYTES)), Expect::Any))
            .collect();
        done(store.commit(writes).await)?;
    }
    drop(store);
    let (cpu, begin) = (cpu()?, Instant::now());
    let store = loop {
        match EmbeddedStore::open(directory).await {
            // The lock is released when the store's thread has ended.
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            other => break other?,
        }
    };
    let opened = begin.elapsed();
    let (loaded, _updates) = store.load().await?;
    let took = begin.elapsed().as_secs_f64();
    if loaded.items.len() != records {
        bail!("{} records of {records}", loaded.items.len());
    }
    println!(
        "{:<40} {:>9.0} ms, open {:.0} ms of it, {:>4.2} s CPU",
        format!("open and load {records} records"),
        took * 1e3,
        opened.as_secs_f64() * 1e3,
        (self::cpu()? - cpu).as_secs_f64(),
    );
    Ok(())
}

/// Overwrites of any of many records, in a random order, long enough for compaction to have to move
/// what is live in between: what it costs, and what a commit then waits.
async fn churn(directory: &Path, group: usize) -> Result<()> {
    let store = EmbeddedStore::open(directory).await?;
    let records = CHURN_RECORDS;
    let overwrite = |from: usize| {
        let put = |i: usize| {
            // By chance: in a fixed order the oldest would always be garbage.
            let mixed = (i as u64 ^ (i as u64 >> 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let key = ((mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as usize % records;
            Write::one(format!("pods/default/name-{key:08}"), Some(value(i, WRITTEN_BYTES)), Expect::Any)
        };
        (from..from + group).map(put).collect()
    };
    for from in (0..records).step_by(1000) {
        write(&store, from..from + 1000, WRITTEN_BYTES, records).await?;
    }
    let (cpu, disk, begin) = (cpu()?, written()?, Instant::now());
    let (mut writes, mut waits) = (0, Vec::new());
    while writes < CHURN_TIMES * records {
        let sent = Instant::now();
        done(store.commit(overwrite(writes)).await)?;
        waits.push(sent.elapsed());
        writes += group;
    }
    let took = begin.elapsed().as_secs_f64();
    waits.sort_unstable();
    let wait = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let bytes = (writes * WRITTEN_BYTES) as f64;
    println!(
        "{:<40} {:>9.0} /s  {:>8.0} writes/s  {:>5.1} us CPU a write  {:.2} bytes written a byte  wait {:.1} ms, 99 % {:.1}, longest {:.1}",
        format!("commits of {group}, {records} live records"),
        (writes / group) as f64 / took,
        writes as f64 / took,
        (self::cpu()? - cpu).as_secs_f64() * 1e6 / writes as f64,
        (written()? - disk) as f64 / bytes,
        wait(0.5),
        wait(0.99),
        wait(1.0),
    );
    Ok(())
}

async fn write(store: &EmbeddedStore, range: std::ops::Range<usize>, bytes: usize, keys: usize) -> Result<()> {
    let writes = range
        .map(|i| Write::one(format!("pods/default/name-{:08}", i % keys), Some(value(i, bytes)), Expect::Any))
        .collect();
    done(store.commit(writes).await)
}

fn done(outcomes: Vec<Outcome>) -> Result<()> {
    for outcome in outcomes {
        match outcome {
            Outcome::Committed(_) => {}
            Outcome::Failed(error) => return Err(error.into()),
            other => bail!("{other:?}"),
        }
    }
    Ok(())
}

/// Bytes that nothing compresses.
fn value(seed: usize, bytes: usize) -> Bytes {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut value = Vec::with_capacity(bytes + 8);
    while value.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    value.truncate(bytes);
    value.into()
}

/// Processor time of this process, in the kernel's ticks of 10 ms.
fn cpu() -> Result<Duration> {
    Ok(Duration::from_millis(measure::cpu_ticks(std::process::id())? * 10))
}

/// Bytes that this process had written to disks.
fn written() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    bytes.and_then(|bytes| bytes.parse().ok()).context("/proc/self/io")
}
