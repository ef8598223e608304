//! The control plane: the store, the registry on top of it, the API server, the scheduler and
//! the controllers.

pub mod cluster;
mod controllers;
mod deletion;
mod events;
pub mod liveness;
pub mod registry;
pub mod scheduler;
pub mod store;
