//! The embedded store on a real machine: processes killed in the middle, disks that fill up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod full;
mod restart;

use std::path::Path;

use coracle_master::store::{EmbeddedStore, Options, StoreError};

/// Opens a store that another thread or process may be about to leave.
async fn open(directory: &Path, options: Options) -> EmbeddedStore {
    loop {
        match EmbeddedStore::open_with(directory, options.clone()).await {
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            other => return other.expect("it opens"),
        }
    }
}
