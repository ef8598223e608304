//! Gives back the room of what was overwritten and deleted: first in, first out.
//!
//! The values of the oldest segment that still count are repeated at the end of the log, with the
//! versions that they have; when the last of them is durable, in the same frame in which the log
//! says that it does not need that segment any more, the file goes. Deletions in it need no
//! repeating: what they deleted is older, and gone with it or before it. All of it happens in
//! steps of bounded size, and a crash between any two leaves two copies of something or a file too
//! many.

use super::{
    frame::{Draft, FRAME_OVERHEAD, Kind},
    log::Log,
    segment::{FrameReader, Next, SEGMENT_HEADER, file_name},
};

/// Bytes of the oldest segments that are looked through for each byte that is written. The log
/// holds at most twice what is live and the allowance when that begins; at this rate it is through
/// before it has grown by half again.
const PACE: u64 = 4;

/// How far the oldest segment was moved.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The next frame to look at; 0 before the first.
    offset: u64,
    /// Bytes to look through before the next commit.
    debt: u64,
    /// Why there is no compaction any more.
    pub(super) stopped: Option<String>,
}

impl Log {
    /// Whether there is garbage worth the work.
    pub(super) fn wants_compaction(&self) -> bool {
        self.cursor.stopped.is_none()
            && self.oldest < self.tail_number()
            && self.bytes() > 2 * self.index.live_bytes() + self.options.garbage_bytes
    }

    /// Compacts as much as `written` new bytes call for.
    pub(super) fn keep_pace(&mut self, written: u64) {
        self.cursor.debt += written * PACE;
        while self.wants_compaction() {
            if self.cursor.debt < self.options.step_bytes as u64 {
                return;
            }
            let Some(done) = self.compact() else { return };
            self.cursor.debt = self.cursor.debt.saturating_sub(done.max(1));
        }
        self.cursor.debt = 0;
    }

    /// One step. Gives the bytes that were looked through, or None if it failed.
    pub(super) fn compact(&mut self) -> Option<u64> {
        let oldest = self.oldest;
        let (mut draft, begin, end, whole) = match self.collect() {
            Ok(collected) => collected,
            Err(cause) => {
                tracing::error!(store = self.store, cause, "compaction stops");
                self.cursor.stopped = Some(cause);
                return None;
            }
        };
        if whole || !draft.is_empty() {
            let needed = if whole { oldest + 1 } else { oldest };
            let segment = self.append(&mut draft, self.version, needed).ok()?;
            self.enter(&draft, segment);
        }
        self.cursor.offset = end;
        if whole {
            self.cursor.offset = 0;
            self.oldest = oldest + 1;
            self.segments.remove(&oldest);
            let name = file_name(oldest);
            match self.disk.remove(&name) {
                Ok(()) => tracing::debug!(store = self.store, name, "compacted"),
                // It is not read any more, and removed at the next start.
                Err(error) => tracing::warn!(store = self.store, name, %error, "a segment can't be removed"),
            }
        }
        Some(end - begin)
    }

    /// The live records of the next step, where it begins and ends, and whether the segment does.
    fn collect(&self) -> Result<(Draft, u64, u64, bool), String> {
        let (number, name) = (self.oldest, file_name(self.oldest));
        let mut draft = Draft::default();
        let Some(segment) = self.segments.get(&number) else { return Err(format!("{name} is not there")) };
        let begin = self.cursor.offset.max(SEGMENT_HEADER as u64);
        if self.index.live_in(number) == 0 {
            return Ok((draft, begin, segment.end.max(begin), true));
        }
        let unreadable = |e| format!("{name}: {e}; look at the disk and at the kernel's log");
        let file = self.disk.read(&name).map_err(unreadable)?;
        let mut reader = FrameReader::new(&*file, segment.salt, begin, segment.end);
        loop {
            let at = reader.offset();
            if at > begin && at - begin >= self.options.step_bytes as u64 {
                return Ok((draft, begin, at, false));
            }
            let damaged = || {
                format!(
                    "{name} is damaged at byte {at}: what is in memory is whole, but the next start will refuse it; back up the objects now"
                )
            };
            match reader.next().map_err(unreadable)? {
                Next::End => return Ok((draft, begin, at, true)),
                Next::Invalid => return Err(damaged()),
                Next::Frame(frame) => {
                    // A frame of moved records is no larger than the largest that was written.
                    let bytes = frame.payload.len() + FRAME_OVERHEAD;
                    if !draft.is_empty() && draft.len() + bytes > self.options.step_bytes {
                        return Ok((draft, begin, at, false));
                    }
                    for record in frame.records().ok_or_else(damaged)? {
                        if record.kind != Kind::Delete && self.index.is_live(record.key, record.version, number) {
                            draft.push(Kind::Moved, record.version, record.key, record.value);
                        }
                    }
                }
            }
        }
    }
}
