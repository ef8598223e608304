//! How long a minion that starts waits for its master.

use std::{future::Future, time::Duration};

use coracle_api::client::ClientError;
use tokio::time::Instant;

use crate::{minion::StartError, node::Backoff};

/// Waiting is mentioned again so often.
const REMIND: Duration = Duration::from_secs(15);

/// The end of the patience with the master.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// From now on.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    fn late(&self, what: &'static str, cause: Option<ClientError>) -> StartError {
        let cause = cause.map_or_else(String::new, |e| format!(": {e}"));
        StartError::Timeout { what, seconds: self.limit.as_secs(), cause }
    }

    /// Asks again, with back-off, as long as that may help.
    pub(crate) async fn retry<T, F>(&self, what: &'static str, mut ask: impl FnMut() -> F) -> Result<T, StartError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut backoff = Backoff::new();
        let mut mentioned: Option<Instant> = None;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(e) if !e.is_transient() => return Err(StartError::Master(e)),
                Err(e) => e,
            };
            if mentioned.is_none_or(|at| at.elapsed() > REMIND) {
                tracing::info!(%error, "{what}");
                mentioned = Some(Instant::now());
            }
            let wait = backoff.next();
            if Instant::now() + wait > self.at {
                return Err(self.late(what, Some(error)));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits, and says so now and then.
    pub(crate) async fn wait<T>(&self, what: &'static str, answer: impl Future<Output = T>) -> Result<T, StartError> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let pause = self.at.min(Instant::now() + REMIND);
            match tokio::time::timeout_at(pause, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if Instant::now() >= self.at => return Err(self.late(what, None)),
                Err(_) => tracing::info!("{what}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_master_that_does_not_come_is_given_up_with_the_last_error() {
        let deadline = Deadline::new(Duration::from_secs(60));
        let ask = || async { Err::<(), _>(ClientError::Connect { server: "s".into(), cause: "refused".into() }) };
        let error = deadline.retry("waiting for the master", ask).await.unwrap_err().to_string();
        assert_eq!(error, "waiting for the master took longer than 60 s: cannot reach the master at s: refused");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_allotted_is_given_up() {
        let deadline = Deadline::new(Duration::from_secs(60));
        let error = deadline.wait("waiting for x", std::future::pending::<()>()).await.unwrap_err().to_string();
        assert_eq!(error, "waiting for x took longer than 60 s");
    }

    #[tokio::test]
    async fn an_answer_that_will_not_change_is_not_asked_for_again() {
        let deadline = Deadline::new(Duration::from_secs(60));
        let ask = || async { Err::<(), _>(ClientError::Address("x".into())) };
        assert!(matches!(deadline.retry("asking", ask).await, Err(StartError::Master(ClientError::Address(_)))));
    }
}
