//! Replication controllers: as many pods of a template as asked for, no more, no fewer.
//!
//! Ownership: a pod belongs to the controller that its `controller` owner reference names. Pods
//! that match and belong to nobody are adopted, owned pods that no longer match are released, so
//! that controllers with overlapping selectors never fight over a pod.

use std::{sync::Arc, time::Duration};

use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    core::{Pod, ReplicationController, ReplicationControllerStatus},
    error::Reason,
    meta::{ObjectMeta, OwnerReference},
};
use futures_util::future::join_all;
use jiff::Timestamp;

use super::Controller;
use crate::{
    admission::namespace_is_ending,
    deletion::delete_pod,
    events::Recorder,
    registry::{Entry, Key, PodPhase, Registry, WatchItem},
};

/// Pods created or deleted in one round; the status write wakes the next one.
const BURST: usize = 500;
/// On a controller made through `v1beta1`, whose pods were named by a bare UUID in 2014.
const UUID_NAMES: &str = "io.coracle.v1beta1/uuid-names";

/// Keeps the replicas of every replication controller.
#[derive(Debug)]
pub(crate) struct ReplicationManager {
    pub(crate) registry: Registry,
    pub(crate) events: Recorder,
    pub(crate) plan: fn(i32, &[Replica]) -> Plan,
}

/// A pod as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its namespace and name.
    pub key: Key,
    /// Matches the selector.
    pub matches: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Neither over nor on its way out.
    pub active: bool,
    /// On its way out.
    pub terminating: bool,
    /// Has a node.
    pub bound: bool,
    /// How far it is.
    pub phase: PodPhase,
    /// Takes traffic.
    pub ready: bool,
    /// When it was created.
    pub created_at: Option<Timestamp>,
}

/// Whose pod it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The controller that plans.
    Us,
    /// No controller.
    Nobody,
    /// Another controller.
    Other,
}

/// What to do, and what to report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pods to take.
    pub adopt: Vec<Key>,
    /// Pods to let go.
    pub release: Vec<Key>,
    /// How many to create.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<Key>,
    /// How many there are.
    pub replicas: i32,
    /// How many of them take traffic.
    pub ready: i32,
}

/// Compares `replicas` with the pods. Surplus pods go in the order in which they are missed
/// least: unscheduled, pending, not ready, youngest, last name.
pub(crate) fn plan_replicas(replicas: i32, pods: &[Replica]) -> Plan {
    let mut plan = Plan::default();
    let mut ours: Vec<&Replica> = Vec::new();
    for pod in pods.iter().filter(|p| !p.terminating) {
        match (pod.owner, pod.matches) {
            (Owner::Us, false) => plan.release.push(pod.key.clone()),
            (Owner::Nobody, true) if pod.active => {
                plan.adopt.push(pod.key.clone());
                ours.push(pod);
            }
            (Owner::Us, true) if pod.active => ours.push(pod),
            _ => {}
        }
    }
    plan.replicas = i32::try_from(ours.len()).unwrap_or(i32::MAX);
    plan.ready = i32::try_from(ours.iter().filter(|p| p.ready).count()).unwrap_or(i32::MAX);
    let wanted = usize::try_from(replicas).unwrap_or_default();
    if let Some(surplus) = ours.len().checked_sub(wanted) {
        ours.sort_by_key(|p| {
            let youngest_first = std::cmp::Reverse(p.created_at);
            (p.bound, p.phase == PodPhase::Running, p.ready, youngest_first, std::cmp::Reverse(p.key.clone()))
        });
        plan.delete = ours[..surplus.min(BURST)].iter().map(|p| p.key.clone()).collect();
    } else {
        plan.create = (wanted - ours.len()).min(BURST);
    }
    plan
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
        let controllers = self.registry.snapshot(ReplicationController::row());
        let controllers = || controllers.range(Some(&item.entry.key.namespace));
        let owner = item.entry.pod().and_then(|p| p.owner.as_deref());
        if let Some(uid) = owner {
            return controllers().find(|rc| rc.uid() == uid).map(|rc| rc.key.clone()).into_iter().collect();
        }
        // Nobody's pod, also one that its controller left behind: whoever selects it may adopt it.
        let selects = |rc: &&Arc<Entry>| {
            let rc = rc.typed::<ReplicationController>();
            item.entry.selected_by(rc.and_then(|rc| rc.spec?.selector).as_ref())
        };
        controllers().filter(selects).map(|rc| rc.key.clone()).collect()
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Some(rc) = self.registry.get_typed::<ReplicationController>(&key.namespace, &key.name) else {
            return Ok(None);
        };
        if rc.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let wanted = rc.spec.as_ref().and_then(|s| s.replicas).unwrap_or_default();
        let mut plan = (self.plan)(wanted, &self.observe(&rc));
        if namespace_is_ending(&self.registry, &key.namespace) {
            plan.create = 0;
        }
        let results = join_all(plan.adopt.iter().map(|pod| self.set_owner(&rc, pod, true))).await;
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let results = join_all(plan.release.iter().map(|pod| self.set_owner(&rc, pod, false))).await;
        results.into_iter().collect::<Result<Vec<_>, _>>()?;
        let created = join_all((0..plan.create).map(|_| self.create_pod(&rc))).await;
        let deleted = join_all(plan.delete.iter().map(|pod| self.delete_pod(&rc, pod))).await;
        self.write_status(&rc, &plan).await?;
        match created.into_iter().chain(deleted).find_map(Result::err) {
            // The same template would fail again; a change of it wakes this controller.
            Some(error) if error.reason == Reason::Invalid => {
                self.events.warning(&rc, "FailedCreate", &format!("Error creating: {error}"));
                Ok(None)
            }
            Some(error) => Err(error),
            None => Ok(None),
        }
    }
}

impl ReplicationManager {
    fn observe(&self, rc: &ReplicationController) -> Vec<Replica> {
        let selector = rc.spec.as_ref().and_then(|s| s.selector.as_ref());
        let uid = rc.metadata.uid.as_deref().unwrap_or_default();
        self.registry
            .snapshot(Pod::row())
            .range(rc.metadata.namespace.as_deref())
            .filter_map(|entry| {
                let facts = entry.pod()?;
                let matches = entry.selected_by(selector);
                let owner = match facts.owner.as_deref() {
                    Some(owner) if owner == uid => Owner::Us,
                    None => Owner::Nobody,
                    // Also of one that was deleted: what becomes of its pods is the garbage controller's.
                    Some(_) => Owner::Other,
                };
                (matches || owner == Owner::Us).then(|| Replica {
                    key: entry.key.clone(),
                    matches,
                    owner,
                    active: facts.is_active(),
                    terminating: facts.terminating,
                    bound: facts.node.is_some(),
                    phase: facts.phase,
                    ready: facts.ready,
                    created_at: facts.created_at,
                })
            })
            .collect()
    }

    async fn create_pod(&self, rc: &ReplicationController) -> Result<(), ApiError> {
        let now = self.registry.now();
        let pod = new_pod(rc, self.registry.new_id(), now)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        self.registry.create(Box::new(pod)).await?;
        self.events.normal(rc, "SuccessfulCreate", &format!("Created pod: {name}"));
        Ok(())
    }

    async fn delete_pod(&self, rc: &ReplicationController, key: &Key) -> Result<(), ApiError> {
        delete_pod(&self.registry, &key.namespace, &key.name, None, self.registry.now()).await?;
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
            available_replicas: Some(plan.ready),
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

/// A pod of the template: `NAME-xxxxx`, or a bare UUID for a controller of 2014.
fn new_pod(rc: &ReplicationController, id: uuid::Uuid, now: Timestamp) -> Result<Pod, ApiError> {
    let template = rc.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let template_meta = template.metadata.unwrap_or_default();
    let rc_name = rc.metadata.name.as_deref().unwrap_or_default();
    let in_2014 = rc.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(UUID_NAMES));
    let name = if in_2014 { id.to_string() } else { format!("{}-{}", trim(rc_name), suffix(id)) };
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: (!in_2014).then(|| format!("{rc_name}-")),
            namespace: rc.metadata.namespace.clone(),
            labels: template_meta.labels,
            annotations: template_meta.annotations,
            finalizers: template_meta.finalizers,
            owner_references: Some(vec![owner_reference(rc)]),
            uid: Some(id.to_string()),
            creation_timestamp: Some(now.into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    };
    Object::prepare_create(&mut pod);
    Object::set_defaults(&mut pod);
    Object::validate(&pod)?;
    Ok(pod)
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
    use proptest::prelude::*;

    use super::*;

    fn replica() -> impl Strategy<Value = Replica> {
        let phase = prop_oneof![
            Just(PodPhase::Pending),
            Just(PodPhase::Running),
            Just(PodPhase::Succeeded),
            Just(PodPhase::Failed)
        ];
        let owner = prop_oneof![Just(Owner::Us), Just(Owner::Nobody), Just(Owner::Other)];
        (any::<u16>(), any::<bool>(), owner, any::<[bool; 3]>(), phase, 0i64..50).prop_map(
            |(id, matches, owner, [terminating, bound, ready], phase, created)| Replica {
                key: Key::new("n", &format!("p{id}")),
                matches,
                owner,
                active: !terminating && !phase.is_terminal(),
                terminating,
                bound,
                phase,
                ready,
                created_at: Timestamp::from_second(created).ok(),
            },
        )
    }

    fn world() -> impl Strategy<Value = Vec<Replica>> {
        prop::collection::vec(replica(), 0..30).prop_map(|mut pods| {
            pods.sort_by(|a, b| a.key.cmp(&b.key));
            pods.dedup_by(|a, b| a.key == b.key);
            pods
        })
    }

    /// Carries a plan out on the model.
    fn apply(plan: &Plan, pods: &mut Vec<Replica>) {
        pods.retain(|p| !plan.delete.contains(&p.key));
        for pod in pods.iter_mut() {
            if plan.adopt.contains(&pod.key) {
                pod.owner = Owner::Us;
            }
            if plan.release.contains(&pod.key) {
                pod.owner = Owner::Nobody;
            }
        }
        for i in 0..plan.create {
            pods.push(Replica {
                key: Key::new("n", &format!("new{i}")),
                matches: true,
                owner: Owner::Us,
                active: true,
                terminating: false,
                bound: false,
                phase: PodPhase::Pending,
                ready: false,
                created_at: None,
            });
        }
    }

    proptest! {
        #[test]
        fn one_round_reaches_the_count_and_the_next_does_nothing(replicas in 0i32..40, mut pods in world()) {
            let plan = plan_replicas(replicas, &pods);
            for key in &plan.delete {
                let pod = pods.iter().find(|p| p.key == *key).unwrap();
                prop_assert!(pod.matches && pod.active && pod.owner != Owner::Other, "only our own go");
            }
            prop_assert!(plan.create == 0 || plan.delete.is_empty(), "never both");
            apply(&plan, &mut pods);
            let ours = pods.iter().filter(|p| p.owner == Owner::Us && p.matches && p.active).count();
            prop_assert_eq!(ours, replicas as usize);
            let again = plan_replicas(replicas, &pods);
            prop_assert!(again.adopt.is_empty() && again.delete.is_empty() && again.create == 0, "{:?}", again);
            // A released pod that matches nothing of ours stays released.
            prop_assert!(again.release.is_empty());
        }

        #[test]
        fn victims_are_the_least_missed(replicas in 0i32..10, pods in world()) {
            let plan = plan_replicas(replicas, &pods);
            let of = |key: &Key| pods.iter().find(|p| p.key == *key).unwrap();
            let kept = pods.iter().filter(|p| p.matches && p.active && p.owner != Owner::Other)
                .filter(|p| !plan.delete.contains(&p.key));
            for kept in kept {
                for victim in &plan.delete {
                    prop_assert!(!(of(victim).ready && of(victim).bound && !kept.bound), "an unbound pod goes first");
                }
            }
        }
    }

    #[test]
    fn names_are_a_suffix_or_a_bare_uuid_for_2014() {
        let spec = serde_json::json!({"replicas": 1, "selector": {"a": "b"}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        let rc = serde_json::json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"}, "spec": spec});
        let mut rc: ReplicationController = serde_json::from_value(rc).unwrap();
        let id = uuid::Uuid::from_u128(7);
        let pod = new_pod(&rc, id, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-bbbbb"));
        rc.metadata.annotations = Some([(UUID_NAMES.into(), "true".into())].into());
        let pod = new_pod(&rc, id, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
    }
}
