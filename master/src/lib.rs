//! The control plane: the store, the registry on top of it, the API server, the scheduler and
//! the controllers, and the [`master`] that runs them together.

mod admission;
pub mod backup;
pub mod cluster;
mod controllers;
pub mod coordination;
mod deletion;
pub mod events;
mod leadership;
pub mod liveness;
pub mod master;
pub mod plans;
pub mod registry;
pub mod scheduler;
pub mod server;
pub mod source;
pub mod store;
pub mod verify;
