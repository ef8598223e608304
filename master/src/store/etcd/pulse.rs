//! How etcd is doing, from what requests and watches meet and from a question a second.
//!
//! Trouble is remembered by where it was met, and over when the same place works again: reads with
//! the next question that is answered, a watch when it is followed again, writes when one
//! succeeds. While writes fail the question is a write itself; else nothing is written.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::GetOptions;
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Shared, fault::Fault, members::Patience};
use crate::store::Health;

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// For an answer to one: of one member, of any.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
/// Which revision was current is remembered for this long.
pub(super) const MEMORY: Duration = Duration::from_secs(600);

/// Where trouble is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Writes,
    Reads,
    /// A reader's watch, by its number.
    Watch(u64),
}

#[derive(Debug, Default)]
struct State {
    /// Cause and begin.
    troubles: BTreeMap<Place, (String, Timestamp)>,
    /// Which revision was current when, the oldest first.
    revisions: VecDeque<(Instant, i64)>,
}

#[derive(Debug)]
pub(super) struct Pulse {
    etcd: String,
    state: Mutex<State>,
    health: watch::Sender<Health>,
}

impl Pulse {
    pub(super) fn new(endpoints: &[String]) -> Self {
        let etcd = format!("etcd at {}", endpoints.join(", "));
        Self { etcd, state: Mutex::default(), health: watch::Sender::default() }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Something works.
    pub(super) fn works(&self, place: Place) {
        let mut state = self.state();
        if state.troubles.remove(&place).is_some() {
            self.publish(&state);
        }
    }

    /// Something does not work.
    pub(super) fn fails(&self, place: Place, fault: &Fault) {
        let mut state = self.state();
        let cause = fault.to_string();
        match state.troubles.get_mut(&place) {
            Some((known, _)) if *known == cause => return,
            Some((known, _)) => *known = cause,
            None => drop(state.troubles.insert(place, (cause, Timestamp::now()))),
        }
        self.publish(&state);
    }

    fn publish(&self, state: &State) {
        let health = match state.troubles.values().next() {
            None => Health::Good,
            Some((cause, since)) => Health::Degraded { cause: format!("{}: {cause} (since {since:.0})", self.etcd) },
        };
        self.health.send_if_modified(|known| {
            let news = *known != health;
            if news {
                match &health {
                    Health::Good => tracing::info!("etcd is well again"),
                    Health::Degraded { cause } => tracing::warn!(cause, "etcd is not well"),
                }
                *known = health;
            }
            news
        });
    }

    fn note(&self, now: Instant, revision: i64) {
        let revisions = &mut self.state().revisions;
        revisions.push_back((now, revision));
        while revisions.front().is_some_and(|(at, _)| now - *at > MEMORY) {
            revisions.pop_front();
        }
    }

    /// The newest revision known to have been current at that time or before.
    pub(super) fn current_at(&self, then: Instant) -> Option<i64> {
        let state = self.state();
        state.revisions.iter().rev().find(|(at, _)| *at <= then).map(|(_, revision)| *revision)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks once a second until stopped.
pub(super) async fn feel(shared: &Shared, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut highest = 0;
    // A question that is dropped half-way asks for nothing.
    stop.run_until_cancelled(async {
        loop {
            ticks.tick().await;
            let writes = shared.pulse.state().troubles.contains_key(&Place::Writes);
            let (place, answer) = if writes {
                (Place::Writes, ask_by_writing(shared).await)
            } else {
                (Place::Reads, current_revision(shared).await)
            };
            match answer {
                Ok(revision) if revision < highest => {
                    let cause =
                        format!("its history went back from revision {highest} to {revision}: restart all masters");
                    shared.pulse.fails(Place::Reads, &Fault::Refused(cause));
                }
                Ok(revision) => {
                    highest = revision;
                    shared.pulse.note(Instant::now(), revision);
                    shared.pulse.works(place);
                    shared.pulse.works(Place::Reads);
                }
                Err(fault) => shared.pulse.fails(place, &fault),
            }
        }
    })
    .await;
}

/// The revision of the last transaction that a majority has.
pub(super) async fn current_revision(shared: &Shared) -> Result<i64, Fault> {
    let leader = shared.layout.leader();
    let question = |mut client: etcd_client::Client| {
        let (leader, options) = (leader.clone(), GetOptions::new().with_count_only());
        async move { client.get(leader, Some(options)).await }
    };
    let answer = shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), question).await?;
    Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
}

async fn ask_by_writing(shared: &Shared) -> Result<i64, Fault> {
    let probe = shared.layout.probe();
    let question = |mut client: etcd_client::Client| {
        let probe = probe.clone();
        async move { client.put(probe, "", None).await }
    };
    let answer = shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), question).await?;
    Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_remembered_for_a_while() {
        let pulse = Pulse::new(&[]);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        (10..=1000).for_each(|second| pulse.note(at(second), second as i64 * 2));
        assert_eq!(pulse.current_at(at(399)), None, "forgotten");
        assert_eq!(pulse.current_at(at(700)), Some(1400));
        assert_eq!(pulse.current_at(at(2000)), Some(2000));
        assert!(pulse.state().revisions.len() <= 601);
    }

    #[test]
    fn the_worst_trouble_is_told_until_it_is_over() {
        let pulse = Pulse::new(&["h:1".to_owned()]);
        let mut health = pulse.health();
        pulse.fails(Place::Watch(7), &Fault::Silent("silence".to_owned()));
        pulse.fails(Place::Writes, &Fault::Refused("full".to_owned()));
        let cause = |health: &Health| match health {
            Health::Degraded { cause } => cause.clone(),
            Health::Good => String::new(),
        };
        assert!(cause(&health.borrow_and_update()).starts_with("etcd at h:1: full (since "));
        pulse.fails(Place::Writes, &Fault::Refused("full".to_owned()));
        assert!(!health.has_changed().unwrap(), "no news");
        pulse.works(Place::Writes);
        assert!(cause(&health.borrow()).contains("silence"));
        pulse.works(Place::Watch(7));
        assert_eq!(*health.borrow(), Health::Good);
    }
}
