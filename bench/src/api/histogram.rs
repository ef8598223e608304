//! Latencies in a table of fixed size: log-linear, so every value is kept to within 1/64.

use std::time::Duration;

/// Sub-buckets of each power of two.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// The largest exponent: values of 2^40 ns (18 minutes) and more share the last bucket.
const EXPONENT_MAX: u32 = 40;
const BUCKETS: usize = (EXPONENT_MAX - SUB_BITS + 1) as usize * SUB;

/// Durations, counted.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&mut self, time: Duration) {
        self.record_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts one duration given in nanoseconds.
    pub(crate) fn record_nanos(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The longest, exactly.
    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The duration that a share of all, such as 0.99, does not exceed. Zero when empty.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(i).min(self.max));
            }
        }
        Duration::ZERO
    }
}

/// Small values have a bucket each; from there on each power of two has [`SUB`] of them.
fn bucket(nanos: u64) -> usize {
    let exponent = 63 - (nanos | 1).leading_zeros();
    if exponent < SUB_BITS {
        return nanos as usize;
    }
    if exponent >= EXPONENT_MAX {
        return BUCKETS - 1;
    }
    let shift = exponent - SUB_BITS;
    (shift as usize + 1) * SUB + (nanos >> shift) as usize - SUB
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (row, column) = (bucket / SUB, (bucket % SUB) as u64);
    match row.checked_sub(1) {
        None => column,
        Some(shift) => ((SUB as u64 + column + 1) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_within_its_bucket_and_buckets_are_in_order() {
        let values = (0..200).chain((7..40).flat_map(|e| [(1u64 << e) - 1, 1 << e, (1 << e) + 1, 3 << (e - 1)]));
        let mut last = 0;
        let mut sorted: Vec<u64> = values.collect();
        sorted.sort_unstable();
        for value in sorted {
            let at = bucket(value);
            assert!(at >= last && at < BUCKETS, "{value}");
            last = at;
            if value < 1 << EXPONENT_MAX {
                let top = upper(at);
                assert!(top >= value && top - value <= value / SUB as u64, "{value}: {top}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let near = |share: f64, micros: f64| {
            let got = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!((got - micros).abs() <= micros / 60.0, "{share}: {got}");
        };
        near(0.0, 1.0);
        near(0.5, 500.0);
        near(0.99, 990.0);
        near(1.0, 1000.0);
        assert_eq!((histogram.count(), histogram.max()), (1000, Duration::from_millis(1)));
    }
}
