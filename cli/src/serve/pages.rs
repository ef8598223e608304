//! Pages of memory for a server: small while it is, huge once it has grown.
//!
//! The allocator asks the kernel for huge pages (`madvise(2)`, 2 MiB on x86-64). They would double what a small
//! server holds, so that the process begins with a veto; but one that holds gigabytes spends a good part of its time
//! on finding its pages without them. Measured in `docs/benchmarks.md`.

use std::time::Duration;

use rustix::{
    param::page_size,
    thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled},
};

/// Resident bytes from which on a server has grown.
const GROWN: u64 = 256 << 20;
const INTERVAL: Duration = Duration::from_secs(2);

/// No huge pages for this process, nor for its children. A kernel that knows of no veto has none to give.
pub(crate) fn stay_small() {
    let _ = disable_transparent_huge_pages(true);
}

/// Takes the veto back once the process has grown. What it holds by then the kernel gathers by and by.
pub(crate) async fn follow_growth() {
    while transparent_huge_pages_are_disabled().unwrap_or(false) {
        tokio::time::sleep(INTERVAL).await;
        if resident().is_some_and(|bytes| bytes >= GROWN) {
            tracing::debug!("this process has grown: huge pages from now on");
            let _ = disable_transparent_huge_pages(false);
            return;
        }
    }
}

/// Bytes of this process in memory, from `/proc/self/statm` (proc(5)).
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn huge_pages_come_with_growth() {
        stay_small();
        assert!(transparent_huge_pages_are_disabled().unwrap());
        let early = tokio::time::timeout(INTERVAL * 10, follow_growth()).await;
        assert!(early.is_err() && transparent_huge_pages_are_disabled().unwrap());
        let grown = vec![1_u8; usize::try_from(GROWN).unwrap()];
        tokio::time::timeout(INTERVAL * 10, follow_growth()).await.unwrap();
        assert!(!transparent_huge_pages_are_disabled().unwrap());
        assert!(resident().unwrap() >= grown.iter().map(|byte| u64::from(*byte)).sum());
    }
}
