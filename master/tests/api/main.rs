//! The API server in one process with an in-memory store, asked through the typed client and
//! through bare HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backups;
mod evictions;
mod faults;
mod harness;
mod legacy;
mod objects;
mod pages;
mod schedule;
mod streams;
mod watches;
