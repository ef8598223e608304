//! The engine of a host as one life of its minion sees it: the hollow engine, which survives, behind a gate.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_minion::runtime::{
    Container, ContainerId, ContainerSpec, ExecOutcome, ExecQuery, ExecSession, Image, InfraSpec, LogQuery, Runtime,
    RuntimeError, RuntimeEvent, hollow::Hollow,
};
use tokio::sync::mpsc;

use crate::gate::Gate;

/// See the module.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The engine itself.
    pub hollow: Hollow,
    /// The life of the minion.
    pub life: Gate,
}

impl Engine {
    async fn pass<T>(&self, call: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
        let over = || RuntimeError::Unreachable { socket: "hollow".into(), cause: "the minion is gone".into() };
        self.life.pass(call).await.unwrap_or_else(|| Err(over()))
    }
}

impl Runtime for Engine {
    async fn list(&self) -> Result<Vec<Arc<Container>>, RuntimeError> {
        self.pass(self.hollow.list()).await
    }

    async fn list_pod(&self, pod_uid: &str) -> Result<Vec<Arc<Container>>, RuntimeError> {
        self.pass(self.hollow.list_pod(pod_uid)).await
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        self.hollow.events()
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.pass(self.hollow.image(image)).await
    }

    async fn pull(&self, image: &str, progress: mpsc::Sender<String>) -> Result<(), RuntimeError> {
        self.pass(self.hollow.pull(image, progress)).await
    }

    async fn run_infra(&self, spec: &InfraSpec) -> Result<ContainerId, RuntimeError> {
        self.pass(self.hollow.run_infra(spec)).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        self.pass(self.hollow.create(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.pass(self.hollow.start(id)).await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.pass(self.hollow.stop(id, grace)).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.pass(self.hollow.remove(id)).await
    }

    async fn exec(&self, id: &ContainerId, command: &[String], limit: Duration) -> Result<ExecOutcome, RuntimeError> {
        self.pass(self.hollow.exec(id, command, limit)).await
    }

    async fn exec_session(&self, id: &ContainerId, query: &ExecQuery) -> Result<ExecSession, RuntimeError> {
        self.pass(self.hollow.exec_session(id, query)).await
    }

    async fn logs(&self, id: &ContainerId, query: &LogQuery) -> Result<mpsc::Receiver<Bytes>, RuntimeError> {
        self.pass(self.hollow.logs(id, query)).await
    }
}
