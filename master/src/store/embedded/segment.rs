//! The files of the log: their names, their headers, and reading them front to back.
//!
//! Segment header: magic 8, format 4, number 4, salt 8, version before it 8, end of the segment
//! before it 8, oldest segment needed 4, CRC-32 of all that 4. It is durable before anything else
//! is written to the segment, and its word on where the segment before ends is final: what lies
//! beyond there was given up.

use std::io;

use super::{
    disk::LogFile,
    frame::{FRAME_HEADER, FrameHeader, MAGIC_FIRST, MARK, Mark, Record, Records, Spot, VERSION_MAX, u32_at, u64_at},
};

/// Bytes of a segment before its first frame.
pub(super) const SEGMENT_HEADER: usize = 48;
/// The number of the first segment of a store.
pub(super) const FIRST: u32 = 1;
const MAGIC: [u8; 8] = *b"\xc7coracle";
const FORMAT: u32 = 1;
/// Bytes read at once.
const WINDOW: usize = 2 << 20;

pub(super) fn file_name(number: u32) -> String {
    format!("{number:010}.log")
}

pub(super) fn number_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (number >= FIRST && file_name(number) == name).then_some(number)
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u32,
    pub(super) salt: u64,
    /// The last version before it.
    pub(super) after: u64,
    /// Where the segment before it ends.
    pub(super) previous_end: u64,
    /// Segments below this one are not needed any more.
    pub(super) oldest: u32,
}

/// Why bytes are no segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// It is whole, and of this format.
    Format(u32),
    /// It is not whole.
    Invalid,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.after.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.oldest.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        let decoded = || {
            let bytes = bytes.first_chunk::<SEGMENT_HEADER>()?;
            if bytes[..8] != MAGIC || crc32fast::hash(&bytes[..44]) != u32_at(bytes, 44)? {
                return None;
            }
            let header = Self {
                number: u32_at(bytes, 12)?,
                salt: u64_at(bytes, 16)?,
                after: u64_at(bytes, 24)?,
                previous_end: u64_at(bytes, 32)?,
                oldest: u32_at(bytes, 40)?,
            };
            if header.after > VERSION_MAX {
                return None;
            }
            Some((u32_at(bytes, 8)?, header))
        };
        match decoded() {
            Some((FORMAT, header)) => Ok(header),
            Some((format, _)) => Err(NoHeader::Format(format)),
            None => Err(NoHeader::Invalid),
        }
    }
}

/// One valid frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) header: FrameHeader,
    pub(super) offset: u64,
    pub(super) payload: &'a [u8],
    /// What follows it.
    pub(super) mark: Option<Mark>,
}

impl<'a> Frame<'a> {
    /// The records, all of them, or None if they are not what the header promises.
    pub(super) fn records(&self) -> Option<Vec<Record<'a>>> {
        let mut records = Records { rest: self.payload };
        let all: Vec<_> = records.by_ref().collect();
        (records.rest.is_empty() && all.len() == self.header.records as usize).then_some(all)
    }
}

/// What a segment goes on with.
#[derive(Debug)]
pub(super) enum Next<'a> {
    Frame(Frame<'a>),
    /// Nothing more.
    End,
    /// Something that is no valid frame.
    Invalid,
}

/// Reads a segment frame by frame.
pub(super) struct FrameReader<'a> {
    file: &'a dyn LogFile,
    salt: u64,
    offset: u64,
    end: u64,
    window: Vec<u8>,
    /// Bytes of the window that were read.
    filled: usize,
    /// Offset of the window's first byte.
    window_at: u64,
}

impl<'a> FrameReader<'a> {
    /// From a frame's offset, or the end of the header, up to `end`.
    pub(super) fn new(file: &'a dyn LogFile, salt: u64, offset: u64, end: u64) -> Self {
        Self { file, salt, offset, end, window: Vec::new(), filled: 0, window_at: offset }
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.offset)
    }

    /// The next frame. After [`Next::Invalid`] it gives that for ever.
    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        if self.left() == 0 {
            return Ok(Next::End);
        }
        let offset = self.offset;
        let spot = Spot { salt: self.salt, offset };
        let Some(header) = FrameHeader::decode(self.peek(FRAME_HEADER)?, spot) else { return Ok(Next::Invalid) };
        let bytes = FRAME_HEADER + header.payload;
        let salt = self.salt;
        let found = self.peek(bytes + MARK)?;
        let (frame, mark) = found.split_at(bytes.min(found.len()));
        let payload = frame.get(FRAME_HEADER..).unwrap_or_default();
        if !header.matches(payload) {
            return Ok(Next::Invalid);
        }
        let mark = Mark::decode(mark, Spot { salt, offset: offset + bytes as u64 });
        self.offset += (bytes + MARK) as u64;
        // Looked up again: what `found` borrows would keep the offset from moving.
        let start = (offset - self.window_at) as usize;
        let payload = self.window.get(start + FRAME_HEADER..start + bytes).unwrap_or_default();
        Ok(Next::Frame(Frame { header, offset, payload, mark }))
    }

    /// Up to `bytes` bytes from the current offset on.
    pub(super) fn peek(&mut self, bytes: usize) -> io::Result<&[u8]> {
        let bytes = (bytes as u64).min(self.left()) as usize;
        let start = (self.offset - self.window_at) as usize;
        if self.filled < start + bytes {
            let start = start.min(self.filled);
            self.window.copy_within(start..self.filled, 0);
            self.filled -= start;
            self.window_at = self.offset;
            let want = (bytes.max(WINDOW) as u64).min(self.left()) as usize;
            if self.window.len() < want {
                self.window.resize(want, 0);
            }
            let rest = self.window.get_mut(self.filled..want).unwrap_or_default();
            self.filled += self.file.read_at(rest, self.window_at + self.filled as u64)?;
        }
        let start = (self.offset - self.window_at) as usize;
        let found = self.window.get(start..self.filled).unwrap_or_default();
        Ok(&found[..bytes.min(found.len())])
    }

    /// The first place after the current offset at which something is valid: proof that what
    /// comes before it was durable once. Moves the offset.
    pub(super) fn evidence(&mut self) -> io::Result<Option<u64>> {
        let (file, salt, end) = (self.file, self.salt, self.end);
        self.offset += 1;
        loop {
            let base = self.offset;
            let chunk = self.peek(WINDOW)?;
            for (at, _) in chunk.iter().enumerate().filter(|(_, byte)| **byte == MAGIC_FIRST) {
                let spot = Spot { salt, offset: base + at as u64 };
                let here = &chunk[at..];
                if Mark::decode(here, spot).is_some() {
                    return Ok(Some(spot.offset));
                }
                if let Some(header) = FrameHeader::decode(here, spot) {
                    let payload_at = spot.offset + FRAME_HEADER as u64;
                    let mut payload = vec![0; (header.payload as u64).min(end.saturating_sub(payload_at)) as usize];
                    if file.read_at(&mut payload, payload_at)? == header.payload && header.matches(&payload) {
                        return Ok(Some(spot.offset));
                    }
                }
            }
            if chunk.len() < WINDOW {
                return Ok(None);
            }
            // What begins near the end of a chunk is looked at again, whole.
            self.offset += (WINDOW - FRAME_HEADER) as u64;
        }
    }

    /// The keys of what was a frame here, as far as they can be read.
    pub(super) fn readable_keys(&mut self) -> io::Result<Vec<String>> {
        let Some(header) = FrameHeader::decode_unchecked(self.peek(FRAME_HEADER)?) else { return Ok(Vec::new()) };
        let found = self.peek(FRAME_HEADER + header.payload)?;
        let records = Records { rest: found.get(FRAME_HEADER..).unwrap_or_default() };
        Ok(records.map(|record| record.key.to_owned()).collect())
    }
}
