//! What containers ask of a node: the rules on quantities, and a pod's total.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{
    core::{Container, Pod, ResourceRequirements},
    error::{FieldErrorKind, FieldErrors},
    objects::names::{QUALIFIED_NAME, Shown},
    quantity::{self, Amount},
};

/// Resources without a domain that the API knows.
const KNOWN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// What a pod needs free on its node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

impl Requests {
    fn of(container: &Container) -> Self {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let get = |name: &str| requests.and_then(|r| r.get(name));
        Self {
            milli_cpu: get("cpu").and_then(quantity::milli).unwrap_or(0),
            memory_bytes: get("memory").and_then(quantity::bytes).unwrap_or(0),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_add(other.milli_cpu),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self { milli_cpu: self.milli_cpu.max(other.milli_cpu), memory_bytes: self.memory_bytes.max(other.memory_bytes) }
    }
}

/// A pod's requests: its containers and sidecars together, or what the init phase needs at its
/// most if that is more. An init container runs alone with the sidecars listed before it.
pub fn requests(pod: &Pod) -> Requests {
    let Some(spec) = &pod.spec else { return Requests::default() };
    let (mut sidecars, mut peak) = (Requests::default(), Requests::default());
    for container in spec.init_containers.iter().flatten() {
        let own = Requests::of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(own);
        } else {
            peak = peak.max(sidecars.plus(own));
        }
    }
    spec.containers.iter().map(Requests::of).fold(sidecars, Requests::plus).max(peak)
}

pub(super) fn validate(path: &str, resources: &ResourceRequirements, errors: &mut FieldErrors) {
    let limits = resources.limits.as_ref();
    // A limit without a request asks for as much: what is wrong with it is told once.
    let own = |(name, request): &(&String, &Quantity)| limits.and_then(|l| l.get(*name)) != Some(*request);
    check_list(&format!("{path}.limits"), limits.into_iter().flatten(), errors);
    check_list(&format!("{path}.requests"), resources.requests.iter().flatten().filter(own), errors);
    for (name, request) in resources.requests.iter().flatten() {
        let Some(limit) = resources.limits.as_ref().and_then(|l| l.get(name)) else { continue };
        if let (Ok(asked), Ok(most)) = (Amount::parse(&request.0), Amount::parse(&limit.0))
            && asked.nano() > most.nano()
        {
            let rule = format_args!("must be at most the limit, {}", Shown(&limit.0));
            errors.invalid(format!("{path}.requests.{name}"), Shown(&request.0), rule);
        }
    }
    if resources.claims.as_ref().is_some_and(|c| !c.is_empty()) {
        let detail = "claims are not supported: ask for cpu and memory";
        errors.push(format!("{path}.claims"), FieldErrorKind::NotSupported, detail);
    }
}

/// Quantities by resource name, as in limits, capacity and the like.
fn check_list<'a>(path: &str, list: impl Iterator<Item = (&'a String, &'a Quantity)>, errors: &mut FieldErrors) {
    for (name, quantity) in list {
        let extended = name.contains('/') && QUALIFIED_NAME.matches(name);
        if !KNOWN.contains(&name.as_str()) && !name.starts_with("hugepages-") && !extended {
            errors.not_supported(path, Shown(name), &["cpu", "memory", "ephemeral-storage", "domain/name"]);
        }
        check_quantity(format!("{path}.{name}"), quantity, errors);
    }
}

pub(super) fn check_quantity(path: String, quantity: &Quantity, errors: &mut FieldErrors) {
    match Amount::parse(&quantity.0) {
        Err(e) => errors.invalid(path, Shown(&quantity.0), e),
        Ok(amount) if amount.nano() < 0 => errors.invalid(path, Shown(&quantity.0), "must be zero or more"),
        Ok(_) => {}
    }
}
