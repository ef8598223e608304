//! Minions: their pod networks and their health.
//!
//! Beats live in memory; only transitions are written. The condition `Ready` of a node has one
//! writer, this loop. When a minion falls silent, its pods move to others ([`super::relocation`]
//! says which, and when not); those that stay are marked `NodeLost`, and unmarked when it returns.
//! When its Node object is deleted, its pods move or go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use compact_str::CompactString;
use coracle_api::{
    ApiError, TypedObject,
    core::{Node, NodeCondition, Pod},
    error::Reason,
    meta::ObjectMeta,
};
use futures_util::{StreamExt, future::join_all};
use ipnet::Ipv4Net;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    changes,
    relocation::{self, Fate, Sound},
};
use crate::{
    coordination::Announcements,
    deletion::delete_pod_if,
    events::Recorder,
    liveness::{self, Beat, Heard, Liveness},
    registry::{Entry, PodFacts, Registry},
};

/// Prefix length of one minion's share of the pod network: 254 addresses.
const NODE_PREFIX: u8 = 24;
/// How long pods outlive their Node object. A minion that lives creates it again with its next beat.
const HOMELESS_LIFE: Duration = Duration::from_secs(30);
/// How often the marks of all pods are checked, besides those on minions that fall silent or return.
const LOOK_AT_ALL: Duration = Duration::from_secs(60);
/// Beats after which a minion is late, which the next beat may show to be nothing.
const LATE_BEATS: f64 = 1.25;
/// Writes under way at once: many minions join, fall silent and return together.
const WRITES_AT_ONCE: usize = 256;
/// On the status of a pod whose minion is silent.
pub(crate) const NODE_LOST: &str = "NodeLost";

/// The loop's settings and handles.
#[derive(Debug)]
pub(crate) struct NodeController {
    pub(crate) registry: Registry,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) announcements: watch::Receiver<Announcements>,
    pub(crate) events: Recorder,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) beat: Duration,
    pub(crate) fate: fn(&Pod) -> Fate,
    pub(crate) braked: fn(&[Sound], Duration) -> bool,
}

/// What a node's `Ready` condition should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Judges a minion by its last beat here and by what other masters hear of it. `since` is when it
/// was last known to be heard by anyone, or when this master began to lead: a minion gets its grace
/// from then, to find another master, and after a beat that of the interval it was told. `None` while
/// the grace runs: what is stored stands.
pub(crate) fn judge(
    beat: Option<&Beat>,
    elsewhere: Option<&Heard>,
    since: Instant,
    now: Instant,
    grace: Duration,
) -> Option<Health> {
    let recent = |at: Instant, grace: Duration| now.saturating_duration_since(at) <= grace;
    let said = match (beat, elsewhere) {
        (Some(beat), _) if recent(beat.at, liveness::grace(beat.next)) => Some(&beat.condition),
        (_, Some(Heard::Alive(condition))) => Some(condition),
        _ => None,
    };
    match said {
        Some(said) => Some(Health {
            status: if said.ready { "True" } else { "False" },
            reason: said.reason.clone(),
            message: said.message.clone(),
        }),
        None if recent(since, grace) => None,
        None => Some(Health {
            status: "Unknown",
            reason: "MinionSilent".into(),
            message: "the minion does not answer: is its host up, and its `coracle minion` running?".into(),
        }),
    }
}

/// The free shares of the pod network, in order.
fn free_shares(pod_cidr: Ipv4Net, taken: &BTreeSet<Ipv4Net>) -> impl Iterator<Item = Ipv4Net> {
    let prefix = NODE_PREFIX.max(pod_cidr.prefix_len());
    pod_cidr.subnets(prefix).into_iter().flatten().filter(|share| !taken.contains(share))
}

/// A node as it was last read.
#[derive(Debug)]
struct Known {
    version: u64,
    node: Node,
    /// When this very object was first seen.
    since: Instant,
    /// When another master last heard it, unless that one has waited for it in vain.
    heard_elsewhere: Option<Instant>,
    /// Whether it was told that there is no network left for it.
    told_full: bool,
}

/// What the loop keeps from round to round.
#[derive(Debug)]
struct Memory {
    /// When this master began to listen, or came back from a standstill.
    listening_since: Instant,
    nodes: BTreeMap<CompactString, Known>,
    /// Whose pods were marked as lost.
    lost: BTreeSet<CompactString>,
    /// Silent nodes from which all has moved that could.
    cleared: BTreeSet<CompactString>,
    /// When the brake was last on.
    braked_at: Option<Instant>,
    /// When the pods of all nodes were looked at, and all were as they should be.
    looked_at_all: Option<Instant>,
    /// Nodes that pods name and that have no object, and since when.
    missing: BTreeMap<CompactString, Instant>,
}

impl NodeController {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut nodes = changes(self.registry.clone(), Node::row()).boxed();
        let mut beats = self.liveness.subscribe();
        let mut announcements = self.announcements.clone();
        let mut period = tokio::time::interval(self.beat / 2);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut memory = Memory {
            listening_since: Instant::now(),
            nodes: BTreeMap::new(),
            lost: BTreeSet::new(),
            cleared: BTreeSet::new(),
            braked_at: None,
            looked_at_all: None,
            missing: BTreeMap::new(),
        };
        let mut due = Instant::now();
        loop {
            let asleep = Instant::now();
            let mut news = true;
            // Every arm only wakes: all are cancel-safe, and the round starts from full state.
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = nodes.next() => {}
                Ok(()) = beats.changed() => {}
                Ok(()) = announcements.changed() => {}
                _ = period.tick() => news = false,
            }
            let now = Instant::now();
            if now.duration_since(asleep) > self.beat {
                // It was this process that stood still, not the minions; their beats are waiting.
                memory.listening_since = now;
            }
            if news || now >= due {
                due = now + self.round(&mut memory, now).await;
            }
        }
    }

    /// Looks at all nodes once. Returns for how long nobody can fall silent, if nothing is heard of meanwhile.
    async fn round(&self, memory: &mut Memory, now: Instant) -> Duration {
        self.read_nodes(memory, now);
        self.allot(memory).await;
        let beats = self.liveness.snapshot();
        let elsewhere = liveness::merge(&self.announcements.borrow());
        let interval = liveness::interval(self.beat, memory.nodes.len());
        let grace = liveness::grace(interval);
        for (name, known) in &mut memory.nodes {
            // A master that told of a minion's silence has waited for it already; one that vanished
            // has not.
            if matches!(elsewhere.get(name.as_str()), Some(Heard::Alive(_))) {
                known.heard_elsewhere = Some(now);
            } else if elsewhere.contains_key(name.as_str()) {
                known.heard_elsewhere = None;
            }
        }
        let since =
            |known: &Known| known.since.max(memory.listening_since).max(known.heard_elsewhere.unwrap_or(known.since));
        let judged = |name: &str, known: &Known| judge(beats.get(name), elsewhere.get(name), since(known), now, grace);
        let silences: BTreeMap<CompactString, Duration> = (memory.nodes.iter())
            .map(|(name, known)| {
                let heard = match (beats.get(name.as_str()), elsewhere.get(name.as_str())) {
                    (_, Some(Heard::Alive(_))) => now,
                    // One that was told to beat less often is no more silent for that.
                    (Some(beat), _) => (beat.at + beat.next.saturating_sub(interval)).max(since(known)),
                    (None, _) => since(known),
                };
                (name.clone(), now.saturating_duration_since(heard))
            })
            .collect();
        let health: BTreeMap<&str, Option<Health>> =
            memory.nodes.iter().map(|(name, known)| (name.as_str(), judged(name, known))).collect();
        let changed = health.iter().filter_map(|(name, health)| {
            let (known, health) = (memory.nodes.get(*name)?, health.as_ref()?);
            let stored = ready_condition(&known.node);
            let same_status = stored.is_some_and(|c| c.status == health.status);
            let same = same_status && stored.is_some_and(|c| c.reason.as_ref() == Some(&health.reason));
            (!same).then(|| self.note_health(&known.node, name, health, !same_status))
        });
        futures_util::stream::iter(changed).for_each_concurrent(WRITES_AT_ONCE, |write| write).await;
        let lost =
            health.iter().filter_map(|(node, h)| Some((CompactString::from(*node), h.as_ref()?.status == "Unknown")));
        let lost: BTreeMap<CompactString, bool> = lost.collect();
        drop(health);
        self.move_pods(memory, &lost, &silences, interval, now).await;
        self.mark_pods(memory, &lost, now).await;
        self.remove_homeless(memory, now).await;
        // Of those that are lost or gone, time decides what becomes of their pods.
        if !memory.lost.is_empty() || !memory.missing.is_empty() || lost.values().any(|lost| *lost) {
            return Duration::ZERO;
        }
        grace.saturating_sub(silences.into_values().max().unwrap_or_default()).min(interval)
    }

    /// Brings the copies of the nodes up to date. A namesake of a deleted node starts afresh.
    fn read_nodes(&self, memory: &mut Memory, now: Instant) {
        let snapshot = self.registry.snapshot(Node::row());
        memory.nodes.retain(|name, known| {
            let stays = snapshot.entries.get(&crate::registry::Key::new("", name));
            let stays = stays.is_some_and(|e| known.node.metadata.uid.as_deref().unwrap_or_default() == e.uid());
            if !stays {
                self.liveness.forget(name);
            }
            stays
        });
        for entry in snapshot.entries.values() {
            let known = memory.nodes.get(&entry.key.name);
            if known.is_some_and(|known| known.version == entry.version) {
                continue;
            }
            let (since, heard_elsewhere, told_full) =
                known.map_or((now, None, false), |known| (known.since, known.heard_elsewhere, known.told_full));
            let Some(node) = entry.typed() else { continue };
            let known = Known { version: entry.version, node, since, heard_elsewhere, told_full };
            memory.nodes.insert(entry.key.name.clone(), known);
        }
    }

    async fn allot(&self, memory: &mut Memory) {
        let share = |n: &Node| n.spec.as_ref().and_then(|s| s.pod_cidr.as_ref()?.parse::<Ipv4Net>().ok());
        let taken: BTreeSet<Ipv4Net> = memory.nodes.values().filter_map(|known| share(&known.node)).collect();
        let mut free = free_shares(self.pod_cidr, &taken);
        let mut allotted = Vec::new();
        for (name, known) in memory.nodes.iter_mut().filter(|(_, known)| share(&known.node).is_none()) {
            if let Some(share) = free.next() {
                allotted.push((name.clone(), share));
            } else if !std::mem::replace(&mut known.told_full, true) {
                let message = format!("the pod network {} has no /{NODE_PREFIX} left for this minion", self.pod_cidr);
                self.events.warning(&known.node, "NoPodNetwork", &message);
            }
        }
        let writes = allotted.into_iter().map(|(name, share)| self.give(name, share));
        futures_util::stream::iter(writes).for_each_concurrent(WRITES_AT_ONCE, |write| write).await;
    }

    async fn give(&self, name: CompactString, share: Ipv4Net) {
        let set = |node: &mut Node| {
            let spec = node.spec.get_or_insert_default();
            let missing = spec.pod_cidr.as_deref().is_none_or(str::is_empty);
            if missing {
                spec.pod_cidr = Some(share.to_string());
                spec.pod_cidrs = Some(vec![share.to_string()]);
            }
            Ok(missing)
        };
        let result = self.registry.modify("", &name, set).await.map(drop);
        tell(result, "a pod network could not be allotted");
    }

    /// Writes a minion's health down, and announces it if it is another one than before.
    async fn note_health(&self, node: &Node, name: &str, health: &Health, is_new: bool) {
        match self.write_health(name, health).await {
            Ok(()) if is_new => self.announce(node, health),
            result => tell(result, "a minion's health could not be written"),
        }
    }

    async fn write_health(&self, name: &str, health: &Health) -> Result<(), ApiError> {
        let now = self.registry.now();
        let set = |node: &mut Node| {
            let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
            let old = conditions.iter().find(|c| c.type_ == "Ready" && c.status == health.status);
            let since = old.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(|| now.into());
            conditions.retain(|c| c.type_ != "Ready");
            conditions.push(NodeCondition {
                type_: "Ready".into(),
                status: health.status.into(),
                reason: Some(health.reason.clone()),
                message: Some(health.message.clone()),
                last_heartbeat_time: Some(now.into()),
                last_transition_time: Some(since),
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

    /// Moves the pods of silent minions elsewhere, unless the brake is on.
    async fn move_pods(
        &self,
        memory: &mut Memory,
        lost: &BTreeMap<CompactString, bool>,
        silences: &BTreeMap<CompactString, Duration>,
        interval: Duration,
        now: Instant,
    ) {
        let is_lost = |node: &CompactString| lost.get(node).copied().unwrap_or_default();
        memory.cleared.retain(is_lost);
        let pods = self.registry.snapshot(Pod::row());
        let silent: Vec<CompactString> = lost.iter().filter(|(_, lost)| **lost).map(|(node, _)| node.clone()).collect();
        if silent.is_empty() {
            memory.braked_at = None;
            return;
        }
        let sounds = silences.iter().filter_map(|(node, silence)| {
            // A Node that nobody made a minion of, and that nothing runs on, is no minion.
            let known = memory.nodes.get(node)?;
            let is_minion =
                self.liveness.has_heard(node) || ready_condition(&known.node).is_some_and(|c| c.status == "True");
            let cleared = memory.cleared.contains(node);
            (is_minion || pods.has_indexed(node)).then_some(Sound { silence: *silence, cleared })
        });
        let braked = (self.braked)(&sounds.collect::<Vec<_>>(), interval.mul_f64(LATE_BEATS));
        if braked {
            if memory.braked_at.replace(now).is_none() {
                tracing::warn!(minions = ?silent, "most minions are silent: their pods stay until half answer again");
            }
            return;
        }
        let grace = liveness::grace(interval);
        // Those that come back after the same fault do so one after the other.
        if memory.braked_at.is_some_and(|at| now.saturating_duration_since(at) <= grace) {
            return;
        }
        if memory.braked_at.take().is_some() {
            tracing::info!(minions = ?silent, "enough minions answer: the pods of silent ones move");
        }
        // Masters tell each other late who is silent: the brake must see all that are.
        let patience = if self.announcements.borrow().len() > 1 { interval } else { Duration::ZERO };
        let grace = grace + patience;
        for node in silent {
            if silences.get(&node).is_none_or(|silence| *silence < grace) {
                continue;
            }
            // Now and then all are asked again: what keeps a pod may have been taken off it.
            let lately = memory.looked_at_all.is_some_and(|at| now.duration_since(at) <= LOOK_AT_ALL);
            let again = memory.cleared.contains(&node) && lately;
            let here = pods.indexed(&node);
            let concerned = here.filter(|e| !again || e.pod().is_some_and(|p| !p.lost && !p.phase.is_terminal()));
            let moves: Vec<_> = concerned.cloned().collect();
            let why = format!("minion {node} does not answer");
            let results = join_all(moves.iter().map(|pod| self.move_pod(&node, pod, &why))).await;
            match results.into_iter().find(Result::is_err) {
                Some(failed) => tell(failed, "a pod of a silent minion could not be moved"),
                None => drop(memory.cleared.insert(node)),
            }
        }
    }

    /// Moves one pod away from a minion that is silent or gone.
    async fn move_pod(&self, node: &str, pod: &Entry, why: &str) -> Result<(), ApiError> {
        match pod.typed::<Pod>().as_ref().map(self.fate) {
            Some(Fate::Remove) => self.remove_pod(pod, why).await,
            Some(Fate::Renew) => self.renew_pod(node, pod, why).await,
            Some(Fate::Stay) | None => Ok(()),
        }
    }

    async fn remove_pod(&self, pod: &Entry, why: &str) -> Result<(), ApiError> {
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        let same = |meta: &ObjectMeta| is_same(meta, pod);
        delete_pod_if(&self.registry, namespace, name, Some(0), self.registry.now(), same).await?;
        if let Some(removed) = pod.typed::<Pod>() {
            self.events.warning(&removed, "MinionLost", &format!("removed: {why}"));
        }
        Ok(())
    }

    async fn renew_pod(&self, node: &str, pod: &Entry, why: &str) -> Result<(), ApiError> {
        let uid = self.registry.new_id().to_string();
        let mut done = false;
        let set = |now: &mut Pod| {
            is_same(&now.metadata, pod)?;
            // Looked at again in the very state that is written.
            let here = now.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
            done = here && (self.fate)(now) == Fate::Renew;
            if done {
                relocation::renew(now, uid.clone(), self.registry.now().into());
            }
            Ok(done)
        };
        let renewed = self.registry.modify(&pod.key.namespace, &pod.key.name, set).await?;
        if done && let Some(renewed) = renewed.typed::<Pod>() {
            self.events.warning(&renewed, "Rescheduled", &format!("{why}: the pod starts anew on another one"));
        }
        Ok(())
    }

    /// Says on each live pod whether its state is still known. `lost` says so of a node, if it is
    /// known. Looks at the pods of lost nodes, of those that were lost in the round before, and,
    /// now and then, at all.
    async fn mark_pods(&self, memory: &mut Memory, lost: &BTreeMap<CompactString, bool>, now: Instant) {
        let pods = self.registry.snapshot(Pod::row());
        let all = memory.looked_at_all.is_none_or(|at| now.duration_since(at) > LOOK_AT_ALL);
        if all {
            memory.looked_at_all = Some(now);
        }
        let concerned: BTreeSet<&CompactString> = match all {
            true => lost.keys().collect(),
            false => lost.iter().filter(|(node, lost)| **lost || memory.lost.contains(*node)).map(|(n, _)| n).collect(),
        };
        let wrong = |p: &PodFacts, lost: bool| p.lost != lost && !p.phase.is_terminal();
        let mut marks = Vec::new();
        for (node, lost) in concerned.into_iter().filter_map(|node| Some((node, *lost.get(node)?))) {
            let found = pods.indexed(node).filter(|e| e.pod().is_some_and(|p| wrong(p, lost)));
            marks.extend(found.map(|pod| (pod.clone(), node.clone(), lost)));
        }
        memory.lost = lost.iter().filter(|(_, lost)| **lost).map(|(node, _)| node.clone()).collect();
        let mark = async |pod: Arc<Entry>, node: CompactString, lost: bool| {
            let set = |pod: &mut Pod| {
                let status = pod.status.get_or_insert_default();
                status.reason = lost.then(|| NODE_LOST.to_owned());
                status.message = lost.then(|| format!("minion {node} does not answer; the pod's state is unknown"));
                Ok(true)
            };
            self.registry.modify(&pod.key.namespace, &pod.key.name, set).await.map(drop)
        };
        let results = join_all(marks.into_iter().map(|(pod, node, lost)| mark(pod, node, lost))).await;
        if let Some(failed) = results.into_iter().find(Result::is_err) {
            memory.looked_at_all = None;
            tell(failed, "a pod could not be marked");
        }
    }

    /// Removes the pods of nodes that are gone: no minion is left to stop them and say so.
    async fn remove_homeless(&self, memory: &mut Memory, now: Instant) {
        let pods = self.registry.snapshot(Pod::row());
        let gone = |node: &&CompactString| !node.is_empty() && !memory.nodes.contains_key(*node);
        let gone: Vec<CompactString> = pods.index_values().filter(gone).cloned().collect();
        memory.missing.retain(|node, _| gone.contains(node));
        for node in gone {
            let since = *memory.missing.entry(node.clone()).or_insert(now);
            if now.duration_since(since) < HOMELESS_LIFE {
                continue;
            }
            let why = format!("its minion {node} was deleted");
            for pod in pods.indexed(&node) {
                // What could only stay has nothing to wait for any more.
                let result = match pod.typed::<Pod>().as_ref().map(self.fate) {
                    Some(Fate::Renew) => self.renew_pod(&node, pod, &why).await,
                    _ => self.remove_pod(pod, &why).await,
                };
                tell(result, "a pod of a deleted minion could not be settled");
            }
        }
    }
}

fn is_same(meta: &ObjectMeta, pod: &Entry) -> Result<(), ApiError> {
    let same = meta.uid.as_deref().unwrap_or_default() == pod.uid();
    if same { Ok(()) } else { Err(ApiError::conflict("pod", &pod.key.name, "it was replaced")) }
}

/// What fails now is tried again in the next round. Lost races are no news.
fn tell(result: Result<(), ApiError>, what: &str) {
    if let Err(error) = result
        && !matches!(error.reason, Reason::Conflict | Reason::NotFound)
    {
        tracing::warn!(%error, "{what}");
    }
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::liveness::Condition;

    const BEAT: Duration = Duration::from_secs(2);

    /// Seconds on a clock of which only differences matter. A beat, when the master began to
    /// listen, now.
    fn check(beat: Option<(u64, bool)>, since: u64, now: u64, expected: Option<&str>) {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let condition = |ready| Condition { ready, reason: "R".into(), message: "m".into() };
        let beat = beat.map(|(second, ready)| Beat { at: at(second), next: BEAT, condition: condition(ready) });
        let judged = judge(beat.as_ref(), None, at(since), at(now), Duration::from_secs(5));
        assert_eq!(judged.map(|h| h.status), expected);
    }

    #[test]
    fn a_minion_is_ready_as_it_says_while_it_beats() {
        check(Some((100, true)), 0, 105, Some("True"));
        check(Some((100, false)), 0, 101, Some("False"));
    }

    #[test]
    fn a_silent_minion_is_unknown() {
        check(Some((100, true)), 0, 106, Some("Unknown"));
        check(None, 0, 6, Some("Unknown"));
    }

    #[test]
    fn a_minion_that_another_master_hears_is_as_it_says_there() {
        let now = Instant::now() + Duration::from_secs(100);
        let old = now - Duration::from_secs(50);
        let said = |ready| Condition { ready, reason: "R".into(), message: "m".into() };
        let beat = Beat { at: old, next: BEAT, condition: said(true) };
        let judge = |heard: &Heard| judge(Some(&beat), Some(heard), old, now, Duration::from_secs(5)).map(|h| h.status);
        assert_eq!(judge(&Heard::Alive(said(false))), Some("False"), "an old beat here says nothing");
        assert_eq!(judge(&Heard::Silent), Some("Unknown"));
    }

    #[test]
    fn who_was_not_listened_to_for_long_is_believed_as_stored() {
        check(None, 100, 104, None);
        check(None, 100, 106, Some("Unknown"));
        check(Some((50, true)), 100, 104, None);
    }

    #[test]
    fn shares_are_given_out_once_and_run_out() {
        let cidr: Ipv4Net = "10.244.0.0/23".parse().unwrap();
        let mut taken = BTreeSet::new();
        for expected in ["10.244.0.0/24", "10.244.1.0/24"] {
            let share = free_shares(cidr, &taken).next().unwrap();
            assert_eq!(share.to_string(), expected);
            taken.insert(share);
        }
        assert_eq!(free_shares(cidr, &taken).next(), None);
        assert_eq!(
            free_shares("10.9.9.0/26".parse().unwrap(), &BTreeSet::new()).next().unwrap().to_string(),
            "10.9.9.0/26"
        );
    }
}
