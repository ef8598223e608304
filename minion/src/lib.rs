//! The node agent: makes the node's containers, volumes, network and proxy equal to what the
//! master says, and tells the master what it sees.
//!
//! * [`minion`]: builds all of it and runs it; the entry. Of `parts`, started within a `deadline`.
//! * [`hollow`]: thousands of simulated minions, each a [`bare`] one.
//! * [`node`]: the Node object, heartbeats, logs and commands for the master.
//! * [`pods`]: pods as containers: plans, workers, statuses.
//! * [`probes`]: health checks and hooks. [`volumes`]: the pods' directories.
//! * [`network`], [`proxy`], [`dns`]: the pod network, and the portals and names of services.
//! * [`runtime`]: the container engine.
//! * [`reset`]: takes everything of a cluster off this host.

pub mod bare;
mod conntrack;
mod deadline;
pub mod dns;
pub mod feed;
pub mod hollow;
pub mod minion;
pub mod network;
mod nfnetlink;
pub mod node;
mod parts;
pub mod pods;
pub mod probes;
pub mod proxy;
mod record;
pub mod reset;
mod rtnl;
mod rulesets;
pub mod runtime;
pub mod volumes;

pub use minion::{Minion, MinionConfig, StartError};
pub use rtnl::NetlinkError;
