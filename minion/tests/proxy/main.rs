//! The service proxy against the real kernel: hosts, pods and an uplink as network namespaces, and
//! once on Docker. Needs root, `ip` and `nft`; the Docker part needs an engine.
//!
//! What is promised for both data planes is a function of the mode, run in each; the name of a test
//! tells which.

// Helpers outside of test functions panic as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

/// Makes tests of promises: one for each mode.
macro_rules! in_both_modes {
    ($($promise:ident),+ $(,)?) => {
        mod nftables {
            $(#[test] fn $promise() { super::$promise(coracle_minion::proxy::ProxyMode::Nftables) })+
        }
        mod userspace {
            $(#[test] fn $promise() { super::$promise(coracle_minion::proxy::ProxyMode::Userspace) })+
        }
    };
}

mod affinity;
mod docker;
mod kernel;
mod master;
#[path = "../namespaces/mod.rs"]
mod namespaces;
mod outside;
mod repair;
mod rolling;
mod services;
mod site;
mod userspace;
