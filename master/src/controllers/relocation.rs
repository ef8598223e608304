//! What becomes of the pods of a minion that fell silent: which move elsewhere, and when none may.
//!
//! A pod of a controller is removed, and its controller makes another. A pod of its own is made
//! anew in place: the same name, labels and spec, another uid, no minion; one write, so that no
//! crash loses it. Its former minion, should it live, finds its uid nowhere and stops it.
//!
//! The brake: when most minions fall silent at about the same time, the fault is more likely the
//! master's own, and moving everything onto the few that are left would make it a catastrophe.
//! Then nothing moves until at least half of them are heard again, and the others had their grace to
//! follow, or their Nodes are deleted.
//!
//! Pure; [`super::nodes`] carries it out.

use std::time::Duration;

use coracle_api::{
    core::{Pod, PodStatus},
    meta::Time,
    objects::pod,
};

/// On a pod: what to do when its minion falls silent. `move` or `stay`.
pub(crate) const ON_MINION_LOSS: &str = "io.coracle/on-minion-loss";

/// A minion that was given up so long ago says nothing of today's fault.
const OLD_LOSS: Duration = Duration::from_secs(300);

/// A minion, as far as the brake is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sound {
    /// How long it has not been heard by any master.
    pub silence: Duration,
    /// Whether what could move has moved.
    pub cleared: bool,
}

/// Whether so many minions are silent that nothing may move. `due` is how long a minion may
/// be silent before it is late: one that is late may be the next to fall silent of the same cause, so
/// it counts.
pub(crate) fn braked(minions: &[Sound], due: Duration) -> bool {
    let (mut silent, mut all) = (0u32, 0u32);
    for minion in minions.iter().filter(|minion| !minion.cleared || minion.silence < OLD_LOSS) {
        all += 1;
        silent += u32::from(minion.silence > due);
    }
    2 * silent > all
}

/// What becomes of a pod whose minion is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is, marked, and waits for its minion.
    Stay,
    /// It is removed: somebody else cares for a replacement, or it was to go anyway.
    Remove,
    /// It is made anew, for another minion.
    Renew,
}

/// Decides by the pod alone.
pub(crate) fn fate(pod: &Pod) -> Fate {
    let owned = pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    let asked = pod.metadata.annotations.as_ref().and_then(|a| a.get(ON_MINION_LOSS)).map(String::as_str);
    if pod.metadata.deletion_timestamp.is_some() {
        return Fate::Remove;
    }
    if pod::is_terminal(pod) || asked == Some("stay") {
        return Fate::Stay;
    }
    match (owned, asked) {
        (true, _) => Fate::Remove,
        (false, Some("move")) => Fate::Renew,
        // What it keeps on the host would be missing elsewhere.
        (false, _) if keeps_on_host(pod) => Fate::Stay,
        (false, _) => Fate::Renew,
    }
}

fn keeps_on_host(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.host_path.is_some())
}

/// Makes the pod anew: as it was created, and bound to no minion.
pub(crate) fn renew(pod: &mut Pod, uid: String, now: Time) {
    let meta = &mut pod.metadata;
    meta.uid = Some(uid);
    meta.creation_timestamp = Some(now);
    meta.generation = Some(1);
    if let Some(spec) = &mut pod.spec {
        spec.node_name = None;
    }
    pod.status = Some(PodStatus { phase: Some("Pending".into()), ..Default::default() });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(meta: Value, volumes: Value, phase: &str) -> Pod {
        let mut metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase, "podIP": "10.244.0.2"},
            "spec": {"nodeName": "h1", "containers": [{"name": "c"}], "volumes": volumes}}))
        .unwrap()
    }

    #[test]
    fn owned_pods_are_removed_and_others_made_anew_unless_something_ties_them() {
        let owner =
            json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "r", "uid": "r", "controller": true}]);
        let says = |what: &str| json!({"annotations": {ON_MINION_LOSS: what}});
        let host = || json!([{"name": "v", "hostPath": {"path": "/srv"}}]);
        let empty = || json!([{"name": "v", "emptyDir": {}}]);
        let check = |meta: Value, volumes: Value, phase: &str, expected: Fate| {
            assert_eq!(fate(&pod(meta.clone(), volumes, phase)), expected, "{meta} {phase}");
        };
        check(json!({}), empty(), "Running", Fate::Renew);
        check(json!({}), empty(), "Pending", Fate::Renew);
        check(json!({}), host(), "Running", Fate::Stay);
        check(says("move"), host(), "Running", Fate::Renew);
        check(says("stay"), empty(), "Running", Fate::Stay);
        check(json!({"ownerReferences": owner}), host(), "Running", Fate::Remove);
        check(
            json!({"ownerReferences": owner, "annotations": {ON_MINION_LOSS: "stay"}}),
            empty(),
            "Running",
            Fate::Stay,
        );
        check(json!({}), empty(), "Succeeded", Fate::Stay);
        check(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), host(), "Running", Fate::Remove);
        check(
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": {ON_MINION_LOSS: "stay"}}),
            host(),
            "Failed",
            Fate::Remove,
        );
    }

    #[test]
    fn a_renewed_pod_is_another_one_of_the_same_name() {
        let mut pod = pod(json!({"labels": {"a": "b"}}), json!([]), "Running");
        let labels = pod.metadata.labels.clone();
        renew(&mut pod, "v".into(), Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!((pod.metadata.name.as_deref(), pod.metadata.uid.as_deref()), (Some("p"), Some("v")));
        assert_eq!(pod.metadata.labels, labels);
        assert_eq!(pod.spec.unwrap().node_name, None);
        let status = pod.status.unwrap();
        assert_eq!((status.phase.as_deref(), status.pod_ip), (Some("Pending"), None));
    }

    #[test]
    fn most_minions_silent_at_once_is_the_masters_own_fault() {
        let check = |silences: &[(u64, bool)], expected: bool| {
            let sound =
                |(seconds, cleared): &(u64, bool)| Sound { silence: Duration::from_secs(*seconds), cleared: *cleared };
            let minions: Vec<Sound> = silences.iter().map(sound).collect();
            assert_eq!(braked(&minions, Duration::from_millis(2500)), expected, "{silences:?}");
        };
        let (no, yes) = (false, true);
        check(&[(0, no), (1, no), (5, no)], false);
        check(&[(0, no), (5, no), (5, no)], true);
        // The second was cut off at the same moment, but its beat was only due later.
        check(&[(0, no), (3, no), (5, no)], true);
        check(&[(0, no), (5, no)], false);
        check(&[(5, no)], true);
        // One that died long ago is not part of it once its pods are gone.
        check(&[(0, no), (400, yes), (5, no)], false);
        check(&[(0, no), (400, no), (5, no)], true);
        check(&[(0, no), (100, yes), (5, no)], true);
        check(&[], false);
    }
}
