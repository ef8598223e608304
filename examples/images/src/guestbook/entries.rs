//! All lists in memory, in the order in which their values came; no I/O here.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    command::Command,
    resp::{Reply, Words},
};

/// Enough for any demonstration and small beside a container's memory.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a value costs in memory besides its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// One value of one list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Entry {
    /// The entry as one push, which is its form on the wire and in the journal.
    pub(super) fn encode(&self) -> Vec<u8> {
        Words(vec![b"RPUSH".to_vec(), self.key.clone(), self.value.clone()]).encode()
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// An append-only sequence of entries, and the lists they make up.
#[derive(Debug, Default)]
pub(super) struct Entries {
    all: Vec<Arc<Entry>>,
    lists: BTreeMap<Vec<u8>, Vec<Arc<Entry>>>,
    bytes: usize,
}

impl Entries {
    /// How many entries there are, over all lists.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether these fit in as well.
    pub(super) fn have_room_for(&self, entries: &[Entry]) -> bool {
        self.bytes + entries.iter().map(Entry::bytes).sum::<usize>() <= BYTES_MAX
    }

    /// Appends to the entry's list, which is made if missing; the new length of that list.
    pub(super) fn push(&mut self, entry: Entry) -> usize {
        self.bytes += entry.bytes();
        let entry = Arc::new(entry);
        self.all.push(Arc::clone(&entry));
        let list = self.lists.entry(entry.key.clone()).or_default();
        list.push(entry);
        list.len()
    }

    /// The entries from a position in the whole sequence on, at most `count`.
    pub(super) fn since(&self, position: usize, count: usize) -> &[Arc<Entry>] {
        let rest = self.all.get(position..).unwrap_or_default();
        &rest[..rest.len().min(count)]
    }

    /// Answers a command that only reads; `None` for the others.
    pub(super) fn read(&self, command: &Command) -> Option<Reply> {
        match command {
            Command::Ping(None) => Some(Reply::Simple("PONG".to_owned())),
            Command::Ping(Some(text)) => Some(Reply::Bulk(text.clone())),
            Command::Range { key, start, stop } => {
                let list = self.lists.get(key).map_or(&[][..], Vec::as_slice);
                let part = range(list.len(), *start, *stop);
                Some(Reply::Array(list[part].iter().map(|entry| entry.value.clone()).collect()))
            }
            Command::Push { .. } | Command::Sync => None,
        }
    }
}

/// The positions that LRANGE means in a list of that length.
fn range(length: usize, start: i64, stop: i64) -> std::ops::Range<usize> {
    let from_start = |position: i64| match usize::try_from(position) {
        Ok(position) => position.min(length),
        Err(_) => length.saturating_sub(usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let before_the_list = stop < 0 && stop.unsigned_abs() > length as u64;
    let end = if before_the_list { 0 } else { from_start(stop).saturating_add(1).min(length) };
    from_start(start).min(end)..end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry { key: key.into(), value: value.into() }
    }

    #[test]
    fn ranges_are_those_of_redis() {
        let check = |start, stop, expected| assert_eq!(range(3, start, stop), expected, "{start} {stop}");
        check(0, -1, 0..3);
        check(-2, -1, 1..3);
        check(0, 0, 0..1);
        check(1, 100, 1..3);
        check(-100, 1, 0..2);
        check(5, 10, 3..3);
        check(2, 1, 2..2);
        check(0, -4, 0..0);
        check(i64::MIN, i64::MAX, 0..3);
        check(i64::MAX, i64::MIN, 0..0);
        assert_eq!(range(0, 0, -1), 0..0);
    }

    #[test]
    fn lists_are_apart_and_the_sequence_is_one() {
        let mut entries = Entries::default();
        let lengths = [("a", "1"), ("b", "2"), ("a", "3")].map(|(key, value)| entries.push(entry(key, value)));
        assert_eq!(lengths, [1, 1, 2]);
        let all = Command::Range { key: b"a".to_vec(), start: 0, stop: -1 };
        assert_eq!(entries.read(&all), Some(Reply::Array(vec![b"1".to_vec(), b"3".to_vec()])));
        let since: Vec<&[u8]> = entries.since(1, 10).iter().map(|entry| &entry.value[..]).collect();
        assert_eq!(since, [b"2", b"3"]);
        assert_eq!((entries.since(0, 1).len(), entries.since(9, 1).len()), (1, 0));
    }

    #[test]
    fn room_is_bounded() {
        let entries = Entries::default();
        assert!(entries.have_room_for(&[entry("a", "1")]));
        assert!(!entries.have_room_for(&[entry("a", &"1".repeat(BYTES_MAX))]));
    }
}
