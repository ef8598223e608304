//! The node agent: makes the node's containers, volumes, network and proxy equal to what the
//! master says, and tells the master what it sees.

pub mod node;
pub mod pods;
pub mod runtime;
