//! The pods that fit nowhere, by class: pods that ask for the same fit on the same nodes, so one of
//! them is tried for all.
//!
//! A class is closed as long as nothing happened that could help it, and open from such an event on
//! until one of its pods is refused again. What an event costs is bounded by the number of classes,
//! not of pods or nodes: see [`Waiting::wake`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    cluster::{Cluster, NodeId},
    decide::{Explanation, place},
    predicates::misfit,
    wanted::Wanted,
};
use crate::registry::Key;

/// So many changed nodes are tried one by one; with more, the index is asked, which knows the
/// same at a cost that does not grow with their number.
const NODES_TRIED: usize = 32;
/// Classes looked at again in one round.
const ROUND_CLASSES: usize = 256;
/// Amounts are brought up to date on the pods of classes up to this size: with many pods that wait
/// for the same, the writes would be many and say little.
const RETOLD_PODS: usize = 100;

#[derive(Debug)]
struct Class {
    wanted: Wanted,
    why: Explanation,
    pods: BTreeSet<Key>,
}

/// Pods to be told why they wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Telling {
    pub(super) pods: Vec<Key>,
    pub(super) why: String,
    /// Whether the reasons are new, and not only the amounts.
    pub(super) is_news: bool,
}

/// The pods that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    classes: BTreeMap<String, Class>,
    /// The class of each pod.
    of: BTreeMap<Key, String>,
    open: BTreeSet<String>,
    /// The class that the last round ended with.
    looked_at: Option<String>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &Key> {
        self.of.keys()
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        self.of.contains_key(key)
    }

    /// Whether a pod that waits asks for the same as before.
    pub(super) fn is_unchanged(&self, key: &Key, wanted: &Wanted) -> bool {
        self.of.get(key).is_some_and(|class| *class == wanted.class())
    }

    /// A pod that may fit now. Stays here until it is removed or refused.
    pub(super) fn next_open(&self) -> Option<Key> {
        self.classes.get(self.open.first()?)?.pods.first().cloned()
    }

    /// Whether pods that ask for the same are known to fit nowhere.
    pub(super) fn is_refused(&self, wanted: &Wanted) -> bool {
        let class = || wanted.class();
        !self.classes.is_empty() && {
            let class = class();
            self.classes.contains_key(&class) && !self.open.contains(&class)
        }
    }

    /// Puts a pod that fits nowhere with those that ask for the same. `why` of `None`: as for them.
    pub(super) fn refuse(&mut self, key: &Key, wanted: Wanted, why: Option<Explanation>) -> Telling {
        let name = wanted.class();
        if self.of.get(key).is_some_and(|class| *class != name) {
            self.remove(key);
        }
        let is_new = self.of.insert(key.clone(), name.clone()).is_none();
        self.open.remove(&name);
        let class = self.classes.entry(name).or_insert_with(|| Class {
            wanted,
            why: why.clone().unwrap_or_default(),
            pods: BTreeSet::new(),
        });
        class.pods.insert(key.clone());
        let is_news = why.as_ref().is_some_and(|why| !why.same_reasons(&class.why));
        if let Some(why) = why {
            class.why = why;
        }
        let pods = match (is_news, is_new) {
            (true, _) => class.pods.iter().cloned().collect(),
            (false, true) => vec![key.clone()],
            (false, false) => Vec::new(),
        };
        Telling { pods, why: class.why.to_string(), is_news: true }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(name) = self.of.remove(key) else { return };
        let Some(class) = self.classes.get_mut(&name) else { return };
        class.pods.remove(key);
        if class.pods.is_empty() {
            self.classes.remove(&name);
            self.open.remove(&name);
        }
    }

    /// Opens the classes that fit on one of the nodes that became better.
    pub(super) fn wake(&mut self, cluster: &Cluster, improved: &[NodeId]) {
        if improved.is_empty() {
            return;
        }
        let nodes: Vec<_> = improved.iter().take(NODES_TRIED).map(|id| cluster.node(*id)).collect();
        for (name, class) in &self.classes {
            let fits = || match improved.len() {
                ..=NODES_TRIED => nodes.iter().any(|node| node.present && misfit(node, &class.wanted).is_none()),
                _ => place(cluster, &class.wanted).is_some(),
            };
            if !self.open.contains(name) && fits() {
                self.open.insert(name.clone());
            }
        }
    }

    /// Looks at classes whatever happened: opens those that fit, brings up to date what is said about
    /// the others. Several rounds look at all, each at a bounded number.
    pub(super) fn round(&mut self, cluster: &Cluster) -> Vec<Telling> {
        let from = self.looked_at.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut tellings = Vec::new();
        for (name, class) in self.classes.range_mut((from, Bound::Unbounded)).take(ROUND_CLASSES) {
            self.looked_at = Some(name.clone());
            if place(cluster, &class.wanted).is_some() {
                self.open.insert(name.clone());
                continue;
            }
            let why = Explanation::of(cluster, &class.wanted);
            let is_news = !why.same_reasons(&class.why);
            if is_news || why != class.why && class.pods.len() <= RETOLD_PODS {
                let pods = class.pods.iter().cloned().collect();
                tellings.push(Telling { pods, why: why.to_string(), is_news });
                class.why = why;
            }
        }
        if self.looked_at.as_ref() == self.classes.keys().next_back() {
            self.looked_at = None;
        }
        tellings
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::{core::Node, objects::pod::Requests};
    use serde_json::json;

    use super::*;
    use crate::scheduler::tests::facts;

    fn node(cpu: &str) -> Node {
        serde_json::from_value(json!({"status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    fn wanted(milli_cpu: i64) -> Wanted {
        Wanted { requests: Requests { milli_cpu, memory_bytes: 0 }, ..Default::default() }
    }

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    fn refuse(waiting: &mut Waiting, cluster: &Cluster, name: &str, cpu: i64) -> Telling {
        waiting.refuse(&key(name), wanted(cpu), Some(Explanation::of(cluster, &wanted(cpu))))
    }

    #[test]
    fn equal_pods_share_one_refusal() {
        let (mut waiting, mut cluster) = (Waiting::default(), Cluster::default());
        cluster.set_node("a", Some(&node("1")));
        assert!(!waiting.is_refused(&wanted(2000)));
        let told = refuse(&mut waiting, &cluster, "p", 2000);
        assert_eq!((told.pods.as_slice(), told.is_news), (&[key("p")][..], true));
        assert!(waiting.is_refused(&wanted(2000)) && !waiting.is_refused(&wanted(3000)));
        let second = waiting.refuse(&key("q"), wanted(2000), None);
        assert_eq!((second.pods.as_slice(), second.why), (&[key("q")][..], told.why));
        assert_eq!(refuse(&mut waiting, &cluster, "p", 2000).pods, [], "it knows already");
        cluster.set_node("b", Some(&serde_json::from_value(json!({"spec": {"unschedulable": true}})).unwrap()));
        let news = refuse(&mut waiting, &cluster, "q", 2000);
        assert_eq!(news.pods, [key("p"), key("q")], "another reason concerns all of them");
        waiting.remove(&key("p"));
        waiting.remove(&key("q"));
        assert!(waiting.is_empty() && !waiting.is_refused(&wanted(2000)));
    }

    #[test]
    fn only_a_node_that_helps_opens_a_class() {
        for others in [0, 2 * NODES_TRIED] {
            let (mut waiting, mut cluster) = (Waiting::default(), Cluster::default());
            cluster.set_node("a", Some(&node("1")));
            refuse(&mut waiting, &cluster, "small", 1500);
            refuse(&mut waiting, &cluster, "large", 9000);
            cluster.take_improved();
            for i in 0..=others {
                cluster.set_node(&format!("n{i}"), Some(&node("2")));
            }
            let improved = cluster.take_improved();
            assert_eq!(improved.len(), others + 1);
            waiting.wake(&cluster, &improved);
            assert_eq!(waiting.next_open(), Some(key("small")));
            assert!(waiting.is_refused(&wanted(9000)));
            waiting.remove(&key("small"));
            assert_eq!(waiting.next_open(), None);
        }
    }

    #[test]
    fn a_round_finds_what_no_event_told_and_renews_the_amounts() {
        let (mut waiting, mut cluster) = (Waiting::default(), Cluster::default());
        cluster.set_node("a", Some(&node("4")));
        let on_a = |cpu| facts(Some("a"), cpu, 1, 0);
        cluster.set_pod(&key("there"), Some(&on_a(3000)));
        refuse(&mut waiting, &cluster, "p", 2000);
        cluster.set_pod(&key("there"), Some(&on_a(2500)));
        let told = waiting.round(&cluster);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].why, "0/1 minions fit: 1 too little cpu (needs 2000m, largest free 1500m)");
        assert!(!told[0].is_news, "no event for other amounts");
        assert_eq!(waiting.round(&cluster), []);
        cluster.set_pod(&key("there"), None);
        assert_eq!((waiting.round(&cluster), waiting.next_open()), (vec![], Some(key("p"))));
    }

    #[test]
    fn rounds_look_at_all_classes_in_turn() {
        let (mut waiting, mut cluster) = (Waiting::default(), Cluster::default());
        for i in 0..ROUND_CLASSES as i64 + 5 {
            refuse(&mut waiting, &cluster, &format!("p{i}"), 1000 + i);
        }
        cluster.set_node("a", Some(&node("1")));
        let news = |waiting: &mut Waiting| waiting.round(&cluster).len();
        let all = [news(&mut waiting), news(&mut waiting)];
        // The one that asks for no more than there is is opened.
        assert_eq!(all.iter().sum::<usize>(), ROUND_CLASSES + 4);
        assert_eq!(waiting.next_open(), Some(key("p0")));
        assert_eq!(news(&mut waiting), 0);
    }
}
