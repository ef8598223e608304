//! Chance that can be had again: numbers that follow from one seed.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Names the seed of a run that is to be had again.
const SEED: &str = "CORACLE_SEED";

/// A generator of numbers: xorshift64.
#[derive(Debug)]
pub struct Random {
    state: u64,
    /// Where it began, as the variable takes it.
    pub seed: String,
}

impl Random {
    /// A new seed, or the one that `CORACLE_SEED` names. A test prints it.
    pub fn new() -> Result<Self> {
        let seed: u64 = match std::env::var(SEED) {
            Ok(seed) => seed.parse().with_context(|| format!("{SEED} is '{seed}', not a number"))?,
            Err(_) => RandomState::new().hash_one(0),
        };
        Ok(Self::from_seed(seed))
    }

    /// A given one: the same numbers each time.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Self { state: seed | 1, seed: format!("{SEED}={seed}") };
        // The first numbers of a small seed are small.
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A time below `end`.
    pub fn time(&mut self, end: Duration) -> Duration {
        end.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Lets a time pass. Not to wait for something: where the instant is what is tested.
pub fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_reaches_all() {
        let draw = |seed| {
            let mut random = Random::from_seed(seed);
            (0..100).map(|_| random.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(4));
        for n in 0..7 {
            assert!(draw(1).contains(&n), "{n} in {:?}", draw(1));
        }
        let time = Random::from_seed(1).time(Duration::from_secs(1));
        assert!(time < Duration::from_secs(1), "{time:?}");
    }
}
