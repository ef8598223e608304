//! Histories of concurrent clients and watchers, and what must be true of them whatever failed
//! meanwhile.
//!
//! The objects are registers: one label whose values are never written twice. A write names the
//! version that it expects. Since every version belongs to one write, the rules are simple:
//!
//! 1. no two writes that succeeded followed on the same version, and none on a later one than its own;
//! 2. what is read at a version is what the write of that version wrote;
//! 3. what began after something ended sees it, or something later (per master: others may lag
//!    behind with reads, never with writes);
//! 4. a watch shows every successful write from its start on, each once, in order, and nothing else.
//!
//! A write without an answer may have happened or not; the rules hold either way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use anyhow::{Result, ensure};

/// A state of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its resourceVersion.
    pub version: u64,
    /// Its value.
    pub value: String,
}

/// What a client did to a register.
#[derive(Debug, Clone)]
pub enum Act {
    /// Read it.
    Read {
        /// What it saw.
        seen: State,
    },
    /// Wrote it, expecting the version `from`.
    Write {
        /// The version expected.
        from: u64,
        /// The value written.
        value: String,
        /// The new version, if it was answered with success.
        done: Option<u64>,
        /// Whether it was answered at all.
        answered: bool,
    },
}

/// One act.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which master was asked.
    pub master: usize,
    /// The register.
    pub key: String,
    /// When it was asked.
    pub begun: Instant,
    /// When the answer was there.
    pub ended: Instant,
    /// What was done.
    pub act: Act,
}

/// What a watcher saw without a gap: from a list on, until a 410 made it list again.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// The version of the list.
    pub start: u64,
    /// The changes after it, as they came.
    pub events: Vec<(String, State)>,
    /// The last version that it is known to be complete to.
    pub end: u64,
}

/// All that was recorded.
#[derive(Debug, Default)]
pub struct History {
    /// What clients did.
    pub records: Vec<Record>,
    /// What watchers saw.
    pub watches: Vec<Watched>,
}

impl History {
    /// Checks all rules, and that there was something to check.
    pub fn check(&self) -> Result<()> {
        let written = self.successful_writes()?;
        self.check_values(&written)?;
        self.check_order()?;
        for (i, watched) in self.watches.iter().enumerate() {
            self.check_watch(&written, watched).map_err(|e| e.context(format!("watch {i} from {}", watched.start)))?;
        }
        Ok(())
    }

    /// Rule 1. Version to key and value.
    fn successful_writes(&self) -> Result<BTreeMap<u64, (&str, &str)>> {
        let mut written = BTreeMap::new();
        let mut followed = BTreeSet::new();
        for record in &self.records {
            let Act::Write { from, value, done: Some(done), .. } = &record.act else { continue };
            ensure!(from < done, "{} went from {from} to {done}", record.key);
            ensure!(followed.insert((&record.key, from)), "two writes of {} followed on {from}", record.key);
            let other = written.insert(*done, (record.key.as_str(), value.as_str()));
            ensure!(other.is_none(), "version {done} belongs to two writes");
        }
        ensure!(written.len() > 10, "only {} writes succeeded: nothing was tested", written.len());
        Ok(written)
    }

    /// Rule 2.
    fn check_values(&self, written: &BTreeMap<u64, (&str, &str)>) -> Result<()> {
        for record in &self.records {
            let Act::Read { seen } = &record.act else { continue };
            self.check_state(written, &record.key, seen)?;
        }
        Ok(())
    }

    fn check_state(&self, written: &BTreeMap<u64, (&str, &str)>, key: &str, seen: &State) -> Result<()> {
        match written.get(&seen.version) {
            Some(state) => {
                ensure!(*state == (key, seen.value.as_str()), "{key} is {seen:?}, but {state:?} was written then");
            }
            // A write that nobody answered, or that was there before.
            None => {
                let answered = self.records.iter().any(|r| {
                    matches!(&r.act, Act::Write { value, answered: true, .. } if *value == seen.value && r.key == key)
                });
                ensure!(!answered, "{key} is {seen:?}, which was written at another version or refused");
            }
        }
        Ok(())
    }

    /// Rule 3.
    fn check_order(&self) -> Result<()> {
        let mut by_end: Vec<&Record> = self.records.iter().collect();
        by_end.sort_by_key(|r| r.ended);
        for later in &self.records {
            let sees = match &later.act {
                Act::Read { seen } => seen.version,
                Act::Write { done: Some(done), .. } => *done,
                Act::Write { .. } => continue,
            };
            let reads = matches!(later.act, Act::Read { .. });
            for earlier in by_end.iter().take_while(|r| r.ended < later.begun) {
                if earlier.key != later.key || (reads && earlier.master != later.master) {
                    continue;
                }
                let known = match &earlier.act {
                    // What was read is there, but other masters may not know it yet.
                    Act::Read { seen } => seen.version,
                    Act::Write { done: Some(done), .. } => *done,
                    Act::Write { .. } => continue,
                };
                ensure!(known <= sees, "{earlier:?} had ended when {later:?} began");
            }
        }
        Ok(())
    }

    /// Rule 4.
    fn check_watch(&self, written: &BTreeMap<u64, (&str, &str)>, watched: &Watched) -> Result<()> {
        let mut last = watched.start;
        for (key, state) in &watched.events {
            ensure!(state.version > last, "{key} at {} came after {last}", state.version);
            last = state.version;
            self.check_state(written, key, state)?;
        }
        let seen: BTreeSet<u64> = watched.events.iter().map(|(_, state)| state.version).collect();
        for (version, (key, _)) in written.range(watched.start + 1..=watched.end.max(watched.start)) {
            ensure!(seen.contains(version), "the write of {key} at {version} was not shown");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `begun-ended` in milliseconds on a common clock.
    fn record(times: (u64, u64), act: Act) -> Record {
        static CLOCK: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = CLOCK.get_or_init(Instant::now);
        let at = |ms| *start + Duration::from_millis(ms);
        Record { master: 0, key: "k".into(), begun: at(times.0), ended: at(times.1), act }
    }

    fn write(from: u64, done: u64) -> Act {
        Act::Write { from, value: format!("v{done}"), done: Some(done), answered: true }
    }

    fn read(version: u64) -> Act {
        Act::Read { seen: State { version, value: format!("v{version}") } }
    }

    fn good() -> History {
        let records = (1..=20).map(|i| record((i * 10, i * 10 + 5), write(i - 1, i))).collect();
        let event = |version| ("k".to_owned(), State { version, value: format!("v{version}") });
        History { records, watches: vec![Watched { start: 5, events: (6..=20).map(event).collect(), end: 20 }] }
    }

    fn check(expected: &str, spoil: impl FnOnce(&mut History)) {
        let mut history = good();
        spoil(&mut history);
        let error = format!("{:#}", history.check().expect_err(expected));
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_good_history_is_good() {
        let mut history = good();
        history.records.push(record((500, 501), read(20)));
        history.records.push(record((1, 2), Act::Write { from: 3, value: "lost".into(), done: None, answered: false }));
        history.check().unwrap();
    }

    #[test]
    fn each_kind_of_fault_is_found() {
        check("followed on 3", |h| h.records.push(record((300, 301), write(3, 40))));
        check("was written then", |h| {
            let seen = State { version: 7, value: "v8".into() };
            h.records.push(record((300, 301), Act::Read { seen }));
        });
        check("had ended when", |h| h.records.push(record((300, 301), read(19))));
        check("was not shown", |h| drop(h.watches[0].events.remove(3)));
        check("came after", |h| h.watches[0].events.swap(3, 4));
        check("came after", |h| {
            let again = h.watches[0].events[3].clone();
            h.watches[0].events.insert(4, again);
        });
        check("at another version or refused", |h| {
            let refused = Act::Write { from: 1, value: "no".into(), done: None, answered: true };
            h.records.push(record((1, 2), refused));
            h.records.push(record((300, 301), Act::Read { seen: State { version: 33, value: "no".into() } }));
        });
        check("nothing was tested", |h| h.records.truncate(5));
    }
}
