//! Names of the rest of the world: from the cache, or asked of the host's resolvers, once for all
//! who want to know at the same time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hickory_proto::op::Query;
use tokio::{sync::watch, time::Instant};

use super::{
    cache::{Cache, Key, Known},
    message,
    upstream::Upstreams,
};

/// `None` while it is asked for; then what came of it.
type Outcome = Option<Option<Known>>;

/// Asks upstreams and remembers what they said.
#[derive(Debug)]
pub(super) struct Forwarder {
    upstreams: Upstreams,
    cache: Mutex<Cache>,
    /// Questions under way; each goes away with the one who asks.
    asking: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(question: &Query) -> Key {
    (question.name().to_lowercase(), question.query_type())
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, cache: Mutex::default(), asking: Mutex::default() }
    }

    /// What is known without asking.
    pub(super) fn cached(&self, question: &Query) -> Option<Known> {
        lock(&self.cache).get(&key_of(question), Instant::now())
    }

    /// What is known, or an upstream says; `None` when none says anything.
    pub(super) async fn resolve(&self, question: &Query) -> Option<Known> {
        let key = key_of(question);
        let (sender, receiver) = watch::channel(None);
        let mut leading = {
            let mut asking = lock(&self.asking);
            // Under the lock: whoever asked before has put the answer here before it left.
            if let Some(known) = lock(&self.cache).get(&key, Instant::now()) {
                return Some(known);
            }
            match asking.get(&key) {
                Some(outcome) => Err(outcome.clone()),
                None => {
                    asking.insert(key.clone(), receiver);
                    Ok(Asking { forwarder: self, key: &key, sender })
                }
            }
        };
        match &mut leading {
            // An error means that the one who asked was cut off.
            Err(outcome) => outcome.wait_for(Option::is_some).await.ok()?.clone().flatten(),
            Ok(asking) => {
                let reply = self.upstreams.ask(&Query::query(key.0.clone(), key.1)).await;
                let known = reply.map(|(bytes, message)| {
                    if let Some(lifetime) = message::lifetime(&message) {
                        lock(&self.cache).insert(key.clone(), bytes.clone(), lifetime, Instant::now());
                    }
                    Known { message: bytes, age: 0 }
                });
                asking.sender.send_replace(Some(known.clone()));
                known
            }
        }
    }
}

/// The part of the one who asks. Leaves with it, also when it is cut off.
struct Asking<'a> {
    forwarder: &'a Forwarder,
    key: &'a Key,
    sender: watch::Sender<Outcome>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.forwarder.asking).remove(self.key);
    }
}
