//! `coracle cordon` and `coracle uncordon`: whether a node gets new pods.

use coracle_api::{
    TypedObject,
    client::{ClientError, ListParams},
    core::{Node, Pod},
    objects::replacement::Replace,
};
use http::Method;

use super::Context;
use crate::{
    args::NodesArgs,
    eviction::{Which, take_back},
    failure::Outcome,
    output, target,
};

const CONFLICTS_MAX: u32 = 8;

pub(crate) async fn cordon(context: &Context, args: NodesArgs) -> Outcome {
    for name in args.names()? {
        let changed = close(context, name, true).await?;
        output::line(&format!("node/{name} {}", if changed { "cordoned" } else { "was cordoned already" }))?;
    }
    Ok(())
}

/// Opens nodes, and keeps the pods there that a drain has not moved yet.
pub(crate) async fn uncordon(context: &Context, args: NodesArgs) -> Outcome {
    for name in args.names()? {
        let changed = close(context, name, false).await?;
        output::line(&format!("node/{name} {}", if changed { "uncordoned" } else { "was not cordoned" }))?;
        let here = ListParams { fields: format!("spec.nodeName={name}"), ..ListParams::default() };
        for pod in context.session.client().all::<Pod>().list(&here).await?.items {
            let meta = &pod.metadata;
            let drained = Replace::of(meta).is_some_and(|order| !order.update);
            let (Some(namespace), Some(pod), Some(uid)) = (&meta.namespace, &meta.name, &meta.uid) else { continue };
            if drained && meta.deletion_timestamp.is_none() {
                take_back(&context.session, Which { namespace, name: pod, uid, version: None }).await?;
                output::line(&format!("pod/{pod} stays"))?;
            }
        }
    }
    Ok(())
}

/// Whether a node gets new pods, from now on. `false`: it was so already.
pub(super) async fn close(context: &Context, name: &str, closed: bool) -> Result<bool, ClientError> {
    let path = target::path(Node::row(), "", name);
    let mut tries = 0;
    loop {
        let mut node = context.session.get(&path).await?;
        if (node["spec"]["unschedulable"] == true) == closed {
            return Ok(false);
        }
        node["spec"]["unschedulable"] = closed.into();
        match context.session.json(Method::PUT, &path, Some(&node)).await {
            Err(e) if e.is_conflict() && tries < CONFLICTS_MAX => tries += 1,
            outcome => return outcome.map(|_| true),
        }
    }
}
