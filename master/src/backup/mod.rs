//! Backups: every object of a cluster at one version, as text that checks itself.
//!
//! [`format`](mod@format) reads and writes the text and knows no store; [`Cut`] makes it from a
//! registry; [`restore()`] puts it into an empty store of whatever back end. `docs/backup.md`
//! describes the text for those who read it with other tools.
//!
//! Invariant: a text that was cut short or changed anywhere is refused, and a store that was not
//! restored to the end is not served.

mod cut;
pub mod format;
mod restore;

#[cfg(test)]
mod tests;

pub use cut::Cut;
pub use restore::{RestoreError, Restored, UNFINISHED, check, restore};
