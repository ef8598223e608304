//! A build master and its slaves, as the article's manifests run them.
//!
//! The master serves HTTP on 8080 and takes slaves on TCP 50000; a slave finds both through the variables of two services. A
//! "build" is one line to an idle slave, which answers with its host name: enough to see which pod did the work.

pub mod master;
pub mod name;
pub mod protocol;
pub mod slave;

#[cfg(test)]
mod tests;

/// The port of the master's page and API.
pub const HTTP_PORT: u16 = 8080;
/// The port on which the master takes slaves.
pub const SLAVE_PORT: u16 = 50000;
