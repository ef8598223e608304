//! A container's log as a stream of bytes.
//!
//! The engine resolves `since` in whole seconds, so up to one second more than asked comes back.

use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{Engine, containers};
use crate::runtime::{ContainerId, LogQuery, RuntimeError};

/// Pieces on their way to a slow reader; the engine waits when it is full.
const QUEUE: usize = 16;

/// Starts the stream; it ends with the log, or when the receiver is dropped.
pub(super) async fn stream(
    engine: &Engine,
    id: &ContainerId,
    query: &LogQuery,
) -> Result<mpsc::Receiver<Bytes>, RuntimeError> {
    // The engine's answer comes with the first line, which may be long in coming.
    if containers::inspect(engine, &id.0).await?.is_none() {
        return Err(RuntimeError::NotFound(format!("container {id}")));
    }
    let mut log = engine.docker().logs(&id.0, Some(options(query))).boxed();
    let (tx, rx) = mpsc::channel(QUEUE);
    let id = id.clone();
    tokio::spawn(async move {
        loop {
            // Cancel-safe: on the first arm everything is dropped.
            let piece = tokio::select! {
                () = tx.closed() => return,
                piece = log.next() => piece,
            };
            match piece {
                Some(Ok(output)) => {
                    if tx.send(output.into_bytes()).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(container = %id, %error, "the log stream broke");
                    return;
                }
                None => return,
            }
        }
    });
    Ok(rx)
}

fn options(query: &LogQuery) -> LogsOptions {
    let since = query.since.map_or(0, |t| i32::try_from(t.as_second().max(0)).unwrap_or(i32::MAX));
    let tail = query.tail.map_or_else(|| "all".to_owned(), |n| n.to_string());
    LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(query.follow)
        .timestamps(query.timestamps)
        .since(since)
        .tail(&tail)
        .build()
}
