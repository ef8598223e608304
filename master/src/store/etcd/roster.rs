//! Which masters there are and which one leads, as etcd says.
//!
//! One watch covers the leader's key and the announcements. It is read anew whenever the watch was
//! interrupted: it is small.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{EventType, GetOptions, KeyValue, WatchOptions};
use tokio::time::{sleep, timeout};

use super::{Shared, codec, coordinator::Core, fault::Fault, members::Patience};
use crate::coordination::Announcements;

/// For reading it: of one member, of any.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
/// Between two tries, doubled up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// The key that one master holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    /// The revision at which it was created.
    pub(super) term: i64,
}

/// The state at a revision.
#[derive(Debug, Clone, Default)]
pub(super) struct Roster {
    pub(super) revision: i64,
    pub(super) leader: Option<Leader>,
    pub(super) masters: Announcements,
}

impl Roster {
    fn put(&mut self, shared: &Shared, kv: &KeyValue) {
        if kv.key() == shared.layout.leader().as_bytes() {
            self.leader = Some(Leader { term: kv.create_revision() });
        } else if let Some(name) = name(shared, kv) {
            self.masters.insert(name, Bytes::copy_from_slice(kv.value()));
        }
    }

    fn delete(&mut self, shared: &Shared, kv: &KeyValue) {
        if kv.key() == shared.layout.leader().as_bytes() {
            self.leader = None;
        } else if let Some(name) = name(shared, kv) {
            self.masters.remove(&name);
        }
    }

    /// Whether the leader of this term does not lead any more.
    pub(super) fn is_over(&self, term: i64) -> bool {
        self.revision >= term && self.leader != Some(Leader { term })
    }
}

fn name(shared: &Shared, kv: &KeyValue) -> Option<String> {
    kv.key_str().ok()?.strip_prefix(&shared.layout.masters()).map(str::to_owned)
}

/// Follows until dropped.
pub(super) async fn follow(core: &Core) {
    let mut pause = PAUSE[0];
    loop {
        let known = core.roster.borrow().revision;
        match follow_member(core).await {
            Ok(()) => continue,
            Err(fault) => tracing::debug!(%fault, "the masters are read anew"),
        }
        if core.roster.borrow().revision > known {
            pause = PAUSE[0];
        }
        sleep(pause).await;
        pause = PAUSE[1].min(pause * 2);
    }
}

/// Reads and follows at one member until another is asked.
async fn follow_member(core: &Core) -> Result<(), Fault> {
    let shared = &*core.shared;
    let range = [shared.layout.leader().into_bytes(), codec::end_of(&shared.layout.masters())];
    let mut roster = read(shared, &range).await?;
    core.publish(roster.clone());
    let mut current = shared.members.current();
    let member = *current.borrow_and_update();
    let begin = async {
        let options = WatchOptions::new().with_range(&*range[1]).with_start_revision(roster.revision + 1);
        shared.members.client(member).await?.watch(&*range[0], Some(options)).await.map_err(Fault::of)
    };
    let begun = timeout(PATIENCE[0], begin).await.unwrap_or_else(|_| Err(Fault::no_answer(PATIENCE[0])));
    let failed = |fault: Fault| {
        if fault.is_members() {
            shared.members.leave(member);
        }
        fault
    };
    let mut stream = begun.map_err(failed)?;
    loop {
        // Cancel-safe: what is lost with the stream is read anew.
        let message = tokio::select! {
            message = stream.message() => message.map_err(|e| failed(Fault::of(e)))?,
            _ = current.changed() => return Ok(()),
        };
        let message = message.filter(|message| !message.canceled());
        let message = message.ok_or_else(|| Fault::Silent("it ended the watch".to_owned()))?;
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => roster.put(shared, kv),
                EventType::Delete => roster.delete(shared, kv),
            }
            roster.revision = roster.revision.max(kv.mod_revision());
        }
        if !message.events().is_empty() {
            core.publish(roster.clone());
        }
    }
}

async fn read(shared: &Shared, range: &[Vec<u8>; 2]) -> Result<Roster, Fault> {
    let request = |mut client: etcd_client::Client| {
        let (from, options) = (range[0].clone(), GetOptions::new().with_range(&*range[1]));
        async move { client.get(from, Some(options)).await }
    };
    let answer = shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await?;
    let mut roster = Roster { revision: answer.header().map_or(0, |header| header.revision()), ..Roster::default() };
    answer.kvs().iter().for_each(|kv| roster.put(shared, kv));
    Ok(roster)
}
