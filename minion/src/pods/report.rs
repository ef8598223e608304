//! What the master is told about pods: statuses, events, the final delete.
//!
//! The trait is narrow so that workers run in tests without a server. Only this file talks to the
//! master about pods.

use std::{future::Future, sync::Arc, time::Duration};

pub use coracle_api::objects::event::EventType;
use coracle_api::{
    client::{Client, ClientError},
    core::{Event, Pod, PodStatus},
    meta::ObjectMeta,
    objects::event::{Repeats, Telling, record},
};
use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};

/// Events waiting to be posted; more are dropped: they are best effort.
const EVENTS_WAITING_MAX: usize = 512;
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long routine is not worth an event when the master has heard too many.
const QUIET: Duration = Duration::from_secs(10);

/// Why the master was not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The pod does not exist any more, or a namesake took its place: nothing to tell.
    #[error("the pod is gone")]
    Gone,
    /// Try again later.
    #[error("{0}")]
    Retry(String),
}

/// Something a user should be able to read about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// Routine or not.
    pub type_: EventType,
    /// One word: `Pulled`, `BackOff`.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// The container it is about.
    pub container: Option<String>,
}

impl PodEvent {
    /// A routine event.
    pub fn normal(reason: &'static str, container: Option<&str>, message: String) -> Self {
        Self { type_: EventType::Normal, reason, message, container: container.map(str::to_owned) }
    }

    /// An event that someone may want to act on.
    pub fn warning(reason: &'static str, container: Option<&str>, message: String) -> Self {
        Self { type_: EventType::Warning, reason, message, container: container.map(str::to_owned) }
    }
}

/// Tells the master about pods.
pub trait Report: Send + Sync + 'static {
    /// Replaces the pod's status.
    fn status(&self, pod: &Pod, status: &PodStatus) -> impl Future<Output = Result<(), ReportError>> + Send;

    /// Removes the pod object, all of its parts being gone. Guarded by the UID.
    fn delete(&self, pod: &Pod) -> impl Future<Output = Result<(), ReportError>> + Send;

    /// Records an event. Never blocks, may drop.
    fn event(&self, pod: &Pod, event: PodEvent, now: Timestamp);
}

/// Reports to a master over HTTP.
#[derive(Debug)]
pub struct ApiReporter {
    client: Client,
    node: Arc<str>,
    events: mpsc::Sender<Event>,
}

impl ApiReporter {
    /// A reporter for the minion called `node`. Spawns the task that posts events; it ends when
    /// the reporter is dropped.
    pub fn new(client: Client, node: &str) -> Self {
        let (events, queue) = mpsc::channel(EVENTS_WAITING_MAX);
        tokio::spawn(post_events(client.clone(), queue));
        Self { client, node: node.into(), events }
    }
}

impl Report for ApiReporter {
    async fn status(&self, pod: &Pod, status: &PodStatus) -> Result<(), ReportError> {
        let (namespace, name) = name_of(pod);
        // Without a resourceVersion: this minion is the status's only writer, so the latest wins.
        let update = Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            },
            spec: pod.spec.clone(),
            status: Some(status.clone()),
        };
        let call = async { self.client.namespaced::<Pod>(namespace).update_status(name, &update).await.map(drop) };
        limited(call).await
    }

    async fn delete(&self, pod: &Pod) -> Result<(), ReportError> {
        let (namespace, name) = name_of(pod);
        let api = self.client.namespaced::<Pod>(namespace);
        match limited(api.delete(name, Some(0), pod.metadata.uid.as_deref())).await {
            Err(ReportError::Gone) => Ok(()),
            other => other,
        }
    }

    fn event(&self, pod: &Pod, event: PodEvent, now: Timestamp) {
        if self.events.try_send(api_event(pod, event, &self.node, now)).is_err() {
            tracing::debug!(kind = "pod", name = name_of(pod).1, "dropped an event: too many are waiting");
        }
    }
}

/// Namespace and name.
pub(super) fn name_of(pod: &Pod) -> (&str, &str) {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default())
}

async fn limited(call: impl Future<Output = Result<(), ClientError>>) -> Result<(), ReportError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) if e.is_not_found() || e.is_conflict() => Err(ReportError::Gone),
        Ok(Err(e)) => Err(ReportError::Retry(e.to_string())),
        Err(_) => Err(ReportError::Retry(format!("the master did not answer within {} s", CALL_TIMEOUT.as_secs()))),
    }
}

async fn post_events(client: Client, mut queue: mpsc::Receiver<Event>) {
    let (mut group, mut repeats) = (Vec::new(), Repeats::default());
    let mut quiet_until = Instant::now();
    while queue.recv_many(&mut group, EVENTS_WAITING_MAX).await > 0 {
        for telling in repeats.gather(group.drain(..)) {
            let is_routine = telling.event().type_.as_deref() != Some(EventType::Warning.as_str());
            if is_routine && Instant::now() < quiet_until {
                continue;
            }
            match tokio::time::timeout(CALL_TIMEOUT, post_event(&client, &telling)).await {
                Ok(Err(e)) if e.is_too_many_requests() => quiet_until = Instant::now() + QUIET,
                Ok(Err(e)) if !e.is_already_exists() => {
                    tracing::debug!(kind = "event", error = %e, "an event was not recorded");
                }
                _ => {}
            }
        }
    }
}

async fn post_event(client: &Client, telling: &Telling) -> Result<(), ClientError> {
    let event = telling.event();
    let api = client.namespaced::<Event>(event.metadata.namespace.as_deref().unwrap_or_default());
    if matches!(telling, Telling::Again(_)) {
        match api.update(event.metadata.name.as_deref().unwrap_or_default(), event).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
    }
    api.create(event).await.map(drop)
}

fn api_event(pod: &Pod, event: PodEvent, node: &str, now: Timestamp) -> Event {
    let mut made = record(pod, event.type_, event.reason, &event.message, "minion", node, now);
    made.involved_object.field_path = event.container.map(|c| format!("spec.containers{{{c}}}"));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_container_it_is_about() {
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}}))
                .unwrap();
        let path = |container: Option<&str>| {
            let event = PodEvent::normal("Pulled", container, "x".into());
            api_event(&pod, event, "n1", Timestamp::UNIX_EPOCH).involved_object.field_path
        };
        assert_eq!(path(Some("web")).as_deref(), Some("spec.containers{web}"));
        assert_eq!(path(None), None);
    }
}
