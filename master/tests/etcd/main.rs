//! The store and the coordinator on real etcd clusters: what they promise, and that they keep it
//! when members die, stand still or are cut off from each other.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and tells its figures")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_master::store::*;
use coracle_test_etcd::{Cluster, Options};
use tokio::time::timeout;

mod access;
#[path = "../../src/store/contract.rs"]
mod contract;
mod coordination;
mod faults;
mod followers;
mod history;
mod promises;
mod record;

/// How long anything that must happen may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of a cluster, under a prefix.
fn config(cluster: &Cluster, prefix: &str) -> EtcdConfig {
    EtcdConfig::parse(&format!("etcd://{}{prefix}", cluster.endpoints().join(",")), EtcdAccess::default()).unwrap()
}

async fn open(cluster: &Cluster, prefix: &str) -> EtcdStore {
    EtcdStore::open(config(cluster, prefix)).await.unwrap()
}

/// Waits until a store's health is as expected; gives it.
async fn health(store: &EtcdStore, what: &str, expected: impl FnMut(&Health) -> bool) -> Health {
    let mut health = store.health();
    let seen = timeout(PATIENCE, health.wait_for(expected)).await;
    seen.unwrap_or_else(|_| panic!("{what}")).unwrap().clone()
}

fn is_degraded(health: &Health) -> bool {
    matches!(health, Health::Degraded { .. })
}
