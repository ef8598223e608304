//! What the master is told about pods: statuses, events, the final delete.
//!
//! The trait is narrow so that workers run in tests without a server. Only this file talks to the
//! master about pods.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use coracle_api::objects::event::EventType;
use coracle_api::{
    client::{Client, ClientError},
    core::{Event, Pod, PodStatus},
    objects::event::{Repeats, Telling, record},
};
use jiff::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{sync::mpsc, time::Instant};

/// Events waiting to be posted; more are dropped: they are best effort.
const EVENTS_WAITING_MAX: usize = 512;
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long routine is not worth an event when the master has heard too many.
const QUIET: Duration = Duration::from_secs(30);

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

/// A pod's status, and its JSON, by which its echo is known.
#[derive(Debug)]
pub struct StatusText {
    status: Arc<PodStatus>,
    json: Box<RawValue>,
}

impl StatusText {
    /// Writes a status out.
    pub fn of(status: &Arc<PodStatus>) -> Self {
        // Of strings and numbers only, it always can be written out.
        Self { status: Arc::clone(status), json: to_raw_value(&**status).unwrap_or_default() }
    }

    /// The status.
    pub fn status(&self) -> &Arc<PodStatus> {
        &self.status
    }

    /// The same in JSON.
    pub fn json(&self) -> &str {
        self.json.get()
    }
}

/// Tells the master about pods.
pub trait Report: Send + Sync + 'static {
    /// Replaces the pod's status.
    fn status(&self, pod: &Pod, status: &StatusText) -> impl Future<Output = Result<(), ReportError>> + Send;

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
    events: mpsc::Sender<Box<Event>>,
    quiet: Arc<Quiet>,
}

/// Until when routine is not worth an event.
#[derive(Debug, Default)]
struct Quiet(Mutex<Option<Instant>>);

impl Quiet {
    fn is_now(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + QUIET);
    }
}

impl ApiReporter {
    /// A reporter for the minion called `node`. Spawns the task that posts events; it ends when
    /// the reporter is dropped.
    pub fn new(client: Client, node: &str) -> Self {
        let (events, queue) = mpsc::channel(EVENTS_WAITING_MAX);
        let quiet = Arc::new(Quiet::default());
        tokio::spawn(post_events(client.clone(), queue, quiet.clone()));
        Self { client, node: node.into(), events, quiet }
    }
}

impl ApiReporter {
    /// Makes a call about a pod. A conflict may be a namesake's UID or a race that the master lost: only
    /// the pod itself can tell, and one that is there still must be told again.
    async fn tell(&self, pod: &Pod, call: impl Future<Output = Result<(), ClientError>>) -> Result<(), ReportError> {
        let told = async {
            let conflict = match call.await {
                Err(e) if e.is_conflict() => e,
                other => return other.map_err(refused),
            };
            let (namespace, name) = name_of(pod);
            let stored = self.client.namespaced::<Pod>(namespace).get(name).await.map_err(refused)?;
            if stored.metadata.uid == pod.metadata.uid { Err(refused(conflict)) } else { Err(ReportError::Gone) }
        };
        let late = || ReportError::Retry(format!("the master did not answer within {} s", CALL_TIMEOUT.as_secs()));
        tokio::time::timeout(CALL_TIMEOUT, told).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Report for ApiReporter {
    async fn status(&self, pod: &Pod, status: &StatusText) -> Result<(), ReportError> {
        let (namespace, name) = name_of(pod);
        // Without a resourceVersion: this minion is the status's only writer, so the latest wins.
        let api = self.client.namespaced::<Pod>(namespace);
        self.tell(pod, api.write_status(name, pod.metadata.uid.as_deref(), &status.json)).await
    }

    async fn delete(&self, pod: &Pod) -> Result<(), ReportError> {
        let (namespace, name) = name_of(pod);
        let api = self.client.namespaced::<Pod>(namespace);
        match self.tell(pod, api.delete(name, Some(0), pod.metadata.uid.as_deref())).await {
            Err(ReportError::Gone) => Ok(()),
            other => other,
        }
    }

    fn event(&self, pod: &Pod, event: PodEvent, now: Timestamp) {
        if event.type_ == EventType::Normal && self.quiet.is_now() {
            return;
        }
        if self.events.try_send(Box::new(api_event(pod, event, &self.node, now))).is_err() {
            tracing::debug!(kind = "pod", name = name_of(pod).1, "dropped an event: too many are waiting");
        }
    }
}

/// Namespace and name.
pub(super) fn name_of(pod: &Pod) -> (&str, &str) {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default())
}

fn refused(error: ClientError) -> ReportError {
    if error.is_not_found() { ReportError::Gone } else { ReportError::Retry(error.to_string()) }
}

async fn post_events(client: Client, mut queue: mpsc::Receiver<Box<Event>>, quiet: Arc<Quiet>) {
    let (mut group, mut repeats) = (Vec::new(), Repeats::default());
    while queue.recv_many(&mut group, EVENTS_WAITING_MAX).await > 0 {
        for telling in repeats.gather(group.drain(..).map(|event| *event)) {
            let is_routine = telling.event().type_.as_deref() != Some(EventType::Warning.as_str());
            if is_routine && quiet.is_now() {
                continue;
            }
            match tokio::time::timeout(CALL_TIMEOUT, post_event(&client, &telling)).await {
                Ok(Err(e)) if e.is_too_many_requests() => quiet.begin(),
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
    use std::{convert::Infallible, io};

    use bytes::Bytes;
    use coracle_api::client::{Dial, Duplex};
    use futures_util::future::BoxFuture;
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use serde_json::json;

    use super::*;

    /// A master that has a pod with this UID and refuses every write as one that lost a race.
    #[derive(Debug, Clone, Copy)]
    struct Contended(Option<&'static str>);

    impl Dial for Contended {
        fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let stored = self.0;
            let failure = |reason: &str, code: u16| {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
                    "message": "no", "code": code});
                (code, status)
            };
            let service = service_fn(move |request: Request<Incoming>| async move {
                let (code, body) = match (request.method(), stored) {
                    (&Method::GET, Some(uid)) => (
                        200,
                        json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}, "spec": {"containers": []}}),
                    ),
                    (&Method::GET, None) => failure("NotFound", 404),
                    _ => failure("Conflict", 409),
                };
                let body = Full::new(Bytes::from(body.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
            Box::pin(async { Ok(Box::new(ours) as Box<dyn Duplex>) })
        }
    }

    #[tokio::test]
    async fn only_a_pod_that_is_not_there_any_more_is_gone() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u1"}})).unwrap();
        for (stored, gone) in [(Some("u1"), false), (Some("u2"), true), (None, true)] {
            let client = Client::with_dial("192.0.2.1", Arc::new(Contended(stored))).unwrap();
            let reporter = ApiReporter::new(client, "n1");
            let (told, deleted) =
                (reporter.status(&pod, &StatusText::of(&Arc::default())).await, reporter.delete(&pod).await);
            assert_eq!(told == Err(ReportError::Gone), gone, "{stored:?}: {told:?}");
            assert!(gone || matches!(told, Err(ReportError::Retry(_))), "{stored:?}: {told:?}");
            assert_eq!(deleted.is_ok(), gone, "{stored:?}: {deleted:?}");
        }
    }

    /// A master that keeps the bodies it is sent.
    #[derive(Debug, Clone, Default)]
    struct Keeping(Arc<Mutex<Vec<String>>>);

    impl Dial for Keeping {
        fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let kept = Arc::clone(&self.0);
            let service = service_fn(move |request: Request<Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    let line = format!("{} {} ", request.method(), request.uri().path());
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    kept.lock().unwrap().push(line + std::str::from_utf8(&body).unwrap());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("{}"))))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
            Box::pin(async { Ok(Box::new(ours) as Box<dyn Duplex>) })
        }
    }

    #[tokio::test]
    async fn a_status_says_of_which_pod_it_is_and_names_no_version() {
        let master = Keeping::default();
        let client = Client::with_dial("192.0.2.1", Arc::new(master.clone())).unwrap();
        let meta = json!({"name": "p", "namespace": "n", "uid": "u1", "resourceVersion": "7"});
        let pod: Pod = serde_json::from_value(json!({ "metadata": meta })).unwrap();
        let status = PodStatus { phase: Some("Running".into()), ..Default::default() };
        let told = ApiReporter::new(client, "n1").status(&pod, &StatusText::of(&Arc::new(status))).await;
        assert_eq!(told, Ok(()));
        let expected = "PUT /api/v1/namespaces/n/pods/p/status {\"apiVersion\":\"v1\",\"kind\":\"Pod\",\
            \"metadata\":{\"name\":\"p\",\"namespace\":\"n\",\"uid\":\"u1\"},\"status\":{\"phase\":\"Running\"}}";
        assert_eq!(*master.0.lock().unwrap(), [expected]);
    }

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
