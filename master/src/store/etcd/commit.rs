//! Writes into transactions, and their answers back into outcomes.
//!
//! Each write is a transaction of its own, nested in one that carries as many as etcd takes: their
//! conditions are checked one by one, their changes share one entry of etcd's log. The branch for
//! a false condition reads what is needed to say which one it was.
//!
//! Invariant: a transaction is sent again only if it is certain that it was not carried out.

use std::{ops::Range, time::Duration};

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use futures_util::{StreamExt, stream};

use super::{
    Shared,
    codec::{self, Layout},
    fault::Fault,
    members::Patience,
    pulse::Place,
};
use crate::store::{Expect, Fence, Op, Outcome, StoreError, Write};

/// For the answer to one transaction.
const PATIENCE: Duration = Duration::from_secs(5);
/// Transactions of a batch under way at once. One of this size keeps etcd's disk busy; a second
/// few fill the gaps.
const CONCURRENT: usize = 4;
/// etcd's own bound (`--max-txn-ops`): operations on one level, added up over the levels.
const OPS_MAX: usize = 128;
/// etcd's own bound (`--max-request-bytes`) is 1.5 MiB, counted after encoding.
const BYTES_MAX: usize = (1536 - 64) * 1024;
/// What encoding adds to an operation, its condition and the reading of its key.
const OP_OVERHEAD: usize = 96;

/// What a write takes up of a transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    /// Operations.
    ops: usize,
    /// Comparisons or operations, whatever is more: how etcd counts a nested transaction.
    width: usize,
    bytes: usize,
}

fn size_of(write: &Write, prefix: usize) -> Size {
    let conditions = write.ops.iter().filter(|op| op.expect != Expect::Any).count();
    let width = write.ops.len().max(conditions + usize::from(write.fence.is_some()));
    let bytes = |op: &Op| 3 * (prefix + op.key.len()) + op.value.as_ref().map_or(0, bytes::Bytes::len) + OP_OVERHEAD;
    let fence = if write.fence.is_some() { 2 * prefix + OP_OVERHEAD } else { 0 };
    Size { ops: write.ops.len(), width, bytes: write.ops.iter().map(bytes).sum::<usize>() + fence }
}

/// Cuts a batch into runs that fit a transaction each. A write that fits none is a run of its own.
fn pack(sizes: &[Size]) -> Vec<Range<usize>> {
    let mut packs = Vec::new();
    let mut start = 0;
    let mut total = Size::default();
    for (at, size) in sizes.iter().enumerate() {
        let grown =
            Size { ops: total.ops + size.ops, width: total.width.max(size.width), bytes: total.bytes + size.bytes };
        let nested = at - start + 1;
        // Deletions and puts have 128 numbers each.
        let fits = nested + grown.width <= OPS_MAX && grown.ops <= codec::PUTS_END && grown.bytes <= BYTES_MAX;
        if !fits && at > start {
            packs.push(start..at);
            start = at;
            total = *size;
        } else {
            total = grown;
        }
    }
    if start < sizes.len() {
        packs.push(start..sizes.len());
    }
    packs
}

/// Commits a batch.
pub(super) async fn commit(shared: &Shared, batch: Vec<Write>) -> Vec<Outcome> {
    let prefix = shared.layout.objects().len();
    let sizes: Vec<Size> = batch.iter().map(|write| size_of(write, prefix)).collect();
    let (batch, sizes) = (&batch, &sizes);
    let send = |pack: Range<usize>| async move {
        match too_large(&batch[pack.clone()], &sizes[pack.start]) {
            Some(outcome) => vec![outcome],
            None => send(shared, &batch[pack]).await,
        }
    };
    // In order, as the outcomes are; a pack that waits for its turn is not sent yet.
    let outcomes: Vec<Vec<Outcome>> = stream::iter(pack(sizes)).map(send).buffered(CONCURRENT).collect().await;
    outcomes.into_iter().flatten().collect()
}

/// The outcome of a write that no transaction takes.
fn too_large(writes: &[Write], size: &Size) -> Option<Outcome> {
    if size.bytes <= BYTES_MAX {
        return None;
    }
    let largest = writes[0].ops.iter().max_by_key(|op| op.value.as_ref().map_or(0, bytes::Bytes::len))?;
    let bytes = largest.value.as_ref().map_or(0, bytes::Bytes::len);
    let limit = BYTES_MAX - (size.bytes - bytes).min(BYTES_MAX);
    Some(Outcome::Failed(StoreError::TooLarge { key: largest.key.clone(), bytes, limit }))
}

async fn send(shared: &Shared, writes: &[Write]) -> Vec<Outcome> {
    let request = |mut client: etcd_client::Client| {
        let txn = transaction(&shared.layout, writes);
        async move { client.txn(txn).await }
    };
    let outcomes = match shared.members.ask(Patience::once(PATIENCE), request).await {
        Ok(answer) => {
            shared.pulse.works(Place::Writes);
            outcomes(writes, &answer).ok_or_else(|| Fault::Silent("its answer is to another question".to_owned()))
        }
        Err(fault) => {
            shared.pulse.fails(Place::Writes, &fault);
            Err(fault)
        }
    };
    outcomes.unwrap_or_else(|fault| vec![Outcome::Failed(fault.into_store_error(&shared.address)); writes.len()])
}

fn transaction(layout: &Layout, writes: &[Write]) -> Txn {
    let mut index = 0;
    let nested: Vec<TxnOp> = writes.iter().map(|write| TxnOp::txn(nested(layout, write, &mut index))).collect();
    let txn = Txn::new().and_then(nested);
    if index == 0 {
        // Deletions alone are let through when the quota is exceeded.
        return txn;
    }
    // Never carried out. etcd takes a transaction without a put of its own, whatever is nested in
    // it, for one that needs no space, and would not keep to its quota.
    txn.or_else([TxnOp::put(layout.probe(), "", None)])
}

fn nested(layout: &Layout, write: &Write, index: &mut usize) -> Txn {
    let (mut conditions, mut then, mut otherwise) = (Vec::new(), Vec::new(), Vec::new());
    let read = |key: String| TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
    if let Some(Fence(term)) = write.fence {
        let term = i64::try_from(term).unwrap_or(i64::MAX);
        conditions.push(Compare::create_revision(layout.leader(), CompareOp::Equal, term));
        otherwise.push(read(layout.leader()));
    }
    for op in &write.ops {
        let key = layout.object(&op.key);
        let condition = match op.expect {
            Expect::Any => None,
            Expect::Absent => Some(Compare::create_revision(key.clone(), CompareOp::Equal, 0)),
            Expect::Version(v) => Some(Compare::mod_revision(key.clone(), CompareOp::Equal, codec::written_at(v))),
        };
        if let Some(condition) = condition {
            conditions.push(condition);
            otherwise.push(read(key.clone()));
        }
        match &op.value {
            Some(value) => {
                then.push(TxnOp::put(key, codec::encode(*index, value), None));
                *index += 1;
            }
            None => then.push(TxnOp::delete(key, None::<DeleteOptions>)),
        }
    }
    Txn::new().when(conditions).and_then(then).or_else(otherwise)
}

/// Reads the answer to [`transaction`], counting as it did. `None`: it is the answer to something else.
fn outcomes(writes: &[Write], answer: &TxnResponse) -> Option<Vec<Outcome>> {
    let revision = answer.header()?.revision();
    let answers = answer.op_responses();
    if answers.len() != writes.len() {
        return None;
    }
    let (mut puts, mut deletions) = (0, 0);
    let mut outcomes = Vec::with_capacity(writes.len());
    for (write, answer) in writes.iter().zip(answers) {
        let TxnOpResponse::Txn(answer) = answer else { return None };
        let first_put = puts;
        puts += write.ops.iter().filter(|op| op.value.is_some()).count();
        let answers = answer.op_responses();
        if !answer.succeeded() {
            outcomes.push(refusal(write, &answers));
            continue;
        }
        let index = match answers.first()? {
            TxnOpResponse::Delete(delete) if delete.deleted() == 0 => codec::INDEX_MAX,
            TxnOpResponse::Delete(_) => codec::PUTS_END + deletions,
            _ => first_put,
        };
        deletions += answers.iter().filter(|answer| is_deletion(answer)).count();
        outcomes.push(Outcome::Committed(codec::version(revision, index)));
    }
    Some(outcomes)
}

/// Whether there was something to delete.
fn is_deletion(answer: &TxnOpResponse) -> bool {
    matches!(answer, TxnOpResponse::Delete(delete) if delete.deleted() > 0)
}

/// Which condition was false, from what was read in its place.
fn refusal(write: &Write, answers: &[TxnOpResponse]) -> Outcome {
    let mut read = answers.iter().map(|answer| match answer {
        TxnOpResponse::Get(get) => get.kvs().first(),
        _ => None,
    });
    if let Some(Fence(term)) = write.fence
        && read.next().flatten().map(|leader| leader.create_revision().unsigned_abs()) != Some(term)
    {
        return Outcome::Fenced;
    }
    let conditions = write.ops.iter().enumerate().filter(|(_, op)| op.expect != Expect::Any);
    let is_false = |op: &Op, kv: Option<&KeyValue>| !codec::holds(op.expect, kv.map(KeyValue::mod_revision));
    let conflict = conditions.zip(read).find(|((_, op), kv)| is_false(op, *kv));
    Outcome::Conflict { op: conflict.map_or(0, |((at, _), _)| at) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(ops: usize, width: usize, bytes: usize) -> Size {
        Size { ops, width, bytes }
    }

    #[test]
    fn a_transaction_is_filled_as_etcd_counts() {
        // One comparison and one operation each: 127 and the level below.
        assert_eq!(pack(&vec![size(1, 1, 10); 300]), [0..127, 127..254, 254..300]);
        assert_eq!(pack(&vec![size(1, 2, 10); 127]), [0..126, 126..127]);
        assert_eq!(pack(&[size(64, 65, 10), size(64, 65, 10), size(1, 1, 10)]), [0..2, 2..3]);
        let half = BYTES_MAX / 2 + 1;
        assert_eq!(pack(&[size(1, 1, half), size(1, 1, half), size(1, 1, BYTES_MAX + 1)]), [0..1, 1..2, 2..3]);
        assert_eq!(pack(&[]), Vec::<Range<usize>>::new());
    }

    #[test]
    fn the_largest_value_is_named() {
        let put = |key: &str, bytes| Write::one(key, Some(vec![0; bytes].into()), Expect::Any);
        let mut write = put("small", 10);
        write.ops.extend(put("large", BYTES_MAX).ops);
        let size = size_of(&write, 10);
        let Some(Outcome::Failed(StoreError::TooLarge { key, bytes, limit })) = too_large(&[write], &size) else {
            panic!("it is too large")
        };
        assert_eq!((&*key, bytes), ("large", BYTES_MAX));
        assert!(limit < BYTES_MAX);
        let write = put("large", limit);
        assert_eq!(too_large(std::slice::from_ref(&write), &size_of(&write, 10)), None);
    }

    proptest! {
        #[test]
        fn packs_are_the_batch(sizes in prop::collection::vec((1..65_usize, 0..65_usize, 0..BYTES_MAX * 2), 0..200)) {
            let sizes: Vec<Size> = sizes.into_iter().map(|(ops, more, bytes)| size(ops, ops + more, bytes)).collect();
            let packs = pack(&sizes);
            prop_assert!(packs.iter().flat_map(Clone::clone).eq(0..sizes.len()));
            for pack in packs.iter().filter(|pack| pack.len() > 1) {
                let sizes = &sizes[pack.clone()];
                let width = sizes.iter().map(|size| size.width).max().unwrap();
                prop_assert!(sizes.len() + width <= OPS_MAX);
                prop_assert!(sizes.iter().map(|size| size.ops).sum::<usize>() <= codec::PUTS_END);
                prop_assert!(sizes.iter().map(|size| size.bytes).sum::<usize>() <= BYTES_MAX);
            }
        }
    }
}
