//! Stops go before removals: what a container leaves is cleared away when the programs have ended.
//!
//! Stopping and removing cost an engine about the same. Of many pods that are deleted at once, the last one's
//! program would otherwise wait for the networks of the first ones to be taken down.

use std::{future::Future, pin::pin, time::Duration};

use tokio::sync::watch;

/// A stop that takes longer waits for its program, not for the engine.
const STOP_MAX: Duration = Duration::from_secs(1);
/// A removal waits no longer, whatever is being stopped.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How many stops keep the engine busy.
#[derive(Debug, Default)]
pub(super) struct Stopping(watch::Sender<usize>);

impl Stopping {
    /// Counts a stop while it runs, for a while.
    pub(super) async fn during<T>(&self, stop: impl Future<Output = T>) -> T {
        let counted = Counted::new(&self.0);
        let mut stop = pin!(stop);
        // Nothing is lost: the stop is pinned and goes on.
        if let Ok(done) = tokio::time::timeout(STOP_MAX, &mut stop).await {
            return done;
        }
        drop(counted);
        stop.await
    }

    /// Returns when nothing is being stopped, or after a while. Cancel-safe.
    pub(super) async fn until_idle(&self) {
        let mut count = self.0.subscribe();
        // Late or not: what does not stop must not keep others.
        drop(tokio::time::timeout(WAIT_MAX, count.wait_for(|count| *count == 0)).await);
    }
}

struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_removal_waits_for_the_stops_that_are_under_way() {
        let stopping = Stopping::default();
        let begun = Instant::now();
        stopping.until_idle().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nothing is being stopped");
        let stop = |milliseconds| stopping.during(tokio::time::sleep(Duration::from_millis(milliseconds)));
        let (.., waited) = tokio::join!(stop(300), stop(700), async {
            stopping.until_idle().await;
            begun.elapsed()
        });
        assert_eq!(waited.as_millis(), 700);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_program_that_takes_its_time_nor_an_endless_row_of_stops_keeps_it() {
        let stopping = Stopping::default();
        let begun = Instant::now();
        tokio::select! {
            biased;
            () = stopping.during(pending()) => {}
            () = stopping.until_idle() => {}
        }
        assert_eq!(begun.elapsed(), STOP_MAX);
        let begun = Instant::now();
        let one = async || {
            loop {
                stopping.during(tokio::time::sleep(STOP_MAX / 2)).await;
            }
        };
        let other = async {
            tokio::time::sleep(STOP_MAX / 4).await;
            one().await
        };
        tokio::select! {
            biased;
            () = one() => {}
            () = other => {}
            () = stopping.until_idle() => {}
        }
        assert_eq!(begun.elapsed(), WAIT_MAX);
    }

    #[tokio::test]
    async fn a_stop_that_is_given_up_counts_no_longer() {
        let stopping = Stopping::default();
        tokio::select! {
            biased;
            () = stopping.during(pending()) => {}
            () = std::future::ready(()) => {}
        }
        assert_eq!(*stopping.0.borrow(), 0);
    }
}
