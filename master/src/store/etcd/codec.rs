//! How keys, values and versions look in etcd.
//!
//! etcd numbers transactions, not changes: all changes of one have the same revision. A change's
//! version is therefore `revision * 256 + index`. A put's index is its place among the operations
//! of its transaction, below 128, and is stored before the value as one byte. Deletions leave no
//! value behind: those that happened count from 128 on, in the order in which etcd carried them
//! out and reports them. So whoever commits, loads or watches comes to the same number.
//!
//! Invariant: versions of one revision are unequal, and lie between those of the revisions around.

use bytes::Bytes;

use crate::store::Expect;

/// Indices of puts are below, those of deletions from here on.
pub(super) const PUTS_END: usize = 128;
/// Above all indices of changes, but for the last of 128 deletions.
pub(super) const INDEX_MAX: usize = 255;
/// Versions of one revision.
const INDICES: u64 = 256;
/// No change has this revision: a comparison with it is never true.
const NEVER: i64 = i64::MAX;

/// The version of the change at an index of a revision.
pub(super) fn version(revision: i64, index: usize) -> u64 {
    debug_assert!((index as u64) < INDICES, "an index is one byte");
    revision.unsigned_abs() * INDICES + index as u64
}

/// The version that nothing up to a revision is above, and everything after it.
pub(super) fn complete_to(revision: i64) -> u64 {
    version(revision, INDEX_MAX)
}

/// The revision at which a value was written if this is its version.
pub(super) fn written_at(version: u64) -> i64 {
    let (revision, index) = (version / INDICES, version % INDICES);
    match i64::try_from(revision) {
        // Zero is what etcd compares the absent with.
        Ok(revision @ 1..) if index < PUTS_END as u64 => revision,
        _ => NEVER,
    }
}

/// The stored form of a value.
pub(super) fn encode(index: usize, value: &[u8]) -> Vec<u8> {
    debug_assert!(index < PUTS_END, "a put's index has seven bits");
    let mut stored = Vec::with_capacity(1 + value.len());
    stored.push(index as u8);
    stored.extend_from_slice(value);
    stored
}

/// Index and value. `None`: not written by a master.
pub(super) fn decode(stored: impl Into<Bytes>) -> Option<(usize, Bytes)> {
    let mut stored: Bytes = stored.into();
    if stored.is_empty() {
        return None;
    }
    let value = stored.split_off(1);
    let index = usize::from(stored[0]);
    (index < PUTS_END).then_some((index, value))
}

/// Whether a condition holds for a key that was last written at this revision, if it is there.
pub(super) fn holds(expect: Expect, written: Option<i64>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => written.is_none(),
        Expect::Version(v) => written == Some(written_at(v)),
    }
}

/// The end of the range of keys that start with this.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes are ASCII.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The names of our keys.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
}

impl Layout {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// What all keys start with.
    pub(super) fn all(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// What the keys of the store start with.
    pub(super) fn objects(&self) -> String {
        format!("{}/objects/", self.prefix)
    }

    /// A key of the store in etcd.
    pub(super) fn object(&self, key: &str) -> String {
        format!("{}/objects/{key}", self.prefix)
    }

    /// Held by the master that leads. Its creation is the term.
    pub(super) fn leader(&self) -> String {
        format!("{}/leader", self.prefix)
    }

    /// What the keys of announcements start with.
    pub(super) fn masters(&self) -> String {
        format!("{}/masters/", self.prefix)
    }

    /// Written to find out whether etcd takes writes again.
    pub(super) fn probe(&self) -> String {
        format!("{}/probe", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_that_no_value_has_are_never_there() {
        for version in [0, 9, 255, 256 + 128, 256 + 255, u64::MAX] {
            assert_eq!(written_at(version), NEVER, "{version}");
            assert!(!holds(Expect::Version(version), None));
        }
    }

    #[test]
    fn foreign_values_are_told() {
        assert_eq!(decode(Vec::new()), None);
        assert_eq!(decode(vec![128, 1]), None);
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back(
            revision in 1..i64::MAX / 512,
            index in 0..PUTS_END,
            value in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            prop_assert_eq!(decode(encode(index, &value)), Some((index, Bytes::from(value))));
            let version = version(revision, index);
            prop_assert_eq!(written_at(version), revision);
            prop_assert!(holds(Expect::Version(version), Some(revision)));
            prop_assert!(complete_to(revision) > version && complete_to(revision - 1) < version);
        }
    }
}
