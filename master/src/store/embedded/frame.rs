//! The bytes of the log: frames of records, and marks.
//!
//! All numbers are little-endian. A segment is a header (see [`super::segment`]), then frames, each
//! followed by the place of one mark.
//!
//! Frame: magic 4, payload length 4, version before it 8, version after it 8, oldest segment
//! needed 4, records 4, CRC-32 of the payload 4, CRC-32 of salt, offset and the header so far 4;
//! then the payload. Record: kind 1, version 8, key length 2, value length 4; then key and value.
//! Mark: magic 4, CRC-32 of salt, offset and magic 4.
//!
//! The salt is drawn anew for each segment and the offset is the place in it, so nothing but what
//! the log itself wrote there passes for a frame: no old block of the disk, and no value that
//! someone stored because it looks like one.

/// Bytes of a frame before its payload.
pub(super) const FRAME_HEADER: usize = 40;
/// Bytes of a mark.
pub(super) const MARK: usize = 8;
/// Bytes that a frame takes beside its records.
pub(super) const FRAME_OVERHEAD: usize = FRAME_HEADER + MARK;
/// Bytes of a record beside key and value.
pub(super) const RECORD_HEADER: usize = 15;
/// Bytes of a key.
pub(super) const KEY_BYTES_MAX: usize = 4096;
/// Bytes of the records of one write.
pub(super) const WRITE_BYTES_MAX: usize = 16 << 20;
/// Bytes of a payload; whatever claims more is no frame.
pub(super) const PAYLOAD_BYTES_MAX: usize = 32 << 20;
/// No version is larger: what claims more was not counted by anyone.
pub(super) const VERSION_MAX: u64 = 1 << 62;

/// All magics begin with a byte that no UTF-8 text has.
pub(super) const MAGIC_FIRST: u8 = 0xc7;
const FRAME_MAGIC: [u8; 4] = *b"\xc7frm";
const SEAL_MAGIC: [u8; 4] = *b"\xc7ack";
const CLOSED_MAGIC: [u8; 4] = *b"\xc7end";

/// Where in the log something is: the same bytes elsewhere are not valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) salt: u64,
    pub(super) offset: u64,
}

impl Spot {
    fn crc(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt.to_le_bytes());
        hasher.update(&self.offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// What follows a frame, written without a sync of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// All before it is durable and may have been acknowledged.
    Sealed,
    /// All before it is durable, and the next segment is there.
    Closed,
}

impl Mark {
    pub(super) fn encode(self, spot: Spot) -> [u8; MARK] {
        let magic = match self {
            Self::Sealed => SEAL_MAGIC,
            Self::Closed => CLOSED_MAGIC,
        };
        let mut bytes = [0; MARK];
        bytes[..4].copy_from_slice(&magic);
        bytes[4..].copy_from_slice(&spot.crc(&magic).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], spot: Spot) -> Option<Self> {
        let bytes = bytes.first_chunk::<MARK>()?;
        [Self::Sealed, Self::Closed].into_iter().find(|mark| mark.encode(spot) == *bytes)
    }
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes of records.
    pub(super) payload: usize,
    /// The last version before it.
    pub(super) after: u64,
    /// The last version in it, or the same if it changes nothing.
    pub(super) last: u64,
    /// Segments below this one are not needed any more.
    pub(super) oldest: u32,
    /// Records in it.
    pub(super) records: u32,
    payload_crc: u32,
}

impl FrameHeader {
    fn encode(&self, spot: Spot) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&(self.payload as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.after.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.last.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.records.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = spot.crc(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if a frame was written there.
    pub(super) fn decode(bytes: &[u8], spot: Spot) -> Option<Self> {
        let header = Self::decode_unchecked(bytes)?;
        (header.encode(spot) == *bytes.first_chunk::<FRAME_HEADER>()?).then_some(header)
    }

    /// What a header says, right or wrong. None if it can't be one.
    pub(super) fn decode_unchecked(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<FRAME_HEADER>()?;
        let header = Self {
            payload: u32_at(bytes, 4)? as usize,
            after: u64_at(bytes, 8)?,
            last: u64_at(bytes, 16)?,
            oldest: u32_at(bytes, 24)?,
            records: u32_at(bytes, 28)?,
            payload_crc: u32_at(bytes, 32)?,
        };
        let sound = bytes[..4] == FRAME_MAGIC
            && header.payload <= PAYLOAD_BYTES_MAX
            && header.records as usize <= header.payload / RECORD_HEADER
            && header.after <= header.last
            && header.last <= VERSION_MAX;
        sound.then_some(header)
    }

    pub(super) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload && crc32fast::hash(payload) == self.payload_crc
    }
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sets the key.
    Put = 1,
    /// Removes it.
    Delete = 2,
    /// Repeats what was set before, for the segment that holds it is about to go.
    Moved = 3,
}

/// One record, where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) version: u64,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
}

/// The records of a payload. It ends at the first thing that is none; [`Records::rest`] tells.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (header, body) = self.rest.split_first_chunk::<RECORD_HEADER>()?;
        let kind = match header[0] {
            1 => Kind::Put,
            2 => Kind::Delete,
            3 => Kind::Moved,
            _ => return None,
        };
        let version = u64_at(header, 1)?;
        let key_bytes = usize::from(u16::from_le_bytes([header[9], header[10]]));
        let (key, body) = body.split_at_checked(key_bytes)?;
        let (value, rest) = body.split_at_checked(u32_at(header, 11)? as usize)?;
        let key = std::str::from_utf8(key).ok()?;
        self.rest = rest;
        Some(Record { kind, version, key, value })
    }
}

/// Bytes of a record in a frame.
pub(super) fn record_bytes(key: &str, value: &[u8]) -> usize {
    RECORD_HEADER + key.len() + value.len()
}

/// A draft that was larger gives its memory back when it is cleared.
const DRAFT_BYTES_KEPT: usize = 1 << 20;

/// A frame in the making.
#[derive(Debug)]
pub(super) struct Draft {
    bytes: Vec<u8>,
    records: u32,
}

impl Default for Draft {
    fn default() -> Self {
        Self { bytes: vec![0; FRAME_HEADER], records: 0 }
    }
}

impl Draft {
    /// Adds a record. The caller keeps to [`KEY_BYTES_MAX`] and [`PAYLOAD_BYTES_MAX`].
    pub(super) fn push(&mut self, kind: Kind, version: u64, key: &str, value: &[u8]) {
        self.bytes.push(kind as u8);
        self.bytes.extend_from_slice(&version.to_le_bytes());
        self.bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(value);
        self.records += 1;
    }

    /// Empties it for the next frame. Keeps its memory, which the kernel would otherwise have to clear anew for each.
    pub(super) fn clear(&mut self) {
        if self.bytes.capacity() > DRAFT_BYTES_KEPT {
            *self = Self::default();
        }
        self.bytes.truncate(FRAME_HEADER);
        self.records = 0;
    }

    /// Bytes of the frame so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(super) fn records(&self) -> Records<'_> {
        Records { rest: self.bytes.get(FRAME_HEADER..).unwrap_or_default() }
    }

    /// The whole frame, for one place.
    pub(super) fn finish(&mut self, after: u64, last: u64, oldest: u32, spot: Spot) -> &[u8] {
        let payload = self.bytes.get(FRAME_HEADER..).unwrap_or_default();
        let payload_crc = crc32fast::hash(payload);
        let header = FrameHeader { payload: payload.len(), after, last, oldest, records: self.records, payload_crc };
        self.bytes[..FRAME_HEADER].copy_from_slice(&header.encode(spot));
        &self.bytes
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
