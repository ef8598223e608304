//! Events of the control loops: what was done to an object, and why. Best effort: a full queue or
//! a refused write loses an event, never a decision.

use coracle_api::{
    ApiError, Object,
    core::Event,
    error::Reason,
    objects::event::{self, EventType, Repeats, Telling},
};
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::EventBudget,
    registry::{Expected, Registry},
    source::Source,
};

const QUEUE: usize = 1024;
/// Events written at once.
const GROUP_MAX: usize = 64;

/// Posts events in the name of one component.
#[derive(Debug, Clone)]
pub struct Recorder {
    component: &'static str,
    source: Source,
    queue: mpsc::Sender<Event>,
}

impl Recorder {
    /// A recorder that writes into the registry from a task of its own.
    pub fn start(registry: Registry, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let source = registry.source();
        let (queue, mut events) = mpsc::channel::<Event>(QUEUE);
        tasks.spawn(async move {
            let (mut group, mut repeats, budget) = (Vec::new(), Repeats::default(), EventBudget::default());
            // Cancel-safe: an event not yet received stays in the queue, and goes with it.
            while let Some(1..) = stop.run_until_cancelled(events.recv_many(&mut group, GROUP_MAX)).await {
                // Together, so that they share commits.
                let tellings = repeats.gather(group.drain(..));
                let tellings = tellings.into_iter().filter(|t| !matches!(t, Telling::New(e) if !budget.take(e)));
                for stored in join_all(tellings.map(|telling| tell(&registry, telling))).await {
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
        drop(self.queue.try_send(event));
    }
}

async fn tell(registry: &Registry, telling: Telling) -> Result<(), ApiError> {
    let event = match telling {
        Telling::New(event) => event,
        Telling::Again(event) => match registry.update(Box::new(event.clone()), Expected::Any).await {
            Err(error) if error.reason == Reason::NotFound => event,
            other => return other.map(drop),
        },
    };
    registry.create(Box::new(event)).await.map(drop)
}
