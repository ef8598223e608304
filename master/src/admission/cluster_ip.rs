//! Portal addresses: each service that wants one gets its own out of the service range and keeps
//! it for its life.
//!
//! What is taken is read off the registry's services, so nothing can leak. Two services that choose
//! one address at the same moment, through this master or two, both claim it
//! ([`coracle_api::TypedObject::claims`]): the store gives it to one, the other chooses again.

use std::net::Ipv4Addr;

use coracle_api::{
    ApiError, Kind, Object, TypedObject,
    core::{Service, ServiceSpec},
    error::{FieldErrors, Reason},
    objects::service,
};
use ipnet::Ipv4Net;

use super::Hook;
use crate::registry::Registry;

/// Random choices before the range is searched from its start.
const RANDOM_TRIES: usize = 64;

/// Gives out addresses.
#[derive(Debug)]
pub(super) struct Allocator {
    range: Ipv4Net,
}

impl Allocator {
    pub(super) fn new(range: Ipv4Net) -> Self {
        Self { range }
    }

    /// The wanted address if it is free, or any that is.
    fn find(&self, registry: &Registry, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, Refusal> {
        let taken = |address: &Ipv4Addr| registry.is_claimed(&service::portal_claim(address));
        match wanted {
            Some(address) if !is_usable(self.range, address) => Err(Refusal::Outside),
            Some(address) if taken(&address) => Err(Refusal::Taken),
            Some(address) => Ok(address),
            None => choose(self.range, taken, || registry.new_id().as_u128() as u32).ok_or(Refusal::Full),
        }
    }
}

enum Refusal {
    Outside,
    Taken,
    Full,
}

impl Hook for Allocator {
    fn concerns(&self, kind: &Kind) -> bool {
        kind == Service::row()
    }

    fn admit(&self, registry: &Registry, object: &mut dyn Object, old: Option<&dyn Object>) -> Result<(), ApiError> {
        let name = object.name().to_owned();
        let Some(object) = object.downcast_mut::<Service>() else { return Ok(()) };
        let old = old.and_then(|o| o.downcast_ref::<Service>()).and_then(|s| s.spec.as_ref());
        let spec = object.spec.get_or_insert_default();
        let wanted = match need(spec, old) {
            Need::Nothing => return Ok(()),
            Need::Keep(address) => {
                set(spec, &address);
                return Ok(());
            }
            Need::Any => None,
            Need::This(text) => match text.parse::<Ipv4Addr>() {
                Ok(address) => Some(address),
                Err(_) => return Err(invalid(&name, &text, "not an IPv4 address, 'None' or empty")),
            },
        };
        let address = self.find(registry, wanted).map_err(|refusal| {
            let text = wanted.map(|a| a.to_string()).unwrap_or_default();
            match refusal {
                Refusal::Outside => invalid(&name, &text, &format!("not in the service range {}", self.range)),
                Refusal::Taken => invalid(&name, &text, "another service has this address"),
                Refusal::Full => {
                    let message = format!("the service range {} has no free address: delete a service", self.range);
                    ApiError::new(Reason::InternalError, message)
                }
            }
        })?;
        set(spec, &address.to_string());
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// It has none, by its type.
    Nothing,
    /// The one it had.
    Keep(String),
    /// Any free one.
    Any,
    /// The one it asks for.
    This(String),
}

fn need(spec: &ServiceSpec, old: Option<&ServiceSpec>) -> Need {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Need::Nothing;
    }
    let wanted = spec.cluster_ip.as_deref().unwrap_or_default();
    let had = old.and_then(|o| o.cluster_ip.as_deref()).unwrap_or_default();
    match (wanted, had) {
        ("None", _) => Need::Nothing,
        ("", "") => Need::Any,
        // An update that does not say keeps what there is.
        ("", had) => Need::Keep(had.to_owned()),
        // Whether it may change is validation's matter, so a changed one is left as it is.
        (wanted, had) if wanted == had || !had.is_empty() => Need::Nothing,
        (wanted, _) => Need::This(wanted.to_owned()),
    }
}

fn set(spec: &mut ServiceSpec, address: &str) {
    spec.cluster_ip = Some(address.to_owned());
    spec.cluster_ips = Some(vec![address.to_owned()]);
}

fn invalid(name: &str, value: &str, rule: &str) -> ApiError {
    let mut errors = FieldErrors::default();
    errors.invalid("spec.clusterIP", value, rule);
    ApiError::invalid(Service::row().error_name, name, errors.into_vec())
}

/// Inside the range, and neither its network nor its broadcast address.
fn is_usable(range: Ipv4Net, address: Ipv4Addr) -> bool {
    range.contains(&address) && address != range.network() && address != range.broadcast()
}

/// A free address: random first, so that a deleted service's address is not soon another's, then
/// the first free one.
fn choose(range: Ipv4Net, taken: impl Fn(&Ipv4Addr) -> bool, mut random: impl FnMut() -> u32) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
    let hosts = last - first;
    let free = |address: &Ipv4Addr| is_usable(range, *address) && !taken(address);
    let tried = (0..RANDOM_TRIES).map(|_| Ipv4Addr::from(first + random() % hosts.max(1)));
    tried.into_iter().find(free).or_else(|| range.hosts().find(free))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_address_of_the_range_is_given_out_once_and_no_other() {
        let range: Ipv4Net = "10.0.0.0/28".parse().unwrap();
        let (mut taken, mut seed) = (HashSet::new(), 7u32);
        while let Some(address) = choose(
            range,
            |a| taken.contains(a),
            || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed
            },
        ) {
            assert!(is_usable(range, address) && taken.insert(address), "{address}");
        }
        assert_eq!(taken.len(), 14);
    }

    #[test]
    fn what_a_service_needs_follows_from_its_type_and_past() {
        let spec = |ip: &str, type_: &str| ServiceSpec {
            cluster_ip: (!ip.is_empty()).then(|| ip.to_owned()),
            type_: Some(type_.to_owned()),
            ..Default::default()
        };
        let check = |ip: &str, type_: &str, old: Option<&str>, expected: Need| {
            let old = old.map(|ip| spec(ip, "ClusterIP"));
            assert_eq!(need(&spec(ip, type_), old.as_ref()), expected, "{ip} {type_}");
        };
        check("", "ClusterIP", None, Need::Any);
        check("10.0.0.9", "ClusterIP", None, Need::This("10.0.0.9".into()));
        check("None", "ClusterIP", None, Need::Nothing);
        check("", "ExternalName", None, Need::Nothing);
        check("", "NodePort", Some("10.0.0.9"), Need::Keep("10.0.0.9".into()));
        check("10.0.0.9", "ClusterIP", Some("10.0.0.9"), Need::Nothing);
        check("", "ClusterIP", Some(""), Need::Any);
    }
}
