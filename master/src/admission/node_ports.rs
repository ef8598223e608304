//! Node ports: each port of a service of type `NodePort` or `LoadBalancer` gets one out of the
//! cluster's range and keeps it as long as the service has that port and such a type.
//!
//! As with portal addresses, what is taken is read off the services, and who takes one at the same
//! moment as another chooses again ([`coracle_api::TypedObject::claims`]).

use std::ops::RangeInclusive;

use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    core::{Service, ServicePort, ServiceSpec},
    error::{FieldErrors, Reason},
    objects::service,
};

use super::Hook;
use crate::registry::Registry;

/// The usual range of core/v1.
const RANGE: RangeInclusive<u16> = 30_000..=32_767;
/// Random choices before the range is searched from its start.
const RANDOM_TRIES: usize = 64;

/// Gives out node ports.
#[derive(Debug)]
pub(super) struct Allocator;

impl Hook for Allocator {
    fn concerns(&self, kind: &Kind) -> bool {
        kind == Service::row()
    }

    fn admit(&self, registry: &Registry, object: &mut dyn Object, old: Option<&dyn Object>) -> Result<(), ApiError> {
        let name = object.name().to_owned();
        let Some(spec) = object.downcast_mut::<Service>().and_then(|s| s.spec.as_mut()) else { return Ok(()) };
        let old = old.and_then(|o| o.downcast_ref::<Service>()).and_then(|s| s.spec.as_ref());
        let taken = |protocol: &str, port: u16| registry.is_claimed(&service::node_port_claim(protocol, port));
        let random = || registry.new_id().as_u128() as u32;
        allot(spec, old, taken, random).map_err(|refusal| match refusal {
            Refusal::Full => {
                let message =
                    format!("all node ports, {} to {}, are taken: delete a service", RANGE.start(), RANGE.end());
                ApiError::new(Reason::InternalError, message)
            }
            Refusal::Invalid(path, port, rule) => {
                let mut errors = FieldErrors::default();
                errors.invalid(path, port, rule);
                ApiError::invalid(Service::row().error_name, &name, errors.into_vec())
            }
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Full,
    /// Field, value, rule.
    Invalid(String, i32, String),
}

/// Gives every port that needs one a node port: the one it names, the one it had, or a free one.
fn allot(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    taken: impl Fn(&str, u16) -> bool,
    mut random: impl FnMut() -> u32,
) -> Result<(), Refusal> {
    let needed = wants_node_ports(spec);
    let before: Vec<_> = old.iter().flat_map(|o| o.ports.iter().flatten()).collect();
    let had = |port: &ServicePort| before.iter().find(|b| same_port(b, port)).and_then(|b| node_port(b));
    let own = |protocol: &str, number: u16| {
        before.iter().any(|b| protocol_of(b) == protocol && node_port(b) == Some(i32::from(number)))
    };
    let mut ports = spec.ports.take().unwrap_or_default();
    let mut result = Ok(());
    for i in 0..ports.len() {
        let (named, had) = (node_port(&ports[i]), had(&ports[i]));
        if !needed {
            // A manifest that was read from a service of another type still has its ports.
            if named == had {
                ports[i].node_port = None;
            }
            continue;
        }
        let protocol = protocol_of(&ports[i]).to_owned();
        let among = |number: u16| {
            let others = ports.iter().enumerate().filter(|(j, _)| *j != i);
            others.into_iter().any(|(_, o)| protocol_of(o) == protocol && node_port(o) == Some(i32::from(number)))
        };
        let free = |number: u16| (own(&protocol, number) || !taken(&protocol, number)) && !among(number);
        let path = || format!("spec.ports[{i}].nodePort");
        let chosen = match (named, had) {
            (Some(number), had) => match u16::try_from(number).ok().filter(|n| RANGE.contains(n)) {
                // What was given once stays, whatever the range is today.
                _ if had == Some(number) => Ok(number),
                None => {
                    let rule = format!("must be between {} and {}", RANGE.start(), RANGE.end());
                    Err(Refusal::Invalid(path(), number, rule))
                }
                Some(port) if free(port) => Ok(number),
                Some(_) => {
                    let rule = "another service, or another port of this one, has this node port".to_owned();
                    Err(Refusal::Invalid(path(), number, rule))
                }
            },
            (None, Some(had)) => Ok(had),
            (None, None) => choose(free, &mut random).map(i32::from).ok_or(Refusal::Full),
        };
        match chosen {
            Ok(number) => ports[i].node_port = Some(number),
            Err(refusal) => {
                result = Err(refusal);
                break;
            }
        }
    }
    spec.ports = Some(ports);
    result
}

fn wants_node_ports(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

fn same_port(a: &ServicePort, b: &ServicePort) -> bool {
    a.port == b.port && protocol_of(a) == protocol_of(b)
}

fn protocol_of(port: &ServicePort) -> &str {
    port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP")
}

fn node_port(port: &ServicePort) -> Option<i32> {
    port.node_port.filter(|p| *p != 0)
}

/// A free port: random first, so that a deleted service's port is not soon another's, then the
/// first free one.
fn choose(free: impl Fn(u16) -> bool, random: &mut impl FnMut() -> u32) -> Option<u16> {
    let count = u32::from(RANGE.end() - RANGE.start()) + 1;
    let tried = (0..RANDOM_TRIES).map(|_| RANGE.start() + (random() % count) as u16);
    tried.into_iter().find(|port| free(*port)).or_else(|| RANGE.clone().find(|port| free(*port)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;

    fn spec(type_: &str, ports: Value) -> ServiceSpec {
        serde_json::from_value(json!({"type": type_, "ports": ports})).unwrap()
    }

    /// The node ports after admission, with these taken by others and a fixed choice.
    fn admitted(new: Value, type_: &str, old: Option<Value>, taken: &[u16]) -> Result<Vec<Option<i32>>, Refusal> {
        let mut new = spec(type_, new);
        let old = old.map(|ports| spec("NodePort", ports));
        allot(&mut new, old.as_ref(), |protocol, port| protocol == "TCP" && taken.contains(&port), || 5)?;
        Ok(new.ports.unwrap().iter().map(|p| p.node_port).collect())
    }

    fn check(new: Value, type_: &str, old: Option<Value>, taken: &[u16], expected: &[Option<i32>]) {
        assert_eq!(admitted(new.clone(), type_, old, taken), Ok(expected.to_vec()), "{new}");
    }

    #[test]
    fn ports_get_what_they_name_had_or_what_is_free() {
        check(json!([{"port": 80}]), "NodePort", None, &[], &[Some(30_005)]);
        check(json!([{"port": 80}]), "NodePort", None, &[30_005], &[Some(30_000)]);
        check(json!([{"port": 80, "nodePort": 30_080}]), "LoadBalancer", None, &[], &[Some(30_080)]);
        check(
            json!([{"port": 80}]),
            "NodePort",
            Some(json!([{"port": 80, "nodePort": 30_080}])),
            &[30_080],
            &[Some(30_080)],
        );
        // The port it had is its own, also when it names it again or moves it to another of its ports.
        let had = || Some(json!([{"name": "a", "port": 80, "nodePort": 30_080}]));
        check(json!([{"name": "a", "port": 81, "nodePort": 30_080}]), "NodePort", had(), &[30_080], &[Some(30_080)]);
        // One number for two protocols.
        let both = json!([{"name": "t", "port": 53, "nodePort": 30_053}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30_053}]);
        check(both, "NodePort", None, &[], &[Some(30_053), Some(30_053)]);
        check(
            json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]),
            "NodePort",
            None,
            &[],
            &[Some(30_005), Some(30_000)],
        );
    }

    #[test]
    fn other_types_give_theirs_back() {
        let had = || Some(json!([{"port": 80, "nodePort": 30_080}]));
        check(json!([{"port": 80, "nodePort": 30_080}]), "ClusterIP", had(), &[30_080], &[None]);
        // What was never its own is validation's matter.
        check(json!([{"port": 80, "nodePort": 30_081}]), "ClusterIP", had(), &[], &[Some(30_081)]);
        let mut balancer = spec("LoadBalancer", json!([{"port": 80}]));
        balancer.allocate_load_balancer_node_ports = Some(false);
        allot(&mut balancer, None, |_, _| false, || 5).unwrap();
        assert_eq!(balancer.ports.unwrap()[0].node_port, None);
    }

    #[test]
    fn what_can_not_be_had_is_refused_by_its_field() {
        let refused = |new: Value, taken: &[u16]| match admitted(new, "NodePort", None, taken) {
            Err(Refusal::Invalid(path, port, rule)) => (path, port, rule),
            other => panic!("{other:?}"),
        };
        let (path, port, rule) = refused(json!([{"port": 1}, {"port": 80, "nodePort": 8080}]), &[]);
        assert_eq!(
            (path.as_str(), port, rule.as_str()),
            ("spec.ports[1].nodePort", 8080, "must be between 30000 and 32767")
        );
        assert!(refused(json!([{"port": 80, "nodePort": 30_080}]), &[30_080]).2.contains("another service"));
        let twice = json!([{"port": 80, "nodePort": 30_080}, {"port": 81, "nodePort": 30_080}]);
        assert!(refused(twice, &[]).2.contains("another port of this one"));
        let all: Vec<u16> = RANGE.collect();
        assert_eq!(admitted(json!([{"port": 80}]), "NodePort", None, &all), Err(Refusal::Full));
    }

    #[test]
    fn every_port_of_the_range_is_given_out_once() {
        let (mut taken, mut seed) = (HashSet::new(), 7u32);
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        while let Some(port) = choose(|port| !taken.contains(&port), &mut random) {
            assert!(RANGE.contains(&port) && taken.insert(port), "{port}");
        }
        assert_eq!(taken.len(), 2768);
    }
}
