//! Replication controllers: as many pods of a template as asked for, no more, no fewer.
//!
//! Ownership: a pod belongs to the controller that its `controller` owner reference names. Pods
//! that match and belong to nobody are adopted, owned pods that no longer match are released, so
//! that controllers with overlapping selectors never fight over a pod.
//!
//! A change of the template changes no pod. Each says of which template it was made, and may be
//! ordered to be replaced ([`coracle_api::objects::replacement`]); then another is made first.

pub(crate) mod plan;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use compact_str::CompactString;
use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    core::{Pod, ReplicationController, ReplicationControllerStatus},
    error::Reason,
    meta::{ObjectMeta, OwnerReference},
    objects::replacement::{TEMPLATE_HASH, template_hash},
};
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use self::plan::{Desired, Owner, Plan, Replica};
use super::{Controller, Looks};
use crate::{
    admission::namespace_is_ending,
    deletion::delete_pod,
    events::Recorder,
    registry::{Entry, Key, PodFacts, Registry, WatchItem},
};

/// On a controller made through `v1beta1`, whose pods were named by a bare UUID in 2014.
const UUID_NAMES: &str = "io.coracle.v1beta1/uuid-names";

/// Keeps the replicas of every replication controller.
#[derive(Debug)]
pub(crate) struct ReplicationManager {
    registry: Registry,
    events: Recorder,
    plan: fn(Desired, &[Replica]) -> Plan,
    ready_since: ReadySince,
}

/// Since when the pods of a controller have been ready, by this master's own clock, as far as it
/// matters: of controllers that wait for it. May be lost; then they wait once more.
#[derive(Debug, Default)]
struct ReadySince {
    controllers: Mutex<BTreeMap<Key, HashMap<CompactString, Seen>>>,
}

/// When a pod was first seen ready, and which time of getting ready that was.
type Seen = (Option<Timestamp>, Instant);

impl ReadySince {
    /// Of each pod (uid and facts) that is ready, how long it has been so.
    fn note<'a>(
        &self,
        controller: &Key,
        ready: impl Iterator<Item = (&'a str, &'a PodFacts)>,
        now: Instant,
    ) -> HashMap<CompactString, Duration> {
        let mut controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        let before = controllers.remove(controller).unwrap_or_default();
        let seen = |uid: &str, pod: &PodFacts| {
            let known = before.get(uid).filter(|(changed_at, _)| *changed_at == pod.ready_changed_at);
            known.copied().unwrap_or((pod.ready_changed_at, now))
        };
        let current: HashMap<CompactString, Seen> = ready.map(|(uid, pod)| (uid.into(), seen(uid, pod))).collect();
        let times = current.iter().map(|(uid, (_, at))| (uid.clone(), now.saturating_duration_since(*at))).collect();
        controllers.insert(controller.clone(), current);
        times
    }

    fn forget(&self, controller: &Key) {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner).remove(controller);
    }
}

impl Controller for ReplicationManager {
    fn watches(&self) -> &'static [&'static Kind] {
        static KINDS: [&Kind; 2] =
            [&coracle_api::objects::replication_controller::KIND, &coracle_api::objects::pod::KIND];
        &KINDS
    }

    fn wakes(&self, item: &WatchItem) -> Vec<Key> {
        if item.entry.kind == ReplicationController::row() {
            return vec![item.entry.key.clone()];
        }
        let namespace = &item.entry.key.namespace;
        if let Some(uid) = item.entry.pod().and_then(|p| p.owner.as_deref()) {
            let owner = item.entry.owners().iter().find(|owner| owner.uid == uid);
            let owner = owner.filter(|owner| owner.kind == Some(ReplicationController::row()));
            return owner.map(|owner| Key::new(namespace, &owner.name)).into_iter().collect();
        }
        let controllers = self.registry.snapshot(ReplicationController::row());
        // Nobody's pod, also one that its controller left behind: whoever selects it may adopt it.
        let selects = |rc: &&Arc<Entry>| {
            let rc = rc.kept::<ReplicationController>();
            item.entry.selected_by(rc.as_ref().and_then(|rc| rc.spec.as_ref()?.selector.as_ref()))
        };
        controllers.range(Some(namespace)).filter(selects).map(|rc| rc.key.clone()).collect()
    }

    async fn reconcile(&self, key: &Key, looks: &mut Looks) -> Result<Option<Duration>, ApiError> {
        let rc = self.registry.get_typed::<ReplicationController>(&key.namespace, &key.name);
        let Some(rc) = rc.filter(|rc| rc.metadata.deletion_timestamp.is_none()) else {
            self.ready_since.forget(key);
            return Ok(None);
        };
        let desired = desired(&rc);
        let mut plan = looks.time(|| (self.plan)(desired, &self.observe(key, &rc, desired, Instant::now())));
        if namespace_is_ending(&self.registry, &key.namespace) {
            plan.create = 0;
        }
        let results = join_all(plan.adopt.iter().map(|pod| self.set_owner(&rc, pod, true))).await;
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let results = join_all(plan.release.iter().map(|pod| self.set_owner(&rc, pod, false))).await;
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let created = self.create_pods(&rc, plan.create).await;
        let deleted = join_all(plan.delete.iter().map(|(pod, grace)| self.delete_pod(&rc, pod, *grace))).await;
        self.write_status(&rc, &plan).await?;
        match created.into_iter().chain(deleted).find_map(Result::err) {
            // The same template would fail again; a change of it wakes this controller.
            Some(error) if error.reason == Reason::Invalid => {
                self.events.warning(&rc, "FailedCreate", &format!("Error creating: {error}"));
                Ok(None)
            }
            Some(error) => Err(error),
            None => Ok(plan.recheck),
        }
    }
}

impl ReplicationManager {
    pub(crate) fn new(registry: Registry, events: Recorder, plan: fn(Desired, &[Replica]) -> Plan) -> Self {
        Self { registry, events, plan, ready_since: ReadySince::default() }
    }

    fn observe(&self, key: &Key, rc: &ReplicationController, desired: Desired, now: Instant) -> Vec<Replica> {
        let selector = rc.spec.as_ref().and_then(|s| s.selector.as_ref());
        let uid = rc.metadata.uid.as_deref().unwrap_or_default();
        let template = rc.spec.as_ref().and_then(|s| s.template.as_ref()).map(template_hash);
        // Pods of a controller that was deleted are not looked at: they are the garbage controller's.
        let owner = |pod: &PodFacts| match pod.owner.as_deref() {
            Some(_) => Owner::Us,
            None => Owner::Nobody,
        };
        let snapshot = self.registry.snapshot(Pod::row());
        let (ours, nobodys) = (snapshot.controlled(uid), snapshot.uncontrolled(&key.namespace));
        let concerned: Vec<(&Entry, &PodFacts)> = ours
            .chain(nobodys.filter(|entry| entry.selected_by(selector)))
            .filter_map(|entry| Some((&**entry, entry.pod()?)))
            .collect();
        let is_ready = |pod: &PodFacts| pod.ready && !pod.lost;
        let waits = !desired.min_ready.is_zero() || concerned.iter().any(|(_, pod)| pod.replace.is_some());
        let times = if waits {
            let ready = concerned.iter().filter(|(_, pod)| is_ready(pod)).map(|(entry, pod)| (entry.uid(), *pod));
            Some(self.ready_since.note(key, ready, now))
        } else {
            self.ready_since.forget(key);
            None
        };
        let ready_for = |uid: &str| times.as_ref().map_or(Some(Duration::MAX), |times| times.get(uid).copied());
        let replica = |(entry, pod): (&Entry, &PodFacts)| Replica {
            key: entry.key.clone(),
            matches: entry.selected_by(selector),
            owner: owner(pod),
            active: pod.is_active(),
            terminating: pod.terminating,
            bound: pod.node.is_some(),
            phase: pod.phase,
            ready_for: ready_for(entry.uid()).filter(|_| is_ready(pod)),
            replace: pod.replace,
            current: pod.template.as_deref() == template.as_deref(),
            created_at: pod.created_at,
        };
        concerned.into_iter().map(replica).collect()
    }

    async fn create_pods(&self, rc: &ReplicationController, count: usize) -> Vec<Result<(), ApiError>> {
        if count == 0 {
            return Vec::new();
        }
        match Prototype::of(rc) {
            Ok(prototype) => join_all((0..count).map(|_| self.create_pod(rc, &prototype))).await,
            Err(error) => vec![Err(error)],
        }
    }

    async fn create_pod(&self, rc: &ReplicationController, prototype: &Prototype) -> Result<(), ApiError> {
        let pod = prototype.pod(self.registry.new_id(), self.registry.now());
        let name = pod.metadata.name.clone().unwrap_or_default();
        self.registry.create(Box::new(pod)).await?;
        self.events.normal(rc, "SuccessfulCreate", &format!("Created pod: {name}"));
        Ok(())
    }

    async fn delete_pod(&self, rc: &ReplicationController, key: &Key, grace_s: Option<u32>) -> Result<(), ApiError> {
        let grace_s = grace_s.map(i64::from);
        delete_pod(&self.registry, &key.namespace, &key.name, grace_s, self.registry.now()).await?;
        self.events.normal(rc, "SuccessfulDelete", &format!("Deleted pod: {}", key.name));
        Ok(())
    }

    async fn set_owner(&self, rc: &ReplicationController, pod: &Key, ours: bool) -> Result<(), ApiError> {
        let change = |pod: &mut Pod| {
            // Looked at again in the very state of the pod that is written: a controller that is
            // leaving its pods behind must not take them back.
            if ours && !self.is_alive(rc) {
                return Ok(false);
            }
            let owners = pod.metadata.owner_references.get_or_insert_default();
            owners.retain(|o| o.controller != Some(true));
            if ours {
                owners.push(owner_reference(rc));
            }
            Ok(true)
        };
        self.registry.modify(&pod.namespace, &pod.name, change).await.map(drop)
    }

    fn is_alive(&self, rc: &ReplicationController) -> bool {
        let (namespace, name) = (rc.metadata.namespace.as_deref(), rc.metadata.name.as_deref());
        let now =
            self.registry.get(ReplicationController::row(), namespace.unwrap_or_default(), name.unwrap_or_default());
        now.is_some_and(|now| !now.is_ending() && Some(now.uid()) == rc.metadata.uid.as_deref())
    }

    async fn write_status(&self, rc: &ReplicationController, plan: &Plan) -> Result<(), ApiError> {
        let status = ReplicationControllerStatus {
            replicas: plan.replicas,
            fully_labeled_replicas: Some(plan.replicas),
            ready_replicas: Some(plan.ready),
            available_replicas: Some(plan.available),
            observed_generation: rc.metadata.generation,
            conditions: None,
        };
        let name = rc.metadata.name.as_deref().unwrap_or_default();
        let set = |rc: &mut ReplicationController| {
            let changed = rc.status.as_ref() != Some(&status);
            rc.status = Some(status.clone());
            Ok(changed)
        };
        self.registry.modify(rc.metadata.namespace.as_deref().unwrap_or_default(), name, set).await.map(drop)
    }
}

fn desired(rc: &ReplicationController) -> Desired {
    let spec = rc.spec.as_ref();
    let min_ready = spec.and_then(|s| s.min_ready_seconds).and_then(|s| u64::try_from(s).ok()).unwrap_or_default();
    Desired { replicas: spec.and_then(|s| s.replicas).unwrap_or_default(), min_ready: Duration::from_secs(min_ready) }
}

fn owner_reference(rc: &ReplicationController) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "ReplicationController".into(),
        name: rc.metadata.name.clone().unwrap_or_default(),
        uid: rc.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod of the template, complete and valid but for its name, uid and time of creation.
struct Prototype {
    pod: Pod,
    /// What names begin with; `None` for a controller of 2014, whose pods are named by a bare UUID.
    prefix: Option<String>,
}

impl Prototype {
    fn of(rc: &ReplicationController) -> Result<Self, ApiError> {
        let template = rc.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
        let hash = template_hash(&template);
        let template_meta = template.metadata.unwrap_or_default();
        let mut annotations = template_meta.annotations.unwrap_or_default();
        annotations.insert(TEMPLATE_HASH.into(), hash);
        let rc_name = rc.metadata.name.as_deref().unwrap_or_default();
        let in_2014 = rc.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(UUID_NAMES));
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: (!in_2014).then(|| format!("{rc_name}-")),
                namespace: rc.metadata.namespace.clone(),
                labels: template_meta.labels,
                annotations: Some(annotations),
                finalizers: template_meta.finalizers,
                owner_references: Some(vec![owner_reference(rc)]),
                generation: Some(1),
                ..Default::default()
            },
            spec: template.spec,
            status: None,
        };
        let mut prototype = Self { pod, prefix: (!in_2014).then(|| trim(rc_name).to_owned()) };
        Object::prepare_create(&mut prototype.pod);
        Object::set_defaults(&mut prototype.pod);
        // One is as good as the other: they differ in what is valid in each.
        Object::validate(&prototype.pod(uuid::Uuid::nil(), Timestamp::UNIX_EPOCH))?;
        Ok(prototype)
    }

    /// `NAME-xxxxx`, or a bare UUID for a controller of 2014.
    fn pod(&self, id: uuid::Uuid, now: Timestamp) -> Pod {
        let mut pod = self.pod.clone();
        let named = self.prefix.as_ref().map(|prefix| format!("{prefix}-{}", suffix(id)));
        let id = id.to_string();
        pod.metadata.name = Some(named.unwrap_or_else(|| id.clone()));
        pod.metadata.uid = Some(id);
        pod.metadata.creation_timestamp = Some(now.into());
        pod
    }
}

fn trim(name: &str) -> &str {
    // A pod's name and its suffix fit a DNS label, so that it can be the host name as well.
    name.get(..57).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// Five characters without vowels or look-alikes, as Kubernetes names replicas.
fn suffix(id: uuid::Uuid) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    id.as_bytes()[..5].iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_suffix_or_a_bare_uuid_for_2014() {
        let spec = serde_json::json!({"replicas": 1, "selector": {"a": "b"}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        let rc = serde_json::json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"}, "spec": spec});
        let mut rc: ReplicationController = serde_json::from_value(rc).unwrap();
        let id = uuid::Uuid::from_u128(7);
        let pod = Prototype::of(&rc).unwrap().pod(id, Timestamp::UNIX_EPOCH);
        assert_eq!(pod.metadata.name.as_deref(), Some("web-bbbbb"));
        rc.metadata.annotations = Some([(UUID_NAMES.into(), "true".into())].into());
        let pod = Prototype::of(&rc).unwrap().pod(id, Timestamp::UNIX_EPOCH);
        assert_eq!(pod.metadata.name.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
    }
}
