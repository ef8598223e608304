//! Log lines, one event each: events go to standard output and failures to standard error, where a container engine picks
//! both up and adds the time.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes one line about something that happened.
pub fn info(text: impl Display) {
    // Nobody is left to tell when the log itself cannot be written, and the program's work goes on without it.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes one line about why the program ends.
pub fn error(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
