//! The decision: what a rolling update does next. Pure: the state of the controller and its pods in,
//! one step out. It remembers nothing, so any state is one from which an update goes on.
//!
//! Invariants, with the controller's part of the work (`coracle_api::objects::replacement`): no fewer
//! pods are ready than are wanted, as long as none fails by itself; no more than one is there besides
//! the wanted ones.

use std::time::Duration;

/// For how long an obstacle that may go away by itself is looked at.
pub(super) const LASTING: Duration = Duration::from_secs(10);
/// These have been tried again in vain already, or will never work.
const FINAL: [&str; 4] = ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CrashLoopBackOff"];

/// A controller and its pods, those that are neither over nor on their way out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Replicas.
    pub(super) wanted: usize,
    pub(super) pods: Vec<PodView>,
}

/// A pod as the plan sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodView {
    pub(super) name: String,
    pub(super) uid: String,
    /// Of the object, as it was seen. A step holds for this version only: what changed may have been a
    /// reason to replace another pod, and somebody else may have done so.
    pub(super) version: String,
    pub(super) node: String,
    /// Made of the controller's template as it is now.
    pub(super) current: bool,
    pub(super) ready: bool,
    /// It is to be replaced, and whether an update said so.
    pub(super) replace: Option<bool>,
    /// Why a container of it does not run.
    pub(super) obstacle: Option<Obstacle>,
}

/// What keeps a container from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// One word: `CrashLoopBackOff`
    pub(super) reason: String,
    pub(super) message: String,
    /// How long it has been seen.
    pub(super) lasts: Duration,
}

impl Obstacle {
    fn is_final(&self) -> bool {
        FINAL.contains(&self.reason.as_str()) || self.lasts >= LASTING
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for a change.
    Wait,
    /// Have this pod replaced.
    Replace(PodView),
    /// The order to replace this pod is out of date: it is of the wanted template again.
    TakeBack(PodView),
    /// A pod of the new template will not run: stop, and touch nothing more.
    Broken(PodView),
    /// All pods are of the wanted template and ready.
    Done,
}

impl View {
    /// Pods that the controller's template did not make.
    pub(super) fn old(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(|p| !p.current)
    }

    /// Pods of the template that are ready.
    pub(super) fn ready_of_new(&self) -> usize {
        self.pods.iter().filter(|p| p.current && p.ready).count()
    }

    pub(super) fn ready(&self) -> usize {
        self.pods.iter().filter(|p| p.ready).count()
    }
}

/// Decides.
pub(super) fn next(view: &View) -> Step {
    // Before all else, also before what is broken: it stops the replacement of a pod that is to stay.
    if let Some(pod) = view.pods.iter().find(|p| p.current && p.replace == Some(true)) {
        return Step::TakeBack(pod.clone());
    }
    let fails = |p: &&PodView| p.current && !p.ready && p.obstacle.as_ref().is_some_and(Obstacle::is_final);
    if let Some(pod) = view.pods.iter().find(fails) {
        return Step::Broken(pod.clone());
    }
    if view.pods.iter().any(|p| p.current && !p.ready) {
        return Step::Wait;
    }
    // Whoever else updates the same takes the same one.
    let first = |ready: bool| view.old().filter(|p| p.ready == ready && p.replace.is_none()).min_by_key(|p| &p.name);
    // One that serves nobody, such as what an update before left behind, may be all that the replacement of
    // another waits for. One at a time, too: it may serve again.
    if let Some(pod) = first(false) {
        return Step::Replace(pod.clone());
    }
    if view.pods.len() != view.wanted || view.pods.iter().any(|p| p.replace.is_some()) {
        return Step::Wait;
    }
    match first(true) {
        Some(pod) => Step::Replace(pod.clone()),
        None => Step::Done,
    }
}

#[cfg(test)]
mod tests;
