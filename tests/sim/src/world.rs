//! The truth of a run, as the store and the engines have it, and the invariants that must hold in it at every
//! moment.
//!
//! * **No surplus**: when a pod of a replication controller is created, the controller's pods that are neither
//!   over nor on their way out, this one included, are no more than it was asked for within the last
//!   [`STALE`]. There is no allowed surge on top.
//! * **Nothing unasked**: a controller, service or pod that a user made appears, changes its size or goes only
//!   by an order of that user; and an order that was acknowledged has been carried out, one that was refused
//!   has not.
//! * **Bound once**: a pod, by its uid, gets one node in its life, one that exists and has room.
//! * **One place, no doubles**: containers of a pod are on the node that it was bound to and nowhere else, and
//!   no container runs twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coracle_api::{
    StringMap,
    core::{Endpoints, Node, Pod, ReplicationController, Service},
    objects::pod,
    quantity,
};
use tokio::time::Instant;

use crate::{note, trace::Trace};

/// How old the view of a loop may be: from a user's order to the last write that did not know of it.
pub const STALE: Duration = Duration::from_secs(5);

/// What a user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it exists.
    Create,
    /// That a controller has so many replicas.
    Resize(i32),
    /// That it goes.
    Delete,
}

/// What the user was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// It is not done and will not be.
    Refused,
    /// Nothing.
    Unknown,
}

#[derive(Debug, Clone)]
struct Order {
    key: String,
    wish: Wish,
    done: bool,
    /// Another order may have been the one that was done.
    shared: bool,
    closed: bool,
}

/// A pod as it is stored.
#[derive(Debug, Clone)]
pub struct PodState {
    /// Its uid.
    pub uid: String,
    /// The uid of its controller.
    pub owner: Option<String>,
    /// Where it is.
    pub node: Option<String>,
    /// On its way out.
    pub terminating: bool,
    /// Over.
    pub terminal: bool,
    /// Takes traffic.
    pub ready: bool,
    /// Marked as being on a lost node.
    pub lost: bool,
    /// Its address.
    pub ip: Option<String>,
    /// How many containers it is made of.
    pub containers: usize,
    /// What it needs.
    pub milli_cpu: i64,
    /// Its labels.
    pub labels: StringMap,
}

impl PodState {
    fn of(pod: &Pod) -> Self {
        let (meta, status) = (&pod.metadata, pod.status.as_ref());
        let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            owner: owner.map(|o| o.uid.clone()),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()),
            terminating: meta.deletion_timestamp.is_some(),
            terminal: pod::is_terminal(pod),
            ready: pod::is_ready(pod),
            lost: status.and_then(|s| s.reason.as_deref()) == Some("NodeLost"),
            ip: status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()),
            containers: pod.spec.as_ref().map_or(0, |s| s.containers.len()),
            milli_cpu: pod::requests(pod).milli_cpu,
            labels: meta.labels.clone().unwrap_or_default(),
        }
    }

    /// Neither over nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.terminating && !self.terminal
    }
}

/// A replication controller as it is stored.
#[derive(Debug, Clone)]
pub struct Controller {
    /// Its uid.
    pub uid: String,
    /// How many pods it wants.
    pub replicas: i32,
    /// On its way out.
    pub terminating: bool,
    /// It leaves its pods behind.
    pub orphans: bool,
    /// Its selector.
    pub selector: StringMap,
    /// What it says that it has: all, and ready ones.
    pub reports: (i32, i32),
}

/// A node as it is stored.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// Whether it can run pods, as far as the master knows.
    pub ready: bool,
    /// What it has.
    pub milli_cpu: i64,
}

/// All that is stored, by namespace and name.
#[derive(Debug, Default)]
pub struct State {
    /// Pods.
    pub pods: BTreeMap<String, PodState>,
    /// Replication controllers.
    pub controllers: BTreeMap<String, Controller>,
    /// Services and their selectors.
    pub services: BTreeMap<String, StringMap>,
    /// The pods' uids in endpoints: ready, and not.
    pub endpoints: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>,
    /// Nodes.
    pub nodes: BTreeMap<String, NodeState>,
    /// Namespaces, and whether they are on their way out.
    pub namespaces: BTreeMap<String, bool>,
    /// Pods, by uid, that go because their controller went and did not leave them behind.
    pub doomed: BTreeSet<String>,
    /// How many changes there were, events aside.
    pub changes: u64,
    /// Which node a pod was bound to, by its uid, for ever.
    homes: BTreeMap<String, String>,
    /// What each controller was asked for, by its uid, and when.
    asked: BTreeMap<String, Vec<(Instant, i32)>>,
    orders: Vec<Order>,
}

/// The truth. Cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    /// Where it tells what happens.
    pub trace: Trace,
    state: Arc<Mutex<State>>,
}

impl World {
    /// A world without objects.
    pub fn new(trace: Trace) -> Self {
        Self { trace, state: Arc::default() }
    }

    /// What is stored.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user asks for something.
    pub fn order(&self, key: &str, wish: Wish) -> usize {
        note!(self.trace, "user   {wish:?} {key}");
        let mut state = self.state();
        state.orders.push(Order { key: key.to_owned(), wish, done: false, shared: false, closed: false });
        state.orders.len() - 1
    }

    /// What the user was told of it.
    pub fn answered(&self, order: usize, told: Told) {
        let mut state = self.state();
        let Some(found) = state.orders.get(order).cloned() else { return };
        note!(self.trace, "user   was told {told:?}: {:?} {}", found.wish, found.key);
        let there = state.is_as_asked(&found);
        match told {
            Told::Done if !found.done && !there => {
                self.trace.violate(format!("{:?} of {} was acknowledged, and was not done", found.wish, found.key));
            }
            Told::Refused if found.done && !found.shared && found.wish != Wish::Delete => {
                self.trace.violate(format!("{:?} of {} was refused, and was done", found.wish, found.key));
            }
            _ => {}
        }
        if let (Some(order), true) = (state.orders.get_mut(order), told != Told::Unknown) {
            order.closed = true;
        }
    }

    /// Something was stored, or removed.
    pub fn changed(&self, key: &str, value: Option<&[u8]>, version: u64) {
        let Some((plural, name)) = key.split_once('/') else { return };
        if plural == "events" {
            return;
        }
        let mut state = self.state();
        state.changes += 1;
        let complaint = match plural {
            "pods" => state.pod_changed(&self.trace, key, name, value.and_then(parse::<Pod>), version),
            "replicationcontrollers" => {
                let now = value.and_then(parse::<ReplicationController>);
                state.controller_changed(&self.trace, key, name, now, version)
            }
            "services" => state.service_changed(&self.trace, key, name, value.and_then(parse::<Service>)),
            "endpoints" => {
                state.endpoints_changed(&self.trace, name, value.and_then(parse::<Endpoints>));
                None
            }
            "nodes" => {
                state.node_changed(&self.trace, name, value.and_then(parse::<Node>));
                None
            }
            "namespaces" => {
                let now = value.and_then(parse::<coracle_api::core::Namespace>);
                state.namespace_changed(&self.trace, key, name, now)
            }
            _ => None,
        };
        drop(state);
        if let Some(complaint) = complaint {
            self.trace.violate(complaint);
        }
    }

    /// Where a pod is to be, by its uid.
    pub fn home_of(&self, uid: &str) -> Option<String> {
        self.state().homes.get(uid).cloned()
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

impl State {
    /// Whether the state is what an order asked for, whoever made it so.
    fn is_as_asked(&self, order: &Order) -> bool {
        let Some((plural, name)) = order.key.split_once('/') else { return false };
        match (plural, order.wish) {
            ("pods", Wish::Delete) => self.pods.get(name).is_none_or(|pod| pod.terminating),
            ("services", Wish::Delete) => !self.services.contains_key(name),
            ("namespaces", Wish::Delete) => self.namespaces.get(name).is_none_or(|ending| *ending),
            (_, Wish::Delete) => self.controllers.get(name).is_none_or(|rc| rc.terminating),
            (_, Wish::Resize(n)) => self.controllers.get(name).is_some_and(|rc| rc.replicas == n),
            (_, Wish::Create) => false,
        }
    }

    /// Takes an order that explains a change; a complaint if there is none.
    fn explain(&mut self, key: &str, wish: Wish) -> Option<String> {
        let fits = |order: &&mut Order| order.key == key && order.wish == wish && !order.closed && !order.done;
        let namespace = key.split_once('/').and_then(|(_, name)| name.split_once('/')).map(|(namespace, _)| namespace);
        if wish == Wish::Delete && namespace.is_some_and(|ns| self.namespaces.get(ns) == Some(&true)) {
            return None;
        }
        let mut fitting: Vec<_> = self.orders.iter_mut().filter(fits).collect();
        let shared = fitting.len() > 1;
        fitting.iter_mut().for_each(|order| (order.done, order.shared) = (true, shared));
        fitting.is_empty().then(|| format!("{wish:?} of {key} happened, and nobody asked for it"))
    }

    fn pod_changed(&mut self, trace: &Trace, key: &str, name: &str, now: Option<Pod>, version: u64) -> Option<String> {
        let before = self.pods.get(name).cloned();
        let users = name.rsplit('/').next().is_some_and(|name| name.starts_with("bare-"));
        let Some(now) = now.as_ref().map(PodState::of) else {
            note!(trace, "store  {key} removed");
            self.pods.remove(name);
            let marked = before.is_some_and(|pod| pod.terminating);
            return if users && !marked { self.explain(key, Wish::Delete) } else { None };
        };
        note!(
            trace,
            "store  {key} {version} {} on {} {}{}{}{}",
            &now.uid[..now.uid.len().min(8)],
            now.node.as_deref().unwrap_or("-"),
            if now.ready { "ready " } else { "" },
            if now.terminating { "terminating " } else { "" },
            if now.terminal { "over " } else { "" },
            now.ip.as_deref().unwrap_or_default()
        );
        self.pods.insert(name.to_owned(), now.clone());
        let same = before.as_ref().filter(|before| before.uid == now.uid);
        let complaint = match (&before, same) {
            (None, _) if users => self.explain(key, Wish::Create),
            (Some(_), Some(same)) if users && now.terminating && !same.terminating => self.explain(key, Wish::Delete),
            (None, _) => self.check_surplus(&now),
            _ => None,
        };
        if complaint.is_some() {
            return complaint;
        }
        match (same.and_then(|same| same.node.clone()), now.node.clone()) {
            (Some(was), Some(is)) if was == is => None,
            (None, None) => None,
            (Some(was), is) => Some(format!("{key} was on {was} and is on {is:?} now")),
            (None, Some(node)) => {
                self.homes.insert(now.uid.clone(), node.clone());
                self.check_room(key, &node)
            }
        }
    }

    fn check_surplus(&self, pod: &PodState) -> Option<String> {
        let owner = pod.owner.as_deref()?;
        let active = self.pods.values().filter(|p| p.owner.as_deref() == Some(owner) && p.is_active()).count();
        let since = Instant::now().checked_sub(STALE);
        let history = self.asked.get(owner).map(Vec::as_slice).unwrap_or_default();
        let old = history.iter().rposition(|(at, _)| since.is_some_and(|since| *at <= since)).unwrap_or(0);
        let asked = history[old..].iter().map(|(_, n)| *n).max().unwrap_or(0);
        let too_many = active > usize::try_from(asked).unwrap_or(0);
        too_many.then(|| format!("a controller that was asked for {asked} pods has {active}"))
    }

    fn check_room(&self, key: &str, node: &str) -> Option<String> {
        let capacity = self.nodes.get(node)?.milli_cpu;
        let here = self.pods.values().filter(|p| p.node.as_deref() == Some(node) && !p.terminal);
        let used: i64 = here.map(|p| p.milli_cpu).sum();
        (used > capacity).then(|| format!("{key} was bound to {node}, which has {capacity}m and is asked for {used}m"))
    }

    fn controller_changed(
        &mut self,
        trace: &Trace,
        key: &str,
        name: &str,
        now: Option<ReplicationController>,
        version: u64,
    ) -> Option<String> {
        let before = self.controllers.get(name).cloned();
        let Some(now) = now else {
            note!(trace, "store  {key} removed");
            let before = self.controllers.remove(name)?;
            if !before.orphans {
                let own = self.pods.values().filter(|pod| pod.owner.as_ref() == Some(&before.uid));
                self.doomed.extend(own.map(|pod| pod.uid.clone()));
            }
            self.asked.entry(before.uid).or_default().push((Instant::now(), 0));
            return if before.terminating { None } else { self.explain(key, Wish::Delete) };
        };
        let (spec, status) = (now.spec.unwrap_or_default(), now.status.unwrap_or_default());
        let now = Controller {
            uid: now.metadata.uid.unwrap_or_default(),
            replicas: spec.replicas.unwrap_or_default(),
            terminating: now.metadata.deletion_timestamp.is_some(),
            orphans: now.metadata.finalizers.iter().flatten().any(|f| f == "orphan"),
            selector: spec.selector.unwrap_or_default(),
            reports: (status.replicas, status.ready_replicas.unwrap_or_default()),
        };
        note!(
            trace,
            "store  {key} {version} wants {} has {}/{} ready{}",
            now.replicas,
            now.reports.1,
            now.reports.0,
            if now.terminating { " terminating" } else { "" }
        );
        self.controllers.insert(name.to_owned(), now.clone());
        let same = before.as_ref().filter(|before| before.uid == now.uid);
        if same.is_none_or(|same| same.replicas != now.replicas) {
            self.asked.entry(now.uid.clone()).or_default().push((Instant::now(), now.replicas));
        }
        match same {
            None => self.explain(key, Wish::Create),
            Some(same) if same.replicas != now.replicas => self.explain(key, Wish::Resize(now.replicas)),
            Some(same) if !same.terminating && now.terminating => self.explain(key, Wish::Delete),
            Some(_) => None,
        }
    }

    fn service_changed(&mut self, trace: &Trace, key: &str, name: &str, now: Option<Service>) -> Option<String> {
        let users = name.rsplit('/').next().is_some_and(|name| name.starts_with("svc-"));
        let Some(now) = now else {
            note!(trace, "store  {key} removed");
            self.services.remove(name);
            return if users { self.explain(key, Wish::Delete) } else { None };
        };
        note!(trace, "store  {key} stored");
        let selector = now.spec.unwrap_or_default().selector.unwrap_or_default();
        let known = self.services.insert(name.to_owned(), selector).is_some();
        if users && !known { self.explain(key, Wish::Create) } else { None }
    }

    fn endpoints_changed(&mut self, trace: &Trace, name: &str, now: Option<Endpoints>) {
        let Some(now) = now else {
            note!(trace, "store  endpoints/{name} removed");
            self.endpoints.remove(name);
            return;
        };
        let (mut ready, mut unready) = (BTreeSet::new(), BTreeSet::new());
        for subset in now.subsets.iter().flatten() {
            let uids = |addresses: &Option<Vec<coracle_api::core::EndpointAddress>>| {
                let refs = addresses.iter().flatten().filter_map(|a| a.target_ref.as_ref()?.uid.clone());
                refs.collect::<Vec<_>>()
            };
            ready.extend(uids(&subset.addresses));
            unready.extend(uids(&subset.not_ready_addresses));
        }
        note!(trace, "store  endpoints/{name} {} ready {} not", ready.len(), unready.len());
        self.endpoints.insert(name.to_owned(), (ready, unready));
    }

    fn node_changed(&mut self, trace: &Trace, name: &str, now: Option<Node>) {
        let name = name.trim_start_matches('/');
        let Some(now) = now else {
            note!(trace, "store  nodes/{name} removed");
            self.nodes.remove(name);
            return;
        };
        let status = now.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let milli_cpu = status.allocatable.as_ref().and_then(|a| quantity::milli(a.get("cpu")?)).unwrap_or_default();
        if self.nodes.get(name).is_none_or(|known| known.ready != ready) {
            note!(trace, "store  nodes/{name} {}", if ready { "ready" } else { "not ready" });
        }
        self.nodes.insert(name.to_owned(), NodeState { ready, milli_cpu });
    }

    fn namespace_changed(
        &mut self,
        trace: &Trace,
        key: &str,
        name: &str,
        now: Option<coracle_api::core::Namespace>,
    ) -> Option<String> {
        let name = name.trim_start_matches('/');
        let Some(now) = now else {
            note!(trace, "store  namespaces/{name} removed");
            let ending = self.namespaces.remove(name);
            let left = self.pods.keys().chain(self.controllers.keys()).chain(self.services.keys());
            let left: Vec<_> = left.filter(|key| key.starts_with(&format!("{name}/"))).cloned().collect();
            return match (ending, left.is_empty()) {
                (Some(true), true) => None,
                (Some(true), false) => Some(format!("namespace {name} went before {left:?}")),
                _ => Some(format!("namespace {name} went, and nobody asked for it")),
            };
        };
        let ending = now.metadata.deletion_timestamp.is_some();
        let before = self.namespaces.insert(name.to_owned(), ending);
        if before != Some(ending) {
            note!(trace, "store  namespaces/{name} {}", if ending { "ending" } else { "stored" });
        }
        match before {
            None if name != "default" => self.explain(key, Wish::Create),
            Some(false) if ending => self.explain(key, Wish::Delete),
            _ => None,
        }
    }
}
