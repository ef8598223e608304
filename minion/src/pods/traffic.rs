//! Which pods of this node take traffic of services, so that one that is deleted serves on until
//! nobody is sent to it any more.
//!
//! A deletion and the withdrawal of the pod from the endpoints reach the minions on different ways,
//! and the first is the faster one: were containers stopped at once, every proxy that has not heard
//! of the withdrawal would send clients to a pod that is gone. So a container gets its signal when
//! this minion's own proxy has acted on the withdrawal, and [`PROPAGATION`] later, within which the
//! others have too. Never after half of the grace period or [`HOLD_MAX`], whatever is heard.
//!
//! Endpoints say of each address whose it is and where; addresses that a user wrote by hand mostly do not,
//! and of those that do it is known only once they are there.

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

/// From the moment at which this minion's proxy sends nobody to a pod any more until no other one does:
/// what the delivery of one event and one change of the kernel's table take longer on a loaded host.
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
    /// Since then this node sends none.
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

/// The part of a pod that was deleted, that services select and no endpoints name. One that had got ready a moment
/// before may be on its way into some: who computes them saw it ready before it saw that it is deleted.
pub fn unnamed(ready_since: Option<Timestamp>, deleted_since: Timestamp) -> Option<Traffic> {
    let heard = after(ready_since?, PROPAGATION);
    (deleted_since < after(heard, PROPAGATION)).then_some(Traffic::Ended(heard))
}

/// What is known of the pods of one node.
#[derive(Debug, Default)]
pub struct Serving {
    /// The endpoints are known: before that any pod may take traffic.
    listed: bool,
    /// UIDs by service.
    services: BTreeMap<(String, String), BTreeSet<String>>,
    /// In no service any more since this change, which the proxy has not acted on.
    withdrawn: BTreeMap<String, u64>,
    ended: BTreeMap<String, Timestamp>,
    /// Changes taken in.
    changes: u64,
}

impl Serving {
    /// A pod's part.
    pub fn of(&self, uid: &str) -> Option<Traffic> {
        if !self.listed || self.withdrawn.contains_key(uid) || self.services.values().any(|pods| pods.contains(uid)) {
            return Some(Traffic::Taken);
        }
        self.ended.get(uid).copied().map(Traffic::Ended)
    }

    /// Takes in a change.
    fn apply(&mut self, change: Change<Endpoints>, node: &str) {
        self.changes += 1;
        let key = |e: &Endpoints| {
            (e.metadata.namespace.clone().unwrap_or_default(), e.metadata.name.clone().unwrap_or_default())
        };
        self.listed |= matches!(change, Change::Replaced(_));
        let mut services = match change {
            Change::Replaced(all) => all.iter().map(|e| (key(e), pods_of(e, node))).collect(),
            Change::Applied(endpoints) => self.with(key(&endpoints), pods_of(&endpoints, node)),
            Change::Deleted(endpoints) => self.with(key(&endpoints), BTreeSet::new()),
            // The pods as last known.
            Change::Interrupted(_) => return,
        };
        services.retain(|_, pods| !pods.is_empty());
        if services == self.services {
            return;
        }
        let all = |services: &BTreeMap<_, BTreeSet<String>>| services.values().flatten().cloned().collect();
        let (before, served): (BTreeSet<String>, BTreeSet<String>) = (all(&self.services), all(&services));
        self.ended.retain(|uid, _| !served.contains(uid));
        self.withdrawn.retain(|uid, _| !served.contains(uid));
        self.withdrawn.extend(before.difference(&served).map(|uid| (uid.clone(), self.changes)));
        self.services = services;
    }

    /// The proxy has acted on so many changes. Whether a pod's part changed.
    fn acted_on(&mut self, changes: u64, now: Timestamp) -> bool {
        let done: Vec<String> =
            self.withdrawn.iter().filter(|(_, at)| **at <= changes).map(|(uid, _)| uid.clone()).collect();
        if done.is_empty() {
            return false;
        }
        self.withdrawn.retain(|_, at| *at > changes);
        self.ended.retain(|_, at| after(*at, REMEMBERED) > now);
        self.ended.extend(done.into_iter().map(|uid| (uid, now)));
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

/// Follows the endpoints, and how many of their changes the proxy has acted on, which gets the same ones
/// in the same order. Until cancelled, or until there is nothing more to follow.
pub async fn follow(
    node: String,
    clock: Clock,
    mut changes: mpsc::Receiver<Change<Endpoints>>,
    mut in_force: watch::Receiver<u64>,
    serving: watch::Sender<Serving>,
    shutdown: CancellationToken,
) {
    loop {
        // All cancel-safe: a change that is not taken stays where it is.
        tokio::select! {
            () = shutdown.cancelled() => return,
            change = changes.recv() => {
                let Some(change) = change else { return };
                // Nobody waits for a pod to take traffic, but some may for the first list.
                serving.send_if_modified(|serving| {
                    let listed = serving.listed;
                    serving.apply(change, &node);
                    serving.listed != listed
                });
            }
            // A proxy that has ended ends the minion.
            Ok(()) = in_force.changed() => {}
        }
        let acted_on = *in_force.borrow_and_update();
        serving.send_if_modified(|serving| serving.acted_on(acted_on, clock.now()));
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
        let both = vec![endpoints("a", &[("p", "h1"), ("far", "h2")]), endpoints("b", &[("p", "h1")])];
        serving.apply(Change::replaced(both), "h1");
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        assert_eq!((serving.of("far"), serving.of("unready"), serving.of("never")), (None, None, None));
        serving.apply(Change::applied(endpoints("a", &[])), "h1");
        assert!(!serving.acted_on(2, at(2)));
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        serving.apply(Change::deleted(endpoints("b", &[])), "h1");
        assert!(!serving.acted_on(2, at(3)), "the proxy has not acted on that");
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        assert!(serving.acted_on(3, at(4)));
        assert_eq!(serving.of("p"), Some(Traffic::Ended(at(4))));
        serving.apply(Change::replaced(vec![endpoints("a", &[("p", "h1")])]), "h1");
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        serving.apply(Change::replaced(vec![]), "h1");
        assert!(serving.acted_on(5, at(6)) && !serving.acted_on(5, at(7)));
        assert_eq!(serving.of("p"), Some(Traffic::Ended(at(6))));
        // What was long ago is forgotten with the next one.
        serving.apply(Change::applied(endpoints("a", &[("q", "h1")])), "h1");
        serving.apply(Change::applied(endpoints("a", &[])), "h1");
        assert!(serving.acted_on(9, at(100)));
        assert_eq!((serving.of("p"), serving.of("q")), (None, Some(Traffic::Ended(at(100)))));
    }

    #[test]
    fn before_the_first_list_any_pod_may_take_traffic() {
        let mut serving = Serving::default();
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        serving.apply(Change::applied(endpoints("a", &[])), "h1");
        assert_eq!(serving.of("p"), Some(Traffic::Taken));
        serving.apply(Change::replaced(vec![endpoints("a", &[("q", "h1")])]), "h1");
        assert_eq!((serving.of("p"), serving.of("q")), (None, Some(Traffic::Taken)));
    }

    #[tokio::test]
    async fn who_waits_for_the_first_list_hears_of_it() {
        let (changes, received) = mpsc::channel(1);
        let (_in_force, acted_on) = watch::channel(0);
        let serving = watch::Sender::new(Serving::default());
        let (mut seen, stop) = (serving.subscribe(), CancellationToken::new());
        let following = tokio::spawn(follow("h1".into(), Clock::system(), received, acted_on, serving, stop.clone()));
        changes.send(Change::replaced(vec![])).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), seen.changed()).await.unwrap().unwrap();
        assert_eq!(seen.borrow().of("p"), None);
        stop.cancel();
        following.await.unwrap();
    }

    #[test]
    fn a_pod_that_got_ready_a_moment_ago_may_be_about_to_take_traffic() {
        let release = |ready_ms: i64, deleted_ms: i64| {
            let at = |ms| Timestamp::from_millisecond(ms).unwrap();
            let traffic = unnamed(Some(at(ready_ms)), at(deleted_ms));
            release_at(traffic, at(deleted_ms), Duration::from_secs(30)).as_millisecond()
        };
        assert_eq!(release(1_000, 1_100), 3_000);
        assert_eq!(release(1_000, 2_900), 3_000);
        assert_eq!(release(1_000, 3_000), 3_000, "no service wants it");
        assert_eq!(unnamed(None, Timestamp::UNIX_EPOCH), None);
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
