//! The runtime on a Docker engine.
//!
//! * `engine`: the connection, and the limit on every call.
//! * `containers`, `images`, `exec`, `logs`: the calls, each with its translation.
//! * `events`: the event stream, resumed and without silent loss.
//! * `errors`: what the engine's refusals mean.
//!
//! How many starts are in flight is the caller's to bound: it knows which are urgent.
//!
//! Invariant: nothing is remembered here. Everything is asked of the engine, and only what carries
//! the labels of this cluster and node is seen or touched.

mod containers;
mod engine;
mod errors;
mod events;
mod exec;
mod images;
mod logs;

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Container, ContainerId, ContainerSpec, ExecOutcome, ExecQuery, ExecSession, Image, InfraSpec, LogQuery, Runtime,
    RuntimeError, RuntimeEvent, labels,
};
use crate::{conntrack, network::neighbours};
pub(crate) use containers::remove;
pub use engine::Engine;
pub(crate) use engine::api_number;

/// Engine filters: key to the values, one of which must match (labels: all of which).
type Filters = HashMap<String, Vec<String>>;

/// Whose containers these are and where they live.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The cluster's id.
    pub cluster: String,
    /// The minion's name.
    pub node: String,
    /// The Docker network of the cluster's pods on this host.
    pub network: String,
}

/// [`Runtime`] on a Docker engine.
#[derive(Debug)]
pub struct DockerRuntime {
    engine: Engine,
    config: DockerConfig,
}

impl DockerRuntime {
    /// A runtime on `engine`. Makes the infra image if it is missing.
    pub async fn new(engine: Engine, config: DockerConfig) -> Result<Self, RuntimeError> {
        images::ensure_infra(&engine).await?;
        Ok(Self { engine, config })
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn filters(&self, more: &[(&str, &str)]) -> Filters {
        let own = [(labels::CLUSTER, self.config.cluster.as_str()), (labels::NODE, self.config.node.as_str())];
        let labels = own.iter().chain(more).map(|(k, v)| format!("{k}={v}")).collect();
        HashMap::from([("label".to_owned(), labels)])
    }
}

impl Runtime for DockerRuntime {
    async fn list(&self) -> Result<Vec<Arc<Container>>, RuntimeError> {
        containers::list(&self.engine, self.filters(&[])).await
    }

    async fn list_pod(&self, pod_uid: &str) -> Result<Vec<Arc<Container>>, RuntimeError> {
        containers::list(&self.engine, self.filters(&[(labels::POD_UID, pod_uid)])).await
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        events::spawn(self.engine.clone(), self.filters(&[]))
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        images::present(&self.engine, image).await
    }

    async fn pull(&self, image: &str, progress: mpsc::Sender<String>) -> Result<(), RuntimeError> {
        images::pull(&self.engine, image, &progress).await
    }

    async fn run_infra(&self, spec: &InfraSpec) -> Result<ContainerId, RuntimeError> {
        let body = containers::infra_body(spec, &self.config.network);
        let id = match containers::create(&self.engine, &spec.name, body.clone()).await {
            // Someone removed the image under us: it costs nothing to make again.
            Err(RuntimeError::NotFound(what)) if what.starts_with("image") => {
                images::ensure_infra(&self.engine).await?;
                containers::create(&self.engine, &spec.name, body).await?
            }
            other => other?,
        };
        if let Err(error) = containers::start(&self.engine, &id).await {
            // Leave the name free for the next attempt. If this fails too, the next list shows it.
            if let Err(second) = containers::remove(&self.engine, &id).await {
                tracing::warn!(container = %id, error = %second, "an infra container that did not start was left");
            }
            return Err(error);
        }
        // It runs; whoever asks next hears if the engine does not answer any more.
        if !spec.host_network
            && let Ok(Some(pid)) = containers::pid(&self.engine, &id.0).await
        {
            neighbours::give_up_early_in(pid).await;
        }
        Ok(id)
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        containers::create(&self.engine, &spec.name, containers::container_body(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        containers::start(&self.engine, id).await
    }

    async fn settle(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            conntrack::forget_pod(ip).await;
        }
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        containers::stop(&self.engine, id, grace).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        containers::remove(&self.engine, id).await
    }

    async fn exec(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutcome, RuntimeError> {
        exec::run(&self.engine, id, command, timeout).await
    }

    async fn exec_session(&self, id: &ContainerId, query: &ExecQuery) -> Result<ExecSession, RuntimeError> {
        exec::session(&self.engine, id, query).await
    }

    async fn logs(&self, id: &ContainerId, query: &LogQuery) -> Result<mpsc::Receiver<Bytes>, RuntimeError> {
        logs::stream(&self.engine, id, query).await
    }
}
