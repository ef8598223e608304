//! The programs inside the example images, in one binary.
//!
//! Each stands in for a real program and keeps just the behaviour that an orchestrator can see: the ports, the environment
//! variables, the data directory, what happens when a container dies and another takes its place.
//!
//! - [`program`]: which program the command line asks for, and running it;
//! - [`jenkins`]: a build master and its slaves, for the article's four manifests;
//! - [`guestbook`]: a front end, a leader that holds the entries and followers that copy them;
//! - [`echo`]: a server that says who it is, and its client;
//! - the ground they stand on: [`accept`] (a bounded accept loop), [`frame`] (messages cut from a byte stream), [`http`],
//!   [`backoff`], [`escape`], [`failure`], [`log`] and [`machine`].
//!
//! Everything read from a socket is bounded in size and in time, and nothing read from a socket can end a program. A program
//! runs until its future is dropped; there is no other way to stop one, so a stop needs no co-operation and takes no time.

pub mod accept;
pub mod backoff;
pub mod echo;
pub mod escape;
pub mod failure;
pub mod frame;
pub mod guestbook;
pub mod http;
pub mod jenkins;
pub mod log;
pub mod machine;
pub mod program;

#[cfg(test)]
mod testing;
