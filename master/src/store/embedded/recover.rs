//! Reads a log back: what is in it, whether it is whole, and where it goes on.
//!
//! Changes nothing. The rules:
//! - Where a segment ends that is not the last, the header of the next one says. All frames up to
//!   there must be valid, and versions must follow each other without a hole.
//! - In the last segment, an invalid frame with something valid after it was acknowledged once: it
//!   is damaged. With nothing valid after it, it is the torn end of a write that nobody was
//!   answered for, and the log goes on in its place.
//! - From the oldest segment that is needed, as the newest frame says, none may be missing, nor the
//!   one after a segment that is marked closed. Older ones are leftovers.

use std::{collections::BTreeMap, io};

use super::{
    StoreError,
    disk::{Directory, LogFile},
    frame::{Kind, MARK, Mark, Record, Spot},
    index::{Index, Slot},
    segment::{FIRST, Frame, FrameReader, Next, NoHeader, SEGMENT_HEADER, SegmentHeader, file_name, number_of},
};

/// Keys of a damaged frame that are named.
const KEYS_NAMED: usize = 8;

/// A segment that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) salt: u64,
    /// Where its frames end.
    pub(super) end: u64,
}

/// What is in a log.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// From the oldest needed on.
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) index: Index,
    pub(super) version: u64,
    pub(super) oldest: u32,
    /// Bytes beyond the end of the last segment.
    pub(super) torn: u64,
    /// Where the last frame is, if it lacks its mark and so may not be durable.
    pub(super) unsealed: Option<u64>,
    /// The header of the last segment.
    pub(super) last: Option<SegmentHeader>,
    /// Files that are not needed.
    pub(super) leftovers: Vec<u32>,
    pub(super) frames: u64,
    pub(super) records: u64,
}

/// What is wrong, at the place where it is.
struct Fault {
    place: String,
    cause: String,
}

/// Why a log can't be read.
enum Failure {
    Io(String, io::Error),
    Format(String, u32),
    Damaged(Fault),
}

impl Failure {
    fn named(self, store: &str) -> StoreError {
        let store = store.to_owned();
        match self {
            Self::Io(file, e) => StoreError::Unopenable { store, cause: format!("{file}: {e}") },
            Self::Format(file, format) => {
                let cause = format!("{file} is of format {format}, which this version does not know: use a later one");
                StoreError::Unopenable { store, cause }
            }
            Self::Damaged(Fault { place, cause }) => StoreError::Damaged { store, place, cause },
        }
    }
}

fn damaged(number: u32, offset: u64, cause: impl Into<String>) -> Failure {
    Failure::Damaged(Fault { place: format!("{} at byte {offset}", file_name(number)), cause: cause.into() })
}

fn missing(number: u32) -> Failure {
    let cause = "this segment of the log is missing: put it back, or restore all of them from a backup".into();
    Failure::Damaged(Fault { place: file_name(number), cause })
}

/// An open segment and what its header says.
type Opened = (Box<dyn LogFile>, SegmentHeader);

/// Reads the log in a directory.
pub(super) fn recover(disk: &dyn Directory, store: &str) -> Result<Recovered, StoreError> {
    read(disk).map_err(|failure| failure.named(store))
}

fn read(disk: &dyn Directory) -> Result<Recovered, Failure> {
    let names = disk.list().map_err(|e| Failure::Io("the directory".into(), e))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let Some(&newest) = numbers.last() else { return Ok(Recovered { oldest: FIRST, ..Recovered::default() }) };

    let first = (1..newest).rev().take_while(|n| numbers.binary_search(n).is_ok()).last().unwrap_or(newest);
    let opened = (first..=newest).map(|number| open(disk, number)).collect::<Result<Vec<_>, _>>()?;

    let mut log = Recovered { oldest: FIRST, ..Recovered::default() };
    log.version = opened.first().map_or(0, |(_, header)| header.after);
    for (i, (file, header)) in opened.iter().enumerate() {
        log.read_segment(&**file, header, opened.get(i + 1).map(|(_, header)| header))?;
        log.last = Some(*header);
    }
    if log.oldest < first {
        return Err(missing(first - 1));
    }
    if let Some(lowest) = log.index.lowest().filter(|lowest| *lowest < log.oldest) {
        return Err(damaged(lowest, 0, "values in it were given up before they were moved"));
    }
    log.segments.retain(|number, _| *number >= log.oldest);
    log.leftovers = numbers.into_iter().filter(|number| !log.segments.contains_key(number)).collect();
    Ok(log)
}

fn open(disk: &dyn Directory, number: u32) -> Result<Opened, Failure> {
    let failed = |e| Failure::Io(file_name(number), e);
    let file = disk.read(&file_name(number)).map_err(failed)?;
    let mut bytes = [0; SEGMENT_HEADER];
    let got = file.read_at(&mut bytes, 0).map_err(failed)?;
    match SegmentHeader::decode(&bytes[..got]) {
        Ok(header) if header.number == number => Ok((file, header)),
        Ok(header) => Err(damaged(number, 0, format!("it is {} under another name", file_name(header.number)))),
        Err(NoHeader::Format(format)) => Err(Failure::Format(file_name(number), format)),
        Err(NoHeader::Invalid) => Err(damaged(number, 0, "the header does not match its checksum")),
    }
}

impl Recovered {
    /// Takes in one segment.
    fn read_segment(
        &mut self,
        file: &dyn LogFile,
        header: &SegmentHeader,
        next: Option<&SegmentHeader>,
    ) -> Result<(), Failure> {
        let number = header.number;
        let failed = |e| Failure::Io(file_name(number), e);
        let len = file.len().map_err(failed)?;
        let end = next.map_or(len, |next| next.previous_end);
        if end < SEGMENT_HEADER as u64 || end > len.saturating_add(MARK as u64) {
            return Err(damaged(number, len, format!("the file ends here, and it should at byte {end}")));
        }
        if header.after != self.version {
            return Err(hole(number, 0, self.version, header.after));
        }
        self.advance_oldest(number, 0, header.oldest)?;
        self.unsealed = None;
        let mut reader = FrameReader::new(file, header.salt, SEGMENT_HEADER as u64, end);
        loop {
            match reader.next().map_err(failed)? {
                Next::Frame(frame) => self.replay(number, &frame)?,
                Next::End => break,
                Next::Invalid if next.is_some() => return Err(broken(number, &mut reader)),
                Next::Invalid => {
                    let spot = Spot { salt: header.salt, offset: reader.offset() };
                    if Mark::decode(reader.peek(MARK).map_err(failed)?, spot) == Some(Mark::Closed) {
                        return Err(missing(number + 1));
                    }
                    let torn_at = reader.offset();
                    let mut ahead = FrameReader::new(file, header.salt, torn_at, end);
                    if ahead.evidence().map_err(failed)?.is_some() {
                        return Err(broken(number, &mut reader));
                    }
                    self.torn = len - torn_at;
                    break;
                }
            }
        }
        if next.is_some() && reader.offset() != end {
            return Err(damaged(number, end, "a frame reaches beyond the end of the segment"));
        }
        self.segments.insert(number, Segment { salt: header.salt, end: reader.offset() });
        Ok(())
    }

    fn replay(&mut self, number: u32, frame: &Frame<'_>) -> Result<(), Failure> {
        let wrong = |cause: &str| damaged(number, frame.offset, cause);
        if frame.header.after != self.version {
            return Err(hole(number, frame.offset, self.version, frame.header.after));
        }
        self.advance_oldest(number, frame.offset, frame.header.oldest)?;
        for record in frame.records().ok_or_else(|| wrong("the records are not what the frame promises"))? {
            self.apply(number, &record).map_err(wrong)?;
            self.records += 1;
        }
        if frame.header.records == 0 {
            // Nothing changed; a restored cluster may have been told to number on from here.
            self.version = frame.header.last;
        }
        if self.version != frame.header.last {
            return Err(wrong("there are less changes than the frame promises"));
        }
        self.frames += 1;
        self.unsealed = frame.mark.is_none().then_some(frame.offset);
        Ok(())
    }

    fn apply(&mut self, number: u32, record: &Record<'_>) -> Result<(), &'static str> {
        let slot = Slot::new(record.version, number, record.key, record.value.len());
        if record.kind == Kind::Moved {
            let known = self.index.get(record.key).is_none_or(|slot| slot.version == record.version);
            if !known || record.version > self.version {
                return Err("a moved value is not the one that the key had");
            }
            self.index.put(record.key, slot);
            return Ok(());
        }
        if record.version != self.version + 1 {
            return Err("a change is not numbered in its turn");
        }
        self.version = record.version;
        match record.kind {
            Kind::Delete => self.index.remove(record.key),
            Kind::Put | Kind::Moved => self.index.put(record.key, slot),
        }
        Ok(())
    }

    fn advance_oldest(&mut self, number: u32, offset: u64, oldest: u32) -> Result<(), Failure> {
        if oldest < self.oldest || oldest > number {
            return Err(damaged(number, offset, format!("segment {oldest} can't be the oldest here")));
        }
        self.oldest = oldest;
        Ok(())
    }
}

fn hole(number: u32, offset: u64, have: u64, want: u64) -> Failure {
    damaged(number, offset, format!("the log goes on after version {want}, and it had come to {have} only"))
}

/// The error for a damaged frame, with the keys in it as far as they can be read.
fn broken(number: u32, reader: &mut FrameReader<'_>) -> Failure {
    let keys = reader.readable_keys().unwrap_or_default();
    let mut cause = "a frame does not match its checksum, and what follows it was written after it".to_owned();
    if !keys.is_empty() {
        let more = if keys.len() > KEYS_NAMED { ", and more" } else { "" };
        cause += &format!("; it changed {}{more}", keys[..keys.len().min(KEYS_NAMED)].join(", "));
    }
    damaged(number, reader.offset(), cause + "; restore the directory from a backup")
}
