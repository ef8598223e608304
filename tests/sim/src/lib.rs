//! A whole cluster in one thread, under one seed and a clock of its own.
//!
//! The master is the real one, from its HTTP server down to the map in memory that stands for its store; the
//! minions are made of the real parts around the hollow engine; they meet over HTTP on a [`network`] in memory.
//! Tokio's clock is paused, so time passes only when nobody has anything to do, and every delay, fault
//! and order of the [`user`] follows from the seed: a run can be had again.
//!
//! * [`course`]: one run, from the first host to the last check. [`check`]: what must be true when the
//!   faults are over. [`world`]: what must be true always.
//! * [`disk`], [`engine`], [`network`]: the three ways out of a process, each behind a [`gate`] that closes when
//!   the process crashes. [`host`]: a minion and its engine. [`faults`]: what happens to all of them.
//! * [`mutants`]: wrong plans that the simulation must notice.

pub mod check;
pub mod course;
pub mod disk;
pub mod engine;
pub mod faults;
pub mod gate;
pub mod host;
pub mod mutants;
pub mod network;
pub mod random;
pub mod trace;
pub mod user;
pub mod world;

pub use course::{Options, Outcome, run};
