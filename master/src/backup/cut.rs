//! The text of a backup, made from a registry part by part.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::format::{Header, Writer};
use crate::{
    cluster::ClusterFacts,
    registry::{Entry, Registry},
};

/// A part is at least so long, but for the last.
const PART_BYTES: usize = 256 << 10;

/// All objects of a registry at one version, as the parts of a text. The whole text never exists:
/// what a cut costs is the snapshot, which shares its objects with the registry.
#[derive(Debug)]
pub struct Cut {
    entries: std::vec::IntoIter<Arc<Entry>>,
    out: BytesMut,
    /// `None` when the last line is out.
    writer: Option<Writer>,
}

impl Cut {
    /// Cuts now. `time` is what the header will say, RFC 3339.
    pub fn new(registry: &Registry, cluster: ClusterFacts, time: String) -> Self {
        let (version, kinds) = registry.snapshot_all();
        let entries: Vec<_> = kinds.iter().flat_map(|(_, entries)| entries.values().cloned()).collect();
        let mut out = BytesMut::new();
        let writer = Some(Writer::new(&Header::new(cluster, version, time, entries.len() as u64), &mut out));
        Self { entries: entries.into_iter(), out, writer }
    }
}

impl Iterator for Cut {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut writer = self.writer.take()?;
        while self.out.len() < PART_BYTES {
            let Some(entry) = self.entries.next() else {
                writer.finish(&mut self.out);
                return Some(self.out.split().freeze());
            };
            writer.object(&entry.key.stored(entry.kind), entry.version, &entry.stored(), &mut self.out);
        }
        self.writer = Some(writer);
        Some(self.out.split().freeze())
    }
}
