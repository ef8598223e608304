//! Pods to which nothing happens. A pod that is as it should be needs no worker until something changes: it
//! is kept as its JSON, a tenth of the memory that it takes decoded, with the little that neither the JSON nor
//! the engine tells.
//!
//! Invariant: a worker that begins anew with these plans what the one that went to rest would have.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::core::Pod;
use jiff::Timestamp;

use super::{
    memory::{ImageMemory, PodMemory, StopReason},
    observation::PodObservation,
};
use crate::runtime::ContainerId;

/// A pod as the master has it.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// Somebody works with it.
    Open(Arc<Pod>),
    /// At rest.
    Packed(Arc<Packed>),
}

/// A pod at rest.
#[derive(Debug)]
pub(super) struct Packed {
    json: Box<[u8]>,
    version: Option<Box<str>>,
}

impl Packed {
    /// `None` for what can't be written out, which is nothing that came from a master.
    pub(super) fn new(pod: &Pod) -> Option<Arc<Self>> {
        let version = pod.metadata.resource_version.as_deref().map(Box::from);
        Some(Arc::new(Self { json: serde_json::to_vec(pod).ok()?.into(), version }))
    }

    /// The pod. `None` if what was kept is damaged.
    pub(super) fn open(&self) -> Option<Arc<Pod>> {
        serde_json::from_slice(&self.json)
            .inspect_err(|error| tracing::error!(%error, "a pod that was kept does not decode"))
            .ok()
            .map(Arc::new)
    }
}

impl Kept {
    /// A pod that nobody looks at soon.
    pub(super) fn for_later(pod: Arc<Pod>) -> Self {
        Packed::new(&pod).map_or(Self::Open(pod), Self::Packed)
    }

    /// The pod. `None` if what was kept is damaged.
    pub(super) fn open(&self) -> Option<Arc<Pod>> {
        match self {
            Self::Open(pod) => Some(Arc::clone(pod)),
            Self::Packed(packed) => packed.open(),
        }
    }

    /// Whether it is this version of the pod.
    pub(super) fn is(&self, pod: &Pod) -> bool {
        let version = match self {
            Self::Open(kept) => kept.metadata.resource_version.as_deref(),
            Self::Packed(packed) => packed.version.as_deref(),
        };
        version.is_some() && version == pod.metadata.resource_version.as_deref()
    }
}

/// What a worker leaves behind when it goes to rest.
#[derive(Debug, Clone)]
pub(super) struct Keepsake {
    /// The pod.
    pub(super) pod: Arc<Packed>,
    /// Its containers when last looked at.
    pub(super) observed: PodObservation,
    images: Box<[String]>,
    infra_attempts: u32,
    volumes_ready: bool,
    /// Why earlier runs were stopped, by container: their end is in the status as long as the engine has them.
    stopped: Box<[(String, (ContainerId, StopReason))]>,
}

impl Keepsake {
    /// What is to be kept of a pod that needs nothing; `None` if its memory holds more than is kept: failures,
    /// series of crashes, a status that the master does not have.
    pub(super) fn of(pod: &Pod, memory: &PodMemory, observed: &PodObservation, now: Timestamp) -> Option<Self> {
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
            hashed: _,
            orphan_grace: _,
        } = memory;
        let over = *deleted || *volumes_removed || deleted_since.is_some();
        let told = status.is_some() && status.as_deref() == pod.status.as_ref();
        let plain =
            in_flight.is_empty() && failures.is_empty() && containers.values().all(|c| c.is_plain(observed, now));
        let present = images.values().all(|image| *image == ImageMemory::Present);
        if over || !told || !plain || !present {
            return None;
        }
        Some(Self {
            pod: Packed::new(pod)?,
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
