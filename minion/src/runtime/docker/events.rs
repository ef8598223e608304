//! The engine's event stream, made lossless: it resumes by time where it broke, and says `Gap`
//! whenever something may have been missed.
//!
//! Invariant: between a `Gap` and the next, every change of a container of ours is delivered.
//! The engine drops events to a slow reader, so the stream is always read; when the receiver has
//! no room, the events are dropped *here* and one `Gap` takes their place.

use std::time::Duration;

use bollard::{
    errors::Error,
    models::EventMessage,
    query_parameters::{EventsOptions, EventsOptionsBuilder},
};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use super::{Engine, Filters};
use crate::runtime::{ContainerId, RuntimeEvent, labels};

/// Events that change what a list shows.
const ACTIONS: [&str; 4] = ["start", "die", "destroy", "oom"];
const QUEUE: usize = 256;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Starts the task behind [`crate::runtime::Runtime::events`]; it ends with the receiver.
pub(super) fn spawn(engine: Engine, filters: Filters) -> mpsc::Receiver<RuntimeEvent> {
    let (tx, rx) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut resume = Resume { since: Timestamp::now() };
        let mut backoff = BACKOFF_MIN;
        let mut down = false;
        while !tx.is_closed() {
            match engine.ping().await {
                Err(error) if !down => {
                    down = true;
                    if tx.send(RuntimeEvent::Unreachable(error.to_string())).await.is_err() {
                        return;
                    }
                }
                Err(_) => {}
                Ok(()) => {
                    down = false;
                    // What happens from here on is replayed by the engine from `since`, so the list
                    // that answers this Gap can't miss it.
                    if tx.send(RuntimeEvent::Gap).await.is_err() {
                        return;
                    }
                    let began = Instant::now();
                    let stream = engine.docker().events(Some(resume.options(&filters)));
                    if let Err(error) = forward(std::pin::pin!(stream), &tx, &mut resume).await {
                        tracing::debug!(%error, "the engine's event stream ended");
                    }
                    if began.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                }
            }
            // Cancel-safe: neither arm holds anything.
            tokio::select! {
                () = tx.closed() => return,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    });
    rx
}

/// The time from which a new stream must replay.
struct Resume {
    since: Timestamp,
}

impl Resume {
    fn options(&self, filters: &Filters) -> EventsOptions {
        let mut filters = filters.clone();
        filters.insert("type".into(), vec!["container".into()]);
        filters.insert("event".into(), ACTIONS.map(str::to_owned).to_vec());
        let since = format!("{}.{:09}", self.since.as_second(), self.since.subsec_nanosecond());
        EventsOptionsBuilder::default().since(&since).filters(&filters).build()
    }

    fn passed(&mut self, nanos: i64) {
        if let Ok(at) = Timestamp::from_nanosecond(i128::from(nanos) + 1) {
            self.since = self.since.max(at);
        }
    }
}

/// Delivers until the stream ends or the receiver is gone.
async fn forward(
    mut stream: std::pin::Pin<&mut impl Stream<Item = Result<EventMessage, Error>>>,
    tx: &mpsc::Sender<RuntimeEvent>,
    resume: &mut Resume,
) -> Result<(), Error> {
    let mut dropped = false;
    loop {
        // Cancel-safe: a stream keeps what it has not yielded, a permit not taken costs nothing.
        let message = tokio::select! {
            () = tx.closed() => return Ok(()),
            permit = tx.reserve(), if dropped => {
                if let Ok(permit) = permit {
                    permit.send(RuntimeEvent::Gap);
                    dropped = false;
                }
                continue;
            }
            message = stream.next() => message,
        };
        let Some(message) = message.transpose()? else { return Ok(()) };
        if let Some(nanos) = message.time_nano {
            resume.passed(nanos);
        }
        if dropped {
            continue;
        }
        if let Some(event) = decode(message) {
            dropped = matches!(tx.try_send(event), Err(mpsc::error::TrySendError::Full(_)));
        }
    }
}

fn decode(message: EventMessage) -> Option<RuntimeEvent> {
    let actor = message.actor?;
    let pod_uid = actor.attributes?.remove(labels::POD_UID)?;
    Some(RuntimeEvent::Changed { pod_uid, id: ContainerId(actor.id?) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::EventActor;
    use futures_util::stream;

    use super::*;

    fn message(uid: &str, id: &str, nanos: i64) -> EventMessage {
        let attributes = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let actor = EventActor { id: Some(id.into()), attributes: Some(attributes) };
        EventMessage { actor: Some(actor), time_nano: Some(nanos), ..Default::default() }
    }

    #[tokio::test]
    async fn events_without_room_become_one_gap() {
        let (tx, mut rx) = mpsc::channel(1);
        let mut resume = Resume { since: Timestamp::UNIX_EPOCH };
        let burst = (0..3).map(|i| Ok(message("u", &format!("c{i}"), i)));
        let stream = std::pin::pin!(stream::iter(burst).chain(stream::pending()));
        let forwarding = forward(stream, &tx, &mut resume);
        let reading = async {
            let first = rx.recv().await;
            let second = rx.recv().await;
            (first, second)
        };
        let (first, second) = tokio::select! {
            biased;
            _ = forwarding => panic!("the stream does not end"),
            got = reading => got,
        };
        assert_eq!(first, Some(RuntimeEvent::Changed { pod_uid: "u".into(), id: ContainerId("c0".into()) }));
        assert_eq!(second, Some(RuntimeEvent::Gap));
    }

    #[test]
    fn a_resumed_stream_starts_after_the_last_event() {
        let mut resume = Resume { since: Timestamp::UNIX_EPOCH };
        resume.passed(1_500_000_000);
        resume.passed(1_200_000_000);
        assert_eq!(resume.options(&Filters::new()).since.as_deref(), Some("1.500000001"));
    }

    #[test]
    fn an_event_without_a_pod_is_not_ours() {
        let mut foreign = message("u", "c", 0);
        foreign.actor.as_mut().unwrap().attributes = Some(HashMap::new());
        assert_eq!(decode(foreign), None);
    }
}
