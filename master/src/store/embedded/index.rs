//! Which version each key has, and in which segment that lies: for the conditions of writes, and
//! to know what is garbage. Holds no values.

use std::collections::{BTreeMap, HashMap};

use super::frame::{FRAME_OVERHEAD, RECORD_HEADER};

/// Where a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) version: u64,
    pub(super) segment: u32,
    /// What it takes on disk.
    pub(super) bytes: u32,
}

impl Slot {
    /// A record in `segment`. A frame's own bytes are counted to each of its records: a log of
    /// frames of one record is then no garbage.
    pub(super) fn new(version: u64, segment: u32, key: &str, value_bytes: usize) -> Self {
        let bytes = (FRAME_OVERHEAD + RECORD_HEADER + key.len() + value_bytes) as u32;
        Self { version, segment, bytes }
    }
}

/// All keys that have a value. Some hundred bytes a key, the key included.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: HashMap<Box<str>, Slot, foldhash::quality::RandomState>,
    /// Live bytes a segment.
    live: BTreeMap<u32, u64>,
    total: u64,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    pub(super) fn put(&mut self, key: &str, slot: Slot) {
        let before = match self.slots.get_mut(key) {
            Some(known) => Some(std::mem::replace(known, slot)),
            None => self.slots.insert(key.into(), slot),
        };
        before.into_iter().for_each(|slot| self.uncount(slot));
        *self.live.entry(slot.segment).or_default() += u64::from(slot.bytes);
        self.total += u64::from(slot.bytes);
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.slots.remove(key).into_iter().for_each(|slot| self.uncount(slot));
    }

    /// Whether this record is the key's value, and not an old one or a copy.
    pub(super) fn is_live(&self, key: &str, version: u64, segment: u32) -> bool {
        self.get(key).is_some_and(|slot| slot.version == version && slot.segment == segment)
    }

    /// Bytes of all values.
    pub(super) fn live_bytes(&self) -> u64 {
        self.total
    }

    /// Bytes of those in one segment.
    pub(super) fn live_in(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or_default()
    }

    /// The lowest segment that holds a value.
    pub(super) fn lowest(&self) -> Option<u32> {
        self.live.keys().next().copied()
    }

    fn uncount(&mut self, slot: Slot) {
        self.total -= u64::from(slot.bytes);
        if let Some(live) = self.live.get_mut(&slot.segment) {
            *live -= u64::from(slot.bytes);
            if *live == 0 {
                self.live.remove(&slot.segment);
            }
        }
    }
}
