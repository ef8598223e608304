//! Events of the control loops: what was done to an object, and why. Best effort: a full queue or
//! a refused write loses an event, never a decision.

use coracle_api::{
    Object,
    objects::event::{self, EventType},
};
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{registry::Registry, source::Source};

const QUEUE: usize = 1024;
/// Events written at once.
const GROUP_MAX: usize = 64;

/// Posts events in the name of one component.
#[derive(Debug, Clone)]
pub struct Recorder {
    component: &'static str,
    source: Source,
    queue: mpsc::Sender<Box<dyn Object>>,
}

impl Recorder {
    /// A recorder that writes into the registry from a task of its own.
    pub fn start(registry: Registry, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let source = registry.source();
        let (queue, mut events) = mpsc::channel::<Box<dyn Object>>(QUEUE);
        tasks.spawn(async move {
            let mut group = Vec::new();
            // Cancel-safe: an event not yet received stays in the queue, and goes with it.
            while let Some(1..) = stop.run_until_cancelled(events.recv_many(&mut group, GROUP_MAX)).await {
                // Together, so that they share commits.
                for stored in join_all(group.drain(..).map(|event| registry.create(event))).await {
                    if let Err(error) = stored {
                        tracing::debug!(%error, "an event was not stored");
                    }
                }
            }
        });
        Self { component: "master", source, queue }
    }

    /// The same recorder for another component.
    pub fn component(&self, component: &'static str) -> Self {
        Self { component, ..self.clone() }
    }

    /// Something went as it should.
    pub fn normal(&self, regarding: &dyn Object, reason: &str, message: &str) {
        self.record(regarding, EventType::Normal, reason, message);
    }

    /// Something the user should look at.
    pub fn warning(&self, regarding: &dyn Object, reason: &str, message: &str) {
        self.record(regarding, EventType::Warning, reason, message);
    }

    fn record(&self, regarding: &dyn Object, type_: EventType, reason: &str, message: &str) {
        let now = self.source.now();
        let mut event = event::record(regarding, type_, reason, message, self.component, "", now);
        event.metadata.uid = Some(self.source.id().to_string());
        event.metadata.creation_timestamp = Some(now.into());
        drop(self.queue.try_send(Box::new(event)));
    }
}
