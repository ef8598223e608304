//! What is fixed for the life of a cluster: its id and its address ranges. Decided at the first
//! start, stored beside the objects, handed to every minion.

use bytes::Bytes;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    backup,
    store::{Expect, Loaded, Outcome, Store, StoreError, Stored, Write},
};

/// The key in the store. Two segments, so that it is no object's key.
pub(crate) const KEY: &str = "coracle/cluster";

/// The facts, and their wire form at `/coracle/v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFacts {
    /// 8 hex digits; part of the name of everything on a host that belongs to the cluster.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Where portal addresses come from.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// Where minions get their pod networks from.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
}

/// What the operator asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    /// A range that was named; it must match what an existing cluster has.
    pub wanted: Option<Ipv4Net>,
    /// The range of a new cluster if none was named.
    pub default: Ipv4Net,
}

/// Why the facts can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A flag contradicts the stored cluster.
    #[error(
        "{flag} {wanted} does not fit this data directory, whose cluster uses {stored}: leave the flag out, or start with another --data-dir"
    )]
    Changed {
        /// The flag.
        flag: &'static str,
        /// Its value.
        wanted: Ipv4Net,
        /// What is stored.
        stored: Ipv4Net,
    },
    /// The ranges can't be used together.
    #[error("the pod range {0} and the service range {1} overlap: choose others with --pod-cidr and --service-cidr")]
    Overlap(Ipv4Net, Ipv4Net),
    /// Too small to be of use.
    #[error("--service-cidr {0} is too small: a /29 or larger is needed")]
    TooSmall(Ipv4Net),
    /// A restore into this store was begun and not finished: some objects are missing.
    #[error("a restore into this store was not finished, so it is not served: repeat it with --replace --yes")]
    HalfRestored,
    /// The record does not decode.
    #[error("the stored cluster record is damaged: {0}")]
    Damaged(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the facts from what the store holds, or decides and stores them.
pub async fn establish(
    store: &dyn Store,
    loaded: &Loaded,
    services: Ranges,
    pods: Ranges,
    new_id: u32,
) -> Result<ClusterFacts, ClusterError> {
    if loaded.items.iter().any(|item| item.key == backup::UNFINISHED) {
        return Err(ClusterError::HalfRestored);
    }
    if let Some(item) = find(loaded) {
        return parse(item, services, pods);
    }
    let facts = decide(services, pods, new_id)?;
    let value = serde_json::to_vec(&facts).map_err(|e| ClusterError::Damaged(e.to_string()))?;
    let write = Write::one(KEY, Some(Bytes::from(value)), Expect::Absent);
    match store.commit(vec![write]).await.pop() {
        Some(Outcome::Committed(_)) => Ok(facts),
        Some(Outcome::Failed(error)) => Err(error.into()),
        // Another master decided at the same moment.
        _ => {
            let (loaded, _) = store.load().await?;
            let theirs = find(&loaded).ok_or_else(|| ClusterError::Damaged("it vanished while it was read".into()))?;
            parse(theirs, services, pods)
        }
    }
}

fn find(loaded: &Loaded) -> Option<&Stored> {
    loaded.items.iter().find(|item| item.key == KEY)
}

fn parse(item: &Stored, services: Ranges, pods: Ranges) -> Result<ClusterFacts, ClusterError> {
    let facts: ClusterFacts = serde_json::from_slice(&item.value).map_err(|e| ClusterError::Damaged(e.to_string()))?;
    agrees("--service-cidr", services.wanted, facts.service_cidr)?;
    agrees("--pod-cidr", pods.wanted, facts.pod_cidr)?;
    Ok(facts)
}

fn agrees(flag: &'static str, wanted: Option<Ipv4Net>, stored: Ipv4Net) -> Result<(), ClusterError> {
    match wanted {
        Some(wanted) if wanted.trunc() != stored => Err(ClusterError::Changed { flag, wanted, stored }),
        _ => Ok(()),
    }
}

fn decide(services: Ranges, pods: Ranges, new_id: u32) -> Result<ClusterFacts, ClusterError> {
    let service_cidr = services.wanted.unwrap_or(services.default).trunc();
    let pod_cidr = pods.wanted.unwrap_or(pods.default).trunc();
    if service_cidr.prefix_len() > 29 {
        return Err(ClusterError::TooSmall(service_cidr));
    }
    if service_cidr.contains(&pod_cidr) || pod_cidr.contains(&service_cidr) {
        return Err(ClusterError::Overlap(pod_cidr, service_cidr));
    }
    Ok(ClusterFacts { cluster_id: format!("{new_id:08x}"), service_cidr, pod_cidr })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn range(wanted: Option<&str>, default: &str) -> Ranges {
        Ranges { wanted: wanted.map(net), default: net(default) }
    }

    #[tokio::test]
    async fn facts_are_decided_once() {
        let store = MemoryStore::default();
        let services = range(None, "10.0.0.0/16");
        let first = establish(&store, &Loaded::default(), services, range(None, "10.244.0.0/16"), 0xabc).await.unwrap();
        assert_eq!(first.cluster_id, "00000abc");
        let (loaded, _updates) = store.load().await.unwrap();
        let again = establish(&store, &loaded, services, range(None, "10.99.0.0/16"), 7).await.unwrap();
        assert_eq!(again, first, "defaults do not move a cluster");
        let refused = establish(&store, &loaded, services, range(Some("10.99.0.0/16"), "10.1.0.0/16"), 7).await;
        assert!(refused.unwrap_err().to_string().contains("--pod-cidr 10.99.0.0/16"));
    }

    #[test]
    fn ranges_that_overlap_or_are_too_small_are_refused() {
        let pods = range(None, "10.0.128.0/17");
        assert!(matches!(decide(range(None, "10.0.0.0/16"), pods, 1), Err(ClusterError::Overlap(..))));
        assert!(matches!(decide(range(Some("10.1.0.0/30"), "10.0.0.0/16"), pods, 1), Err(ClusterError::TooSmall(_))));
    }
}
