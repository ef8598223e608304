//! Which minions are alive: the last beat of each, in memory. No beat is stored; the node
//! controller writes transitions.
//!
//! A minion beats to one master, which may not be the one that leads. So each master tells the
//! others, through its [`Coordinator`], which minions it hears, and which it heard and hears no
//! more. That text changes only when a minion's state does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::coordination::{Announcements, Coordinator};

/// Missed beats after which a minion counts as silent, plus half a beat for delays.
const MISSED_BEATS: f64 = 2.5;

/// Beats that the masters take in a second. With more minions than that allows, each beats less often
/// (Nomad's `max_heartbeats_per_second`): what a large cluster costs at rest is bounded, and it hears of a
/// death later. With 10,000 minions that is after 50 s, Kubernetes' `node-monitor-grace-period` at any size.
const BEATS_PER_SECOND_MAX: f64 = 500.0;

/// The time between two beats of a minion in a cluster of so many; `shortest` in a small one.
pub(crate) fn interval(shortest: Duration, minions: usize) -> Duration {
    shortest.max(Duration::from_secs_f64(minions as f64 / BEATS_PER_SECOND_MAX))
}

/// How long a minion may be silent that beats so often.
pub(crate) fn grace(beat: Duration) -> Duration {
    beat.mul_f64(MISSED_BEATS)
}

/// One beat of a minion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// When the master received it. Not a time of day: setting the clock loses no minion.
    pub at: Instant,
    /// When it was told to beat again, from then.
    pub next: Duration,
    /// What it said.
    pub condition: Condition,
}

/// What a minion says of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Condition {
    /// Whether the minion can run pods.
    pub ready: bool,
    /// `CamelCase` word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// The last beat of every minion.
#[derive(Debug, Default)]
pub struct Liveness {
    beats: Mutex<BTreeMap<String, Beat>>,
    /// Counts beats that said something new.
    news: watch::Sender<u64>,
}

impl Liveness {
    /// Takes a beat. Wakes subscribers only when the minion was unknown or says something else.
    pub fn beat(&self, node: &str, beat: Beat) {
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let news = beats.get(node).is_none_or(|old| old.condition != beat.condition);
        beats.insert(node.to_owned(), beat);
        drop(beats);
        if news {
            self.news.send_modify(|n| *n += 1);
        }
    }

    /// Whether it ever beat to this master.
    pub fn has_heard(&self, node: &str) -> bool {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).contains_key(node)
    }

    /// Forgets a minion that was deleted.
    pub fn forget(&self, node: &str) {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// All last beats.
    pub fn snapshot(&self) -> BTreeMap<String, Beat> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told of news.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What to tell the other masters.
    fn report(&self, address: Option<SocketAddr>, now: Instant) -> Report {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report { address, ..Default::default() };
        for (node, beat) in beats.iter() {
            if now.saturating_duration_since(beat.at) > grace(beat.next) {
                report.silent.push(node.clone());
                continue;
            }
            match report.heard.iter_mut().find(|(condition, _)| *condition == beat.condition) {
                Some((_, nodes)) => nodes.push(node.clone()),
                None => report.heard.push((beat.condition.clone(), vec![node.clone()])),
            }
        }
        report
    }
}

/// What one master hears, as it is announced: JSON, minions grouped by what they say, since nearly
/// all say the same.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    /// Where other hosts reach the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    heard: Vec<(Condition, Vec<String>)>,
    silent: Vec<String>,
}

/// What the masters together know of a minion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A master hears it.
    Alive(Condition),
    /// The master that heard it hears it no more, and no other does.
    Silent,
}

/// Puts the masters' reports together. Who is alive for one is alive.
pub(crate) fn merge(announcements: &Announcements) -> BTreeMap<String, Heard> {
    let mut merged = BTreeMap::new();
    for report in reports(announcements) {
        for (condition, nodes) in report.heard {
            merged.extend(nodes.into_iter().map(|node| (node, Heard::Alive(condition.clone()))));
        }
        for node in report.silent {
            merged.entry(node).or_insert(Heard::Silent);
        }
    }
    merged
}

/// Where the masters that are alive can be reached.
pub(crate) fn addresses(announcements: &Announcements) -> BTreeSet<SocketAddr> {
    reports(announcements).filter_map(|report| report.address).collect()
}

fn reports(announcements: &Announcements) -> impl Iterator<Item = Report> {
    announcements.iter().filter_map(|(master, text)| {
        let report = serde_json::from_slice(text);
        if report.is_err() {
            tracing::warn!(master, "another master's report can't be read: is it of another release?");
        }
        report.ok()
    })
}

/// Tells the other masters, until `stop`, whenever there is something new to tell.
pub(crate) async fn announce(
    liveness: Arc<Liveness>,
    coordinator: Arc<dyn Coordinator>,
    address: Option<SocketAddr>,
    beat: Duration,
    stop: CancellationToken,
) {
    let mut news = liveness.subscribe();
    let mut period = tokio::time::interval(beat / 2);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        // Both only wake: cancel-safe.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = news.changed() => {}
            _ = period.tick() => {}
        }
        let report = liveness.report(address, Instant::now());
        if told.as_ref() == Some(&report) {
            continue;
        }
        // A report holds strings and flags only: writing it can't fail.
        let text = Bytes::from(serde_json::to_vec(&report).unwrap_or_default());
        match coordinator.announce(text).await {
            Ok(()) => told = Some(report),
            Err(error) => tracing::debug!(%error, "the other masters can't be told; tried again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::Alone;

    fn condition(reason: &str) -> Condition {
        Condition { ready: true, reason: reason.into(), message: String::new() }
    }

    const BEAT: Duration = Duration::from_secs(2);

    fn text(liveness: &Liveness, now: Instant) -> Bytes {
        serde_json::to_vec(&liveness.report(None, now)).unwrap().into()
    }

    #[test]
    fn beats_are_bounded_in_number_and_each_minion_has_the_grace_of_its_own_interval() {
        assert_eq!(interval(BEAT, 1_000), BEAT);
        assert_eq!(interval(BEAT, 10_000), Duration::from_secs(20));
        let (liveness, start) = (Liveness::default(), Instant::now());
        for (node, next) in [("often", 2), ("seldom", 10)] {
            liveness.beat(node, Beat { at: start, next: Duration::from_secs(next), condition: condition("A") });
        }
        let silent = |s| liveness.report(None, start + Duration::from_secs(s)).silent.join(",");
        assert_eq!([silent(4), silent(6), silent(26)], ["", "often", "often,seldom"]);
    }

    #[test]
    fn a_minion_is_alive_while_one_master_hears_it() {
        let (a, b) = (Liveness::default(), Liveness::default());
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        a.beat("moved", Beat { at: at(0), next: BEAT, condition: condition("A") });
        a.beat("dead", Beat { at: at(0), next: BEAT, condition: condition("A") });
        a.beat("here", Beat { at: at(8), next: BEAT, condition: condition("A") });
        b.beat("moved", Beat { at: at(9), next: BEAT, condition: condition("B") });
        for order in [["a", "b"], ["b", "a"]] {
            let all = [(order[0].to_owned(), text(&a, at(10))), (order[1].to_owned(), text(&b, at(10)))].into();
            let merged = merge(&all);
            assert_eq!(merged["moved"], Heard::Alive(condition("B")));
            assert_eq!(merged["dead"], Heard::Silent);
            assert_eq!(merged["here"], Heard::Alive(condition("A")));
            assert_eq!(merged.len(), 3);
        }
        assert!(merge(&[("x".to_owned(), Bytes::from_static(b"{"))].into()).is_empty(), "nonsense says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_new_is_announced() {
        let liveness = Arc::new(Liveness::default());
        let alone: Arc<dyn Coordinator> = Arc::new(Alone::new("m"));
        let mut heard = alone.announcements();
        let stop = CancellationToken::new();
        let address = Some("192.0.2.10:8080".parse().unwrap());
        let task = tokio::spawn(announce(liveness.clone(), alone, address, BEAT, stop.clone()));
        let say = |reason| liveness.beat("n", Beat { at: Instant::now(), next: BEAT, condition: condition(reason) });
        heard.changed().await.unwrap();
        for reason in ["A", "B"] {
            say(reason);
            heard.changed().await.unwrap();
            assert_eq!(merge(&heard.borrow_and_update())["n"], Heard::Alive(condition(reason)));
        }
        assert_eq!(addresses(&heard.borrow()), address.into_iter().collect());
        say("B");
        let silence = tokio::time::Instant::now();
        heard.changed().await.unwrap();
        assert_eq!(merge(&heard.borrow_and_update())["n"], Heard::Silent, "the next news is its silence");
        assert!(silence.elapsed() > grace(BEAT));
        stop.cancel();
        task.await.unwrap();
    }
}
