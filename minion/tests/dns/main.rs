//! The DNS server over real sockets: a node, a pod and an upstream as network namespaces. Needs root
//! and `ip`.

// Helpers outside of test functions panic as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../namespaces/mod.rs"]
mod namespaces;
mod server;
mod site;
