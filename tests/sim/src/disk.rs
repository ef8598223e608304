//! The master's store as one life of a master sees it: the map in memory that survives, behind a gate that may
//! close between any two writes, with delays, refusals, and answers that are lost after the work was done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_master::store::{BoxFuture, Health, Loaded, MemoryStore, Outcome, Store, StoreError, Updates, Write};
use tokio::sync::{Notify, watch};

use crate::{gate::Gate, random::Random, world::World};

/// What survives every master.
#[derive(Debug)]
pub struct Disk {
    store: MemoryStore,
    state: Mutex<State>,
    world: World,
    /// Rung when a master has crashed at a write.
    pub crashed: Notify,
}

#[derive(Debug)]
struct State {
    random: Random,
    /// Writes until the master crashes.
    fuel: Option<u64>,
    mood: Mood,
}

/// How the store treats writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does them.
    #[default]
    Well,
    /// It is full: no write is done.
    Full,
    /// It does not answer: writes are done or not, and nobody is told.
    Mute,
}

impl Disk {
    /// An empty one, of which `world` is told everything.
    pub fn new(seed: u64, world: World) -> Arc<Self> {
        let state = State { random: Random::new(seed, "disk"), fuel: None, mood: Mood::Well };
        Arc::new(Self { store: MemoryStore::default(), state: Mutex::new(state), world, crashed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the master crash after so many more writes; `None` calls it off.
    pub fn set_fuel(&self, writes: Option<u64>) {
        self.state().fuel = writes;
    }

    /// Sets the mood.
    pub fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// The store for the life of one master. `on_crash` runs at the very write.
    pub fn of_life(self: &Arc<Self>, life: Gate, on_crash: impl Fn() + Send + Sync + 'static) -> Arc<dyn Store> {
        Arc::new(OfLife { disk: self.clone(), life, on_crash: Box::new(on_crash) })
    }

    /// Commits and tells the world what changed.
    async fn commit(&self, batch: Vec<Write>) -> Vec<Outcome> {
        let ops: Vec<Vec<(String, Option<Bytes>)>> =
            batch.iter().map(|write| write.ops.iter().map(|op| (op.key.clone(), op.value.clone())).collect()).collect();
        let outcomes = self.store.commit(batch).await;
        for (ops, outcome) in ops.into_iter().zip(&outcomes) {
            if let Outcome::Committed(first) = outcome {
                for (version, (key, value)) in (*first..).zip(ops) {
                    self.world.changed(&key, value.as_deref(), version);
                }
            }
        }
        outcomes
    }
}

struct OfLife {
    disk: Arc<Disk>,
    life: Gate,
    on_crash: Box<dyn Fn() + Send + Sync>,
}

fn unwritable() -> Outcome {
    Outcome::Failed(StoreError::Unwritable { store: "simulated".into(), cause: "as simulations do".into() })
}

fn unavailable() -> Outcome {
    Outcome::Failed(StoreError::Unavailable { store: "simulated".into(), cause: "as simulations do".into() })
}

impl Store for OfLife {
    fn load(&self) -> BoxFuture<'_, Result<(Loaded, Updates), StoreError>> {
        self.disk.store.load()
    }

    fn commit(&self, batch: Vec<Write>) -> BoxFuture<'_, Vec<Outcome>> {
        Box::pin(async move {
            let count = batch.len();
            let wait = {
                let random = &mut self.disk.state().random;
                if random.one_in(40) { random.millis(20, 400) } else { random.millis(0, 3) }
            };
            if self.life.pass(tokio::time::sleep(wait)).await.is_none() {
                return vec![unwritable(); count];
            }
            let (mood, mute_drops, left) = {
                let mut state = self.disk.state();
                let drops = state.random.one_in(2);
                let left = state.fuel.map(|fuel| usize::try_from(fuel).unwrap_or(usize::MAX));
                state.fuel = state.fuel.map(|fuel| fuel.saturating_sub(count as u64));
                (state.mood, drops, left)
            };
            match mood {
                Mood::Full => return vec![unwritable(); count],
                Mood::Mute if mute_drops => return vec![unavailable(); count],
                Mood::Mute => {
                    self.disk.commit(batch).await;
                    return vec![unavailable(); count];
                }
                Mood::Well => {}
            }
            match left.filter(|left| *left < count) {
                None => self.disk.commit(batch).await,
                Some(left) => {
                    self.disk.state().fuel = None;
                    let mut batch = batch;
                    batch.truncate(left);
                    self.life.close();
                    (self.on_crash)();
                    if !batch.is_empty() {
                        self.disk.commit(batch).await;
                    }
                    self.disk.crashed.notify_one();
                    vec![unwritable(); count]
                }
            }
        })
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.disk.store.health()
    }
}
