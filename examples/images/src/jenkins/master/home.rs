//! The data directory: one file, replaced whole at each change.
//!
//! A change is written beside the file, synced and renamed over it, so that whatever moment the container dies in, the file is
//! the old one or the new one. Readers see a change only when it is durable.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::history::{Build, History};
use crate::{
    failure::{about, invalid},
    jenkins::name::Name,
    machine,
};

const FILE: &str = "history.txt";
const TEMPORARY: &str = "history.txt.new";

/// An open data directory.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    current: watch::Sender<Arc<History>>,
    /// Held from reading the current history to publishing the next one.
    writer: Mutex<()>,
}

impl Home {
    /// Opens the directory, which is made if missing, and counts this boot. A file that is not understood is an error: it is
    /// never replaced by an empty history.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path).map_err(about(path.display()))?;
        let mut history = match read(path)? {
            Some(history) => history,
            None => History::new(machine::random_uuid()?),
        };
        history.boots += 1;
        replace(path, &history)?;
        Ok(Self { path: path.to_owned(), current: watch::Sender::new(Arc::new(history)), writer: Mutex::default() })
    }

    /// Where the directory is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The history as it is on disk.
    pub(super) fn current(&self) -> Arc<History> {
        Arc::clone(&self.current.borrow())
    }

    /// Adds a build; on return it is durable. Blocks on the disk.
    pub(super) fn record(&self, slave: Name, hostname: Name, unix_seconds: u64) -> io::Result<Build> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut history = History::clone(&self.current());
        let build = history.add(slave, hostname, unix_seconds);
        replace(&self.path, &history)?;
        self.current.send_replace(Arc::new(history));
        Ok(build)
    }
}

fn read(directory: &Path) -> io::Result<Option<History>> {
    let path = directory.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about(path.display())(error)),
    };
    let history = History::parse(&text)
        .map_err(|line| invalid(format_args!("{}: line {line} is not understood", path.display())))?;
    Ok(Some(history))
}

fn replace(directory: &Path, history: &History) -> io::Result<()> {
    let write = || {
        let temporary = directory.join(TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(history.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(FILE))?;
        // The rename itself is durable only once the directory is.
        File::open(directory)?.sync_all()
    };
    write().map_err(about(directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn the_next_master_finds_the_instance_and_the_builds() {
        let scratch = Scratch::new();
        let first = Home::open(&scratch.path().join("made/on/demand")).unwrap();
        first.record(name("slave-1"), name("host-1"), 1).unwrap();
        let before = first.current();
        drop(first);

        let second = Home::open(&scratch.path().join("made/on/demand")).unwrap();
        let after = second.current();
        assert_eq!((&after.instance, after.boots, &after.builds), (&before.instance, 2, &before.builds));
        assert_eq!(second.record(name("slave-1"), name("host-1"), 2).unwrap().number, 2);
    }

    #[test]
    fn a_half_written_change_is_as_if_it_never_began() {
        let scratch = Scratch::new();
        let before = Home::open(scratch.path()).unwrap().current();
        fs::write(scratch.path().join(TEMPORARY), "coracle-jen").unwrap();
        assert_eq!(Home::open(scratch.path()).unwrap().current().instance, before.instance);
    }

    #[test]
    fn a_file_that_is_not_understood_is_left_alone() {
        let scratch = Scratch::new();
        fs::write(scratch.path().join(FILE), "precious").unwrap();
        let error = Home::open(scratch.path()).unwrap_err();
        assert!(error.to_string().ends_with("history.txt: line 1 is not understood"), "{error}");
        assert_eq!(fs::read_to_string(scratch.path().join(FILE)).unwrap(), "precious");
    }
}
