//! The leader's journal: every entry as one push, appended and synced before anybody hears of it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use super::{
    command::Command,
    entries::{Entries, Entry},
    resp::Words,
};
use crate::{
    failure::{about, invalid},
    frame::Frame,
};

const FILE: &str = "guestbook.log";

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Up to here everything is whole and synced; what may lie beyond is from a write that failed.
    length: u64,
}

impl Journal {
    /// Opens the journal in a directory and reads it. A last entry that was cut short was never acknowledged and is dropped;
    /// anything else that is not understood is an error.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Entries)> {
        let path = directory.join(FILE);
        let open = || {
            fs::create_dir_all(directory)?;
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            File::open(directory)?.sync_all()?;
            let (entries, length) = replay(&fs::read(&path)?)?;
            Ok((Self { file, length }, entries))
        };
        open().map_err(about(path.display()))
    }

    /// Appends entries; on return they are durable. Blocks on the disk. After an error the journal is as before.
    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
        // Without this, the rest of a longer write that failed could stand behind a shorter one that succeeds.
        self.file.set_len(self.length)?;
        self.file.write_all_at(&bytes, self.length)?;
        self.file.sync_data()?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn replay(bytes: &[u8]) -> io::Result<(Entries, u64)> {
    let mut entries = Entries::default();
    let mut at = 0;
    while at < bytes.len() {
        let damaged = || invalid(format_args!("not understood at byte {at}"));
        // The decoder would take a line typed by hand for a command; the journal has none.
        if bytes[at] != b'*' {
            return Err(damaged());
        }
        let Some((words, used)) = Words::decode(&bytes[at..]).map_err(|_| damaged())? else { break };
        let Ok(Command::Push { key, values }) = Command::parse(words) else { return Err(damaged()) };
        for value in values {
            entries.push(Entry { key: key.clone(), value });
        }
        at += used;
    }
    Ok((entries, at as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn entry(value: &str) -> Entry {
        Entry { key: b"guestbook".to_vec(), value: value.into() }
    }

    fn values(entries: &Entries) -> Vec<String> {
        entries.since(0, usize::MAX).iter().map(|entry| String::from_utf8(entry.value.clone()).unwrap()).collect()
    }

    #[test]
    fn the_next_leader_finds_every_entry() {
        let scratch = Scratch::new();
        let (mut journal, entries) = Journal::open(scratch.path()).unwrap();
        assert!(values(&entries).is_empty());
        journal.append(&[entry("one"), entry("two\r\nlines")]).unwrap();
        journal.append(&[entry("three")]).unwrap();
        drop(journal);
        assert_eq!(values(&Journal::open(scratch.path()).unwrap().1), ["one", "two\r\nlines", "three"]);
    }

    #[test]
    fn wherever_a_write_was_cut_short_the_entries_before_it_stay_and_writing_goes_on() {
        let scratch = Scratch::new();
        let torn = entry("torn and never acknowledged").encode();
        for end in 1..torn.len() {
            let kept = entry("kept").encode();
            fs::write(scratch.path().join(FILE), [&kept[..], &torn[..end]].concat()).unwrap();
            let (mut journal, entries) = Journal::open(scratch.path()).unwrap();
            assert_eq!(values(&entries), ["kept"]);
            journal.append(&[entry("new")]).unwrap();
            assert_eq!(values(&Journal::open(scratch.path()).unwrap().1), ["kept", "new"]);
        }
    }

    #[test]
    fn a_damaged_journal_is_left_alone() {
        let scratch = Scratch::new();
        for damage in ["PING\r\n", "*1\r\n$4\r\nPING\r\n", "\0\0\0"] {
            let bytes = [&entry("kept").encode()[..], damage.as_bytes()].concat();
            fs::write(scratch.path().join(FILE), &bytes).unwrap();
            let error = Journal::open(scratch.path()).unwrap_err();
            assert!(error.to_string().contains("guestbook.log: not understood at byte"), "{error}");
            assert_eq!(fs::read(scratch.path().join(FILE)).unwrap(), bytes);
        }
    }
}
