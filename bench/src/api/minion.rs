//! The minion that all pods of the load are bound to: a Node, and beats, so that a master of ours
//! takes it for alive and leaves its pods alone. Other servers get neither.

use std::{future::Future, time::Duration};

use anyhow::{Result, ensure};

use super::{connection::Connection, pods::NODE, subject::Subject, wire};

const BEAT: Duration = Duration::from_secs(1);

/// A minion that only beats.
#[derive(Debug)]
pub(super) struct Minion {
    beats: Option<(Connection, Vec<u8>)>,
}

impl Minion {
    /// Creates its Node.
    pub(super) async fn join(subject: &Subject) -> Result<Self> {
        let (mut connection, headers) = (Connection::open(&subject.target).await?, subject.headers());
        let mut request = Vec::new();
        wire::request(&mut request, "GET", "/coracle/v1/cluster", &headers);
        if connection.exchange(&request).await?.status != 200 {
            return Ok(Self { beats: None });
        }
        let node = format!(r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"{NODE}"}}}}"#);
        request.clear();
        wire::request_with(&mut request, "POST", "/api/v1/nodes", &headers, "application/json", node.as_bytes());
        let status = connection.exchange(&request).await?.status;
        ensure!(matches!(status, 201 | 409), "creating the Node {NODE}: {status}");
        request.clear();
        let (path, body) = (format!("/coracle/v1/nodes/{NODE}/heartbeat"), br#"{"ready":true,"reason":"Bench"}"#);
        wire::request_with(&mut request, "PUT", &path, &headers, "application/json", body);
        ensure!(connection.exchange(&request).await?.status == 200, "the master does not take beats");
        Ok(Self { beats: Some((connection, request)) })
    }

    /// Beats as long as `work` runs.
    pub(super) async fn alive_while<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some((mut connection, request)) = self.beats else { return work.await };
        let beating = async {
            loop {
                tokio::time::sleep(BEAT).await;
                connection.exchange(&request).await?;
            }
        };
        // Both are dropped whole.
        tokio::select! {
            result = work => result,
            failed = beating => failed,
        }
    }
}
