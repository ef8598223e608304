//! Commits batches: checks conditions against the index, and makes one frame of what holds.

use std::collections::HashMap;

use super::{
    Change, Expect, Outcome, StoreError, Write,
    frame::{Draft, KEY_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX, WRITE_BYTES_MAX, record_bytes},
    log::{AppendError, Log},
};

/// Writes that become one frame.
struct Group {
    draft: Draft,
    changes: Vec<Change>,
    /// The versions that the keys have after it.
    versions: HashMap<String, Option<u64>>,
    /// The first outcome that depends on it.
    begin: usize,
}

impl Log {
    /// Commits a batch. What is durable is handed to `publish`, once a frame.
    pub(super) fn commit(&mut self, batch: Vec<Write>, publish: &mut dyn FnMut(Vec<Change>)) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let draft = std::mem::take(&mut self.draft);
        let mut group = Group { draft, changes: Vec::new(), versions: HashMap::new(), begin: 0 };
        for write in batch {
            let bytes = match size(&write) {
                Ok(bytes) => bytes,
                Err(error) => {
                    outcomes.push(Outcome::Failed(error));
                    continue;
                }
            };
            let room = self.options.frame_bytes.min(PAYLOAD_BYTES_MAX);
            if !group.draft.is_empty() && group.draft.len() + bytes > room {
                self.flush(&mut group, &mut outcomes, publish);
            }
            let conflict = write.ops.iter().position(|op| {
                let known = group.versions.get(&op.key).copied();
                let at = known.unwrap_or_else(|| self.index.get(&op.key).map(|slot| slot.version));
                match op.expect {
                    Expect::Absent => at.is_some(),
                    Expect::Version(version) => at != Some(version),
                    Expect::Any => false,
                }
            });
            outcomes.push(match conflict {
                Some(op) => Outcome::Conflict { op },
                None => Outcome::Committed(group.add(self.version, write)),
            });
        }
        self.flush(&mut group, &mut outcomes, publish);
        self.draft = group.draft;
        outcomes
    }

    fn flush(&mut self, group: &mut Group, outcomes: &mut [Outcome], publish: &mut dyn FnMut(Vec<Change>)) {
        let changes = std::mem::take(&mut group.changes);
        let begin = std::mem::replace(&mut group.begin, outcomes.len());
        group.versions.clear();
        let Some(last) = changes.last().map(|change| change.version) else { return };
        let appended = self.append(&mut group.draft, last, self.oldest);
        if let Ok(segment) = appended {
            self.enter(&group.draft, segment);
        }
        group.draft.clear();
        match appended {
            Ok(_) => publish(changes),
            Err(AppendError { cause, definite }) => {
                let store = self.store.clone();
                let error = match definite {
                    true => StoreError::Unwritable { store, cause },
                    false => StoreError::Unavailable { store, cause },
                };
                let mine = outcomes.get_mut(begin..).unwrap_or_default();
                for outcome in mine.iter_mut().filter(|outcome| matches!(outcome, Outcome::Committed(_))) {
                    *outcome = Outcome::Failed(error.clone());
                }
            }
        }
    }
}

impl Group {
    /// Adds a write whose conditions hold. Gives the version of its first operation.
    fn add(&mut self, version: u64, write: Write) -> u64 {
        let version = self.changes.last().map_or(version, |change| change.version);
        for (op, version) in write.ops.into_iter().zip(version + 1..) {
            let (kind, value) = match &op.value {
                Some(value) => (Kind::Put, &value[..]),
                None => (Kind::Delete, &[][..]),
            };
            self.draft.push(kind, version, &op.key, value);
            self.versions.insert(op.key.clone(), op.value.is_some().then_some(version));
            self.changes.push(Change { key: op.key, value: op.value, version });
        }
        version + 1
    }
}

/// What a write takes in a frame, if that is not too much.
fn size(write: &Write) -> Result<usize, StoreError> {
    let mut bytes = 0;
    for op in &write.ops {
        let too_large = |bytes, limit| StoreError::TooLarge { key: op.key.clone(), bytes, limit };
        if op.key.len() > KEY_BYTES_MAX {
            return Err(too_large(op.key.len(), KEY_BYTES_MAX));
        }
        bytes += record_bytes(&op.key, op.value.as_deref().unwrap_or_default());
        if bytes > WRITE_BYTES_MAX {
            return Err(too_large(bytes, WRITE_BYTES_MAX));
        }
    }
    Ok(bytes)
}
