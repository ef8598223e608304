//! Eviction (`policy/v1`): somebody wants a pod off its node, without an outage if that can be had.
//!
//! A pod of a controller is ordered to be replaced, and goes when another one serves in its place
//! ([`coracle_api::objects::replacement`]); the answer does not wait for that. Any other pod is
//! deleted in order, or, if the eviction says so, made anew elsewhere once it has stopped.
//!
//! An eviction says more than Kubernetes' own by the annotations that it carries: `io.coracle/replace`,
//! how the pod is to be replaced, and that it must be nothing else; `io.coracle/move`, see above.

use coracle_api::{
    ApiError, TypedObject,
    core::{Pod, ReplicationController},
    objects::replacement::{MOVE, REPLACE, Replace},
};
use http::StatusCode;
use serde_json::Value;

use super::{
    Shared,
    answer::{self, Response},
    delete::Order,
    query::Query,
    router::Target,
    write,
};
use crate::{deletion, registry::Entry};

/// Carries out an eviction.
pub(crate) async fn evict(shared: &Shared, target: &Target, body: &[u8], dry_run: bool) -> Result<Response, ApiError> {
    let eviction = Eviction::parse(body, target)?;
    let entry = write::find(shared, target.kind, target.namespace(), target.name())?;
    let order = &eviction.order;
    if !dry_run && !order.is_dry_run() {
        let (namespace, name) = (target.namespace(), target.name());
        let (grace_s, now) = (order.removal().grace_s, shared.registry.now_s());
        let same = |meta: &_| order.removal().check(target.kind, meta);
        match way(shared, &entry, eviction.moves) {
            Way::Replace => replace(shared, &entry, &eviction).await?,
            _ if eviction.replace.is_some() => {
                return Err(ApiError::conflict("pod", name, "it has no replication controller that could replace it"));
            }
            Way::Move => drop(deletion::move_pod(&shared.registry, namespace, name, grace_s, now, same).await?),
            Way::Delete => drop(deletion::delete_pod_if(&shared.registry, namespace, name, grace_s, now, same).await?),
        }
    }
    Ok(answer::success(StatusCode::CREATED, target.kind.plural, target.name(), entry.uid()))
}

/// What is asked for.
#[derive(Debug)]
struct Eviction {
    order: Order,
    /// A pod of no controller starts anew elsewhere.
    moves: bool,
    /// How its controller replaces it, and that it must have one.
    replace: Option<Replace>,
}

impl Eviction {
    fn parse(body: &[u8], target: &Target) -> Result<Self, ApiError> {
        let bad = |why: &dyn std::fmt::Display| ApiError::bad_request(format!("the body is not an Eviction: {why}"));
        let body: Value = serde_json::from_slice(body).map_err(|e| bad(&e))?;
        if let Some(kind) = body["kind"].as_str().filter(|kind| *kind != "Eviction") {
            return Err(bad(&format!("its kind is {kind}")));
        }
        for (field, expected) in [("name", target.name()), ("namespace", target.namespace())] {
            if let Some(given) = body["metadata"][field].as_str().filter(|given| !["", expected].contains(given)) {
                return Err(bad(&format!("its {field} is {given}, but the path says {expected}")));
            }
        }
        let options = match &body["deleteOptions"] {
            Value::Null => Vec::new(),
            options => options.to_string().into_bytes(),
        };
        let order = Order::parse(&options, &Query::default())?;
        let annotations = &body["metadata"]["annotations"];
        let replace = annotations[REPLACE].as_str().map(|text| serde_json::from_str(text).unwrap_or_default());
        Ok(Self { order, moves: annotations[MOVE] == "true", replace })
    }
}

/// What becomes of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Replace,
    Move,
    Delete,
}

fn way(shared: &Shared, entry: &Entry, moves: bool) -> Way {
    let Some(facts) = entry.pod().filter(|p| p.is_active() && p.node.is_some()) else { return Way::Delete };
    let Some(owner) = facts.owner.as_deref() else { return if moves { Way::Move } else { Way::Delete } };
    // One whose controller is gone, or is none of ours, is somebody else's matter.
    let controllers = shared.registry.snapshot(ReplicationController::row());
    let mut controllers = controllers.range(Some(&entry.key.namespace));
    if controllers.any(|rc| rc.uid() == owner && !rc.is_ending()) { Way::Replace } else { Way::Delete }
}

/// Orders the pod's controller to replace it. A second order changes nothing.
async fn replace(shared: &Shared, entry: &Entry, eviction: &Eviction) -> Result<(), ApiError> {
    let removal = eviction.order.removal();
    let grace_period_seconds = removal.grace_s.and_then(|s| u32::try_from(s).ok());
    let text = Replace { grace_period_seconds, ..eviction.replace.unwrap_or_default() }.to_text();
    let mark = |now: &mut Pod| {
        removal.check(Pod::row(), &now.metadata)?;
        let annotations = now.metadata.annotations.get_or_insert_default();
        if now.metadata.deletion_timestamp.is_some() || annotations.contains_key(REPLACE) {
            return Ok(false);
        }
        annotations.insert(REPLACE.into(), text.clone());
        Ok(true)
    };
    shared.registry.modify(&entry.key.namespace, &entry.key.name, mark).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::router::{Edition, Verb};

    fn parse(body: &str) -> Result<Eviction, ApiError> {
        let target = Target {
            edition: Edition::V1,
            verb: Verb::Create,
            kind: Pod::row(),
            namespace: Some("n".into()),
            name: Some("p".into()),
            sub: None,
        };
        Eviction::parse(body.as_bytes(), &target)
    }

    #[test]
    fn evictions_as_clients_send_them_are_understood() {
        let eviction = parse(
            r#"{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"p","namespace":"n","creationTimestamp":null},
                "deleteOptions":{"gracePeriodSeconds":5,"preconditions":{"uid":"u"}}}"#,
        )
        .unwrap();
        assert_eq!((eviction.order.removal().grace_s, eviction.moves), (Some(5), false));
        let eviction = parse(r#"{"metadata":{"annotations":{"io.coracle/move":"true"}}}"#).unwrap();
        assert!(eviction.moves && !eviction.order.is_dry_run() && eviction.replace.is_none());
        let eviction = parse(r#"{"metadata":{"annotations":{"io.coracle/replace":"{\"minReadyMs\":5}"}}}"#).unwrap();
        assert_eq!(eviction.replace, Some(Replace { min_ready_ms: Some(5), ..Default::default() }));
        assert!(parse(r#"{"deleteOptions":{"dryRun":["All"]}}"#).unwrap().order.is_dry_run());
        for body in ["", "[", r#"{"kind":"Pod"}"#, r#"{"metadata":{"name":"q"}}"#, r#"{"deleteOptions":[]}"#] {
            assert_eq!(parse(body).unwrap_err().code(), 400, "{body}");
        }
    }
}
