//! The few file operations that the log needs.
//!
//! A seam: tests put a directory in its place that fills up, fails, or loses what was not synced.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use coracle_api::file_lock;

use super::StoreError;

/// The folder of a store.
pub(super) trait Directory: Send {
    /// The names in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file, in place of what has that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>>;
    /// Opens a file to read.
    fn read(&self, name: &str) -> io::Result<Box<dyn LogFile>>;
    /// Opens a file to read and to write.
    fn append(&self, name: &str) -> io::Result<Box<dyn LogFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in place of what has that.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes durable which files there are.
    fn sync(&self) -> io::Result<()>;
}

/// One open file.
pub(super) trait LogFile: Send {
    /// Its bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills as much of the buffer as there is.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of it, or fails somewhere in it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts it off, or fills it up with zeros.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes durable what it holds.
    fn sync(&self) -> io::Result<()>;
}

const LOCK: &str = "lock";
/// Where a store of the format before this one was.
const FORMER: &str = "data";

/// A directory on a disk, locked for as long as this lives.
pub(super) struct DiskDirectory {
    path: PathBuf,
    handle: File,
    _lock: File,
}

impl DiskDirectory {
    /// Opens and locks the directory of a store, and makes what is missing.
    pub(super) fn make(path: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path).map_err(|e| unopenable(path, e))?;
        Self::lock(path, true)
    }

    /// Opens and locks the directory of a store that is there.
    pub(super) fn find(path: &Path) -> Result<Self, StoreError> {
        Self::lock(path, false)
    }

    fn lock(path: &Path, make: bool) -> Result<Self, StoreError> {
        if path.join(FORMER).exists() {
            let cause = "is of a format from before the first release: move it away, and start with an empty store";
            return Err(unopenable(path, format!("{FORMER}/ {cause}")));
        }
        let handle = File::open(path).map_err(|e| unopenable(path, e))?;
        let lock = OpenOptions::new().create(make).write(true).mode(0o600).open(path.join(LOCK));
        let lock = lock.map_err(|e| unopenable(path, format!("{LOCK}: {e}")))?;
        file_lock::take(&lock).map_err(|e| match e {
            TryLockError::WouldBlock => StoreError::Locked { store: path.display().to_string() },
            TryLockError::Error(e) => unopenable(path, e),
        })?;
        Ok(Self { path: path.to_owned(), handle, _lock: lock })
    }
}

fn unopenable(path: &Path, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Unopenable { store: path.display().to_string(), cause: cause.to_string() }
}

impl Directory for DiskDirectory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        // A new inode: pages of a failed one before it are not to be trusted.
        match self.remove(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let path = self.path.join(name);
        Ok(Box::new(OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)?))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl LogFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
