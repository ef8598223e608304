//! The count is reached, and what is replaced is never missed.

use proptest::prelude::*;

use super::*;

/// Longer than any that is asked for here.
const LONG: Duration = Duration::from_secs(60);

fn replica() -> impl Strategy<Value = Replica> {
    let phase = prop_oneof![
        Just(PodPhase::Pending),
        Just(PodPhase::Running),
        Just(PodPhase::Succeeded),
        Just(PodPhase::Failed)
    ];
    let owner = prop_oneof![Just(Owner::Us), Just(Owner::Nobody)];
    let order = (prop::option::of(0u32..3000), any::<bool>());
    let replace = prop::option::weighted(
        0.3,
        order.prop_map(|(min_ready_ms, update)| Replace { min_ready_ms, update, grace_period_seconds: None }),
    );
    let ready_for = prop::option::of((0u64..4000).prop_map(Duration::from_millis));
    (any::<u16>(), any::<bool>(), owner, any::<[bool; 3]>(), phase, 0i64..50, replace, ready_for).prop_map(
        |(id, matches, owner, [terminating, bound, current], phase, created, replace, ready_for)| Replica {
            key: Key::new("n", &format!("p{id}")),
            matches,
            owner,
            active: !terminating && !phase.is_terminal(),
            terminating,
            bound,
            phase,
            ready_for: ready_for.filter(|_| phase == PodPhase::Running),
            replace,
            current,
            created_at: Timestamp::from_second(created).ok(),
        },
    )
}

fn world() -> impl Strategy<Value = Vec<Replica>> {
    prop::collection::vec(replica(), 0..30).prop_map(|mut pods| {
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        pods.dedup_by(|a, b| a.key == b.key);
        pods
    })
}

fn desired(replicas: i32) -> Desired {
    Desired { replicas, min_ready: Duration::ZERO }
}

fn fresh(name: &str) -> Replica {
    Replica {
        key: Key::new("n", name),
        matches: true,
        owner: Owner::Us,
        active: true,
        terminating: false,
        bound: false,
        phase: PodPhase::Pending,
        ready_for: None,
        replace: None,
        current: true,
        created_at: None,
    }
}

fn serving(name: &str) -> Replica {
    Replica { bound: true, phase: PodPhase::Running, ready_for: Some(LONG), ..fresh(name) }
}

/// Carries a plan out on the model.
fn apply(plan: &Plan, pods: &mut Vec<Replica>, round: usize) {
    pods.retain(|p| !plan.delete.iter().any(|(key, _)| *key == p.key));
    for pod in pods.iter_mut() {
        if plan.adopt.contains(&pod.key) {
            pod.owner = Owner::Us;
        }
        if plan.release.contains(&pod.key) {
            pod.owner = Owner::Nobody;
        }
    }
    pods.extend((0..plan.create).map(|i| fresh(&format!("new{round}-{i}"))));
}

fn is_ours(pod: &Replica) -> bool {
    pod.matches && pod.active
}

fn ready(pods: &[Replica]) -> usize {
    pods.iter().filter(|p| is_ours(p) && p.is_ready()).count()
}

proptest! {
    #[test]
    fn one_round_reaches_the_count_and_the_next_does_nothing(replicas in 0i32..40, mut pods in world()) {
        let plan = plan_replicas(desired(replicas), &pods);
        for (key, _) in &plan.delete {
            let pod = pods.iter().find(|p| p.key == *key).unwrap();
            prop_assert!(is_ours(pod), "only our own go");
            prop_assert!(plan.create == 0 || pod.replace.is_some(), "what is missing is not removed");
        }
        apply(&plan, &mut pods, 0);
        let staying = pods.iter().filter(|p| p.owner == Owner::Us && is_ours(p) && p.replace.is_none()).count();
        prop_assert_eq!(staying, replicas as usize);
        let again = plan_replicas(desired(replicas), &pods);
        prop_assert!(again.adopt.is_empty() && again.delete.is_empty() && again.create == 0, "{:?}", again);
        // A released pod that matches nothing of ours stays released.
        prop_assert!(again.release.is_empty());
    }

    #[test]
    fn the_order_of_one_pod_keeps_no_other_one(first in 1u32..3000, second in 0u32..3000, ready_ms in 0u64..4000) {
        let ordered = |name: &str, min_ready_ms| Replica {
            replace: Some(Replace { min_ready_ms: Some(min_ready_ms), update: false, grace_period_seconds: None }),
            ..serving(name)
        };
        let replacement = Replica { ready_for: Some(Duration::from_millis(ready_ms)), ..serving("new") };
        let unready = Replica { ready_for: None, ..ordered("a", first) };
        let plan = plan_replicas(desired(1), &[unready, ordered("b", second), replacement]);
        prop_assert_eq!(plan.delete.len(), if ready_ms >= u64::from(second) { 2 } else { 1 });
    }

    #[test]
    fn victims_are_the_least_missed(replicas in 0i32..10, pods in world()) {
        let plan = plan_replicas(desired(replicas), &pods);
        let of = |key: &Key| pods.iter().find(|p| p.key == *key).unwrap();
        let gone = |key: &Key| plan.delete.iter().any(|(gone, _)| gone == key);
        let kept = pods.iter().filter(|p| is_ours(p) && p.replace.is_none() && !gone(&p.key));
        for kept in kept {
            for victim in plan.delete.iter().map(|(key, _)| of(key)).filter(|p| p.replace.is_none()) {
                prop_assert!(!(victim.is_ready() && victim.bound && !kept.bound), "an unbound pod goes first");
            }
        }
    }

    #[test]
    fn what_is_replaced_is_never_missed(replicas in 0i32..10, mut pods in world(), steps in prop::collection::vec(any::<u16>(), 0..20)) {
        for (round, step) in steps.into_iter().enumerate() {
            let before = ready(&pods);
            let plan = plan_replicas(desired(replicas), &pods);
            let surplus = pods.iter().filter(|p| is_ours(p) && p.replace.is_none()).count() > replicas as usize;
            apply(&plan, &mut pods, round);
            if !surplus {
                prop_assert!(ready(&pods) >= before.min(replicas as usize), "{before} -> {}", ready(&pods));
            }
            // One pod becomes ready, or is no longer, and time passes.
            let count = pods.len().max(1);
            if let Some(pod) = pods.get_mut(usize::from(step) % count) {
                let turned = !pod.is_ready() && pod.active;
                *pod = Replica { ready_for: turned.then_some(Duration::ZERO), bound: true, ..pod.clone() };
                pod.phase = if pod.active { PodPhase::Running } else { pod.phase };
            }
            for time in pods.iter_mut().filter_map(|p| p.ready_for.as_mut()) {
                *time += Duration::from_millis(u64::from(step % 700));
            }
        }
        // Left alone, with all that is made ready, everything that was to be replaced is gone.
        for round in 0..3 {
            let plan = plan_replicas(desired(replicas), &pods);
            apply(&plan, &mut pods, 100 + round);
            for pod in pods.iter_mut().filter(|p| is_ours(p)) {
                *pod = Replica { owner: Owner::Us, bound: true, phase: PodPhase::Running, ready_for: Some(LONG), ..pod.clone() };
            }
        }
        let left: Vec<_> = pods.iter().filter(|p| p.owner == Owner::Us && is_ours(p)).collect();
        prop_assert!(left.len() == replicas as usize && left.iter().all(|p| p.replace.is_none()), "{left:?}");
    }
}

#[test]
fn a_pod_is_replaced_when_another_has_been_ready_for_long_enough() {
    let order = Replace { min_ready_ms: Some(2000), grace_period_seconds: Some(3), update: false };
    let old = Replica { replace: Some(order), current: false, ..serving("old") };
    let plan = plan_replicas(desired(1), std::slice::from_ref(&old));
    assert_eq!((plan.create, plan.delete.len(), plan.recheck), (1, 0, None));
    let after = |ms: u64| Replica { ready_for: Some(Duration::from_millis(ms)), ..serving("new") };
    let plan = plan_replicas(desired(1), &[old.clone(), fresh("new")]);
    assert_eq!((plan.create, plan.delete.len(), plan.replicas, plan.ready), (0, 0, 2, 1));
    let plan = plan_replicas(desired(1), &[old.clone(), after(500)]);
    assert_eq!((plan.delete.len(), plan.recheck), (0, Some(Duration::from_millis(1500))));
    let plan = plan_replicas(desired(1), &[old.clone(), after(2000)]);
    assert_eq!(plan.delete, [(old.key.clone(), Some(3))]);
    // One that serves nobody is not waited for.
    let plan = plan_replicas(desired(1), &[Replica { ready_for: None, ..old.clone() }]);
    assert_eq!((plan.create, plan.delete.len()), (1, 1));
    // What the controller asks for counts too.
    let strict = Desired { replicas: 1, min_ready: Duration::from_secs(5) };
    let plan = plan_replicas(strict, &[old, after(2000)]);
    assert_eq!((plan.delete.len(), plan.available, plan.recheck), (0, 1, Some(Duration::from_secs(3))));
}

#[test]
fn an_order_that_is_taken_back_removes_what_was_made_instead() {
    let broken = Replica { bound: true, current: false, ..fresh("broken") };
    let plan = plan_replicas(desired(2), &[serving("a"), serving("b"), broken.clone()]);
    assert_eq!(plan.delete, [(broken.key, None)]);
    // Of those that serve, the ones of the old template go first.
    let old = Replica { current: false, ..serving("a") };
    let plan = plan_replicas(desired(1), &[old.clone(), serving("b")]);
    assert_eq!(plan.delete, [(old.key, None)]);
}
