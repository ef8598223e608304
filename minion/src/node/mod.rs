//! The minion as a node of its cluster: how it introduces itself, shows that it lives, and serves
//! logs and commands. What runs on the node is not its concern (see [`crate::pods`]).
//!
//! * [`cluster`]: the facts of the cluster that the master tells.
//! * [`facts`]: what there is to say about this machine.
//! * [`registration`]: the Node object.
//! * [`heartbeat`]: the sign of life, with the engine's health.
//! * [`tunnel`]: the connection on which the master reaches the minion; nothing listens here.
//! * [`server`]: what the master may ask on it: logs, and commands (`exec_stream`).

pub mod cluster;
mod exec_stream;
pub mod facts;
pub mod heartbeat;
pub mod registration;
pub mod server;
pub mod tunnel;

use std::time::Duration;

/// Waiting times that double from `MIN` to `MAX` and start again after a success.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(2);

    pub(crate) fn new() -> Self {
        Self(Self::MIN)
    }

    /// How long to wait now; the next time longer.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (self.0 * 2).min(Self::MAX);
        wait
    }
}
