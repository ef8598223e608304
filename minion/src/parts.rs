//! The tasks that a minion is made of: started together, ended together, none of which may end alone.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of a minion: all tracked, all ended by one token, none of which may end by itself.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    failed: watch::Sender<Option<&'static str>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { tasks: TaskTracker::new(), shutdown: CancellationToken::new(), failed: watch::Sender::new(None) }
    }
}

impl Parts {
    /// Tells of the end.
    pub(crate) fn token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Runs a task that ends only when all are to end.
    pub(crate) fn run(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, failed) = (self.shutdown.clone(), self.failed.clone());
        self.tasks.spawn(async move {
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            if !shutdown.is_cancelled() {
                tracing::error!(part, panicked, "a part of the minion ended by itself; the minion ends");
                failed.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(part);
                    is_first
                });
                shutdown.cancel();
            }
        });
    }

    /// Returns when a part has ended by itself, with its name.
    pub(crate) async fn failed(&self) -> &'static str {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|part| *part) {
            Ok(Some(part)) => part,
            // The sender is in `self`.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_by_itself_ends_the_minion() {
        let parts = Parts::default();
        let token = parts.token();
        parts.run("steady", async move { token.cancelled().await });
        parts.run("frail", async { panic!("as tests do") });
        let mut failed = parts.failed.subscribe();
        failed.wait_for(|part| *part == Some("frail")).await.unwrap();
        parts.tasks.close();
        parts.tasks.wait().await;
        assert_eq!(*failed.borrow(), Some("frail"), "the others were told to end");
    }
}
