//! Where the bytes of the userspace proxy go through: [`relay()`], the [`Pipes`] it uses, and the [`Budget`] of open
//! files that it shares with whoever accepts and connects.
//!
//! A crate of its own, since it is built for speed and the rest of the minion for size
//! (`docs/benchmarks.md`).

mod budget;
mod pipes;
mod relay;

pub use budget::Budget;
pub use pipes::Pipes;
pub use relay::relay;
