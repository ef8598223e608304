//! Pods to which nothing happens. A pod that is as it should be needs no worker until something changes: it
//! is kept as its JSON, a tenth of the memory that it takes decoded, with the little that neither the JSON nor
//! the engine tells.
//!
//! Invariant: a worker that begins anew with these plans what the one that went to rest would have.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::{
    client::Wire,
    core::{Pod, PodStatus},
};
use jiff::Timestamp;

use super::{
    memory::{ImageMemory, PodMemory, StopReason},
    observation::PodObservation,
};
use crate::runtime::ContainerId;

/// A pod to work with, and what it was read from.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    /// Decoded.
    pub(super) pod: Arc<Pod>,
    /// As it came.
    pub(super) wire: Arc<Wire<Pod>>,
}

impl Opened {
    /// `None`, and a word in the log, for what this minion can't read.
    pub(super) fn of(wire: &Arc<Wire<Pod>>) -> Option<Self> {
        let pod = wire.open().inspect_err(|error| {
            tracing::error!(kind = "pod", uid = wire.uid(), %error, "a pod can't be read; what runs of it stays as it is");
        });
        Some(Self { pod: Arc::new(pod.ok()?), wire: Arc::clone(wire) })
    }
}

/// What a worker leaves behind when it goes to rest.
#[derive(Debug, Clone)]
pub(super) struct Keepsake {
    /// The pod.
    pub(super) pod: Arc<Wire<Pod>>,
    /// Its containers when last looked at.
    pub(super) observed: PodObservation,
    images: Box<[String]>,
    infra_attempts: u32,
    volumes_ready: bool,
    /// Why earlier runs were stopped, by container: their end is in the status as long as the engine has them.
    stopped: Box<[(String, (ContainerId, StopReason))]>,
}

impl Keepsake {
    /// What is to be kept of a pod that needs nothing, and of which `stored` is the status at the master; `None` if
    /// its memory holds more than is kept: failures, series of crashes, a status that the master does not have.
    pub(super) fn of(
        pod: &Arc<Wire<Pod>>,
        stored: Option<&PodStatus>,
        memory: &PodMemory,
        observed: &PodObservation,
        now: Timestamp,
    ) -> Option<Self> {
        let PodMemory {
            volumes_ready,
            volumes_removed,
            images,
            containers,
            infra_attempts,
            in_flight,
            failures,
            status,
            deleted,
            deleted_since,
            released_at: _,
            hashed: _,
            orphan_grace: _,
        } = memory;
        let over = *deleted || *volumes_removed || deleted_since.is_some();
        let told =
            status.as_deref().zip(stored).is_some_and(|(own, stored)| std::ptr::eq(own, stored) || own == stored);
        let plain =
            in_flight.is_empty() && failures.is_empty() && containers.values().all(|c| c.is_plain(observed, now));
        let present = images.values().all(|image| *image == ImageMemory::Present);
        if over || !told || !plain || !present {
            return None;
        }
        Some(Self {
            pod: Arc::clone(pod),
            observed: observed.clone(),
            images: images.keys().cloned().collect(),
            infra_attempts: *infra_attempts,
            volumes_ready: *volumes_ready,
            stopped: containers.iter().filter_map(|(name, c)| Some((name.clone(), c.stopped.clone()?))).collect(),
        })
    }

    /// The memory to go on with.
    pub(super) fn memory(&self, pod: &Pod) -> PodMemory {
        let images: BTreeMap<_, _> = self.images.iter().map(|image| (image.clone(), ImageMemory::Present)).collect();
        let (infra_attempts, volumes_ready) = (self.infra_attempts, self.volumes_ready);
        let mut memory = PodMemory { images, infra_attempts, volumes_ready, ..PodMemory::adopt(pod) };
        for (name, stopped) in &self.stopped {
            memory.containers.entry(name.clone()).or_default().stopped = Some(stopped.clone());
        }
        memory
    }
}
