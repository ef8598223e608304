//! The log itself: appends frames to the last segment, and starts the next.
//!
//! Order of every append: frame, sync, mark; only then does anything else know of it. After a
//! write that failed, the segment is cut back to its last good byte. After a sync that failed
//! nobody knows what the disk holds, so the segment is left as it is and the log goes on in the
//! next one, whose header says where this one ends. Nothing is ever put behind what failed.

use std::{collections::BTreeMap, io};

use super::{
    Options, StoreError,
    compact::Cursor,
    disk::{Directory, LogFile},
    frame::{Draft, FRAME_HEADER, FRAME_OVERHEAD, Kind, MARK, Mark, Spot},
    index::{Index, Slot},
    recover::{Recovered, Segment, recover},
    segment::{FIRST, SEGMENT_HEADER, SegmentHeader, file_name},
};

/// The name of a segment in the making.
const NEXT: &str = "next";

/// An open log.
pub(super) struct Log {
    pub(super) disk: Box<dyn Directory>,
    pub(super) store: String,
    pub(super) options: Options,
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) version: u64,
    pub(super) oldest: u32,
    pub(super) cursor: Cursor,
    tail: Box<dyn LogFile>,
    tail_number: u32,
    /// Nothing may follow in the last segment.
    spoilt: bool,
    trouble: Option<String>,
    /// Empty, for the next commit.
    pub(super) draft: Draft,
}

/// Why a frame is not in the log.
#[derive(Debug)]
pub(super) struct AppendError {
    pub(super) cause: String,
    /// It is not there now, and will not be after a crash.
    pub(super) definite: bool,
}

impl Log {
    /// Opens the log in a directory, makes one if there is none, and mends what a crash left.
    pub(super) fn open(disk: Box<dyn Directory>, store: String, options: Options) -> Result<Self, StoreError> {
        let unopenable = |cause: String| StoreError::Unopenable { store: store.clone(), cause };
        let recovered = recover(&*disk, &store)?;
        for number in &recovered.leftovers {
            let name = file_name(*number);
            tracing::debug!(store, name, "removing a segment that is not needed");
            disk.remove(&name).map_err(|e| unopenable(describe(&name, &e)))?;
        }
        let number = recovered.last.map_or(FIRST, |header| header.number);
        let tail = mend(&*disk, &store, &recovered).map_err(|e| unopenable(describe(&file_name(number), &e)))?;
        let Recovered { mut segments, index, version, oldest, .. } = recovered;
        segments.insert(number, tail.1);
        Ok(Self {
            disk,
            store,
            options,
            index,
            segments,
            version,
            oldest,
            cursor: Cursor::default(),
            tail: tail.0,
            tail_number: number,
            spoilt: false,
            trouble: None,
            draft: Draft::default(),
        })
    }

    /// What keeps it from writing, until a write succeeds.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.cursor.stopped.as_deref())
    }

    /// Whether the next write may succeed where the last one failed.
    pub(super) fn writes_fail(&self) -> bool {
        self.trouble.is_some()
    }

    pub(super) fn tail_number(&self) -> u32 {
        self.tail_number
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.end).sum()
    }

    /// Appends a frame, which takes the log to version `last`, and makes it durable. Gives the
    /// segment that it is in; the index is left to the caller.
    pub(super) fn append(&mut self, draft: &mut Draft, last: u64, oldest: u32) -> Result<u32, AppendError> {
        let appended = self.try_append(draft, last, oldest);
        self.trouble = appended.as_ref().err().map(|e| e.cause.clone());
        appended
    }

    /// Numbers on from a version, with a frame that holds nothing.
    pub(super) fn number_beyond(&mut self, version: u64) -> Result<(), StoreError> {
        if version <= self.version {
            return Ok(());
        }
        let appended = self.append(&mut Draft::default(), version, self.oldest);
        appended.map(drop).map_err(|e| StoreError::Unwritable { store: self.store.clone(), cause: e.cause })
    }

    /// Tries whether writing works again, with a frame that holds nothing.
    pub(super) fn probe(&mut self) {
        // The result is in `trouble`.
        drop(self.append(&mut Draft::default(), self.version, self.oldest));
    }

    fn try_append(&mut self, draft: &mut Draft, last: u64, oldest: u32) -> Result<u32, AppendError> {
        let bytes = (draft.len() - FRAME_HEADER + FRAME_OVERHEAD) as u64;
        let end = self.tail_segment().end;
        let full = end > SEGMENT_HEADER as u64 && end + bytes > self.options.segment_bytes;
        if self.spoilt || full {
            self.roll().map_err(|cause| AppendError { cause, definite: true })?;
        }
        let Segment { salt, end } = self.tail_segment();
        let name = file_name(self.tail_number);
        let frame = draft.finish(self.version, last, oldest, Spot { salt, offset: end });
        if let Err(e) = self.tail.write_at(frame, end) {
            let cause = describe(&name, &e);
            // Half a frame is none. Where it can't be cut off, nothing may follow it.
            self.spoilt = self.tail.truncate(end).is_err();
            return Err(AppendError { cause, definite: true });
        }
        if let Err(e) = self.tail.sync() {
            let cause = describe(&name, &e);
            self.spoilt = true;
            tracing::error!(store = self.store, name, error = %e, "a sync failed; the log goes on in the next segment");
            // Until the next segment says where this one ends, a crash may show the frame.
            let definite = self.roll().is_ok();
            return Err(AppendError { cause, definite });
        }
        let segment = Segment { salt, end: end + bytes };
        seal(&*self.tail, &segment);
        self.segments.insert(self.tail_number, segment);
        self.version = last;
        Ok(self.tail_number)
    }

    fn tail_segment(&self) -> Segment {
        self.segments.get(&self.tail_number).copied().unwrap_or(Segment { salt: 0, end: 0 })
    }

    /// Goes on in a new segment. When that fails nothing is written before it succeeds: a header
    /// that is on disk after all says where this segment ends.
    fn roll(&mut self) -> Result<(), String> {
        let spoilt = std::mem::replace(&mut self.spoilt, true);
        let before = self.tail_segment();
        let number = self.tail_number.checked_add(1).ok_or("there are no segment numbers left")?;
        let header =
            SegmentHeader { number, salt: salt(), after: self.version, previous_end: before.end, oldest: self.oldest };
        let file = make(&*self.disk, &header).map_err(|e| describe(&file_name(number), &e))?;
        if spoilt {
            // Only to free the space: the header has said it.
            drop(self.tail.truncate(before.end));
        } else {
            let spot = Spot { salt: before.salt, offset: before.end };
            // Without a sync, as any mark.
            drop(self.tail.write_at(&Mark::Closed.encode(spot), before.end));
        }
        self.tail = file;
        self.tail_number = number;
        self.segments.insert(number, Segment { salt: header.salt, end: SEGMENT_HEADER as u64 });
        self.spoilt = false;
        Ok(())
    }

    /// Enters the records of an appended frame into the index.
    pub(super) fn enter(&mut self, draft: &Draft, segment: u32) {
        for record in draft.records() {
            match record.kind {
                Kind::Delete => self.index.remove(record.key),
                _ => self.index.put(record.key, Slot::new(record.version, segment, record.key, record.value.len())),
            }
        }
    }
}

/// Opens the segment that the log goes on in, and makes sure that what was read of it is durable:
/// a process that was killed may have written it and not synced it, and a sync alone proves nothing
/// if one before it failed. What is written again is.
fn mend(disk: &dyn Directory, store: &str, recovered: &Recovered) -> io::Result<(Box<dyn LogFile>, Segment)> {
    let header = recovered.last.unwrap_or(SegmentHeader {
        number: FIRST,
        salt: salt(),
        after: recovered.version,
        previous_end: 0,
        oldest: FIRST,
    });
    let name = file_name(header.number);
    let known = recovered.segments.get(&header.number).filter(|segment| segment.end > SEGMENT_HEADER as u64);
    let Some(&segment) = known else {
        let file = make(disk, &header)?;
        return Ok((file, Segment { salt: header.salt, end: SEGMENT_HEADER as u64 }));
    };
    let file = disk.append(&name)?;
    if recovered.torn > 0 {
        let (offset, bytes) = (segment.end, recovered.torn);
        tracing::warn!(store, name, offset, bytes, "cutting off a write that was neither finished nor acknowledged");
        file.truncate(segment.end)?;
    }
    if let Some(offset) = recovered.unsealed {
        let mut frame = vec![0; (segment.end - offset) as usize - MARK];
        file.read_at(&mut frame, offset)?;
        file.write_at(&frame, offset)?;
    }
    file.sync()?;
    disk.sync()?;
    if recovered.unsealed.is_some() {
        seal(&*file, &segment);
    }
    Ok((file, segment))
}

/// Makes a segment, durably, or makes it anew. It has its name when it is whole.
fn make(disk: &dyn Directory, header: &SegmentHeader) -> io::Result<Box<dyn LogFile>> {
    let made = disk.create(NEXT).and_then(|file| {
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        disk.rename(NEXT, &file_name(header.number))?;
        disk.sync()?;
        Ok(file)
    });
    if made.is_err() {
        // To free the space. If it stays it is replaced by the next attempt.
        drop(disk.remove(NEXT));
    }
    made
}

/// Marks the frame that ends where the segment does. Without it a damaged last frame looks torn,
/// and nothing else is lost: a failure changes nothing.
fn seal(file: &dyn LogFile, segment: &Segment) {
    if let Some(offset) = segment.end.checked_sub(MARK as u64) {
        drop(file.write_at(&Mark::Sealed.encode(Spot { salt: segment.salt, offset }), offset));
    }
}

fn salt() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// What failed, and what helps.
fn describe(name: &str, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there, and writing goes on by itself",
        io::ErrorKind::ReadOnlyFilesystem => "mount it for writing, and look in the kernel's log for the reason",
        io::ErrorKind::PermissionDenied => "give the user of this process access to it",
        _ => "look at the disk and at the kernel's log",
    };
    format!("{name}: {error}; {remedy}")
}
