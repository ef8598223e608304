//! Reads all values back, front to back.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Loaded, StoreError, Stored,
    disk::Directory,
    frame::Kind,
    index::Index,
    log::Log,
    recover::Segment,
    segment::{FrameReader, Next, SEGMENT_HEADER, file_name},
};

impl Log {
    /// Everything, in key order.
    pub(super) fn load(&self) -> Result<Loaded, StoreError> {
        let mut items = Vec::with_capacity(self.index.len());
        visit(&*self.disk, &self.store, &self.segments, &self.index, &mut |key, version, value| {
            items.push(Stored { key: key.to_owned(), value: Bytes::copy_from_slice(value), version });
        })?;
        items.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(Loaded { items, version: self.version })
    }
}

/// Hands over each key with its version and value, once, in the order of the log.
pub(super) fn visit(
    disk: &dyn Directory,
    store: &str,
    segments: &BTreeMap<u32, Segment>,
    index: &Index,
    each: &mut dyn FnMut(&str, u64, &[u8]),
) -> Result<(), StoreError> {
    let mut found = 0;
    for (number, segment) in segments {
        let name = file_name(*number);
        let unreadable = |e: std::io::Error| StoreError::Unopenable {
            store: store.to_owned(),
            cause: format!("{name}: {e}; look at the disk and at the kernel's log"),
        };
        let file = disk.read(&name).map_err(unreadable)?;
        let mut reader = FrameReader::new(&*file, segment.salt, SEGMENT_HEADER as u64, segment.end);
        loop {
            let offset = reader.offset();
            let records = match reader.next().map_err(unreadable)? {
                Next::Frame(frame) => frame.records(),
                Next::End => break,
                Next::Invalid => None,
            };
            let records = records.ok_or_else(|| StoreError::Damaged {
                store: store.to_owned(),
                place: format!("{name} at byte {offset}"),
                cause: "a frame does not match its checksum any more".into(),
            })?;
            for record in records {
                if record.kind != Kind::Delete && index.is_live(record.key, record.version, *number) {
                    each(record.key, record.version, record.value);
                    found += 1;
                }
            }
        }
    }
    if found != index.len() {
        let cause = format!("{found} of {} values were found", index.len());
        return Err(StoreError::Damaged { store: store.to_owned(), place: "the log".into(), cause });
    }
    Ok(())
}
