//! YAML in and out.
//!
//! Owns the way from a user's text to JSON values and back: [`parse_documents`] reads JSON and
//! YAML, [`to_yaml`] writes what `kubectl` writes. What it reads is bounded before and while it is
//! read: any bytes end in values or in a 400 that names the place, never in a panic or a long wait.

mod emit;
mod parse;
#[cfg(test)]
mod tests;

pub use self::{
    emit::to_yaml,
    parse::{MAX_BYTES, MAX_DEPTH, parse_documents},
};
