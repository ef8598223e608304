//! The service proxy against the real kernel: hosts, pods and an uplink as network namespaces, and
//! once on Docker. Needs root, `ip` and `nft`; the Docker part needs an engine.

// Helpers outside of test functions panic as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod docker;
mod master;
mod services;
mod site;
