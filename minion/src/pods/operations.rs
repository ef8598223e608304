//! The actions of a plan, and what their outcomes mean for the pod's memory.

use std::time::Duration;

use jiff::Timestamp;

use super::memory::{Failure, HookState, ImageMemory, InFlight, PodMemory, Slot, StopReason};
use crate::runtime::ContainerId;

/// One step. Plain data; repeating or losing one is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set up the pod's volumes.
    MountVolumes,
    /// Make the image available.
    EnsureImage {
        /// Its reference.
        image: String,
        /// When to fetch it.
        pull: Pull,
    },
    /// Create and start the infra container.
    RunInfra {
        /// Its number.
        attempt: u32,
    },
    /// Create and start a container.
    Start {
        /// Its name in the pod.
        container: String,
        /// Its number.
        attempt: u32,
        /// The infra container to join.
        infra: ContainerId,
    },
    /// Run a container's postStart hook.
    RunHook {
        /// Its name in the pod.
        container: String,
        /// Engine id.
        id: ContainerId,
    },
    /// preStop hook, SIGTERM, and SIGKILL after `grace` in all.
    Stop {
        /// Its name in the pod.
        container: String,
        /// Engine id.
        id: ContainerId,
        /// From now to SIGKILL.
        grace: Duration,
        /// Why.
        reason: StopReason,
    },
    /// Remove a container in any state.
    Remove {
        /// Engine id.
        id: ContainerId,
    },
    /// Remove the pod's volumes, once its containers are gone.
    RemoveVolumes,
    /// Remove the pod object, once all else is gone.
    FinalDelete,
    /// Tell an operation under way to give up.
    Cancel(Slot),
}

/// When to fetch an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Fetch it even if it is here; what is here will do if that fails.
    Always,
    /// Fetch it if it is not here.
    IfMissing,
    /// Only look whether it is here by now; a pull is not due yet.
    Look,
    /// Only look: the pod forbids to pull.
    Never,
}

impl Action {
    /// What it works on; `None` for orders to the worker itself.
    pub fn slot(&self) -> Option<Slot> {
        Some(match self {
            Action::MountVolumes | Action::RemoveVolumes => Slot::Volumes,
            Action::EnsureImage { image, .. } => Slot::Image(image.clone()),
            Action::RunInfra { .. } => Slot::Infra,
            Action::Start { container, .. } => Slot::Start(container.clone()),
            Action::RunHook { id, .. } => Slot::Hook(id.clone()),
            Action::Stop { id, .. } => Slot::Stop(id.clone()),
            Action::Remove { id } => Slot::Remove(id.clone()),
            Action::FinalDelete => Slot::Delete,
            Action::Cancel(_) => return None,
        })
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; what a container does now is for the engine to say.
    Done,
    /// The volumes are set up.
    VolumesReady,
    /// The volumes are gone.
    VolumesRemoved,
    /// The image is here.
    ImageReady,
    /// The image is not here, and could not be fetched unless `looked` only.
    ImageMissing {
        /// `ErrImagePull`, `ErrImageNeverPull`
        reason: &'static str,
        /// Names the image and the remedy.
        message: String,
        /// No pull was tried.
        looked: bool,
    },
    /// A container runs.
    Started {
        /// Its engine id.
        id: ContainerId,
        /// It has a postStart hook.
        hook: bool,
    },
    /// The engine lost the image since it was seen.
    ImageLost {
        /// Its reference.
        image: String,
    },
    /// The hook failed.
    HookFailed(String),
    /// The pod object is deleted.
    Deleted,
    /// It gave up as told.
    Cancelled,
    /// Not done: try again later.
    Failed {
        /// One word for the status.
        reason: &'static str,
        /// A sentence with subject and remedy.
        message: String,
    },
}

impl PodMemory {
    /// Notes that an action is under way.
    pub fn begin(&mut self, action: &Action) {
        let Some(slot) = action.slot() else {
            if let Action::Cancel(slot) = action
                && let Some(op) = self.in_flight.get_mut(slot)
            {
                op.cancelled = true;
            }
            return;
        };
        let mut op = InFlight::default();
        if let Action::Stop { container, id, grace, reason } = action {
            op.grace = Some(*grace);
            let memory = self.containers.entry(container.clone()).or_default();
            if memory.stopped.as_ref().is_none_or(|(stopped, _)| stopped != id) {
                memory.stopped = Some((id.clone(), reason.clone()));
            }
        }
        self.in_flight.insert(slot, op);
    }

    /// Notes how an action ended.
    pub fn finish(&mut self, slot: &Slot, outcome: Outcome, now: Timestamp) {
        self.in_flight.remove(slot);
        let failed = match outcome {
            Outcome::Done => None,
            Outcome::VolumesReady => {
                self.volumes_ready = true;
                None
            }
            Outcome::VolumesRemoved => {
                (self.volumes_ready, self.volumes_removed) = (false, true);
                None
            }
            Outcome::ImageReady => {
                if let Slot::Image(image) = slot {
                    self.images.insert(image.clone(), ImageMemory::Present);
                }
                None
            }
            Outcome::ImageMissing { reason, message, looked } => {
                if let Slot::Image(image) = slot {
                    self.image_missing(image, reason, message, looked, now);
                }
                None
            }
            Outcome::Started { id, hook } => {
                if let Slot::Start(name) = slot {
                    let memory = self.containers.entry(name.clone()).or_default();
                    memory.hook = hook.then_some((id, HookState::Pending));
                }
                None
            }
            Outcome::ImageLost { image } => {
                self.images.remove(&image);
                // A failure of the start, or an image that is lost each time would be fetched without a pause.
                Some((
                    "CreateContainerError",
                    format!("the image {image} was removed from this node; it is fetched again"),
                ))
            }
            Outcome::HookFailed(message) => {
                self.end_hook(slot, Some(message));
                return;
            }
            Outcome::Deleted => {
                self.deleted = true;
                None
            }
            Outcome::Cancelled => None,
            Outcome::Failed { reason, message } => Some((reason, message)),
        };
        match failed {
            Some((reason, message)) => {
                let count = self.failures.get(slot).map_or(0, |f| f.count).saturating_add(1);
                self.failures.insert(slot.clone(), Failure { reason, message, count, at: now });
            }
            None => {
                self.failures.remove(slot);
                self.end_hook(slot, None);
            }
        }
    }

    fn image_missing(&mut self, image: &str, reason: &'static str, message: String, looked: bool, now: Timestamp) {
        let before = match self.images.get(image) {
            Some(ImageMemory::Missing { failure, .. }) => Some(failure.clone()),
            _ => None,
        };
        let failure = match before {
            Some(failure) if looked => failure,
            before => {
                let count = before.map_or(0, |f| f.count).saturating_add(1);
                Failure { reason, message, count, at: now }
            }
        };
        self.images.insert(image.to_owned(), ImageMemory::Missing { failure, checked_at: now });
    }

    fn end_hook(&mut self, slot: &Slot, failed: Option<String>) {
        let Slot::Hook(id) = slot else { return };
        for memory in self.containers.values_mut() {
            if memory.hook.as_ref().is_some_and(|(hooked, _)| hooked == id) {
                memory.hook = failed.clone().map(|message| (id.clone(), HookState::Failed(message)));
            }
        }
    }
}
