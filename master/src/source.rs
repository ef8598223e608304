//! Where a master gets the time of day and its ids from.
//!
//! Both decide: uids name pods and break ties, and of two pods the younger goes first. A simulation passes a
//! source of its own, so that one seed gives one course of events.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use coracle_api::clock::Clock;
use jiff::Timestamp;
use uuid::Uuid;

/// The time and fresh ids.
#[derive(Debug, Clone)]
pub struct Source {
    clock: Clock,
    ids: Ids,
}

#[derive(Debug, Clone)]
enum Ids {
    Random,
    /// How many were given, on top of the seed.
    Counted(Arc<AtomicU64>),
}

impl Default for Source {
    fn default() -> Self {
        Self { clock: Clock::system(), ids: Ids::Random }
    }
}

impl Source {
    /// A source whose ids follow from a seed.
    pub fn simulated(clock: Clock, seed: u64) -> Self {
        Self { clock, ids: Ids::Counted(Arc::new(AtomicU64::new(seed))) }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// An id that nothing else has.
    pub fn id(&self) -> Uuid {
        match &self.ids {
            Ids::Random => Uuid::new_v4(),
            Ids::Counted(count) => {
                let count = count.fetch_add(2, Ordering::Relaxed);
                Uuid::from_u64_pair(mixed(count), mixed(count.wrapping_add(1)))
            }
        }
    }
}

/// The finisher of splitmix64: neighbours become strangers, and no two numbers become one.
fn mixed(count: u64) -> u64 {
    let mut z = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_the_same_ids_again_and_another_gives_others() {
        let ids = |seed| {
            let source = Source::simulated(Clock::simulated(Timestamp::UNIX_EPOCH), seed);
            (0..100).map(|_| source.id()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(ids(1), ids(1));
        assert_eq!(ids(1).len(), 100);
        assert!(ids(1).is_disjoint(&ids(1 << 20)));
    }
}
