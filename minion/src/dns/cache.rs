//! Others' answers, kept as long as they allow. Pure: the time is passed in.
//!
//! Invariant: never more than [`ENTRIES_MAX`] answers and [`BYTES_MAX`] bytes; what would expire
//! first makes room.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

/// Answers kept.
const ENTRIES_MAX: usize = 4096;
/// Bytes of answers and names kept.
const BYTES_MAX: usize = 2 << 20;
/// A larger answer is not kept.
const ENTRY_BYTES_MAX: usize = 16 << 10;

/// What was asked: a name in lower case, and the type.
pub(super) type Key = (Name, RecordType);

/// An upstream's answer, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// The message.
    pub(super) message: Bytes,
    /// Seconds since it came.
    pub(super) age: u32,
}

#[derive(Debug)]
struct Entry {
    message: Bytes,
    came: Instant,
    expiry: (Instant, u64),
}

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    expiries: BTreeMap<(Instant, u64), Key>,
    bytes: usize,
    /// Tells entries apart that expire at the same time.
    number: u64,
}

impl Cache {
    /// What is known at a time.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Known> {
        let entry = self.entries.get(key).filter(|entry| now < entry.expiry.0)?;
        let age = u32::try_from(now.saturating_duration_since(entry.came).as_secs()).unwrap_or(u32::MAX);
        Some(Known { message: entry.message.clone(), age })
    }

    /// Keeps an answer.
    pub(super) fn insert(&mut self, key: Key, message: Bytes, lifetime: Duration, now: Instant) {
        self.remove(&key);
        if message.len() > ENTRY_BYTES_MAX {
            return;
        }
        self.number += 1;
        let expiry = (now + lifetime, self.number);
        self.bytes += weight(&key, &message);
        self.expiries.insert(expiry, key.clone());
        self.entries.insert(key, Entry { message, came: now, expiry });
        while let Some((&(expiry, _), first)) = self.expiries.first_key_value() {
            if expiry > now && self.entries.len() <= ENTRIES_MAX && self.bytes <= BYTES_MAX {
                return;
            }
            let first = first.clone();
            self.remove(&first);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.expiries.remove(&entry.expiry);
            self.bytes -= weight(key, &entry.message);
        }
    }
}

/// The name is in both maps.
fn weight(key: &Key, message: &Bytes) -> usize {
    message.len() + 2 * key.0.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        (Name::from_ascii(name).unwrap(), RecordType::A)
    }

    fn message(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn an_answer_ages_and_is_gone_when_its_time_is_over() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        cache.insert(key("a."), message(3), Duration::from_secs(5), start);
        assert_eq!(cache.get(&key("a."), after(2500)), Some(Known { message: message(3), age: 2 }));
        assert_eq!(cache.get(&key("b."), after(2500)), None);
        assert_eq!(cache.get(&key("a."), after(5000)), None);
        cache.insert(key("b."), message(3), Duration::from_secs(5), after(5000));
        assert_eq!(cache.entries.len(), 1, "what has expired makes room");
        cache.insert(key("b."), message(4), Duration::from_secs(1), after(5000));
        assert_eq!(cache.get(&key("b."), after(5999)).unwrap().message.len(), 4, "the latest answer counts");
        assert_eq!(cache.get(&key("b."), after(6000)), None);
    }

    #[test]
    fn what_would_expire_first_makes_room() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for i in 0..=ENTRIES_MAX as u64 {
            cache.insert(key(&format!("n{i}.")), message(3), Duration::from_secs(10 + i), now);
        }
        assert_eq!((cache.entries.len(), cache.expiries.len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert_eq!(cache.get(&key("n0."), now), None);
        assert!(cache.get(&key("n1."), now).is_some());
        cache.insert(key("large."), message(ENTRY_BYTES_MAX + 1), Duration::from_secs(100), now);
        assert_eq!(cache.get(&key("large."), now), None);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            asked in proptest::collection::vec((0u8..20, 0usize..20_000, 1u64..100, 0u64..50), 0..300),
        ) {
            let (mut cache, mut now) = (Cache::default(), Instant::now());
            for (name, len, ttl, pause) in asked {
                now += Duration::from_secs(pause);
                cache.insert(key(&format!("n{name}.")), message(len), Duration::from_secs(ttl), now);
                prop_assert_eq!(cache.entries.len(), cache.expiries.len());
                let held: usize = cache.entries.iter().map(|(key, entry)| weight(key, &entry.message)).sum();
                prop_assert_eq!(held, cache.bytes);
                prop_assert!(cache.bytes <= BYTES_MAX);
            }
        }
    }
}
