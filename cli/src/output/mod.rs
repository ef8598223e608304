//! Where text goes: answers to stdout, notes to stderr.
//!
//! Invariant: nothing else in the crate writes to the two streams, except raw exec output.

pub(crate) mod table;

use std::{
    io::Write,
    time::{Duration, Instant},
};

pub(crate) use coracle_api::columns::{self, age, pod_status};

use serde_json::Value;

use crate::failure::Outcome;

/// How often a progress text changes at most.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// Writes to stdout and flushes; a closed pipe is [`crate::failure::Failure::ClosedPipe`].
pub(crate) fn write(text: &str) -> Outcome {
    write_bytes(text.as_bytes())
}

/// Writes bytes to stdout and flushes.
pub(crate) fn write_bytes(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> Outcome {
    write(&format!("{text}\n"))
}

/// Writes a line to stderr. Where nobody reads it, it is lost.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
}

/// Shows what a long wait waits for, on a terminal only.
pub(crate) struct Progress {
    shown: bool,
    /// When the text was last changed.
    at: Instant,
}

impl Progress {
    /// Shows the text until dropped, if stderr is a terminal.
    pub(crate) fn new(text: &str) -> Self {
        let shown = std::io::IsTerminal::is_terminal(&std::io::stderr());
        if shown {
            let _ = write!(std::io::stderr().lock(), "{text}");
        }
        Self { shown, at: Instant::now() }
    }

    /// Shows another text, if the present one has been there for a moment.
    pub(crate) fn update(&mut self, text: impl FnOnce() -> String) {
        if self.shown && self.at.elapsed() >= PROGRESS_PERIOD {
            self.at = Instant::now();
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// Indented JSON with a line break.
pub(crate) fn json(value: &Value) -> String {
    // A JSON value always serialises.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// YAML in kubectl's style.
pub(crate) fn yaml(value: &Value) -> String {
    coracle_api::yaml::to_yaml(value)
}
