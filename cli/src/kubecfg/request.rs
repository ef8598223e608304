//! The `v1beta1` wire: `/api/v1beta1/RESOURCE[/ID]?namespace=...`, answers 200, 201 and 202.
//!
//! Invariant: every request carries its namespace, minions included, as the client of 2014 did.

use std::time::Duration;

use coracle_api::client::{ClientError, encode};
use http::Method;
use serde_json::Value;

use super::resource::{Resource, text};
use crate::session::{Session, protocol, query};

/// How often an operation that still works is asked about.
const POLL_PERIOD: Duration = Duration::from_secs(2);
/// Operations are given up after five minutes.
const POLLS_MAX: u32 = 150;
/// Writes that met a concurrent change are tried again on the fresh object.
const CONFLICTS_MAX: u32 = 8;

/// A master's `v1beta1` side, in one namespace.
pub(crate) struct Master {
    session: Session,
    namespace: String,
    verbose: bool,
}

/// A decoded answer and the bytes it came in.
pub(crate) struct Reply {
    pub(crate) object: Value,
    pub(crate) raw: String,
}

impl Master {
    pub(crate) fn new(session: Session, namespace: String, verbose: bool) -> Self {
        Self { session, namespace, verbose }
    }

    /// The connection, for what speaks `v1`.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Lists with selectors; both may be empty.
    pub(crate) async fn list(&self, resource: Resource, labels: &str, fields: &str) -> Result<Reply, ClientError> {
        let extra = [("labels", labels), ("fields", fields)];
        self.send(Method::GET, &self.path(resource, None, &extra), None).await
    }

    pub(crate) async fn get(&self, resource: Resource, id: &str) -> Result<Reply, ClientError> {
        self.send(Method::GET, &self.path(resource, Some(id), &[]), None).await
    }

    pub(crate) async fn create(&self, resource: Resource, body: &Value) -> Result<Reply, ClientError> {
        self.send(Method::POST, &self.path(resource, None, &[]), Some(body)).await
    }

    pub(crate) async fn put(&self, resource: Resource, id: &str, body: &Value) -> Result<Reply, ClientError> {
        self.send(Method::PUT, &self.path(resource, Some(id), &[]), Some(body)).await
    }

    pub(crate) async fn delete(&self, resource: Resource, id: &str) -> Result<Reply, ClientError> {
        self.send(Method::DELETE, &self.path(resource, Some(id), &[]), None).await
    }

    /// Reads, lets `change` edit, writes back; again on a conflict.
    pub(crate) async fn edit(
        &self,
        resource: Resource,
        id: &str,
        mut change: impl FnMut(&mut Value),
    ) -> Result<Reply, ClientError> {
        let mut tries = 0;
        loop {
            let mut object = self.get(resource, id).await?.object;
            change(&mut object);
            match self.put(resource, id, &object).await {
                Err(e) if e.is_conflict() && tries < CONFLICTS_MAX => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// Any path of the master, as text.
    pub(crate) async fn raw(&self, path: &str) -> Result<Reply, ClientError> {
        self.send(Method::GET, path, None).await
    }

    fn path(&self, resource: Resource, id: Option<&str>, extra: &[(&str, &str)]) -> String {
        let id = id.map(|id| format!("/{}", encode(id))).unwrap_or_default();
        let pairs: Vec<_> = [("namespace", self.namespace.as_str())].iter().chain(extra).copied().collect();
        format!("/api/v1beta1/{}{id}{}", resource.as_str(), query(&pairs))
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, ClientError> {
        if self.verbose {
            crate::output::note(&format!("{method} {}{path}", self.session.server()));
        }
        let (mut status, mut reply) = self.call(method, path, body).await?;
        for _ in 0..POLLS_MAX {
            if status != 202 {
                return Ok(reply);
            }
            let id = text(&reply.object, "/details/id").to_owned();
            super::glog::info(&format!("Waiting for completion of operation {id}"));
            tokio::time::sleep(POLL_PERIOD).await;
            (status, reply) = self.call(Method::GET, &format!("/api/v1beta1/operations/{}", encode(&id)), None).await?;
        }
        Err(protocol(path, "the operation did not complete within 5 minutes"))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Reply), ClientError> {
        let answer = self.session.call(method, path, body).await?;
        let raw = String::from_utf8_lossy(&answer.body).into_owned();
        let object: Value = serde_json::from_str(&raw).map_err(|e| protocol(path, e))?;
        Ok((answer.status, Reply { object, raw }))
    }
}
