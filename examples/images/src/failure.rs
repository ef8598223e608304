//! I/O errors that say what they are about.

use std::{fmt::Display, io};

/// Puts a subject (a path, an address) in front of an I/O error and keeps its kind: `.map_err(about(path))`.
pub fn about(subject: impl Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{subject}: {error}"))
}

/// The error for bytes that break a format.
pub fn invalid(text: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_string())
}
