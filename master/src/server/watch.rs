//! Watches: a cursor of the registry, written out line by line.
//!
//! Each watch has a task of its own, and two frames of buffer. A reader that leaves them full for
//! too long is cut off; one that falls behind the registry's ring gets an `ERROR` line with 410.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::{ApiError, Kind, error::FieldErrors};
use tokio::sync::mpsc;

use super::{
    Shared,
    answer::{self, Response},
    list,
    query::Query,
    request::Permit,
    router::Target,
    table::Table,
    write,
};
use crate::registry::{Selection, WatchItem, Watcher};

/// Frames between the watch and the connection.
const FRAMES: usize = 2;
/// The longest watch; clients start another from where they are.
const WATCH_TIME_MAX: Duration = Duration::from_secs(3600);

/// How changes look in one API version.
pub(crate) trait Lines: Send + Sync + 'static {
    /// A change as one line.
    fn item(&self, item: &WatchItem) -> Bytes;
    /// The end of the stream as one line.
    fn error(&self, error: &ApiError) -> Bytes;
    /// "Nothing changed up to this version" as one line, if the version has that.
    fn bookmark(&self, version: u64) -> Option<Bytes>;
}

/// `v1`: the registry's own lines.
#[derive(Debug)]
struct Current {
    kind: &'static Kind,
    bookmarks: bool,
    /// Each object as a table of one row instead.
    table: Option<Table>,
}

impl Lines for Current {
    fn item(&self, item: &WatchItem) -> Bytes {
        match &self.table {
            None => item.line(),
            Some(table) => {
                let meta = format!("{{\"resourceVersion\":\"{}\"}}", item.entry.version);
                line(item.event.as_str(), &table.of(self.kind, std::slice::from_ref(&item.entry), &meta))
            }
        }
    }
    fn error(&self, error: &ApiError) -> Bytes {
        line("ERROR", &serde_json::to_vec(&error.to_status()).unwrap_or_default())
    }
    fn bookmark(&self, version: u64) -> Option<Bytes> {
        let object = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{version}\"}}}}",
            self.kind.kind
        );
        self.bookmarks.then(|| line("BOOKMARK", object.as_bytes()))
    }
}

/// `{"type":"...","object":...}` and a newline.
pub(crate) fn line(event: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + event.len() + 24);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(event.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}

/// Answers a `v1` watch.
pub(crate) fn watch(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    table: Option<Table>,
    permit: Permit,
) -> Result<Response, ApiError> {
    if query.flag("sendInitialEvents") {
        // Clients list and then watch when they get this answer.
        let mut errors = FieldErrors::default();
        errors.forbidden("sendInitialEvents", "not supported: list, then watch from the list's resourceVersion");
        return Err(ApiError::invalid("ListOptions", "", errors.into_vec()));
    }
    let selection = list::selection(target, query)?;
    let lines = Current { kind: target.kind, bookmarks: query.flag("allowWatchBookmarks"), table };
    let limit = query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(WATCH_TIME_MAX, Duration::from_secs);
    start(shared, target.kind, selection, from(query)?, limit, lines, permit)
}

/// Where to start: `None` for "now, with what is there first".
pub(crate) fn from(query: &Query) -> Result<Option<u64>, ApiError> {
    match query.get("resourceVersion") {
        None | Some("0") => Ok(None),
        Some(text) => write::parse_version(text).map(Some),
    }
}

/// Starts a watch and its task.
pub(crate) fn start(
    shared: &Arc<Shared>,
    kind: &'static Kind,
    selection: Selection,
    from: Option<u64>,
    limit: Duration,
    lines: impl Lines,
    permit: Permit,
) -> Result<Response, ApiError> {
    let watcher = shared.registry.watch(kind, selection, from)?;
    let (frames, mut body) = mpsc::channel::<Bytes>(FRAMES);
    let task = Task { shared: shared.clone(), watcher, lines, frames };
    shared.tasks.spawn(async move {
        let cut = task.run(limit.min(WATCH_TIME_MAX)).await;
        if cut == Ended::Stalled {
            tracing::debug!(kind = kind.kind, "a watcher left its data unread and was cut off");
        }
        drop(permit);
    });
    let parts = futures_util::stream::poll_fn(move |cx| body.poll_recv(cx).map(|part| part.map(Ok)));
    Ok(answer::stream("application/json", parts))
}

struct Task<L> {
    shared: Arc<Shared>,
    watcher: Watcher,
    lines: L,
    frames: mpsc::Sender<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The client went away, the time was up, or the server stops.
    Orderly,
    /// The client did not read.
    Stalled,
}

impl<L: Lines> Task<L> {
    async fn run(mut self, limit: Duration) -> Ended {
        let stop = self.shared.stop.clone();
        let deadline = tokio::time::sleep(limit);
        tokio::pin!(deadline);
        let mut bookmarks = tokio::time::interval(self.shared.limits.bookmark_time);
        bookmarks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        bookmarks.reset();
        loop {
            // Cancel-safe: a watcher's cursor moves only when `next` returns; the others hold nothing.
            let frame = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Orderly,
                () = self.frames.closed() => return Ended::Orderly,
                () = &mut deadline => return Ended::Orderly,
                items = self.watcher.next() => match items {
                    Ok(items) => self.frame(&items),
                    Err(error) => {
                        // The last word; whether it gets through is the client's matter.
                        drop(self.send(self.lines.error(&error)).await);
                        return Ended::Orderly;
                    }
                },
                _ = bookmarks.tick() => match self.lines.bookmark(self.watcher.advance()) {
                    Some(line) => line,
                    None => continue,
                },
            };
            if let Err(ended) = self.send(frame).await {
                return ended;
            }
        }
    }

    /// The lines of a batch: itself when there is one, which is nearly always, else copied together.
    fn frame(&self, items: &[WatchItem]) -> Bytes {
        if let [item] = items {
            return self.lines.item(item);
        }
        let lines: Vec<Bytes> = items.iter().map(|item| self.lines.item(item)).collect();
        lines.concat().into()
    }

    async fn send(&self, frame: Bytes) -> Result<(), Ended> {
        // Cancel-safe: a frame that is dropped with the task was never promised.
        let sent = self.shared.stop.run_until_cancelled(self.frames.send_timeout(frame, self.shared.limits.stall_time));
        match sent.await {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::error::SendTimeoutError::Timeout(_))) => Err(Ended::Stalled),
            Some(Err(mpsc::error::SendTimeoutError::Closed(_))) | None => Err(Ended::Orderly),
        }
    }
}
