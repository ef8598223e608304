//! The state of a hollow engine: containers, images, listeners, faults.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    super::{Container, ContainerId, ContainerSpec, InfraSpec, RuntimeError, RuntimeEvent, State, labels},
    Call, Script,
};

/// What a network of 256 addresses has for pods, without its own, the gateway's and the broadcast's.
const ADDRESSES: u32 = 253;

/// A container and what it does.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) container: Arc<Container>,
    pub(super) script: Script,
    /// Counts its starts.
    pub(super) run: u64,
    name: String,
    ports: Vec<u16>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) containers: BTreeMap<ContainerId, Process>,
    /// The containers of each pod, by its UID.
    pods: HashMap<String, Vec<ContainerId>>,
    /// The names of all containers.
    names: HashSet<String>,
    /// The addresses of running pods.
    taken: BTreeSet<IpAddr>,
    /// Images that are not here, and whether a pull gets them.
    pub(super) missing: BTreeMap<String, bool>,
    pub(super) calls: BTreeMap<Call, u64>,
    /// How often a call is still to fail, and whether it does its work first.
    pub(super) faults: BTreeMap<Call, (u32, bool)>,
    pub(super) first_address: Option<Ipv4Addr>,
    /// Offset of the address that was given last.
    last_address: u32,
    listeners: Vec<Listener>,
    created: u64,
    unreachable: bool,
    losing: bool,
}

#[derive(Debug)]
struct Listener {
    sender: mpsc::Sender<RuntimeEvent>,
    /// It missed something and was not told yet.
    gap: bool,
}

impl World {
    pub(super) fn enter(&mut self, call: Call) -> Result<(), RuntimeError> {
        *self.calls.entry(call).or_default() += 1;
        if self.unreachable {
            return Err(RuntimeError::Unreachable { socket: "hollow".into(), cause: "Connection refused".into() });
        }
        match self.fault(call, false) {
            true => Err(RuntimeError::Refused(format!("{call:?} was made to fail"))),
            false => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, call: Call) -> Result<(), RuntimeError> {
        match self.fault(call, true) {
            true => Err(RuntimeError::Timeout { what: format!("{call:?}"), seconds: 0 }),
            false => Ok(()),
        }
    }

    fn fault(&mut self, call: Call, worked: bool) -> bool {
        match self.faults.get_mut(&call) {
            Some((times, after)) if *times > 0 && *after == worked => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    /// The containers of a pod.
    pub(super) fn pod(&self, uid: &str) -> Vec<Arc<Container>> {
        let ids = self.pods.get(uid).into_iter().flatten();
        ids.filter_map(|id| self.containers.get(id)).map(|p| Arc::clone(&p.container)).collect()
    }

    pub(super) fn running(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        match self.containers.get(id) {
            Some(p) if matches!(p.container.state, State::Running { .. }) => Ok(()),
            Some(_) => Err(RuntimeError::Refused(format!("container {id} is not running"))),
            None => Err(RuntimeError::NotFound(id.0.clone())),
        }
    }

    pub(super) fn create_infra(&mut self, spec: &InfraSpec, now: Timestamp) -> Result<ContainerId, RuntimeError> {
        let ports: Vec<_> = spec.ports.iter().map(|p| p.host_port).collect();
        // Most pods have no ports of the host.
        let others = self.containers.values().filter(|p| !ports.is_empty() && !p.ports.is_empty());
        let running = others.filter(|p| matches!(p.container.state, State::Running { .. }));
        if let Some(port) = running.flat_map(|p| &p.ports).find(|port| ports.contains(port)) {
            return Err(RuntimeError::PortTaken(port.to_string()));
        }
        let script = Script { lives: None, ..Script::default() };
        let id = self.insert(&spec.name, &spec.labels, "coracle-infra", script, now)?;
        if let Some(process) = self.containers.get_mut(&id) {
            process.ports = ports;
        }
        Ok(id)
    }

    pub(super) fn create(&mut self, spec: &ContainerSpec, now: Timestamp) -> Result<ContainerId, RuntimeError> {
        if self.missing.contains_key(&spec.image) {
            return Err(RuntimeError::NotFound(format!("image {}", spec.image)));
        }
        if let Some(infra) = &spec.infra {
            self.running(infra)?;
        }
        let script = Script::parse(spec.entrypoint.as_deref(), spec.cmd.as_deref());
        self.insert(&spec.name, &spec.labels, &spec.image, script, now)
    }

    fn insert(
        &mut self,
        name: &str,
        own: &BTreeMap<String, String>,
        image: &str,
        script: Script,
        now: Timestamp,
    ) -> Result<ContainerId, RuntimeError> {
        if !self.names.insert(name.to_owned()) {
            return Err(RuntimeError::NameTaken(name.to_owned()));
        }
        self.created += 1;
        let id = ContainerId(format!("{:064x}", self.created));
        let label = |key: &str| own.get(key).cloned().unwrap_or_default();
        let container = Container {
            id: id.clone(),
            pod_uid: label(labels::POD_UID),
            pod_name: label(labels::POD_NAME),
            pod_namespace: label(labels::POD_NAMESPACE),
            name: label(labels::CONTAINER),
            hash: label(labels::HASH),
            attempt: label(labels::ATTEMPT).parse().unwrap_or(0),
            image: image.to_owned(),
            image_id: format!("sha256:{image}"),
            created_at: now,
            state: State::Created,
            ip: None,
        };
        self.pods.entry(container.pod_uid.clone()).or_default().push(id.clone());
        let container = Arc::new(container);
        let process = Process { container, script, run: 0, name: name.to_owned(), ports: Vec::new() };
        self.containers.insert(id.clone(), process);
        self.announce(&id);
        Ok(id)
    }

    /// Starts a container. `None` if it runs already.
    pub(super) fn launch(&mut self, id: &ContainerId, now: Timestamp) -> Result<Option<(u64, Script)>, RuntimeError> {
        let infra = self.containers.get(id).is_some_and(|p| p.container.name == labels::INFRA);
        let address = if infra { self.free_address() } else { None };
        let process = self.containers.get_mut(id).ok_or_else(|| RuntimeError::NotFound(id.0.clone()))?;
        if matches!(process.container.state, State::Running { .. }) {
            return Ok(None);
        }
        if infra {
            let (offset, ip) = address.ok_or_else(|| RuntimeError::Refused("no address is free".into()))?;
            self.last_address = offset;
            self.taken.insert(ip);
            Arc::make_mut(&mut process.container).ip = Some(ip);
        }
        Arc::make_mut(&mut process.container).state = State::Running { started_at: now };
        process.run += 1;
        let started = (process.run, process.script.clone());
        self.announce(id);
        Ok(Some(started))
    }

    /// The next free address and its offset from the first. One that was given back is given again as
    /// late as can be.
    fn free_address(&self) -> Option<(u32, IpAddr)> {
        let first = u32::from(self.first_address.unwrap_or(Ipv4Addr::new(10, 244, 0, 2)));
        let offsets = (1..=ADDRESSES).map(|step| (self.last_address + step) % ADDRESSES);
        let mut all = offsets.map(|offset| (offset, IpAddr::V4(first.wrapping_add(offset).into())));
        all.find(|(_, ip)| !self.taken.contains(ip))
    }

    pub(super) fn exit(&mut self, id: &ContainerId, code: i32, now: Timestamp) {
        let Some(process) = self.containers.get_mut(id) else { return };
        let State::Running { started_at } = process.container.state else { return };
        let (oom_killed, error) = (false, String::new());
        let container = Arc::make_mut(&mut process.container);
        container.state = State::Exited { code, oom_killed, started_at, finished_at: now, error };
        if let Some(ip) = container.ip.take() {
            self.taken.remove(&ip);
        }
        self.announce(id);
    }

    pub(super) fn remove(&mut self, id: &ContainerId) {
        let Some(process) = self.containers.remove(id) else { return };
        let container = &process.container;
        self.names.remove(&process.name);
        if let Some(ip) = &container.ip {
            self.taken.remove(ip);
        }
        if let Some(others) = self.pods.get_mut(&container.pod_uid) {
            others.retain(|other| other != id);
            if others.is_empty() {
                self.pods.remove(&container.pod_uid);
            }
        }
        self.send(&RuntimeEvent::Changed { pod_uid: container.pod_uid.clone(), id: id.clone() });
    }

    fn announce(&mut self, id: &ContainerId) {
        let Some(process) = self.containers.get(id) else { return };
        let event = RuntimeEvent::Changed { pod_uid: process.container.pod_uid.clone(), id: id.clone() };
        self.send(&event);
    }

    pub(super) fn listen(&mut self, sender: mpsc::Sender<RuntimeEvent>) {
        let gap = sender.try_send(RuntimeEvent::Gap).is_err();
        self.listeners.push(Listener { sender, gap });
    }

    pub(super) fn set_reachable(&mut self, reachable: bool) {
        self.unreachable = !reachable;
        let event = if reachable { RuntimeEvent::Gap } else { RuntimeEvent::Unreachable("Connection refused".into()) };
        self.send(&event);
    }

    pub(super) fn lose_events(&mut self, lose: bool) {
        self.losing = lose;
        if !lose {
            self.send(&RuntimeEvent::Gap);
        }
    }

    fn send(&mut self, event: &RuntimeEvent) {
        if self.losing {
            return;
        }
        self.listeners.retain_mut(|listener| {
            if listener.gap && listener.sender.try_send(RuntimeEvent::Gap).is_ok() {
                listener.gap = false;
            }
            listener.gap |= listener.sender.try_send(event.clone()).is_err();
            !listener.sender.is_closed()
        });
    }
}
