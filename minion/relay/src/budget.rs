//! File descriptors, which the host limits: what listens, connects and buffers here takes each from
//! one budget.
//!
//! Invariant: what is taken never exceeds the limit less the part that the rest of the process needs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use coracle_api::open_files;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of the process' limit, for everything but the proxy.
const RESERVE: usize = 1024;
/// Where the process has no limit.
const UNLIMITED: usize = 1 << 20;

/// What may be open.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    limit: usize,
    told: Arc<AtomicBool>,
}

impl Budget {
    /// The process' limit, raised as far as it may be.
    pub fn of_process() -> Self {
        Self::new(open_files::raise_limit().unwrap_or(UNLIMITED))
    }

    fn new(limit: usize) -> Self {
        let ours = limit.saturating_sub(RESERVE).max(limit / 2);
        Self { free: Arc::new(Semaphore::new(ours)), limit: ours, told: Arc::default() }
    }

    /// The most sockets that portals may have: the rest is for connections.
    pub fn portals_max(&self) -> usize {
        self.limit / 4 * 3
    }

    /// The most flows of UDP.
    pub fn flows_max(&self) -> usize {
        self.limit / 8
    }

    /// Takes so many, if they are free.
    pub fn try_take(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(count).ok()
    }

    /// Takes so many for a connection, and waits for them if need be. Cancel-safe.
    pub async fn take(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        if let Some(taken) = self.try_take(count) {
            return Some(taken);
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                limit = self.limit,
                "the service proxy has as many files open as it may; new connections wait (raise LimitNOFILE)"
            );
        }
        // The semaphore is never closed.
        Arc::clone(&self.free).acquire_many_owned(count).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_taken_comes_back_and_never_exceeds_the_limit() {
        let budget = Budget::new(2048);
        let all = budget.try_take(1024).unwrap();
        assert!(budget.try_take(1).is_none());
        let mut waiting = std::pin::pin!(budget.take(2));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(all);
        assert!(waiting.await.is_some());
        assert_eq!(Budget::new(64).limit, 32, "a small limit is shared");
    }
}
