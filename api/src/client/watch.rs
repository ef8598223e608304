//! A watch: one JSON object a line, decoded as it arrives.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ClientError, Received};
use crate::error::ApiError;

/// An object can be 1.5 MiB on etcd; a line is one object.
const LINE_BYTES_MAX: usize = 16 << 20;

/// One change.
#[derive(Debug, Clone)]
pub enum WatchEvent<T> {
    /// The object exists, or started to match the selectors.
    Added(T),
    /// The object changed.
    Modified(T),
    /// The object is gone, or stopped to match. Holds its last state.
    Deleted(T),
    /// Nothing changed up to this resourceVersion.
    Bookmark(String),
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct WatchStream<T> {
    body: Incoming,
    /// The index of the master that it is from.
    master: usize,
    buffer: BytesMut,
    marker: std::marker::PhantomData<fn() -> T>,
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl<T: Received> WatchStream<T> {
    pub(super) fn new(body: Incoming, master: usize) -> Self {
        Self { body, master, buffer: BytesMut::new(), marker: std::marker::PhantomData }
    }

    pub(super) fn master(&self) -> usize {
        self.master
    }

    /// The next change; `None` when the server ended the watch. An `ERROR` line becomes
    /// [`ClientError::Api`]: on [`crate::error::Reason::Expired`] list again. Cancel-safe: bytes
    /// read so far stay in the buffer.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<T>, ClientError>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if line.is_empty() {
                    continue;
                }
                return Some(decode_line(&line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Some(Err(ClientError::protocol("watch", "a line exceeds 16 MiB")));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Err(e) => return Some(Err(ClientError::protocol("watch", e))),
            }
        }
    }
}

fn decode_line<T: Received>(line: &[u8]) -> Result<WatchEvent<T>, ClientError> {
    let parsed: Line<'_> = serde_json::from_slice(line).map_err(|e| ClientError::protocol("watch", e))?;
    let json = parsed.object.get().as_bytes();
    Ok(match parsed.r#type {
        "ADDED" => WatchEvent::Added(T::receive(json)?),
        "MODIFIED" => WatchEvent::Modified(T::receive(json)?),
        "DELETED" => WatchEvent::Deleted(T::receive(json)?),
        "BOOKMARK" => {
            #[derive(Deserialize)]
            struct Marked {
                metadata: crate::meta::ObjectMeta,
            }
            let marked: Marked = serde_json::from_slice(json).map_err(|e| ClientError::protocol("watch", e))?;
            WatchEvent::Bookmark(marked.metadata.resource_version.unwrap_or_default())
        }
        "ERROR" => {
            #[derive(Deserialize)]
            struct Code {
                #[serde(default)]
                code: u16,
            }
            let code = serde_json::from_slice::<Code>(json).map_or(500, |c| c.code);
            return Err(ApiError::from_json(code, json).into());
        }
        other => return Err(ClientError::protocol("watch", format!("unknown event type {other}"))),
    })
}
