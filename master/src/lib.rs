//! The control plane: the store, the registry on top of it, the API server, the scheduler and
//! the controllers.

pub mod registry;
pub mod store;
