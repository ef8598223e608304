//! The containers of all pods on this node by name, for logs and exec.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use coracle_api::{client::Wire, core::Pod};

use super::{
    manager::{FindError, PodQuery},
    naming::uid_of,
    observation::{PodObservation, is_running},
    report::name_of,
    rest::Opened,
    restart,
};
use crate::runtime::ContainerId;

/// Shared by the workers, which keep it, and the node server, which asks it.
#[derive(Debug, Clone, Default)]
pub(super) struct Directory(Arc<Mutex<HashMap<String, Listed>>>);

#[derive(Debug, Clone)]
struct Listed {
    namespace: String,
    name: String,
    ending: bool,
    pod: Arc<Wire<Pod>>,
    observed: PodObservation,
}

impl Directory {
    fn pods(&self) -> MutexGuard<'_, HashMap<String, Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn list(&self, Opened { pod, wire }: &Opened, observed: &PodObservation) {
        let ending = pod.metadata.deletion_timestamp.is_some();
        match self.pods().entry(uid_of(pod).to_owned()) {
            hash_map::Entry::Occupied(mut listed) => {
                let listed = listed.get_mut();
                (listed.ending, listed.pod) = (ending, Arc::clone(wire));
                listed.observed.clone_from(observed);
            }
            hash_map::Entry::Vacant(place) => {
                let (namespace, name) = name_of(pod);
                let (namespace, name) = (namespace.to_owned(), name.to_owned());
                place.insert(Listed { namespace, name, ending, pod: Arc::clone(wire), observed: observed.clone() });
            }
        }
    }

    /// The status of the pod has changed.
    pub(super) fn renew(&self, pod: &Arc<Wire<Pod>>) {
        if let Some(listed) = self.pods().get_mut(pod.uid()) {
            listed.pod = Arc::clone(pod);
        }
    }

    pub(super) fn forget(&self, uid: &str) {
        self.pods().remove(uid);
    }

    pub(super) fn find(&self, query: &PodQuery) -> Result<ContainerId, FindError> {
        let wanted = |(uid, l): &(&String, &Listed)| {
            (&l.namespace, &l.name) == (&query.namespace, &query.pod)
                && query.uid.as_ref().is_none_or(|wanted| wanted.is_empty() || wanted == *uid)
        };
        let pods = self.pods();
        // Of namesakes, the one that is not being deleted.
        let found = pods.iter().filter(wanted).min_by_key(|(_, l)| l.ending).map(|(_, l)| l);
        let Some((pod, observed)) = found.and_then(|l| Some((Opened::of(&l.pod)?.pod, &l.observed))) else {
            return Err(FindError::NotFound(format!("pod {}/{} is not on this node", query.namespace, query.pod)));
        };
        let name = container_name(&pod, query)?;
        let mut runs: Vec<_> = observed.all(name).filter(|c| c.state != crate::runtime::State::Created).collect();
        runs.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
        let bad = |text: String| Err(FindError::BadRequest(text));
        match (query.previous, runs.as_slice()) {
            (_, []) => bad(format!("container {name} of pod {} is waiting to start{}", query.pod, why(&pod, name))),
            (false, [newest, ..]) | (true, [_, newest, ..]) => Ok(newest.id.clone()),
            (true, [only]) if !is_running(only) => Ok(only.id.clone()),
            (true, [_]) => bad(format!("container {name} of pod {} has no previous run", query.pod)),
        }
    }
}

fn container_name<'a>(pod: &'a Pod, query: &PodQuery) -> Result<&'a str, FindError> {
    let names: Vec<&str> = pod.spec.iter().flat_map(restart::containers).map(|(_, c)| c.name.as_str()).collect();
    let main = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    match (query.container.as_str(), main) {
        ("", [only]) => Ok(&only.name),
        ("", _) => {
            let text = format!("pod {} has several containers, name one of: {}", query.pod, names.join(", "));
            Err(FindError::BadRequest(text))
        }
        (name, _) => names.iter().find(|n| **n == name).copied().ok_or_else(|| {
            let text = format!("pod {} has no container {name}, but: {}", query.pod, names.join(", "));
            FindError::BadRequest(text)
        }),
    }
}

/// Why a container waits, from the status last reported.
fn why(pod: &Pod, name: &str) -> String {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses));
    let waiting = statuses.flatten().find(|s| s.name == name).and_then(|s| s.state.as_ref()?.waiting.as_ref());
    let parts = waiting.map(|w| [w.reason.as_deref(), w.message.as_deref()]).unwrap_or_default();
    parts.into_iter().flatten().map(|text| format!(": {text}")).collect()
}
