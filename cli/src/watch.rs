//! A watch on objects of any kind: one JSON line a change.
//!
//! Invariant: `version` is the last one seen, so that a broken watch goes on without a gap.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use coracle_api::{ApiError, client::ClientError, error::Reason};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::{
    json::text,
    session::{Session, protocol, query},
};

/// An object can be 1.5 MiB; a line is one object.
const LINE_BYTES_MAX: usize = 16 << 20;
/// A master that does not come back within this many tries, this far apart, is down.
const RECONNECTS_MAX: u32 = 20;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// How long a master may take to hear of a version that another one told.
const EARLY_MAX: Duration = Duration::from_secs(3);
/// The master sends a bookmark at least every 30 s; a connection silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// A running watch; opens itself again when the master ends it.
pub(crate) struct Watch {
    session: Session,
    path: String,
    labels: String,
    fields: String,
    version: String,
    body: Option<Incoming>,
    buffer: BytesMut,
    reconnects: u32,
    /// Since when the masters have not heard of `version`.
    early: Option<Instant>,
}

impl Watch {
    /// Watches a collection for changes after a version. Connects on the first [`Self::next`].
    pub(crate) fn new(session: &Session, path: &str, labels: &str, fields: &str, version: &str) -> Self {
        Self {
            session: session.clone(),
            path: path.to_owned(),
            labels: labels.to_owned(),
            fields: fields.to_owned(),
            version: version.to_owned(),
            body: None,
            buffer: BytesMut::new(),
            reconnects: 0,
            early: None,
        }
    }

    /// The next change. Fails on Expired (list again), and when the master stays away.
    /// Cancel-safe: bytes read so far stay in the buffer.
    pub(crate) async fn next(&mut self) -> Result<(Change, Value), ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if let Some(change) = self.take_line(&line)? {
                    return Ok(change);
                }
                continue;
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(protocol(&self.path, "a line exceeds 16 MiB"));
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), ClientError> {
        let Some(body) = &mut self.body else { return self.connect().await };
        match tokio::time::timeout(SILENCE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                    self.reconnects = 0;
                }
            }
            Ok(Some(Err(_)) | None) | Err(_) => self.close(),
        }
        Ok(())
    }

    fn close(&mut self) {
        self.body = None;
        self.buffer.clear();
    }

    /// Whether to ask again; else the version is one that this cluster does not have (any more).
    fn wait_for_version(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.reconnects = self.reconnects.max(1);
        let since = *self.early.get_or_insert_with(Instant::now);
        if since.elapsed() < EARLY_MAX {
            return Ok(());
        }
        Err(ApiError::new(Reason::Expired, error.to_string()).into())
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        if self.reconnects > 0 {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        self.reconnects += 1;
        let path = format!(
            "{}{}",
            self.path,
            query(&[
                ("labelSelector", &self.labels),
                ("fieldSelector", &self.fields),
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("resourceVersion", &self.version),
            ])
        );
        match self.session.open(Method::GET, &path, None).await {
            Ok(response) => self.body = Some(response.into_body()),
            Err(e) if e.is_early() => self.wait_for_version(e)?,
            Err(e) if e.is_transient() && self.reconnects <= RECONNECTS_MAX => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<(Change, Value)>, ClientError> {
        if line.is_empty() {
            return Ok(None);
        }
        let mut event: Value = serde_json::from_slice(line).map_err(|e| protocol(&self.path, e))?;
        let object = event["object"].take();
        let change = match text(&event, "/type") {
            "ADDED" => Some(Change::Added),
            "MODIFIED" => Some(Change::Modified),
            "DELETED" => Some(Change::Deleted),
            "BOOKMARK" => None,
            "ERROR" => {
                let code = object["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
                let error = ClientError::from(ApiError::from_json(code, object.to_string().as_bytes()));
                if !error.is_early() {
                    return Err(error);
                }
                self.close();
                return self.wait_for_version(error).map(|()| None);
            }
            other => return Err(protocol(&self.path, format!("unknown event type '{other}'"))),
        };
        self.early = None;
        let version = text(&object, "/metadata/resourceVersion");
        if !version.is_empty() {
            self.version = version.to_owned();
        }
        Ok(change.map(|change| (change, object)))
    }
}
