//! What the machine gives: the disk's fdatasync, copying of memory, bare hyper.

use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    histogram::Histogram,
    load::{self, Work},
    raw_server::RawServer,
    report::{Report, Row},
    subject::Subject,
    target::Target,
    usage::Cost,
    wire,
};

/// Bytes appended before each fdatasync.
const APPEND: usize = 2 << 10;
/// Bytes copied at once: more than any cache holds.
const COPY: usize = 256 << 20;
/// `f_type` of a tmpfs.
const TMPFS: u64 = 0x0102_1994;

/// The row that others are compared with.
pub(super) const FSYNC: &str = "append of 2 KB and fdatasync";

/// Refuses directories in memory: nothing is durable there.
pub(super) fn require_disk(dir: &Path) -> Result<()> {
    let kind = rustix::fs::statfs(dir)?.f_type;
    ensure!(kind as u64 != TMPFS, "{} is in memory: name a directory on a disk with --dir", dir.display());
    Ok(())
}

/// Appends and syncs, one after the other, in a file in `dir`.
pub(super) fn disk(report: &mut Report, dir: &Path, time: Duration) -> Result<()> {
    let mut file = tempfile::tempfile_in(dir)?;
    let (mut times, block, started) = (Histogram::default(), [b'x'; APPEND], Instant::now());
    while started.elapsed() < time {
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.record(begun.elapsed());
    }
    let bytes = times.count() * APPEND as u64;
    report.row(FSYNC, 0, Row::of(1, started.elapsed(), &times, bytes, Cost::default()));
    Ok(())
}

/// Copies from one buffer to another.
pub(super) fn memory(report: &mut Report) {
    let (from, mut to) = (vec![1u8; COPY], vec![0u8; COPY]);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
        best = best.min(begun.elapsed());
    }
    report.fact("copying memory, one core", COPY as f64 / best.as_secs_f64() / 1e9, "GB/s");
}

/// The same small request to bare hyper.
#[derive(Debug)]
struct Fixed {
    request: Vec<u8>,
    status: u16,
}

impl Work for Fixed {
    fn next(&mut self, request: &mut Vec<u8>) -> bool {
        request.extend_from_slice(&self.request);
        true
    }
    fn expects(&self) -> u16 {
        self.status
    }
}

/// Bare hyper answering with 1 KB, to GET and to POST of 1 KB.
pub(super) async fn hyper(report: &mut Report, connections: &[usize], time: Duration) -> Result<()> {
    let raw = RawServer::start()?;
    let subject = Subject::running(Target::plain(raw.address), vec![raw.process()]);
    let headers = subject.headers();
    let (mut get, mut post) = (Vec::new(), Vec::new());
    wire::request(&mut get, "GET", "/1024", &headers);
    wire::request_with(&mut post, "POST", "/1024", &headers, "application/json", &[b'x'; 1024]);
    for (what, request, status) in [("bare hyper: GET 1 KB", get, 200), ("bare hyper: POST 1 KB", post, 201)] {
        for count in connections.iter().copied() {
            let works = (0..count).map(|_| Fixed { request: request.clone(), status }).collect();
            let (_, row) = load::run(&subject, works, time).await?;
            report.row(what, 0, row);
        }
    }
    Ok(())
}
