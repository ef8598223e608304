//! Events do not live for ever: an hour after they were last seen, and a bounded number in all.

use std::time::Duration;

use coracle_api::{TypedObject, core::Event};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::registry::{Expected, Key, Registry};

const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
const EVENTS_MAX: usize = 20_000;
/// Events removed at once, so that they share commits.
const GROUP_MAX: usize = 256;
const PERIOD: Duration = Duration::from_secs(60);

/// Removes old events once a minute.
pub(crate) async fn expire(registry: Registry, stop: CancellationToken) {
    let mut period = tokio::time::interval(PERIOD);
    // Cancel-safe: a tick that loses is not consumed.
    while stop.run_until_cancelled(period.tick()).await.is_some() {
        let now = registry.now();
        let events: Vec<(Key, Timestamp)> = registry
            .snapshot(Event::row())
            .entries
            .values()
            .filter_map(|entry| Some((entry.key.clone(), last_seen(&entry.typed::<Event>()?)?)))
            .collect();
        for group in over_age(events, now).chunks(GROUP_MAX) {
            let remove = |key: &Key| {
                let (registry, key) = (registry.clone(), key.clone());
                async move { registry.delete(Event::row(), &key.namespace, &key.name, Expected::Any).await }
            };
            // Gone already is fine, and what failed is still there in the next round.
            drop(join_all(group.iter().map(remove)).await);
        }
    }
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let seen = event.last_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref());
    seen.map(|time| time.0)
}

/// Those older than their lifetime, and the oldest beyond the number kept.
fn over_age(mut events: Vec<(Key, Timestamp)>, now: Timestamp) -> Vec<Key> {
    events.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    events
        .into_iter()
        .enumerate()
        .filter(|(i, (_, at))| *i >= EVENTS_MAX || now.duration_since(*at) > LIFETIME)
        .map(|(_, (key, _))| key)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_go_and_young_ones_stay() {
        let now = Timestamp::from_second(100_000).unwrap();
        let at = |seconds: i64| Timestamp::from_second(100_000 - seconds).unwrap();
        let events = vec![(Key::new("n", "old"), at(3601)), (Key::new("n", "young"), at(3600))];
        assert_eq!(over_age(events, now), [Key::new("n", "old")]);
    }

    #[test]
    fn beyond_the_number_kept_the_oldest_go() {
        let now = Timestamp::from_second(100_000).unwrap();
        let events = (0..EVENTS_MAX as i64 + 2)
            .map(|i| (Key::new("n", &i.to_string()), Timestamp::from_millisecond(99_999_000 - i).unwrap()))
            .collect();
        let gone = over_age(events, now);
        assert_eq!(gone, [Key::new("n", &EVENTS_MAX.to_string()), Key::new("n", &(EVENTS_MAX + 1).to_string())]);
    }
}
