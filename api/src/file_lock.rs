//! The lock on a directory that one process has for itself.

use std::{
    fs::{File, TryLockError},
    time::{Duration, Instant},
};

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(5);

/// Locks a file for this process, until it is closed.
///
/// Waits up to a second, and blocks the thread for it: a process that was killed can leave its lock to
/// a child that it had just forked, until the child is given the time to become another program.
///
/// Fails with `WouldBlock` where another process keeps it.
pub fn take(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::park_timeout(INTERVAL),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_back_soon_is_waited_for_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::create(dir.path().join("lock")).unwrap();
        let (first, second) = (open(), open());
        take(&first).unwrap();
        assert!(matches!(take(&second), Err(TryLockError::WouldBlock)));
        let holder = std::thread::spawn(move || {
            std::thread::park_timeout(INTERVAL * 10);
            drop(first);
        });
        take(&second).unwrap();
        holder.join().unwrap();
    }
}
