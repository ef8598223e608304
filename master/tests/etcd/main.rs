//! The store and the coordinator on real etcd clusters.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use coracle_master::store::*;
use coracle_test_etcd::Cluster;

#[path = "../../src/store/contract.rs"]
mod contract;
mod promises;

/// The address of a cluster, under a prefix.
fn config(cluster: &Cluster, prefix: &str) -> EtcdConfig {
    EtcdConfig::parse(&format!("etcd://{}{prefix}", cluster.endpoints().join(",")), EtcdAccess::default()).unwrap()
}

async fn open(cluster: &Cluster, prefix: &str) -> EtcdStore {
    EtcdStore::open(config(cluster, prefix)).await.unwrap()
}
