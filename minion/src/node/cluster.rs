//! The facts of the cluster, as the master tells them.

use std::time::Duration;

use coracle_api::client::{Client, ClientError};
use http::Method;
use ipnet::Ipv4Net;
use serde::Deserialize;

/// The limit on asking; a master that is there answers from memory.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// A heartbeat interval outside these is a slip of the pen.
const HEARTBEAT_MILLIS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// What a minion must know about its cluster. From `GET /coracle/v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFacts {
    /// Eight hex digits that name everything of the cluster on a host.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Portal addresses of services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// Addresses of all pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// Milliseconds between two heartbeats.
    pub heartbeat_millis: u64,
    /// The master's version.
    pub version: String,
}

impl ClusterFacts {
    /// Asks the master.
    pub async fn fetch(client: &Client) -> Result<Self, ClientError> {
        let path = "/coracle/v1/cluster";
        let transport = client.transport();
        let asking = transport.json(Method::GET, path, None);
        let bytes = tokio::time::timeout(ASK_LIMIT, asking).await.map_err(|_| ClientError::Timeout {
            server: transport.server().to_owned(),
            path: path.to_owned(),
            seconds: ASK_LIMIT.as_secs(),
        })??;
        decode(&bytes).map_err(|cause| ClientError::Protocol { path: path.to_owned(), cause })
    }

    /// The time between two heartbeats.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_millis)
    }
}

fn decode(bytes: &[u8]) -> Result<ClusterFacts, String> {
    let facts: ClusterFacts = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    // It becomes part of names on this host: nothing but the agreed form may pass.
    if facts.cluster_id.len() != 8 || !facts.cluster_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("'{}' is not a cluster ID of 8 hex digits", facts.cluster_id));
    }
    if !HEARTBEAT_MILLIS.contains(&facts.heartbeat_millis) {
        return Err(format!("a heartbeat interval of {} ms", facts.heartbeat_millis));
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(id: &str, millis: u64) -> Result<ClusterFacts, String> {
        let json = serde_json::json!({
            "clusterID": id, "serviceCIDR": "10.0.0.0/16", "podCIDR": "10.244.0.0/16", "heartbeatMillis": millis,
            "version": "0.1.0", "later": "additions are ignored",
        });
        decode(json.to_string().as_bytes())
    }

    #[test]
    fn the_masters_answer_is_understood() {
        let facts = facts("00ff12ab", 2000).unwrap();
        assert_eq!(facts.heartbeat(), Duration::from_secs(2));
        assert_eq!(facts.pod_cidr.to_string(), "10.244.0.0/16");
    }

    #[test]
    fn an_id_that_could_be_part_of_a_path_is_refused() {
        for id in ["", "00ff12a", "../../et", "00FF12AB", "00ff12ab0"] {
            assert!(facts(id, 2000).is_err(), "{id}");
        }
    }

    #[test]
    fn an_impossible_interval_is_refused() {
        assert!(facts("00ff12ab", 0).is_err());
        assert!(facts("00ff12ab", 3_600_000).is_err());
    }
}
