//! Random lives of a log, compared with a map: commits, compaction, full disks, failing syncs,
//! killed processes and power cuts at any operation.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{log::Log, recover::recover, *},
    sim::{Random, SimDisk},
};
use crate::store::Op;

type Values = BTreeMap<String, (u64, Bytes)>;

/// A log and what must be in it.
struct Life {
    disk: SimDisk,
    log: Log,
    options: Options,
    random: Random,
    values: Values,
    version: u64,
    /// Writes of which it is not known whether they happened, by batch. One batch at most did.
    unknown: Vec<Vec<Write>>,
    /// Writes that ended before their last byte, when the power failed.
    unfinished: Vec<Write>,
}

fn apply(values: &mut Values, version: &mut u64, write: &Write) {
    for op in &write.ops {
        *version += 1;
        match &op.value {
            Some(value) => drop(values.insert(op.key.clone(), (*version, value.clone()))),
            None => drop(values.remove(&op.key)),
        }
    }
}

fn holds(values: &Values, op: &Op) -> bool {
    match op.expect {
        Expect::Absent => !values.contains_key(&op.key),
        Expect::Version(version) => values.get(&op.key).is_some_and(|(at, _)| *at == version),
        Expect::Any => true,
    }
}

fn as_map(loaded: Loaded) -> Values {
    loaded.items.into_iter().map(|item| (item.key, (item.version, item.value))).collect()
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(random.next());
        let options = Options {
            segment_bytes: 300 + random.below(1000) as u64,
            garbage_bytes: 1000,
            step_bytes: 100 + random.below(400),
            frame_bytes: if random.below(2) == 0 { 200 } else { 1 << 20 },
        };
        let log = Log::open(Box::new(disk.clone()), "sim".into(), options.clone()).unwrap();
        Self {
            disk,
            log,
            options,
            random,
            values: Values::new(),
            version: 0,
            unknown: Vec::new(),
            unfinished: Vec::new(),
        }
    }

    fn write(&mut self, used: &mut Vec<String>) -> Option<Write> {
        let mut ops = Vec::new();
        for _ in 0..1 + self.random.below(5) / 4 {
            let key = format!("key/{}", self.random.below(12));
            if used.contains(&key) {
                return None;
            }
            used.push(key.clone());
            let known = self.values.get(&key).map(|(version, _)| *version);
            let expect = match (self.random.below(6), known) {
                (0, _) => Expect::Version(self.version + 1),
                (1 | 2, _) => Expect::Any,
                (_, Some(version)) => Expect::Version(version),
                (_, None) => Expect::Absent,
            };
            let len = [3, 40, 40, 200][self.random.below(4)];
            let len = self.random.below(len);
            let value = Bytes::from(self.random.bytes(len));
            ops.push(Op { key, value: (self.random.below(4) > 0).then_some(value), expect });
        }
        Some(Write { ops, fence: None })
    }

    fn commit(&mut self) {
        let mut used = Vec::new();
        let batch: Vec<_> = (0..self.random.below(6)).filter_map(|_| self.write(&mut used)).collect();
        let mut published = Vec::new();
        let outcomes = self.log.commit(batch.clone(), &mut |changes| published.extend(changes));
        assert_eq!(outcomes.len(), batch.len());
        if !published.is_empty() {
            // What was not known is known now: it did not happen.
            self.unknown.clear();
        }
        let before = self.values.clone();
        let (mut expected, mut unknown) = (Vec::new(), Vec::new());
        for (write, outcome) in batch.into_iter().zip(outcomes) {
            let conflict = write.ops.iter().position(|op| !holds(&before, op));
            match outcome {
                Outcome::Committed(version) => {
                    assert_eq!(conflict, None);
                    assert_eq!(version, self.version + 1);
                    apply(&mut self.values, &mut self.version, &write);
                    let changes = write.ops.into_iter().zip(version..);
                    expected.extend(changes.map(|(op, version)| Change { key: op.key, value: op.value, version }));
                }
                Outcome::Conflict { op } => assert_eq!(conflict, Some(op)),
                Outcome::Failed(StoreError::Unwritable { .. }) => {
                    assert_eq!(conflict, None);
                    if self.disk.is_dead() {
                        self.unfinished.push(write);
                    }
                }
                Outcome::Failed(_) => unknown.push(write),
                Outcome::Fenced => panic!("nothing is fenced here"),
            }
        }
        self.unknown.push(unknown);
        assert_eq!(published, expected, "readers are handed what was committed");
        assert_eq!(self.log.version, self.version);
    }

    /// Opens it again and finds out what happened to what is not known.
    fn reopen(&mut self) {
        let copy = self.disk.copy();
        let checked = recover(&copy, "sim").map(|log| (log.version, log.index.len()));
        let open = |disk: &SimDisk| Log::open(Box::new(disk.clone()), "sim".into(), self.options.clone());
        let opened = open(&self.disk).or_else(|e| match e {
            // Such as while syncs still fail: it was nothing but an attempt.
            StoreError::Unopenable { .. } => {
                self.disk.mend();
                open(&self.disk)
            }
            e => Err(e),
        });
        match opened {
            Ok(log) => self.log = log,
            Err(e) => panic!("{e}\n{:?}", self.disk.names()),
        }
        let loaded = self.log.load().unwrap();
        assert_eq!(checked.unwrap(), (loaded.version, loaded.items.len()), "a check sees the same");
        let found = (loaded.version, as_map(loaded));
        let unknown = std::mem::take(&mut self.unknown);
        self.unfinished.clear();
        if found == (self.version, self.values.clone()) {
            return;
        }
        let one_frame = self.options.frame_bytes > 1000;
        for batch in &unknown {
            let runs = (0..batch.len()).flat_map(|from| (from + 1..=batch.len()).map(move |to| from..to));
            for run in runs.filter(|run| !one_frame || run.len() == batch.len()) {
                let (mut values, mut version) = (self.values.clone(), self.version);
                batch[run].iter().for_each(|write| apply(&mut values, &mut version, write));
                if (version, &values) == (found.0, &found.1) {
                    (self.values, self.version) = (values, version);
                    return;
                }
            }
        }
        panic!("found {found:?}\nexpected {:?} at {}\nor some of {unknown:?}", self.values, self.version);
    }

    /// Puts something behind the end that no write of ours left there.
    fn litter(&mut self) {
        let Some(name) = self.disk.names().into_iter().rfind(|name| name.ends_with(".log")) else { return };
        let mut content = self.disk.content(&name);
        let len = 1 + self.random.below(150);
        // One time in many this is the very byte that was missing.
        self.unknown.push(std::mem::take(&mut self.unfinished));
        match self.random.below(2) {
            0 => content.extend(std::iter::repeat_n(0, len)),
            _ => content.extend(self.random.bytes(len)),
        }
        self.disk.put(&name, content);
    }

    fn act(&mut self, action: u8) {
        match action % 16 {
            0 => drop(self.log.compact_once_if_wanted()),
            1 => {
                // Whatever was to be repeated: a quiet store comes to rest.
                let steps = (0..10_000).find(|_| self.log.compact_once_if_wanted().is_none());
                assert!(steps.is_some(), "compaction ends");
            }
            2 | 3 => {
                self.disk.power_cycle();
                self.reopen();
            }
            4 => {
                self.disk.kill();
                self.reopen();
            }
            5 | 6 => {
                let operations = 1 + self.random.below(12) as u64;
                self.disk.cut_power_after(operations);
                while !self.disk.is_dead() {
                    self.commit();
                    self.log.compact_once_if_wanted();
                    if self.random.below(40) == 0 {
                        break;
                    }
                }
                match self.random.below(4) {
                    0 => self.disk.kill(),
                    _ => self.disk.power_cycle(),
                }
                if self.random.below(3) == 0 {
                    self.litter();
                }
                self.reopen();
            }
            7 => {
                let room = self.random.below(300);
                self.disk.leave_room(room);
            }
            8 => {
                let (after, times) = (self.random.below(4) as u64, 1 + self.random.below(3) as u64);
                self.disk.fail_syncs(after, times);
            }
            9 => {
                self.disk.mend();
                self.log.probe();
                assert_eq!(self.log.trouble(), None, "it mends by itself");
                // Writing went on, so what was not known did not happen.
                self.unknown.clear();
            }
            _ => {
                let bytes = self.log.bytes();
                self.commit();
                let written = self.log.bytes() - bytes;
                self.log.keep_pace(written);
            }
        }
        let loaded = self.log.load().unwrap();
        assert_eq!((loaded.version, as_map(loaded)), (self.version, self.values.clone()));
    }
}

impl Log {
    fn compact_once_if_wanted(&mut self) -> Option<u64> {
        self.wants_compaction().then(|| self.compact()).flatten()
    }
}

/// A case that failed is run again by its seed and actions.
fn live(seed: u64, actions: &[u8]) {
    let mut life = Life::new(seed);
    actions.iter().for_each(|action| life.act(*action));
    life.disk.power_cycle();
    life.reopen();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn whatever_happens_it_keeps_what_it_acknowledged(
        seed in any::<u64>(),
        actions in prop::collection::vec(any::<u8>(), 1..24),
    ) {
        live(seed, &actions);
    }
}
