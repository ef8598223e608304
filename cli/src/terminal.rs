//! The user's terminal in raw mode.
//!
//! Invariant: whatever happens, dropping [`RawMode`] gives the terminal back as it was.

use std::io::{IsTerminal, Stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode until dropped.
pub(crate) struct RawMode {
    stdin: Stdin,
    original: Termios,
}

impl RawMode {
    /// Turns raw mode on, if stdin is a terminal.
    pub(crate) fn enter() -> std::io::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let original = tcgetattr(&stdin)?;
        let mut raw = original.clone();
        raw.make_raw();
        let guard = Self { stdin, original };
        tcsetattr(&guard.stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done when this fails.
        let _ = tcsetattr(&self.stdin, OptionalActions::Drain, &self.original);
    }
}

/// Columns and rows of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
