//! Looks at a store that no master has open: is all of it whole, and what is in it?

use std::path::Path;

use super::{StoreError, disk::DiskDirectory, load::visit, recover::recover};

/// What is in a store that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Files of the log.
    pub segments: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames, each the durable part of one batch or one step of compaction.
    pub frames: u64,
    /// Records in the frames: changes, and values that compaction moved.
    pub records: u64,
    /// Keys that have a value.
    pub keys: usize,
    /// Bytes that compaction can give back.
    pub garbage_bytes: u64,
    /// The last version given out.
    pub version: u64,
    /// Bytes at the end of a write that a crash cut short. The next start removes them.
    pub torn_bytes: u64,
}

/// Reads a whole store without changing it, and hands over each key with its version and value, in
/// no order. Needs the store to itself: with a master on it, it is [`StoreError::Locked`]. What is
/// damaged is told as [`StoreError::Damaged`], at the first place.
pub fn check(directory: &Path, mut each: impl FnMut(&str, u64, &[u8])) -> Result<CheckReport, StoreError> {
    let disk = DiskDirectory::find(directory)?;
    let store = directory.display().to_string();
    let log = recover(&disk, &store)?;
    if log.segments.is_empty() {
        return Err(StoreError::Unopenable { store, cause: "there is no store in it".into() });
    }
    visit(&disk, &store, &log.segments, &log.index, &mut each)?;
    let bytes = log.segments.values().map(|segment| segment.end).sum();
    Ok(CheckReport {
        segments: log.segments.len(),
        bytes,
        frames: log.frames,
        records: log.records,
        keys: log.index.len(),
        garbage_bytes: bytes.saturating_sub(log.index.live_bytes()),
        version: log.version,
        torn_bytes: log.torn,
    })
}
