//! What a reader gets: everything, and then each change.
//!
//! Each reader has a watch of its own that is taken up again after the last revision it was handed,
//! whatever happens to members and connections. etcd reports the changes of one revision together
//! and in the order in which it carried them out.
//!
//! Invariant: a reader is handed each change once, by version, and all changes of a revision in
//! one [`Update`]; or it is handed everything anew.

use std::time::Duration;

use etcd_client::{Event, EventType, GetOptions, KeyValue, WatchOptions, WatchStream};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{Shared, codec, fault::Fault, members::Patience, pulse::Place};
use crate::store::{Change, Loaded, Stored, Update};

/// Values of one answer while everything is read. Even with the largest ones an answer is below
/// [`ANSWER_MAX`].
const PAGE: i64 = 500;
/// Larger answers are not taken.
pub(super) const ANSWER_MAX: usize = 1 << 30;
/// For one page: of one member, of any.
const PATIENCE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];
/// For a watch to begin.
const WATCH_PATIENCE: Duration = Duration::from_secs(5);
/// Before a watch is taken up again for the third time without any progress, doubled up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Everything at one revision.
pub(super) async fn load(shared: &Shared) -> Result<(Loaded, i64), Fault> {
    loop {
        match load_at_once(shared).await {
            // More than the kept history passed since the first page: the next try begins later.
            Err(Fault::Compacted) => tracing::info!("etcd was compacted while it was read; reading it again"),
            result => return result,
        }
    }
}

async fn load_at_once(shared: &Shared) -> Result<(Loaded, i64), Fault> {
    let objects = shared.layout.objects();
    let end = codec::end_of(&objects);
    let mut from = objects.clone().into_bytes();
    let (mut items, mut revision) = (Vec::new(), 0);
    loop {
        let request = |client: etcd_client::Client| {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let (mut kv, from) = (client.kv_client().max_decoding_message_size(ANSWER_MAX), from.clone());
            async move { kv.get(from, Some(options)).await }
        };
        let mut page = shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await?;
        if revision == 0 {
            revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
        }
        let more = page.more();
        for kv in page.take_kvs() {
            from.clear();
            from.extend_from_slice(kv.key());
            items.push(stored(kv, &objects)?);
        }
        if !more {
            return Ok((Loaded { items, version: codec::complete_to(revision) }, revision));
        }
        // The first key after the last one read.
        from.push(0);
    }
}

fn stored(kv: KeyValue, objects: &str) -> Result<Stored, Fault> {
    let revision = kv.mod_revision();
    let (key, value) = kv.into_key_value();
    let foreign = || Fault::Foreign { key: String::from_utf8_lossy(&key).into_owned() };
    let name = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(objects)).ok_or_else(foreign)?;
    let (index, value) = codec::decode(value).ok_or_else(foreign)?;
    Ok(Stored { key: name.to_owned(), value, version: codec::version(revision, index) })
}

/// Why a watch ended.
enum End {
    /// Nobody reads any more.
    Unread,
    /// It is taken up again, at another member at once.
    Moved,
    /// It is taken up again after a while.
    Broken(Fault),
    /// What comes next can't be had as changes.
    Missed(Fault),
}

/// Hands a reader the changes after a revision until it is gone.
pub(super) async fn follow(shared: &Shared, number: u64, after: i64, reader: mpsc::Sender<Update>) {
    let place = Place::Watch(number);
    // Whatever is awaited there, a reader that is gone needs none of it.
    tokio::select! {
        () = reader.closed() => {}
        () = follow_on(shared, place, after + 1, &reader) => {}
    }
    shared.pulse.works(place);
}

async fn follow_on(shared: &Shared, place: Place, mut next: i64, reader: &mpsc::Sender<Update>) {
    let mut fruitless = 0;
    loop {
        let before = next;
        let end = watch(shared, place, &mut next, reader).await;
        fruitless = if next > before { 0 } else { fruitless + 1 };
        let fault = match end {
            End::Unread => return,
            End::Moved => continue,
            End::Broken(fault) => fault,
            End::Missed(fault) => match load(shared).await {
                Ok((loaded, revision)) => {
                    tracing::warn!(%fault, revision, "changes were missed; everything was read anew");
                    next = revision + 1;
                    if reader.send(Update::Reset(loaded)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(fault) => fault,
            },
        };
        tracing::debug!(%fault, next, "the watch is taken up again");
        // The first time may be a member that restarts: another one goes on at once.
        if fruitless > 1 {
            shared.pulse.fails(place, &fault);
            sleep(PAUSE[1].min(PAUSE[0] * 2_u32.pow(fruitless.min(6)))).await;
        }
    }
}

/// Follows from a revision on, which it moves on, at the current member.
async fn watch(shared: &Shared, place: Place, next: &mut i64, reader: &mpsc::Sender<Update>) -> End {
    let mut current = shared.members.current();
    let member = *current.borrow_and_update();
    let begin = async {
        let mut client = shared.members.client(member).await?.watch_client().max_decoding_message_size(ANSWER_MAX);
        let options = WatchOptions::new().with_prefix().with_start_revision(*next);
        client.watch(shared.layout.all(), Some(options)).await.map_err(Fault::of)
    };
    let begun = timeout(WATCH_PATIENCE, begin).await;
    let fault = match begun.unwrap_or_else(|_| Err(Fault::no_answer(WATCH_PATIENCE))) {
        Ok(stream) => {
            // Cancel-safe: a message that is half there stays with the stream, which is dropped with
            // it; `next` names what was handed on.
            tokio::select! {
                end = pass_on(shared, place, next, stream, reader) => end,
                _ = current.changed() => return End::Moved,
            }
        }
        Err(fault) => End::Broken(fault),
    };
    if let End::Broken(fault) = &fault
        && fault.is_members()
    {
        shared.members.leave(member);
    }
    fault
}

async fn pass_on(
    shared: &Shared,
    place: Place,
    next: &mut i64,
    mut stream: WatchStream,
    reader: &mpsc::Sender<Update>,
) -> End {
    let objects = shared.layout.objects();
    loop {
        let message = match stream.message().await.map_err(Fault::of) {
            Ok(Some(message)) => message,
            Ok(None) => return End::Broken(Fault::Silent("it ended the watch".to_owned())),
            Err(Fault::Oversize) => return End::Missed(Fault::Oversize),
            Err(fault) => return End::Broken(fault),
        };
        if message.compact_revision() > 0 {
            return End::Missed(Fault::Compacted);
        }
        if message.canceled() {
            return End::Broken(Fault::Refused(format!("it refuses the watch: {}", message.cancel_reason())));
        }
        shared.pulse.works(place);
        let events = message.events();
        let Some(last) = events.last().and_then(Event::kv).map(KeyValue::mod_revision) else { continue };
        match changes(events, *next, &objects) {
            Ok(changes) if changes.is_empty() => {}
            // In a send that is dropped half-way nothing is handed on, and `next` stays.
            Ok(changes) => match reader.send(Update::Changes(changes)).await {
                Ok(()) => {}
                Err(_) => return End::Unread,
            },
            Err(fault) => return End::Missed(fault),
        }
        *next = (*next).max(last + 1);
    }
}

/// The changes of the store among these events, from a revision on: etcd may repeat what a slow
/// watch has had.
fn changes(events: &[Event], next: i64, objects: &str) -> Result<Vec<Change>, Fault> {
    let mut changes: Vec<Change> = Vec::with_capacity(events.len());
    let (mut revision, mut begin, mut deletions) = (0, 0, 0);
    for event in events {
        let Some(kv) = event.kv() else { continue };
        if kv.mod_revision() != revision {
            sort(&mut changes[begin..], objects)?;
            (revision, begin, deletions) = (kv.mod_revision(), changes.len(), 0);
        }
        let foreign = || Fault::Foreign { key: String::from_utf8_lossy(kv.key()).into_owned() };
        let Some(name) = kv.key().strip_prefix(objects.as_bytes()) else { continue };
        if revision < next {
            continue;
        }
        let key = std::str::from_utf8(name).map_err(|_| foreign())?.to_owned();
        let (index, value) = match event.event_type() {
            EventType::Put => {
                let (index, value) = codec::decode(bytes::Bytes::copy_from_slice(kv.value())).ok_or_else(foreign)?;
                (index, Some(value))
            }
            EventType::Delete => {
                deletions += 1;
                if deletions > codec::PUTS_END {
                    return Err(Fault::Foreign { key: String::from_utf8_lossy(kv.key()).into_owned() });
                }
                (codec::PUTS_END + deletions - 1, None)
            }
        };
        changes.push(Change { key, value, version: codec::version(revision, index) });
    }
    sort(&mut changes[begin..], objects)?;
    Ok(changes)
}

/// Orders the changes of one revision by version.
fn sort(changes: &mut [Change], objects: &str) -> Result<(), Fault> {
    changes.sort_unstable_by_key(|change| change.version);
    match changes.windows(2).find(|pair| pair[0].version == pair[1].version) {
        Some(pair) => Err(Fault::Foreign { key: format!("{objects}{}", pair[1].key) }),
        None => Ok(()),
    }
}
