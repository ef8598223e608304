//! Watches: a cursor of the registry, written out line by line.
//!
//! A watch has neither a task nor a buffer of its own: the connection asks for the next frame when
//! it has room for one. A reader that does not read costs a cursor, and when it comes back after
//! the registry's ring has moved past it, it gets an `ERROR` line with 410.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::{
    ApiError, Kind,
    error::{FieldErrors, Reason},
};
use tokio::time::{Instant, Interval};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

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
pub(crate) async fn watch(
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
    start(shared, target.kind, selection, from(query)?, limit, lines, permit).await
}

/// Where to start: `None` for "now, with what is there first".
pub(crate) fn from(query: &Query) -> Result<Option<u64>, ApiError> {
    match query.get("resourceVersion") {
        None | Some("0") => Ok(None),
        Some(text) => write::parse_version(text).map(Some),
    }
}

/// How long a watch from a version that another master told waits for this one to hear of it.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(3);

/// Starts a watch. It ends with its connection, at its limit, or when the server stops.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    kind: &'static Kind,
    selection: Selection,
    from: Option<u64>,
    limit: Duration,
    lines: impl Lines,
    permit: Permit,
) -> Result<Response, ApiError> {
    if let Some(version) = from {
        shared.registry.reached(version, CATCH_UP).await;
    }
    let watcher = match shared.registry.watch(kind, selection, from) {
        // Clients go on after the line, as in a watch that fell behind; an answer of 410 some take for a server that is
        // not well, and try again and again.
        Err(error) if error.reason == Reason::Expired => {
            let last = lines.error(&error);
            return Ok(answer::stream("application/json", futures_util::stream::once(async { Ok(last) })));
        }
        started => started?,
    };
    let period = shared.limits.bookmark_time;
    let mut bookmarks = tokio::time::interval_at(Instant::now() + period, period);
    bookmarks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let course = Course {
        watcher,
        lines,
        stop: shared.stop.clone(),
        deadline: Instant::now() + limit.min(WATCH_TIME_MAX),
        bookmarks,
        ended: false,
        _alive: (shared.tasks.token(), permit),
    };
    let frames = futures_util::stream::unfold(course, |mut course| async move {
        let frame = course.next().await?;
        Some((Ok(frame), course))
    });
    Ok(answer::stream("application/json", frames))
}

/// A watch under way.
struct Course<L> {
    watcher: Watcher,
    lines: L,
    stop: CancellationToken,
    deadline: Instant,
    bookmarks: Interval,
    /// The last word was said.
    ended: bool,
    /// Counts as long as it is there: for the server's drain, and among the open streams.
    _alive: (TaskTrackerToken, Permit),
}

impl<L: Lines> Course<L> {
    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            // Cancel-safe: a watcher's cursor moves only when `next` returns; the others hold nothing.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                items = self.watcher.next() => return Some(match items {
                    Ok(items) => self.frame(&items),
                    Err(error) => {
                        self.ended = true;
                        self.lines.error(&error)
                    }
                }),
                () = tokio::time::sleep_until(self.deadline) => return None,
                _ = self.bookmarks.tick() => {
                    if let Some(line) = self.lines.bookmark(self.watcher.advance()) {
                        return Some(line);
                    }
                }
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
}
