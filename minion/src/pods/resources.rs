//! Quantities as the engine takes them: thousandths of a core, bytes.

use std::collections::BTreeMap;

use coracle_api::{core::Container, quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a container asks for, and what it is held to. 0 where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_request_milli: i64,
    /// Thousandths of a core.
    pub cpu_limit_milli: i64,
    /// Bytes.
    pub memory_request: i64,
    /// Bytes.
    pub memory_limit: i64,
}

impl Resources {
    /// Of a container. A limit stands in for a missing request.
    pub fn of(container: &Container) -> Self {
        let resources = container.resources.as_ref();
        let (limits, requests) =
            (resources.and_then(|r| r.limits.as_ref()), resources.and_then(|r| r.requests.as_ref()));
        let cpu = |map: Option<&BTreeMap<String, Quantity>>| map.and_then(|m| quantity::milli(m.get("cpu")?));
        let memory = |map: Option<&BTreeMap<String, Quantity>>| map.and_then(|m| quantity::bytes(m.get("memory")?));
        let read = |amount: Option<i64>| amount.unwrap_or(0).max(0);
        let or = |request: i64, limit: i64| if request == 0 { limit } else { request };
        let (cpu_limit_milli, memory_limit) = (read(cpu(limits)), read(memory(limits)));
        Self {
            cpu_request_milli: or(read(cpu(requests)), cpu_limit_milli),
            cpu_limit_milli,
            memory_request: or(read(memory(requests)), memory_limit),
            memory_limit,
        }
    }

    /// Docker's relative weight: 1024 a core, 2 at least. 0 asks for the engine's default.
    pub fn cpu_shares(self) -> i64 {
        match self.cpu_request_milli {
            0 => 0,
            milli => (milli.saturating_mul(1024) / 1000).clamp(2, 262_144),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_request_with_the_least_weight_of_two() {
        let shares = |milli| Resources { cpu_request_milli: milli, ..Default::default() }.cpu_shares();
        assert_eq!([shares(0), shares(1), shares(500), shares(2000)], [0, 2, 512, 2048]);
    }
}
