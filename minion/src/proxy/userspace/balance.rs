//! Which backend a client meets: any, or the one that it met before.
//!
//! Invariant: a function of what it was told; time and randomness are passed in. No more than
//! [`CLIENTS_MAX`] clients are remembered.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use crate::proxy::table::{Backends, Forward};

/// Clients that a portal remembers; beyond that, new ones get no affinity.
const CLIENTS_MAX: usize = 65_536;
/// Between looks for clients that need not be remembered any more.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// A portal's backends and who meets which.
#[derive(Debug)]
pub(super) struct Balancer {
    forward: Forward,
    clients: HashMap<Ipv4Addr, (SocketAddrV4, Instant)>,
    tidied: Option<Instant>,
}

/// Backends in the order in which to try them: from the first on, around.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    backends: Backends,
    first: usize,
}

impl Choice {
    /// All of them, each once.
    pub(super) fn in_order(&self) -> impl Iterator<Item = SocketAddrV4> {
        let all = &self.backends;
        (self.first..all.len()).chain(0..self.first).filter_map(|i| all.get(i).copied())
    }
}

impl Balancer {
    pub(super) fn new(forward: Forward) -> Self {
        Self { forward, clients: HashMap::new(), tidied: None }
    }

    /// Takes over another state; clients keep their backends as long as these stay.
    pub(super) fn set(&mut self, forward: Forward) {
        if forward.sticky.is_none() {
            self.clients = HashMap::new();
        }
        self.forward = forward;
    }

    /// For a client that comes now.
    pub(super) fn choose(&self, client: Ipv4Addr, now: Instant, random: u64) -> Choice {
        let backends = self.forward.backends.clone();
        let held = self.timeout().and_then(|timeout| {
            let (backend, met) = self.clients.get(&client)?;
            (now.saturating_duration_since(*met) < timeout).then(|| backends.binary_search(backend).ok())?
        });
        let any = || usize::try_from(random % (backends.len().max(1) as u64)).unwrap_or_default();
        let first = held.unwrap_or_else(any);
        Choice { backends, first }
    }

    /// Notes whom the client met.
    pub(super) fn met(&mut self, client: Ipv4Addr, backend: SocketAddrV4, now: Instant) {
        let Some(timeout) = self.timeout() else { return };
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            if self.tidied.is_some_and(|at| now.saturating_duration_since(at) < TIDY_INTERVAL) {
                return;
            }
            self.tidied = Some(now);
            self.clients.retain(|_, (_, met)| now.saturating_duration_since(*met) < timeout);
            if self.clients.len() >= CLIENTS_MAX {
                return;
            }
        }
        self.clients.insert(client, (backend, now));
    }

    fn timeout(&self) -> Option<Duration> {
        self.forward.sticky.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backend(host: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, host), 8080)
    }

    fn forward(hosts: &[u8], sticky: Option<u32>) -> Forward {
        Forward { backends: hosts.iter().map(|h| backend(*h)).collect(), sticky }
    }

    fn first(balancer: &Balancer, client: u32, now: Instant, random: u64) -> Option<SocketAddrV4> {
        balancer.choose(client.into(), now, random).in_order().next()
    }

    #[test]
    fn a_client_meets_its_backend_until_it_was_away_too_long() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut balancer = Balancer::new(forward(&[1, 2, 3], Some(10)));
        balancer.met(1.into(), backend(2), start);
        assert_eq!(first(&balancer, 1, after(9), 0), Some(backend(2)));
        assert_eq!(first(&balancer, 2, after(9), 0), Some(backend(1)), "another client meets any");
        assert_eq!(first(&balancer, 1, after(10), 2), Some(backend(3)), "the time is over");
        balancer.met(1.into(), backend(2), after(9));
        assert_eq!(first(&balancer, 1, after(18), 0), Some(backend(2)), "each visit prolongs it");
    }

    #[test]
    fn only_clients_of_a_backend_that_leaves_meet_another() {
        let now = Instant::now();
        let mut balancer = Balancer::new(forward(&[1, 2, 3], Some(10)));
        balancer.met(1.into(), backend(1), now);
        balancer.met(2.into(), backend(2), now);
        balancer.set(forward(&[2, 3], Some(10)));
        assert_eq!(first(&balancer, 1, now, 1), Some(backend(3)));
        assert_eq!(first(&balancer, 2, now, 1), Some(backend(2)));
    }

    #[test]
    fn without_affinity_nobody_is_remembered_and_without_backends_nobody_is_met() {
        let now = Instant::now();
        let mut balancer = Balancer::new(forward(&[1, 2], None));
        balancer.met(1.into(), backend(1), now);
        assert_eq!(first(&balancer, 1, now, 1), Some(backend(2)));
        balancer.set(forward(&[], Some(10)));
        assert_eq!(first(&balancer, 1, now, 7), None);
    }

    #[test]
    fn no_more_clients_are_remembered_than_there_is_room_for() {
        let now = Instant::now();
        let mut balancer = Balancer::new(forward(&[1, 2], Some(10)));
        for client in 0..=CLIENTS_MAX as u32 {
            balancer.met(client.into(), backend(2), now);
        }
        assert_eq!(balancer.clients.len(), CLIENTS_MAX);
        balancer.met(u32::MAX.into(), backend(2), now + Duration::from_secs(11));
        assert_eq!(balancer.clients.len(), 1, "those who were away make room");
    }

    proptest! {
        #[test]
        fn every_backend_is_tried_once(count in 0u8..9, random: u64) {
            let hosts: Vec<u8> = (1..=count).collect();
            let balancer = Balancer::new(forward(&hosts, None));
            let mut order: Vec<_> = balancer.choose(1.into(), Instant::now(), random).in_order().collect();
            order.sort_unstable();
            prop_assert_eq!(order, hosts.into_iter().map(backend).collect::<Vec<_>>());
        }
    }
}
