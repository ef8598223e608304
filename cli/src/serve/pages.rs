//! Pages of memory for a server: small while it is, huge once it has grown.
//!
//! The allocator asks the kernel for huge pages (`madvise(2)`, 2 MiB on x86-64). They would double what a small
//! server holds, so that the process vetoes them at first; one that holds gigabytes spends a tenth of its time on
//! finding its pages without them (`docs/benchmarks.md`). Two are there before the veto, since the allocator is older
//! than `main`.
//!
//! The veto goes over to the children, all of which are small and short.

use std::time::Duration;

use rustix::{
    param::page_size,
    thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled},
};

/// Resident bytes from which on a server has grown.
const GROWN: u64 = 256 << 20;
const INTERVAL: Duration = Duration::from_secs(2);

/// This process's own refusal of huge pages.
#[derive(Debug)]
pub(crate) struct Veto(());

impl Veto {
    /// `None` where somebody else refuses them already, who will have reasons, and on a kernel that knows no veto.
    pub(crate) fn set() -> Option<Self> {
        let refused = transparent_huge_pages_are_disabled().unwrap_or(true);
        (!refused && disable_transparent_huge_pages(true).is_ok()).then_some(Self(()))
    }

    /// Takes it back once the process has grown.
    pub(crate) async fn until_grown(self) {
        while resident().is_none_or(|bytes| bytes < GROWN) {
            tokio::time::sleep(INTERVAL).await;
        }
        tracing::debug!("this process has grown: huge pages from now on");
        let _ = disable_transparent_huge_pages(false);
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
        let refused = || transparent_huge_pages_are_disabled().unwrap();
        let veto = Veto::set().unwrap();
        assert!(refused());
        assert!(Veto::set().is_none(), "that of somebody else stays");
        let mut growth = std::pin::pin!(veto.until_grown());
        assert!(tokio::time::timeout(INTERVAL * 10, &mut growth).await.is_err() && refused());
        let grown = vec![1_u8; usize::try_from(GROWN).unwrap()];
        tokio::time::timeout(INTERVAL * 10, growth).await.unwrap();
        assert!(!refused());
        assert!(resident().unwrap() >= grown.iter().map(|byte| u64::from(*byte)).sum());
    }
}
