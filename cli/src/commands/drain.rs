//! `coracle drain`: moves the pods of a node elsewhere, so that it can be serviced.
//!
//! The node gets no new pods, and each of its pods is evicted. The master does the rest: a controller
//! makes a replacement on another node first and ends the old pod when that serves
//! (`coracle_api::objects::replacement`). All at once, since what they need elsewhere is the same at the end.
//! What this command does after the orders is watch; without it they are carried out all the same.
//!
//! A pod of its own can't be in two places: whether it may stop before it starts elsewhere, or go for
//! good, is for the user to say, before anything is changed.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::{
    client::ListParams,
    core::{Node, Pod},
    objects::{
        pod,
        replacement::{MOVE, Replace},
    },
};
use tokio::time::Instant;

use super::{Context, cordon::close};
use crate::{
    args::{Bare, DrainArgs},
    diagnose::diagnose,
    eviction::{Which, evict},
    failure::{Failure, Outcome},
    follow::Pods,
    output,
    target::node_name,
};

/// On a pod, `stay`: what it keeps on its node would be missing elsewhere.
const ON_MINION_LOSS: &str = "io.coracle/on-minion-loss";

pub(crate) async fn run(context: &Context, args: DrainArgs) -> Outcome {
    let node = node_name(&args.node)?;
    // Fails for a node that is none, before anything is changed.
    context.session.client().all::<Node>().get(node).await?;
    let mut pods = Pods::new(&context.session, None, "", &format!("spec.nodeName={node}"));
    check(node, &pods.list().await?, args.bare)?;
    if close(context, node, true).await? {
        output::line(&format!("node/{node} cordoned"))?;
    }
    let deadline = Instant::now() + args.timeout;
    let mut left: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let here = pods.list().await?;
        // Bound before the node was closed, told only now.
        check(node, &here, args.bare)?;
        let here: Vec<&Pod> = here.iter().filter(|p| !pod::is_terminal(p)).collect();
        let uids: BTreeSet<&str> = here.iter().map(|p| uid(p)).collect();
        let gone: Vec<String> = left.keys().filter(|uid| !uids.contains(uid.as_str())).cloned().collect();
        for (more, uid) in (0..gone.len()).rev().zip(gone) {
            let name = left.remove(&uid).unwrap_or_default();
            output::line(&format!("pod/{name} left {node}, {} to go", here.len() + more))?;
        }
        left.extend(here.iter().map(|p| (uid(p).to_owned(), shown(p, &context.namespace))));
        if here.is_empty() {
            return output::line(&format!("node/{node} drained"));
        }
        for pod in here.iter().filter(|p| !is_leaving(p)) {
            let (namespace, name) = key(pod);
            let moved = (kind(pod) == Kind::Bare && args.bare == Some(Bare::Move)).then_some((MOVE, "true"));
            let which = Which { namespace, name, uid: uid(pod), version: None };
            evict(&context.session, which, moved, args.grace_period).await?;
        }
        if Instant::now() >= deadline {
            return Err(late(context, node, &here, &args).await);
        }
        pods.changed().await?;
    }
}

/// What a pod is to a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Somebody makes another one.
    Owned,
    /// Nobody does.
    Bare,
    /// Nobody does, and it would not be the same elsewhere.
    Tied,
}

fn kind(pod: &Pod) -> Kind {
    let owned = pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let says = pod.metadata.annotations.as_ref().and_then(|a| a.get(ON_MINION_LOSS)).map(String::as_str);
    let on_host = volumes.into_iter().any(|v| v.host_path.is_some()) && says != Some("move");
    match (owned, on_host || says == Some("stay")) {
        (true, _) => Kind::Owned,
        (false, false) => Kind::Bare,
        (false, true) => Kind::Tied,
    }
}

/// Refuses what the user has not allowed.
fn check(node: &str, pods: &[Pod], bare: Option<Bare>) -> Outcome {
    let refused = |kind_refused: Kind| {
        let names = pods.iter().filter(|p| !pod::is_terminal(p) && !is_leaving(p) && kind(p) == kind_refused);
        names.map(|p| shown(p, "")).collect::<Vec<_>>()
    };
    if bare == Some(Bare::Delete) {
        return Ok(());
    }
    let (loose, tied) = (refused(Kind::Bare), refused(Kind::Tied));
    if !tied.is_empty() {
        return Err(Failure::Failed(format!(
            "node/{node} is not drained: {} of no controller can't move, for what they keep on the host: {}. \
             coracle drain {node} --bare delete deletes them for good",
            count(&tied),
            tied.join(", ")
        )));
    }
    if !loose.is_empty() && bare.is_none() {
        return Err(Failure::Failed(format!(
            "node/{node} is not drained: {} of no controller, so they are down from their end here to their start \
             elsewhere: {}. Say coracle drain {node} --bare move for that, or --bare delete",
            count(&loose),
            loose.join(", ")
        )));
    }
    Ok(())
}

fn count(names: &[String]) -> String {
    if names.len() == 1 { "1 pod".to_owned() } else { format!("{} pods", names.len()) }
}

/// Whether all is ordered that this command could order.
fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() || Replace::of(&pod.metadata).is_some()
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn key(pod: &Pod) -> (&str, &str) {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// `name`, or `namespace/name` in another than the user's own.
fn shown(pod: &Pod, own: &str) -> String {
    match key(pod) {
        (namespace, name) if namespace == own || own.is_empty() && namespace == "default" => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// Why there are pods left.
async fn late(context: &Context, node: &str, here: &[&Pod], args: &DrainArgs) -> Failure {
    let names: Vec<_> = here.iter().map(|p| shown(p, &context.namespace)).collect();
    let cause = cause(context, here).await.map(|cause| format!(" {cause}")).unwrap_or_default();
    Failure::Failed(format!(
        "node/{node} is not drained after {} s: {} still there: {}.{cause} They leave by themselves when that is mended; \
         coracle uncordon {node} keeps them",
        args.timeout.as_secs(),
        if names.len() == 1 { "1 pod is" } else { "some pods are" },
        names.join(", "),
    ))
}

/// What keeps a replacement from serving. A cluster that does not answer says nothing.
async fn cause(context: &Context, here: &[&Pod]) -> Option<String> {
    let client = context.session.client();
    let owner = |pod: &Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        owners.into_iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone())
    };
    let owners: BTreeSet<String> = here.iter().filter_map(|p| owner(p)).collect();
    let all = client.all::<Pod>().list(&ListParams::default()).await.ok()?.items;
    let nodes = client.all::<Node>().list(&ListParams::default()).await.ok()?.items;
    let waits = |p: &&Pod| !is_leaving(p) && !pod::is_ready(p) && owner(p).is_some_and(|o| owners.contains(&o));
    all.iter().filter(waits).find_map(|pod| {
        let diagnosis = diagnose(pod, &[], &nodes, &[])?;
        Some(format!("Pod {}, which is to replace one, is not ready: {}", key(pod).1, diagnosis.cause))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}});
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn owned(name: &str) -> Pod {
        pod(name, |p| {
            p["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "r",
                "uid": "r", "controller": true}]);
        })
    }

    #[test]
    fn pods_of_no_controller_are_not_touched_unasked() {
        let refused = |pods: &[Pod], bare| check("h1", pods, bare).err().map(|e| e.to_string());
        let host = |p: &mut Value| p["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/srv"}}]);
        let bare = [owned("web"), pod("jenkins", |_| {})];
        let why = refused(&bare, None).unwrap();
        assert!(why.contains("1 pod of no controller") && why.contains("jenkins") && !why.contains("web"), "{why}");
        assert_eq!((refused(&bare, Some(Bare::Move)), refused(&bare, Some(Bare::Delete))), (None, None));
        let tied = [pod("db", host)];
        assert!(refused(&tied, Some(Bare::Move)).unwrap().contains("--bare delete"));
        assert_eq!(refused(&tied, Some(Bare::Delete)), None);
        assert_eq!(
            kind(&pod("db", |p| {
                host(p);
                p["metadata"]["annotations"] = json!({ON_MINION_LOSS: "move"})
            })),
            Kind::Bare
        );
        assert_eq!(refused(&[owned("web"), pod("done", |p| p["status"]["phase"] = "Succeeded".into())], None), None);
    }
}
