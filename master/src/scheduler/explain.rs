//! What would become of pods: the very same [`decide`], told in full, and nothing is written.

use std::cmp::Reverse;

use coracle_api::{
    Object,
    core::{Pod, ReplicationController},
    meta::{ObjectMeta, OwnerReference},
    objects::pod::DEFAULT_SCHEDULER,
    schedule::{MinionVerdict, PodPlacement, Priority, ScheduleExplanation},
};

use super::{
    cluster::Cluster,
    decide::{Decision, compare, decide},
    predicates::misfit,
    priorities::PRIORITIES,
    wanted::{Wanted, hash},
};
use crate::registry::{Key, PodFacts};

/// Minions listed for each pod at most, and for all pods together.
const VERDICTS_MAX: usize = 1000;
const VERDICTS_TOTAL: usize = 20_000;
/// Minions listed for each pod, however many pods there are.
const VERDICTS_MIN: usize = 20;

/// A pod to be created, and how often: the pods of a template differ in nothing that counts.
#[derive(Debug, Clone)]
pub struct Planned {
    /// As its creation would store it.
    pub pod: Pod,
    /// How it is called in the answer.
    pub name: String,
    /// How many of it.
    pub replicas: usize,
}

/// The pod of an object: itself, or one of its template and how many there are to be. `None` for kinds
/// without pods.
pub fn pod_of(object: &dyn Object) -> Option<(Pod, Option<usize>)> {
    if let Some(pod) = object.downcast_ref::<Pod>() {
        return Some((pod.clone(), None));
    }
    let controller = object.downcast_ref::<ReplicationController>()?;
    let spec = controller.spec.as_ref()?;
    let template = spec.template.clone()?;
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: object.kind().kind.into(),
        name: object.name().into(),
        uid: controller.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..Default::default()
    };
    let template_meta = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", object.name())),
        namespace: controller.metadata.namespace.clone(),
        labels: template_meta.labels,
        annotations: template_meta.annotations,
        owner_references: Some(vec![owner]),
        ..Default::default()
    };
    let replicas = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    Some((Pod { metadata, spec: template.spec, status: None }, Some(replicas)))
}

/// Says where pods would go, one after the other, each counted from then on.
pub fn explain(cluster: &mut Cluster, planned: &[Planned]) -> ScheduleExplanation {
    let total: usize = planned.iter().map(|p| p.replicas).sum();
    let limit = (VERDICTS_TOTAL / total.max(1)).clamp(VERDICTS_MIN, VERDICTS_MAX);
    let mut pods = Vec::with_capacity(total);
    for Planned { pod, name, replicas } in planned {
        let facts = PodFacts::of(pod);
        for n in 1..=*replicas {
            let name = if *replicas == 1 { name.clone() } else { format!("{name}-{n}") };
            let mut wanted = Wanted::of(pod, &facts);
            wanted.tie = hash((wanted.tie, n));
            let mut placement = explain_one(cluster, pod, &wanted, limit);
            placement.namespace = pod.metadata.namespace.clone().unwrap_or_default();
            placement.name = name;
            if let Some(minion) = &placement.minion {
                // No stored pod has a name with a slash.
                let key = Key::new(&placement.namespace, &format!("{}/{}", placement.name, pods.len()));
                cluster.assume(&key, &facts, minion);
            }
            pods.push(placement);
        }
    }
    let priorities = PRIORITIES.iter().map(|(name, weight)| Priority { name: (*name).into(), weight: *weight });
    let (minions, priorities) = (cluster.node_count(), priorities.collect());
    ScheduleExplanation { minions, priorities, pods, ignored: Vec::new() }
}

fn explain_one(cluster: &Cluster, pod: &Pod, wanted: &Wanted, limit: usize) -> PodPlacement {
    let decision = decide(cluster, wanted);
    let chosen = match &decision {
        Decision::Place { node } => Some(node.as_str()),
        Decision::Wait(_) => None,
    };
    let mut verdicts = verdicts(cluster, wanted, chosen);
    let fit = verdicts.iter().filter(|v| v.reason.is_none()).count();
    let compared = verdicts.iter().filter(|v| v.total.is_some()).count();
    let omitted = verdicts.len().saturating_sub(limit);
    verdicts.truncate(limit);
    let (minion, message) = match (&wanted.node_name, other_scheduler(pod), decision) {
        (Some(named), _, Decision::Place { .. }) => {
            (Some(named.to_string()), format!("is bound to {named} by its own spec.nodeName, and fits there"))
        }
        (Some(named), _, Decision::Wait(why)) => {
            (Some(named.to_string()), format!("is bound to {named} by its own spec.nodeName, though {why}"))
        }
        (None, Some(other), _) => (None, format!("waits for the scheduler {other} to bind it")),
        (None, None, Decision::Wait(why)) => (None, format!("waits: {why}")),
        (None, None, Decision::Place { node }) => {
            let among = match fit {
                1 => "the only minion that fits".to_owned(),
                _ if compared < fit => format!("the best of {compared} compared of {fit} minions that fit"),
                _ => format!("the best of {fit} minions that fit"),
            };
            (Some(node.to_string()), format!("goes to {node}, {among}"))
        }
    };
    PodPlacement { minion, message, verdicts, omitted, ..Default::default() }
}

fn other_scheduler(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.scheduler_name.as_deref()?;
    (!matches!(name, "" | DEFAULT_SCHEDULER)).then_some(name)
}

fn verdicts(cluster: &Cluster, wanted: &Wanted, chosen: Option<&str>) -> Vec<MinionVerdict> {
    let compared: foldhash::HashMap<_, _> =
        compare(cluster, wanted).into_iter().map(|compared| (compared.node, compared.scores)).collect();
    let mut ranked: Vec<_> = cluster
        .index()
        .hot()
        .iter()
        .map(|hot| {
            let node = cluster.node(hot.id);
            let minion = node.name.to_string();
            if let Some(why) = misfit(node, wanted) {
                let verdict = MinionVerdict {
                    minion,
                    reason: Some(why.reason().into()),
                    message: format!("{why:#}"),
                    ..Default::default()
                };
                return (1 + why.rank(), verdict);
            }
            let Some(scores) = compared.get(&hot.id) else {
                return (0, MinionVerdict { minion, message: "fits, not compared".into(), ..Default::default() });
            };
            let (points, total) = (scores.points().map(hundredths).to_vec(), Some(hundredths(scores.total())));
            (0, MinionVerdict { minion, points, total, ..Default::default() })
        })
        .collect();
    ranked.sort_by(|(a_rank, a), (b_rank, b)| {
        let is_chosen = |v: &MinionVerdict| Some(v.minion.as_str()) == chosen;
        let best_first = b.total.unwrap_or(-1.0).total_cmp(&a.total.unwrap_or(-1.0));
        Reverse(is_chosen(a))
            .cmp(&Reverse(is_chosen(b)))
            .then(a_rank.cmp(b_rank))
            .then(best_first)
            .then_with(|| a.minion.cmp(&b.minion))
    });
    ranked.into_iter().map(|(_, verdict)| verdict).collect()
}

/// Rounds what people read.
fn hundredths(points: f64) -> f64 {
    (points * 100.0).round() / 100.0
}
