//! A disk in memory that can be filled, made to fail, and cut off from power at any operation.
//!
//! It promises what a real one does and no more: what was synced is there after a power cut; of
//! what was not, any sectors may be, in any combination; a sync that failed keeps nothing for the
//! next one; names are durable after the directory's own sync.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::super::disk::{Directory, LogFile};

/// Small, so that a short frame spans several.
const SECTOR: usize = 64;

/// Pseudo-random numbers from a seed.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

#[derive(Debug, Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Inode {
    /// Makes durable what is pending: all of it, or what chance wants.
    fn settle(&mut self, mut chance: Option<&mut Random>) {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Truncate(len) => {
                    if chance.as_mut().is_none_or(|random| random.below(2) == 0) {
                        self.durable.resize(len, 0);
                    }
                }
                Pending::Write(mut offset, bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (piece, more) = rest.split_at(rest.len().min(SECTOR - offset % SECTOR));
                        if chance.as_mut().is_none_or(|random| random.below(2) == 0) {
                            write(&mut self.durable, offset, piece);
                        }
                        offset += piece.len();
                        rest = more;
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

fn rename(names: &mut BTreeMap<String, usize>, change: NameChange) {
    match change {
        NameChange::Set(name, inode) => drop(names.insert(name, inode)),
        NameChange::Remove(name) => drop(names.remove(&name)),
        NameChange::Rename(from, to, inode) => {
            names.insert(to, inode);
            if names.get(&from) == Some(&inode) {
                names.remove(&from);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    random: Random,
    /// Operations until the power fails.
    fuel: Option<u64>,
    /// Syncs until one fails, and how many do then.
    failing_syncs: Option<(u64, u64)>,
    /// Bytes that all files may have together.
    room: usize,
    pub(super) syncs: u64,
}

/// Handle of a disk; a clone is the same disk.
#[derive(Debug, Clone)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

fn dead() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts an operation. Whether it is the last one, of which a part may still happen.
    fn operate(&mut self) -> io::Result<bool> {
        match &mut self.fuel {
            None => Ok(false),
            Some(0) => Err(dead()),
            Some(fuel) => {
                *fuel -= 1;
                Ok(*fuel == 0)
            }
        }
    }

    fn sync_fails(&mut self) -> bool {
        self.syncs += 1;
        match &mut self.failing_syncs {
            None => false,
            Some((0, 0)) => {
                self.failing_syncs = None;
                false
            }
            Some((0, times)) => {
                *times -= 1;
                true
            }
            Some((until, _)) => {
                *until -= 1;
                false
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        rename(&mut self.names, change.clone());
        self.pending_names.push(change);
    }

    fn settle_names(&mut self, chance: bool) {
        for change in std::mem::take(&mut self.pending_names) {
            if !chance || self.random.below(2) == 0 {
                rename(&mut self.durable_names, change);
            }
        }
    }

    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].visible.len()).sum()
    }
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            random: Random::new(seed),
            fuel: None,
            failing_syncs: None,
            room: usize::MAX,
            syncs: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Another disk of the same content.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    pub(super) fn cut_power_after(&self, operations: u64) {
        self.state().fuel = Some(operations);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().fuel == Some(0)
    }

    pub(super) fn fail_syncs(&self, after: u64, times: u64) {
        self.state().failing_syncs = Some((after, times));
    }

    /// Takes away all room but `bytes` beyond what is used.
    pub(super) fn leave_room(&self, bytes: usize) {
        let mut state = self.state();
        state.room = state.used() + bytes;
    }

    /// Mends all that was set to fail.
    pub(super) fn mend(&self) {
        let mut state = self.state();
        (state.room, state.failing_syncs) = (usize::MAX, None);
    }

    /// Switches the power off and on again.
    pub(super) fn power_cycle(&self) {
        let mut state = self.state();
        state.settle_names(true);
        state.names = state.durable_names.clone();
        let mut random = state.random.clone();
        for inode in &mut state.inodes {
            inode.settle(Some(&mut random));
            inode.visible = inode.durable.clone();
        }
        state.random = random;
        (state.fuel, state.failing_syncs, state.room) = (None, None, usize::MAX);
    }

    /// Starts another process on it.
    pub(super) fn kill(&self) {
        self.state().fuel = None;
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.names[name]].visible.clone()
    }

    /// Replaces a file's content, durably.
    pub(super) fn put(&self, name: &str, content: Vec<u8>) {
        let mut state = self.state();
        state.settle_names(false);
        let inode = Inode { durable: content.clone(), visible: content, pending: Vec::new() };
        state.inodes.push(inode);
        let number = state.inodes.len() - 1;
        state.names.insert(name.into(), number);
        state.durable_names.insert(name.into(), number);
    }

    pub(super) fn delete(&self, name: &str) {
        let mut state = self.state();
        state.settle_names(false);
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    pub(super) fn used(&self) -> usize {
        self.state().used()
    }

    fn file(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let inode = self.state().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }
}

impl Directory for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let inode = {
            let mut state = self.state();
            if state.operate()? && state.random.below(2) == 0 {
                return Err(dead());
            }
            if state.used() >= state.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.change_name(NameChange::Set(name.into(), inode));
            inode
        };
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        self.file(name)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn LogFile>> {
        self.file(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.operate()? && state.random.below(2) == 0 {
            return Err(dead());
        }
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Remove(name.into()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.operate()? && state.random.below(2) == 0 {
            return Err(dead());
        }
        let inode = state.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        state.change_name(NameChange::Rename(from.into(), to.into(), inode));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.operate()? && state.random.below(2) == 0 {
            return Err(dead());
        }
        let fails = state.sync_fails();
        state.settle_names(fails);
        if fails { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl LogFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].visible.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = state.inodes[self.inode].visible.get(offset as usize..).unwrap_or_default();
        let bytes = content.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&content[..bytes]);
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let last = state.operate()?;
        let offset = offset as usize;
        let grows = (offset + bytes.len()).saturating_sub(state.inodes[self.inode].visible.len());
        let room = state.room.saturating_sub(state.used());
        let full = grows > room;
        let mut fits = if full { bytes.len().saturating_sub(grows - room) } else { bytes.len() };
        if last {
            fits = state.random.below(fits + 1);
        }
        let inode = &mut state.inodes[self.inode];
        write(&mut inode.visible, offset, &bytes[..fits]);
        inode.pending.push(Pending::Write(offset, bytes[..fits].to_vec()));
        match (full, last) {
            (true, _) => Err(io::ErrorKind::StorageFull.into()),
            (_, true) if fits < bytes.len() => Err(dead()),
            _ => Ok(()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.operate()? && state.random.below(2) == 0 {
            return Err(dead());
        }
        let inode = &mut state.inodes[self.inode];
        inode.visible.resize(len as usize, 0);
        inode.pending.push(Pending::Truncate(len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.operate()? && state.random.below(2) == 0 {
            return Err(dead());
        }
        let fails = state.sync_fails();
        let mut random = state.random.clone();
        state.inodes[self.inode].settle(fails.then_some(&mut random));
        state.random = random;
        if fails { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}
