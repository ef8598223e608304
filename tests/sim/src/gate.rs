//! The life of a process: while it lives, what it does has an effect; when it is over, nothing does.
//!
//! Tasks of a process can't be killed from outside. So a crash closes its gate: at every way out, to the
//! network, the store and the engine, it is stopped in the middle of whatever it was doing, and what it
//! still plans is for nobody to see. Then it is told to end.

use tokio_util::sync::CancellationToken;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    /// Ends the life.
    pub fn close(&self) {
        self.0.cancel();
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Does it while the process lives; `None` if its end came first.
    pub async fn pass<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.run_until_cancelled(work).await
    }
}
