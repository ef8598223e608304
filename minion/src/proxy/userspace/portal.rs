//! One portal as the threads that serve it share it.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::balance::{Balancer, Choice};
use crate::proxy::table::{Forward, Portal};

/// A portal and where it leads now. The lock is held for a look-up and never across a wait.
#[derive(Debug)]
pub(super) struct Service {
    portal: Portal,
    balancer: Mutex<Balancer>,
}

impl Service {
    pub(super) fn new(portal: Portal, forward: Forward) -> Self {
        Self { portal, balancer: Mutex::new(Balancer::new(forward)) }
    }

    pub(super) fn portal(&self) -> Portal {
        self.portal
    }

    /// Leads elsewhere from now on.
    pub(super) fn set(&self, forward: Forward) {
        self.lock().set(forward);
    }

    /// See [`Balancer::choose`].
    pub(super) fn choose(&self, client: Ipv4Addr, now: Instant, random: u64) -> Choice {
        self.lock().choose(client, now, random)
    }

    /// See [`Balancer::met`].
    pub(super) fn met(&self, client: Ipv4Addr, backend: SocketAddrV4, now: Instant) {
        self.lock().met(client, backend, now);
    }

    fn lock(&self) -> MutexGuard<'_, Balancer> {
        // Its state is whole between any two statements.
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
