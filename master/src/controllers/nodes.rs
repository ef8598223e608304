//! Minions: their pod networks and their health.
//!
//! Beats live in memory; only transitions are written. The condition `Ready` of a node has one
//! writer, this loop. When a minion falls silent, its pods are marked `NodeLost`, and unmarked
//! when it returns.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use coracle_api::{
    ApiError, TypedObject,
    core::{Node, NodeCondition, Pod},
    error::Reason,
};
use futures_util::{StreamExt, future::join_all};
use ipnet::Ipv4Net;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::changes;
use crate::{
    events::Recorder,
    liveness::{Beat, Liveness},
    registry::{Key, Registry},
};

/// Prefix length of one minion's share of the pod network: 254 addresses.
const NODE_PREFIX: u8 = 24;
/// Missed beats after which a minion counts as silent, plus half a beat for delays.
const MISSED_BEATS: f64 = 2.5;
/// On the status of a pod whose minion is silent.
pub(crate) const NODE_LOST: &str = "NodeLost";

/// The loop's settings and handles.
#[derive(Debug)]
pub(crate) struct NodeController {
    pub(crate) registry: Registry,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) events: Recorder,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) beat: Duration,
}

/// What a node's `Ready` condition should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Judges a minion by its last beat. `started_at` is when this master began to listen: a minion
/// gets its grace from then, not from a beat that went to another master. `None` while the grace
/// runs: what is stored stands.
pub(crate) fn judge(
    beat: Option<&Beat>,
    started_at: Timestamp,
    now: Timestamp,
    grace: SignedDuration,
) -> Option<Health> {
    let last = beat.map_or(started_at, |b| b.at.max(started_at));
    let silent = now.duration_since(last);
    match beat {
        Some(beat) if silent <= grace => Some(Health {
            status: if beat.ready { "True" } else { "False" },
            reason: beat.reason.clone(),
            message: beat.message.clone(),
        }),
        None if silent <= grace => None,
        _ => Some(Health {
            status: "Unknown",
            reason: "MinionSilent".into(),
            message: "the minion does not answer: is its host up, and its `coracle minion` running?".into(),
        }),
    }
}

/// The first free share of the pod network.
pub(crate) fn free_share(pod_cidr: Ipv4Net, taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let prefix = NODE_PREFIX.max(pod_cidr.prefix_len());
    pod_cidr.subnets(prefix).ok()?.find(|share| !taken.contains(share))
}

impl NodeController {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let started_at = Timestamp::now();
        let mut nodes = changes(self.registry.clone(), Node::row()).boxed();
        let mut beats = self.liveness.subscribe();
        let mut period = tokio::time::interval(self.beat / 2);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Every arm only wakes: all are cancel-safe, and the round starts from full state.
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = nodes.next() => {}
                Ok(()) = beats.changed() => {}
                _ = period.tick() => {}
            }
            if let Err(error) = self.round(started_at, Timestamp::now()).await {
                let expected = matches!(error.reason, Reason::Conflict | Reason::NotFound);
                if !expected {
                    tracing::warn!(%error, "the minions could not be looked after");
                }
            }
        }
    }

    async fn round(&self, started_at: Timestamp, now: Timestamp) -> Result<(), ApiError> {
        let nodes: Vec<Node> = self.registry.snapshot(Node::row()).entries.values().filter_map(|e| e.typed()).collect();
        self.allot(&nodes).await?;
        let beats = self.liveness.snapshot();
        let grace = SignedDuration::try_from(self.beat.mul_f64(MISSED_BEATS)).unwrap_or(SignedDuration::from_secs(5));
        for node in &nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let Some(health) = judge(beats.get(name), started_at, now, grace) else { continue };
            if ready_status(node) != Some(&health.status.to_owned()) {
                self.write_health(name, &health, now).await?;
                self.announce(node, &health);
            }
            self.mark_pods(name, health.status == "Unknown").await?;
        }
        Ok(())
    }

    async fn allot(&self, nodes: &[Node]) -> Result<(), ApiError> {
        let share = |n: &Node| n.spec.as_ref().and_then(|s| s.pod_cidr.as_ref()?.parse::<Ipv4Net>().ok());
        let mut taken: BTreeSet<Ipv4Net> = nodes.iter().filter_map(share).collect();
        for node in nodes.iter().filter(|n| share(n).is_none()) {
            let Some(free) = free_share(self.pod_cidr, &taken) else {
                let message = format!("the pod network {} has no /{NODE_PREFIX} left for this minion", self.pod_cidr);
                self.events.warning(node, "NoPodNetwork", &message);
                continue;
            };
            taken.insert(free);
            let set = |node: &mut Node| {
                let spec = node.spec.get_or_insert_default();
                let missing = spec.pod_cidr.is_none();
                if missing {
                    spec.pod_cidr = Some(free.to_string());
                    spec.pod_cidrs = Some(vec![free.to_string()]);
                }
                Ok(missing)
            };
            self.registry.modify("", node.metadata.name.as_deref().unwrap_or_default(), set).await?;
        }
        Ok(())
    }

    async fn write_health(&self, name: &str, health: &Health, now: Timestamp) -> Result<(), ApiError> {
        let set = |node: &mut Node| {
            let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.retain(|c| c.type_ != "Ready");
            conditions.push(NodeCondition {
                type_: "Ready".into(),
                status: health.status.into(),
                reason: Some(health.reason.clone()),
                message: Some(health.message.clone()),
                last_heartbeat_time: Some(now.into()),
                last_transition_time: Some(now.into()),
            });
            Ok(true)
        };
        self.registry.modify("", name, set).await.map(drop)
    }

    fn announce(&self, node: &Node, health: &Health) {
        match health.status {
            "True" => self.events.normal(node, "NodeReady", "the minion is ready for pods"),
            _ => self.events.warning(node, "NodeNotReady", &health.message),
        }
    }

    /// Says on each live pod of the minion whether its state is still known.
    async fn mark_pods(&self, node: &str, lost: bool) -> Result<(), ApiError> {
        let pods: Vec<Key> = self
            .registry
            .snapshot(Pod::row())
            .entries
            .values()
            .filter(|e| {
                e.pod().is_some_and(|p| p.node.as_deref() == Some(node) && p.lost != lost && !p.phase.is_terminal())
            })
            .map(|e| e.key.clone())
            .collect();
        let set = |pod: &mut Pod| {
            let status = pod.status.get_or_insert_default();
            status.reason = lost.then(|| NODE_LOST.to_owned());
            status.message = lost.then(|| format!("minion {node} does not answer; the pod's state is unknown"));
            Ok(true)
        };
        let results = join_all(pods.iter().map(|key| self.registry.modify(&key.namespace, &key.name, set))).await;
        results.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    }
}

fn ready_status(node: &Node) -> Option<&String> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| &c.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn beat(second: i64, ready: bool) -> Beat {
        Beat { at: at(second), ready, reason: "R".into(), message: "m".into() }
    }

    fn check(beat: Option<Beat>, started: i64, now: i64, expected: Option<&str>) {
        let judged = judge(beat.as_ref(), at(started), at(now), SignedDuration::from_secs(5));
        assert_eq!(judged.map(|h| h.status), expected);
    }

    #[test]
    fn a_minion_is_ready_as_it_says_while_it_beats() {
        check(Some(beat(100, true)), 0, 105, Some("True"));
        check(Some(beat(100, false)), 0, 101, Some("False"));
    }

    #[test]
    fn a_silent_minion_is_unknown() {
        check(Some(beat(100, true)), 0, 106, Some("Unknown"));
        check(None, 0, 6, Some("Unknown"));
    }

    #[test]
    fn a_master_that_just_started_believes_what_is_stored() {
        check(None, 100, 104, None);
        check(None, 100, 106, Some("Unknown"));
    }

    #[test]
    fn shares_are_given_out_once_and_run_out() {
        let cidr: Ipv4Net = "10.244.0.0/23".parse().unwrap();
        let mut taken = BTreeSet::new();
        for expected in ["10.244.0.0/24", "10.244.1.0/24"] {
            let share = free_share(cidr, &taken).unwrap();
            assert_eq!(share.to_string(), expected);
            taken.insert(share);
        }
        assert_eq!(free_share(cidr, &taken), None);
        assert_eq!(free_share("10.9.9.0/26".parse().unwrap(), &BTreeSet::new()).unwrap().to_string(), "10.9.9.0/26");
    }
}
