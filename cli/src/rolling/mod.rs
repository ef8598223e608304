//! Rolling updates: the pods of a replication controller replaced one by one, each only when another
//! serves in its place.
//!
//! ```text
//!  template and record ──(one write, compare-and-set)──> controller
//!  loop: controller and pods as they are ──plan::next──> order one old pod to be replaced
//!        the master: makes one of the new template ─ ready for a while ─ deletes the old one
//! ```
//!
//! The master's part is [`coracle_api::objects::replacement`]: the order to replace a pod is an annotation
//! on it, and its controller keeps that the other pods make up for it. So the number of replicas
//! never changes, and nothing has to be put back: Ctrl-C or kill -9 at any instant leaves a controller
//! with pods of two templates, one of them being replaced perhaps. The same command goes on from there.
//! [`record`] is what makes a way back: the template before, in an annotation of the controller.
//!
//! What others do meanwhile: a resize is obeyed at once; another template (another update, a rollback,
//! an apply) or another controller of the name ends this one with a sentence; two of the same order
//! work on the same pod, as both choose by name.

mod plan;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coracle_api::{
    TypedObject,
    client::{ClientError, ListParams, object_path},
    core::{ContainerStatus, Event, Node, Pod, ReplicationController},
    objects::{
        pod,
        replacement::{REPLACE, Replace, made_of},
    },
};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

pub(crate) use record::Change;

use self::plan::{Obstacle, PodView, Step, View};
use crate::{
    diagnose::{Diagnosis, diagnose},
    eviction::{Which, evict, take_back},
    failure::{Failure, Outcome},
    follow::Pods,
    json::text,
    session::Session,
};

/// How long a new pod must have been ready before the next old one goes.
pub(crate) const MIN_READY: Duration = Duration::from_secs(2);
/// How long an update may stand still; the patience of 0.5.4.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);
/// Writes that met a concurrent change are tried again on the fresh object.
const CONFLICTS_MAX: u32 = 8;

/// An update as asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The replication controller.
    pub(crate) name: String,
    pub(crate) change: Change,
    pub(crate) min_ready: Duration,
    /// How long it may stand still.
    pub(crate) timeout: Duration,
    /// Pause between two pods.
    pub(crate) pause: Duration,
}

/// Carries out an update to its end, telling each step in a line.
pub(crate) async fn run(
    session: &Session,
    namespace: &str,
    order: &Order,
    tell: impl FnMut(&str) -> Outcome,
) -> Outcome {
    let mut update = Update::begin(session, namespace, order, tell).await?;
    update.run().await
}

struct Update<'a, T> {
    session: &'a Session,
    namespace: &'a str,
    order: &'a Order,
    tell: T,
    /// Of the controller.
    uid: String,
    /// Of the template that all pods are to have.
    hash: String,
    pods: Pods,
    /// The pod that is being replaced, and since when.
    replacing: Option<(PodView, Instant)>,
    /// Pods of the new template that were told of.
    told: BTreeSet<String>,
    /// Since when a container has been kept from running.
    obstacles: BTreeMap<(String, String), Instant>,
    /// What was seen last, and when that changed.
    seen: (View, Instant),
}

fn path(namespace: &str, name: &str) -> String {
    object_path(ReplicationController::row(), Some(namespace), Some(name), None)
}

impl<'a, T: FnMut(&str) -> Outcome> Update<'a, T> {
    /// Makes the controller's template the wanted one.
    async fn begin(session: &'a Session, namespace: &'a str, order: &'a Order, mut tell: T) -> Outcome<Self> {
        let name = &order.name;
        let path = path(namespace, name);
        let mut tries = 0;
        loop {
            let mut rc = session.get(&path).await?;
            let uid = text(&rc, "/metadata/uid").to_owned();
            let mut pods = Pods::new(session, Some(namespace), &selector(&rc), "");
            let listed = pods.list().await?;
            let hash = record::hash_of(&rc);
            let settled = listed.iter().filter(|p| is_ours(p, &uid)).all(|p| made_of(p) == Some(&hash));
            let before = record::image_of(&rc).to_owned();
            let changed = record::begin(&mut rc, &order.change, settled, &Timestamp::now().to_string())
                .map_err(Failure::Failed)?;
            if changed {
                match session.json(Method::PUT, &path, Some(&rc)).await {
                    Ok(stored) => rc = stored,
                    Err(e) if e.is_conflict() && tries < CONFLICTS_MAX => {
                        tries += 1;
                        continue;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            tell(&headline(name, &before, record::image_of(&rc), changed, settled, &order.change))?;
            let hash = record::hash_of(&rc);
            let view = view(&rc, &listed, &uid, &hash, |_| Duration::ZERO);
            let told = view.pods.iter().filter(|p| p.current).map(|p| p.uid.clone()).collect();
            let replacing = view.old().find(|p| p.replace.is_some()).map(|p| (p.clone(), Instant::now()));
            let seen = (view, Instant::now());
            return Ok(Self {
                session,
                namespace,
                order,
                tell,
                uid,
                hash,
                pods,
                replacing,
                told,
                obstacles: BTreeMap::new(),
                seen,
            });
        }
    }

    async fn run(&mut self) -> Outcome {
        let begun = Instant::now();
        let name = &self.order.name;
        loop {
            let (view, pods) = self.look().await?;
            self.tell_replaced(&view).await?;
            match plan::next(&view) {
                Step::Done => {
                    let (ready, seconds) = (view.ready_of_new(), begun.elapsed().as_secs_f64());
                    return (self.tell)(&format!("rc/{name}: {ready} of {} up to date, {seconds:.1} s", view.wanted));
                }
                Step::Broken(pod) => return Err(self.stopped(&view, Some(&pod), &pods).await),
                Step::Replace(pod) => self.replace(pod).await?,
                Step::TakeBack(pod) => take_back(self.session, self.which(&pod)).await?,
                Step::Wait if self.seen.1.elapsed() >= self.order.timeout => {
                    let late = view.pods.iter().find(|p| p.current && !p.ready).cloned();
                    return Err(self.stopped(&view, late.as_ref(), &pods).await);
                }
                Step::Wait => {}
            }
            self.pods.changed().await?;
        }
    }

    /// The controller and its pods, unless they are not this update's any more.
    async fn look(&mut self) -> Outcome<(View, Vec<Pod>)> {
        let name = &self.order.name;
        let failed = |why: &str| Failure::Failed(format!("rc/{name}: {why}"));
        let rc = self.session.get_opt(&path(self.namespace, name)).await?;
        let rc = rc.filter(|rc| text(rc, "/metadata/uid") == self.uid);
        let rc = rc.ok_or_else(|| failed("deleted meanwhile; the update ends here"))?;
        if record::hash_of(&rc) != self.hash {
            let why = "its template was changed meanwhile, by another update perhaps; this one ends here and leaves \
                       the pods to that";
            return Err(failed(why));
        }
        let pods = self.pods.list().await?;
        let now = Instant::now();
        let mut obstacles = BTreeMap::new();
        let before = &self.obstacles;
        let lasts = |key: (String, String)| {
            let since = before.get(&key).copied().unwrap_or(now);
            obstacles.insert(key, since);
            now.duration_since(since)
        };
        let view = view(&rc, &pods, &self.uid, &self.hash, lasts);
        self.obstacles = obstacles;
        // Time passes and statuses are written, and neither is progress.
        let mut timeless = view.clone();
        for pod in &mut timeless.pods {
            pod.version.clear();
            pod.obstacle.iter_mut().for_each(|o| o.lasts = Duration::ZERO);
        }
        if timeless != self.seen.0 {
            self.seen = (timeless, now);
        }
        Ok((view, pods))
    }

    /// Tells of the replacement that is done, and pauses if that was asked for.
    async fn tell_replaced(&mut self, view: &View) -> Outcome {
        let Some((old, since)) = &self.replacing else { return Ok(()) };
        if view.pods.iter().any(|p| p.uid == old.uid) {
            return Ok(());
        }
        let seconds = since.elapsed().as_secs_f64();
        let fresh = view.pods.iter().find(|p| p.current && !self.told.contains(&p.uid));
        let (done, wanted, old) = (view.pods.iter().filter(|p| p.current).count(), view.wanted, &old.name);
        let by = fresh.map_or_else(String::new, |p| format!(" is replaced by {} on {}", p.name, p.node));
        (self.tell)(&format!("{done}/{wanted} {old}{by}, {seconds:.1} s"))?;
        self.told.extend(fresh.map(|p| p.uid.clone()));
        self.replacing = None;
        if view.old().next().is_some() {
            tokio::time::sleep(self.order.pause).await;
        }
        Ok(())
    }

    /// Orders one pod to be replaced, if it is still the one that was seen.
    async fn replace(&mut self, pod: PodView) -> Outcome {
        let min_ready_ms = u32::try_from(self.order.min_ready.as_millis()).ok();
        let how = Replace { min_ready_ms, update: true, ..Replace::default() }.to_text();
        evict(self.session, self.which(&pod), Some((REPLACE, &how)), None).await?;
        self.replacing = Some((pod, Instant::now()));
        Ok(())
    }

    fn which<'p>(&'p self, pod: &'p PodView) -> Which<'p> {
        Which { namespace: self.namespace, name: &pod.name, uid: &pod.uid, version: Some(&pod.version) }
    }

    /// Why the update stops, and what goes on or back.
    async fn stopped(&self, view: &View, pod: Option<&PodView>, pods: &[Pod]) -> Failure {
        let name = &self.order.name;
        let why = match pod {
            Some(pod) => {
                let object = pods.iter().find(|p| p.metadata.uid.as_deref() == Some(&pod.uid));
                let reason = pod.obstacle.as_ref().map(|o| o.reason.as_str()).unwrap_or("it does not become ready");
                let told = match object {
                    // A cluster that does not answer now has told enough before.
                    Some(object) => self.diagnosis(object).await.ok().flatten(),
                    None => None,
                };
                let message = pod.obstacle.as_ref().map(|o| o.message.clone()).unwrap_or_default();
                let told = told.map_or(message, |d| format!("{} {}", d.cause, d.remedy));
                format!("pod {}: {reason}: {}", pod.name, told.trim())
            }
            None => format!("nothing changed for {} s", self.order.timeout.as_secs()),
        };
        let (ready, wanted, new) = (view.ready(), view.wanted, view.ready_of_new());
        let back = match self.order.change {
            Change::Rollback => format!("when that is mended, go on with: coracle rollingupdate {name} --rollback"),
            _ => format!(
                "go back with: coracle rollingupdate {name} --rollback; or, when that is mended, on with the same command"
            ),
        };
        Failure::Failed(format!(
            "rc/{name}: the update stopped, with {new} of {wanted} pods up to date. {why}\n\
             {ready} pods serve on. {back}"
        ))
    }

    async fn diagnosis(&self, pod: &Pod) -> Result<Option<Diagnosis>, ClientError> {
        let client = self.session.client();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let about = ListParams { fields: format!("involvedObject.name={name}"), ..ListParams::default() };
        let events = client.namespaced::<Event>(self.namespace).list(&about).await?.items;
        let nodes = client.all::<Node>().list(&ListParams::default()).await?.items;
        Ok(diagnose(pod, &events, &nodes, &[]))
    }
}

fn headline(name: &str, before: &str, image: &str, changed: bool, settled: bool, change: &Change) -> String {
    let what = match (change, changed, settled) {
        (Change::Rollback, true, _) => format!("back to image {image}"),
        (Change::Renew, true, _) => format!("new pods of image {image}"),
        (_, true, _) if image != before => format!("image {before} -> {image}"),
        (_, true, _) => format!("image {image}"),
        (_, false, true) => format!("image {image}, as asked before"),
        (_, false, false) => format!("image {image}, going on"),
    };
    format!("rc/{name}: {what}")
}

/// The controller's selector as text.
fn selector(rc: &Value) -> String {
    let pairs = rc["spec"]["selector"].as_object().into_iter().flatten();
    pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

/// A pod of the controller that is neither over nor on its way out.
fn is_ours(pod: &Pod, uid: &str) -> bool {
    let meta = &pod.metadata;
    let owned = meta.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == uid);
    owned && meta.deletion_timestamp.is_none() && !pod::is_terminal(pod)
}

/// What the plan looks at. `lasts` says how long a container of a pod has met an obstacle, by the uid of
/// the pod and the reason.
fn view(rc: &Value, pods: &[Pod], uid: &str, hash: &str, mut lasts: impl FnMut((String, String)) -> Duration) -> View {
    let wanted = rc["spec"]["replicas"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
    let pods = pods.iter().filter(|p| is_ours(p, uid)).map(|object| {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let obstacle = obstacle(object).map(|(reason, message)| {
            let lasts = lasts((uid.clone(), reason.clone()));
            Obstacle { reason, message, lasts }
        });
        PodView {
            name: object.metadata.name.clone().unwrap_or_default(),
            uid,
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            node: object.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
            current: made_of(object) == Some(hash),
            ready: pod::is_ready(object),
            replace: Replace::of(&object.metadata).map(|order| order.update),
            obstacle,
        }
    });
    View { wanted, pods: pods.collect() }
}

/// Why a container of the pod waits, unless it is on its way.
fn obstacle(pod: &Pod) -> Option<(String, String)> {
    const ON_THEIR_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
    let status = pod.status.as_ref()?;
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let waiting = |c: &ContainerStatus| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone().filter(|reason| !ON_THEIR_WAY.contains(&reason.as_str()))?;
        Some((reason, waiting.message.clone().unwrap_or_default()))
    };
    statuses.into_iter().flatten().flatten().find_map(waiting)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "annotations": {"io.coracle/template-hash": "new"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "rc",
                    "controller": true}]},
            "spec": {"nodeName": "h1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_view_is_of_the_controllers_own_living_pods() {
        let rc = json!({"spec": {"replicas": 3, "selector": {"b": "2", "a": "1"}}});
        assert_eq!(selector(&rc), "a=1,b=2");
        let waits = json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]);
        let pods = [
            pod("new", |_| {}),
            pod("old", |p| p["metadata"]["annotations"] = json!({"io.coracle/replace": "{\"update\":true}"})),
            pod("sick", |p| p["status"] = json!({"phase": "Pending", "containerStatuses": waits})),
            pod("gone", |p| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
            pod("over", |p| p["status"]["phase"] = "Failed".into()),
            pod("other", |p| p["metadata"]["ownerReferences"][0]["uid"] = "another".into()),
        ];
        let view = view(&rc, &pods, "rc", "new", |_| Duration::from_secs(3));
        let shown = |p: &PodView| (p.name.clone(), p.current, p.ready, p.replace, p.obstacle.is_some());
        assert_eq!(view.wanted, 3);
        assert_eq!(
            view.pods.iter().map(shown).collect::<Vec<_>>(),
            [
                ("new".into(), true, true, None, false),
                ("old".into(), false, true, Some(true), false),
                ("sick".into(), true, false, None, true),
            ]
        );
        assert_eq!(view.pods[2].obstacle.as_ref().map(|o| o.lasts), Some(Duration::from_secs(3)));
    }
}
