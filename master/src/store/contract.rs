//! What every store must do, run against every implementation: those that need nothing but this
//! machine in `tests`, etcd in `master/tests/etcd`, which includes this file.
//!
//! Versions are opaque here but for their order: stores number as they like.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;

/// What a reader has been told, as a map, and that it was told in order.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) values: BTreeMap<String, (u64, Bytes)>,
    pub(super) version: u64,
}

impl View {
    pub(super) fn of(loaded: Loaded) -> Self {
        let values: BTreeMap<_, _> = loaded.items.into_iter().map(|s| (s.key, (s.version, s.value))).collect();
        assert!(values.values().all(|(version, _)| *version <= loaded.version), "complete to its version");
        Self { values, version: loaded.version }
    }

    pub(super) fn take(&mut self, update: Update) {
        match update {
            Update::Reset(loaded) => {
                assert!(loaded.version >= self.version, "a reset never goes back");
                *self = Self::of(loaded);
            }
            Update::Changes(changes) => {
                for change in changes {
                    assert!(change.version > self.version, "{} rises above {}", change.version, self.version);
                    self.version = change.version;
                    match change.value {
                        Some(value) => drop(self.values.insert(change.key, (change.version, value))),
                        None => {
                            assert!(self.values.remove(&change.key).is_some(), "{} was there to delete", change.key);
                        }
                    }
                }
            }
        }
    }

    /// Takes updates until the change of `version` is in.
    pub(super) async fn reach(&mut self, version: u64, updates: &mut Updates) {
        while self.version < version {
            self.take(updates.recv().await.expect("updates go on"));
        }
    }
}

pub(super) fn put(key: &str, value: &str, expect: Expect) -> Write {
    Write::one(key, Some(Bytes::copy_from_slice(value.as_bytes())), expect)
}

pub(super) fn delete(key: &str, expect: Expect) -> Write {
    Write::one(key, None, expect)
}

fn versions(outcomes: &[Outcome]) -> Vec<Option<u64>> {
    let version = |outcome: &Outcome| match outcome {
        Outcome::Committed(version) => Some(*version),
        Outcome::Conflict { op: 0 } => None,
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(version).collect()
}

/// The rules one by one. The store is empty.
pub(super) async fn keeps_its_promises(store: &dyn Store) {
    let (loaded, mut updates) = store.load().await.unwrap();
    let mut view = View::of(loaded);
    assert!(view.values.is_empty());

    let batch = vec![put("a", "1", Expect::Absent), put("b", "1", Expect::Version(9)), put("c", "1", Expect::Absent)];
    let [Some(a), None, Some(c)] = versions(&store.commit(batch).await)[..] else { panic!("b alone is refused") };
    assert_ne!(a, c, "each change has a version of its own");
    view.reach(a.max(c), &mut updates).await;
    assert_eq!(view.values["a"], (a, Bytes::from_static(b"1")));

    let batch = vec![put("a", "2", Expect::Absent), put("c", "2", Expect::Version(c))];
    let [None, Some(c2)] = versions(&store.commit(batch).await)[..] else { panic!("a alone is refused") };
    let gone = versions(&store.commit(vec![delete("a", Expect::Version(a))]).await)[0].expect("a is deleted");
    assert!(gone > c2 && c2 > a.max(c), "later writes have larger versions");
    assert_eq!(versions(&store.commit(vec![delete("a", Expect::Version(a))]).await), [None], "it is gone");

    several_operations_happen_together(store).await;

    let last = versions(&store.commit(vec![put("z", "", Expect::Any)]).await)[0].expect("no condition");
    view.reach(last, &mut updates).await;
    let (loaded, mut more) = store.load().await.unwrap();
    let fresh = View::of(loaded);
    assert_eq!(fresh.values, view.values, "who follows knows what who loads knows");
    assert!(fresh.version >= last, "a deletion counts");
    let next = versions(&store.commit(vec![delete("z", Expect::Any)]).await)[0].expect("no condition");
    let mut fresh = fresh;
    fresh.reach(next, &mut more).await;
    view.reach(next, &mut updates).await;
    assert_eq!(fresh.values, view.values, "every reader gets every change");
    for key in ["c", "m", "n"] {
        store.commit(vec![delete(key, Expect::Any)]).await;
    }
}

async fn several_operations_happen_together(store: &dyn Store) {
    let both = |expect| Write {
        ops: vec![put("m", "1", Expect::Absent).ops.remove(0), put("n", "1", expect).ops.remove(0)],
        fence: None,
    };
    assert_eq!(store.commit(vec![both(Expect::Version(1))]).await, [Outcome::Conflict { op: 1 }]);
    let (loaded, _updates) = store.load().await.unwrap();
    assert!(!loaded.items.iter().any(|item| item.key == "m"), "nothing of a refused write is done");
    let Outcome::Committed(version) = store.commit(vec![both(Expect::Absent)]).await.remove(0) else {
        panic!("both are free")
    };
    let (loaded, _updates) = store.load().await.unwrap();
    let m = loaded.items.iter().find(|item| item.key == "m").expect("m is there");
    assert_eq!(m.version, version, "the version is that of the first operation");
    assert!(loaded.items.iter().any(|item| item.key == "n"));
}

/// One write of a random batch: key, value, whether to expect what is there, whether to delete,
/// whether to claim a second key along with it.
pub(super) type Step = (u8, u8, bool, bool, bool);

/// Random batches.
pub(super) fn batches() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(any::<Step>(), 0..6), 1..12)
}

/// Applies random batches to a store and to a plain map; they must agree, and so must what readers
/// are told. `reopen` may give another store with the same content after each batch.
pub(super) async fn agrees_with_a_map(
    mut store: Arc<dyn Store>,
    batches: Vec<Vec<Step>>,
    mut reopen: impl AsyncFnMut(usize, Arc<dyn Store>) -> Arc<dyn Store>,
) {
    let (loaded, mut updates) = store.load().await.unwrap();
    let mut view = View::of(loaded);
    let mut model: BTreeMap<String, Bytes> = view.values.iter().map(|(k, (_, v))| (k.clone(), v.clone())).collect();
    for (i, batch) in batches.into_iter().enumerate() {
        let mut writes: Vec<Write> = Vec::new();
        let mut expected = Vec::new();
        for (key, value, honest, delete, claim) in batch {
            let (key, claimed) = (format!("k{}", key % 8), format!("claim{}", value % 4));
            let used = |name: &String| writes.iter().flat_map(|w| &w.ops).any(|op| op.key == *name);
            if used(&key) || used(&claimed) {
                continue;
            }
            let current = view.values.get(&key).map(|(version, _)| *version);
            let expect = match (honest, current) {
                (true, Some(v)) => Expect::Version(v),
                (true, None) | (false, Some(_)) => Expect::Absent,
                (false, None) => Expect::Version(view.version + 1_000_000),
            };
            // A deletion of what is not there is not among a store's promises.
            let delete = delete && current.is_some();
            let value = (!delete).then(|| Bytes::from(vec![value; 3]));
            let mut write = Write::one(key.clone(), value.clone(), expect);
            if claim {
                write.ops.push(Op { key: claimed.clone(), value: Some("x".into()), expect: Expect::Absent });
            }
            let conflict = if honest { (claim && model.contains_key(&claimed)).then_some(1) } else { Some(0) };
            if conflict.is_none() {
                match value {
                    Some(v) => drop(model.insert(key, v)),
                    None => drop(model.remove(&key)),
                }
                if claim {
                    model.insert(claimed, "x".into());
                }
            }
            expected.push(conflict);
            writes.push(write);
        }
        let outcomes = store.commit(writes).await;
        let mut last = view.version;
        assert_eq!(outcomes.len(), expected.len());
        for (outcome, expected) in outcomes.iter().zip(&expected) {
            match (outcome, expected) {
                (Outcome::Committed(version), None) => last = last.max(*version),
                (Outcome::Conflict { op }, Some(expected)) => assert_eq!(op, expected),
                other => panic!("{other:?}"),
            }
        }
        view.reach(last, &mut updates).await;
        // The claims of a write may be numbered after its own version.
        while let Ok(update) = updates.try_recv() {
            view.take(update);
        }
        store = reopen(i, store).await;
        let (loaded, fresh) = store.load().await.unwrap();
        updates = fresh;
        view = View::of(loaded);
        let found: BTreeMap<_, _> = view.values.iter().map(|(k, (_, v))| (k.clone(), v.clone())).collect();
        assert_eq!(found, model);
        assert!(view.version >= last, "versions survive");
    }
}
