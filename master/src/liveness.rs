//! Which minions are alive: the last beat of each, in memory. Nothing here is stored; the node
//! controller writes transitions.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::{sync::watch, time::Instant};

/// One beat of a minion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// When the master received it. Not a time of day: setting the clock loses no minion.
    pub at: Instant,
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
        let same = |old: &Beat| (old.ready, &old.reason, &old.message) == (beat.ready, &beat.reason, &beat.message);
        let news = !beats.get(node).is_some_and(same);
        beats.insert(node.to_owned(), beat);
        drop(beats);
        if news {
            self.news.send_modify(|n| *n += 1);
        }
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
}
