//! A backup into a store: verified first, then written in batches.
//!
//! While it is under way the store holds a mark at [`UNFINISHED`], which goes with the write of the
//! cluster's facts, the last. A master that meets the mark serves nothing.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
};

use bytes::Bytes;
use compact_str::CompactString;
use coracle_api::Object;

use super::format::{FormatError, Header, Reader, Record, Summary};
use crate::{
    cluster,
    registry::{Key, claim_ops},
    store::{Expect, OPS_MAX, Op, Outcome, Store, StoreError, Write},
    verify,
};

/// The key that says so.
pub const UNFINISHED: &str = "coracle/restore";
/// Bytes that are read at once.
const PART_BYTES: usize = 256 << 10;
/// What one batch writes at most; a batch is one commit.
const BATCH_WRITES: usize = 500;
const BATCH_BYTES: usize = 4 << 20;

/// Why nothing was restored, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The text can't be read.
    #[error("the backup can't be read")]
    Read(#[from] std::io::Error),
    /// The text is no backup, or was damaged. Nothing was written.
    #[error("the backup can't be used")]
    Format(#[from] FormatError),
    /// An object can't be. Nothing was written.
    #[error("the backup can't be used: line {line}: {key}: {cause}")]
    Object {
        /// Where it is in the text.
        line: u64,
        /// Its key.
        key: String,
        /// A sentence.
        cause: String,
    },
    /// There is something in the store. Nothing was written.
    #[error("the store is not empty: it holds {0} records")]
    NotEmpty(usize),
    /// The store was written to by someone else meanwhile.
    #[error("{0} was changed during the restore: stop every master of this store, and repeat the restore")]
    Conflict(String),
    /// The store failed.
    #[error("the store does not take what is restored")]
    Store(#[from] StoreError),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The header of the backup.
    pub header: Header,
    /// Records of the store that gave way.
    pub replaced: usize,
    /// Whether every version in the store is larger than those of the backup. If not, a watch that
    /// is older than the restore may miss changes.
    pub continues: bool,
}

/// Verifies a backup and writes it into a store that no master uses. A store that holds anything
/// is refused, or emptied with `replace`. `open` is called for each of the two times that the text
/// is read; `progress` is told the number of objects written.
pub async fn restore<R: Read>(
    store: &dyn Store,
    mut open: impl FnMut() -> std::io::Result<R>,
    replace: bool,
    mut progress: impl FnMut(u64),
) -> Result<Restored, RestoreError> {
    let header = check(open()?)?.header;
    let present = store.load().await?.0.items;
    if !present.is_empty() && !replace {
        return Err(RestoreError::NotEmpty(present.len()));
    }
    let mut batch = Batch { store, writes: Vec::new(), bytes: 0 };
    batch.add(put(UNFINISHED, Bytes::from(header.time.clone()), Expect::Any)).await?;
    batch.commit().await?;
    let replaced = present.len();
    for item in present.into_iter().filter(|item| item.key != UNFINISHED) {
        batch.add(Write::one(item.key, None, Expect::Version(item.version))).await?;
    }
    batch.commit().await?;
    store.number_beyond(header.resource_version).await?;

    let mut records = Records::new(open()?);
    while let Some(record) = records.next()? {
        let object = decode(&record)?;
        // As the registry stores it.
        let mut write = put(&record.key, Bytes::from(object.to_json()), Expect::Absent);
        let claims: Vec<_> = object.claims().into_iter().map(CompactString::from).collect();
        write.ops.extend(claim_ops(object.kind(), &Key::of(&*object), &[], &claims));
        batch.add(write).await?;
        progress(records.reader.objects());
    }
    records.finish()?;
    batch.commit().await?;
    // A struct of strings always serialises.
    let facts = serde_json::to_vec(&header.cluster).unwrap_or_default();
    let mut last = put(cluster::KEY, Bytes::from(facts), Expect::Absent);
    last.ops.push(Op { key: UNFINISHED.to_owned(), value: None, expect: Expect::Any });
    batch.add(last).await?;
    batch.commit().await?;
    let restored = store.load().await?.0.items;
    let continues = restored.iter().all(|item| item.version > header.resource_version);
    Ok(Restored { header, replaced, continues })
}

/// Reads a whole backup, and every object in it.
pub fn check(text: impl Read) -> Result<Summary, RestoreError> {
    let (mut keys, mut claimed) = (HashSet::new(), HashMap::new());
    let mut records = Records::new(text);
    while let Some(record) = records.next()? {
        let object = decode(&record)?;
        if !keys.insert(record.key.clone()) {
            return Err(refusal(&record, "it comes twice"));
        }
        let claims = object.claims();
        if claims.len() >= OPS_MAX {
            return Err(refusal(&record, format!("it claims {} things, more than one write can", claims.len())));
        }
        for claim in claims {
            if let Some(other) = claimed.insert(claim.clone(), record.key.clone()) {
                return Err(refusal(&record, format!("it has {claim}, and so has {other}")));
            }
        }
    }
    records.finish()
}

fn decode(record: &Record) -> Result<Box<dyn Object>, RestoreError> {
    verify::object(&record.key, &record.object).map_err(|cause| refusal(record, cause))
}

fn refusal(record: &Record, cause: impl Into<String>) -> RestoreError {
    RestoreError::Object { line: record.line, key: record.key.clone(), cause: cause.into() }
}

/// The objects of a text, one by one.
struct Records<R> {
    text: R,
    reader: Reader,
    part: Vec<u8>,
    read: std::vec::IntoIter<Record>,
}

impl<R: Read> Records<R> {
    fn new(text: R) -> Self {
        Self { text, reader: Reader::default(), part: vec![0; PART_BYTES], read: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<Option<Record>, RestoreError> {
        loop {
            if let Some(record) = self.read.next() {
                return Ok(Some(record));
            }
            let n = self.text.read(&mut self.part)?;
            if n == 0 {
                return Ok(None);
            }
            self.read = self.reader.push(&self.part[..n])?.into_iter();
        }
    }

    fn finish(self) -> Result<Summary, RestoreError> {
        Ok(self.reader.finish()?)
    }
}

fn put(key: &str, value: Bytes, expect: Expect) -> Write {
    Write::one(key, Some(value), expect)
}

/// Writes that go to the store together.
struct Batch<'a> {
    store: &'a dyn Store,
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch<'_> {
    async fn add(&mut self, write: Write) -> Result<(), RestoreError> {
        self.bytes += write.ops.iter().map(|op| op.key.len() + op.value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        self.writes.push(write);
        if self.writes.len() >= BATCH_WRITES || self.bytes >= BATCH_BYTES { self.commit().await } else { Ok(()) }
    }

    async fn commit(&mut self) -> Result<(), RestoreError> {
        let writes = std::mem::take(&mut self.writes);
        self.bytes = 0;
        if writes.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = writes.iter().map(|write| write.ops[0].key.clone()).collect();
        for (outcome, key) in self.store.commit(writes).await.into_iter().zip(keys) {
            match outcome {
                Outcome::Committed(_) => {}
                Outcome::Failed(error) => return Err(error.into()),
                Outcome::Conflict { .. } | Outcome::Fenced => return Err(RestoreError::Conflict(key)),
            }
        }
        Ok(())
    }
}
