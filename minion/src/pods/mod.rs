//! Pods on this node: what the master wants × what the engine shows × probe results × now → actions.
//!
//! ```text
//!  pods (Wire) ──┐                      ┌─ execute (runtime, volumes, hooks)
//!  RuntimeEvent ─┼─> worker (one a pod) ┼─ status writer, events (report)
//!  probe, timer ─┘     plan::plan_pod   └─ probes
//! ```
//!
//! * [`manager`]: [`Manager`] is the entry. `supervisor`: feeds the workers, lists and adopts at
//!   start, finds orphans.
//! * `worker`: observes, plans from full state, starts what the plan says, reports. `mailbox`: what it is told.
//!   `rest`: what is left of it while nothing happens.
//! * `plan`, `restart`, `status`, `memory`, `backoff`: pure decisions; no clock, no I/O.
//! * `container`, `environment`, `expansion`, `naming`: a pod's container → what the engine is asked.
//! * [`services`]: what containers are told of services. [`traffic`]: which pods services send clients to, so that none is stopped while they do.
//! * `execute`: one action of a plan, carried out. [`report`], `status_writer`: what the master is
//!   told. `directory`: which container a log or command is of.
//!
//! The invariant: the name of a container is fixed by pod, container, spec and attempt, and an
//! attempt number is used for one start only. So whatever crashes between two steps, the engine
//! itself refuses to have a container twice.

pub mod backoff;
mod conditions;
pub mod container;
mod directory;
mod discovery;
pub mod environment;
mod execute;
mod expansion;
mod mailbox;
pub mod manager;
pub mod memory;
pub mod naming;
pub mod observation;
pub mod operations;
pub mod plan;
pub mod report;
mod resolver;
pub mod resources;
mod rest;
pub mod restart;
pub mod services;
pub mod status;
mod status_writer;
mod stopping;
mod supervisor;
pub mod traffic;
mod worker;

pub use coracle_api::clock::Clock;
pub use manager::{Config, FindError, Inputs, Manager, PlanPod, PodDns, PodQuery};
pub use report::{ApiReporter, EventType, PodEvent, Report, ReportError, StatusText};

#[cfg(test)]
mod tests;
