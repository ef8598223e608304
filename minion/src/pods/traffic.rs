//! Which pods of this node take traffic of services, so that one that is deleted serves on until
//! nobody is sent to it any more.
//!
//! A deletion and the withdrawal of the pod from the endpoints reach the minions on different ways,
//! and the first is the faster one: were containers stopped at once, every proxy that has not heard
//! of the withdrawal would send clients to a pod that is gone. So a container gets its signal when
//! this minion has heard of the withdrawal, and [`PROPAGATION`] later, within which the others hear
//! of it too. Never after half of the grace period or [`HOLD_MAX`], whatever is heard.
//!
//! Endpoints say of each address whose it is and where; addresses that a user wrote by hand do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coracle_api::{
    client::Change,
    core::{EndpointAddress, Endpoints},
};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Clock, backoff::after};

/// From the moment at which this minion hears that a pod takes no more traffic until all proxies have
/// acted on it: the delivery of one event and one change of the kernel's table, on a loaded host.
pub const PROPAGATION: Duration = Duration::from_secs(1);
/// Longest that a pod serves on after its deletion. A withdrawal that is not heard of by then is held
/// up elsewhere.
pub const HOLD_MAX: Duration = Duration::from_secs(10);
/// A withdrawal that long ago says nothing any more.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A pod's part in the traffic of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Clients are sent to it.
    Taken,
    /// It was heard then that no more are.
    Ended(Timestamp),
}

/// When the containers of a pod that was deleted at `since` may be stopped. `None` is a pod that
/// took no traffic.
pub fn release_at(traffic: Option<Traffic>, since: Timestamp, grace: Duration) -> Timestamp {
    let latest = after(since, HOLD_MAX.min(grace / 2));
    match traffic {
        None => since,
        Some(Traffic::Taken) => latest,
        Some(Traffic::Ended(at)) => after(at, PROPAGATION).clamp(since, latest),
    }
}

/// What is known of the pods of one node.
#[derive(Debug, Default)]
pub struct Serving {
    /// UIDs by service.
    services: BTreeMap<(String, String), BTreeSet<String>>,
    ended: BTreeMap<String, Timestamp>,
}

impl Serving {
    /// A pod's part.
    pub fn of(&self, uid: &str) -> Option<Traffic> {
        if self.services.values().any(|pods| pods.contains(uid)) {
            return Some(Traffic::Taken);
        }
        self.ended.get(uid).copied().map(Traffic::Ended)
    }

    /// Takes in a change. Whether a pod's part changed.
    fn apply(&mut self, change: Change<Endpoints>, node: &str, now: Timestamp) -> bool {
        let key = |e: &Endpoints| {
            (e.metadata.namespace.clone().unwrap_or_default(), e.metadata.name.clone().unwrap_or_default())
        };
        let mut services = match change {
            Change::Replaced(all) => all.iter().map(|e| (key(e), pods_of(e, node))).collect(),
            Change::Applied(endpoints) => self.with(key(&endpoints), pods_of(&endpoints, node)),
            Change::Deleted(endpoints) => self.with(key(&endpoints), BTreeSet::new()),
            // The pods as last known.
            Change::Interrupted(_) => return false,
        };
        services.retain(|_, pods| !pods.is_empty());
        if services == self.services {
            return false;
        }
        let all = |services: &BTreeMap<_, BTreeSet<String>>| services.values().flatten().cloned().collect();
        let (before, served): (BTreeSet<String>, BTreeSet<String>) = (all(&self.services), all(&services));
        self.ended.retain(|uid, at| !served.contains(uid) && after(*at, REMEMBERED) > now);
        self.ended.extend(before.difference(&served).map(|uid| (uid.clone(), now)));
        self.services = services;
        true
    }

    fn with(&self, key: (String, String), pods: BTreeSet<String>) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut services = self.services.clone();
        services.insert(key, pods);
        services
    }
}

/// The pods of a node among the ready addresses.
fn pods_of(endpoints: &Endpoints, node: &str) -> BTreeSet<String> {
    let addresses = endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten());
    let uid = |address: &EndpointAddress| address.target_ref.as_ref()?.uid.clone();
    addresses.filter(|a| a.node_name.as_deref() == Some(node)).filter_map(uid).collect()
}

/// Follows the endpoints until cancelled, or until there is nothing more to follow.
pub async fn follow(
    node: String,
    clock: Clock,
    mut changes: mpsc::Receiver<Change<Endpoints>>,
    serving: watch::Sender<Serving>,
    shutdown: CancellationToken,
) {
    // Cancel-safe: a change that is not taken stays in the queue.
    while let Some(Some(change)) = shutdown.run_until_cancelled(changes.recv()).await {
        serving.send_if_modified(|serving| serving.apply(change, &node, clock.now()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000 + seconds).unwrap()
    }

    fn endpoints(name: &str, pods: &[(&str, &str)]) -> Endpoints {
        let addresses: Vec<_> = (pods.iter())
            .map(|(uid, node)| json!({"ip": "10.244.0.2", "nodeName": node, "targetRef": {"kind": "Pod", "uid": uid}}))
            .collect();
        let subset = json!({"addresses": addresses, "notReadyAddresses": [
            {"ip": "10.244.0.9", "nodeName": "h1", "targetRef": {"kind": "Pod", "uid": "unready"}}]});
        let all = json!({"metadata": {"namespace": "n", "name": name}, "subsets": [subset]});
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_pod_takes_traffic_while_any_service_lists_it_as_ready_here() {
        let mut serving = Serving::default();
        let apply = |serving: &mut Serving, change, s| serving.apply(change, "h1", at(s));
        let both = vec![endpoints("a", &[("p", "h1"), ("far", "h2")]), endpoints("b", &[("p", "h1")])];
        assert!(apply(&mut serving, Change::Replaced(both), 0));
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        assert_eq!((serving.of("far"), serving.of("unready"), serving.of("never")), (None, None, None));
        assert!(apply(&mut serving, Change::Applied(endpoints("a", &[])), 1));
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        assert!(!apply(&mut serving, Change::Applied(endpoints("a", &[("far", "h2")])), 2));
        assert!(apply(&mut serving, Change::Deleted(endpoints("b", &[])), 3));
        assert_eq!(serving.of("p"), Some(Traffic::Ended(at(3))));
        assert!(apply(&mut serving, Change::Replaced(vec![endpoints("a", &[("p", "h1")])]), 4));
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        assert!(apply(&mut serving, Change::Replaced(vec![]), 5));
        assert_eq!(serving.of("p"), Some(Traffic::Ended(at(5))));
        // What was long ago is forgotten with the next change.
        assert!(apply(&mut serving, Change::Applied(endpoints("a", &[("q", "h1")])), 100));
        assert_eq!(serving.of("p"), None);
    }

    #[test]
    fn the_signal_waits_for_the_withdrawal_and_no_longer_than_it_may() {
        let grace = Duration::from_secs(30);
        let check = |traffic, grace, expected: i64| assert_eq!(release_at(traffic, at(0), grace), at(expected));
        check(None, grace, 0);
        check(Some(Traffic::Ended(at(-30))), grace, 0);
        check(Some(Traffic::Ended(at(0))), grace, 1);
        check(Some(Traffic::Ended(at(3))), grace, 4);
        check(Some(Traffic::Taken), grace, 10);
        check(Some(Traffic::Taken), Duration::from_secs(4), 2);
        check(Some(Traffic::Ended(at(9))), Duration::from_secs(4), 2);
        check(Some(Traffic::Taken), Duration::ZERO, 0);
    }
}
