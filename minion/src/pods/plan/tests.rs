//! The planner in a model world: containers that die, operations that fail, lose their answer or
//! take long, minions that restart. Whatever happens, the world must become what the pod says.

use coracle_api::client::Wire;
use proptest::prelude::*;

use super::*;
use crate::{
    pods::{
        naming::{infra_hash, spec_hash},
        operations::Outcome,
        rest::Keepsake,
    },
    runtime::ContainerId,
};

fn pod(policy: &str, inits: &[&str], names: &[&str]) -> Pod {
    let containers = |names: &[&str]| -> Vec<_> {
        names.iter().map(|n| serde_json::json!({"name": n, "image": format!("image-{n}")})).collect()
    };
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u1", "generation": 1},
        "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 5,
            "initContainers": containers(inits), "containers": containers(names)},
    }))
    .unwrap()
}

struct World {
    pod: Option<Pod>,
    known: Pod,
    observed: PodObservation,
    memory: PodMemory,
    now: Timestamp,
    under_way: Vec<Action>,
    volumes: bool,
    deleted: bool,
    made: u32,
    /// Containers whose names start with `init` or `job` end by themselves.
    job_code: i32,
    started: Vec<String>,
    traffic: Option<Traffic>,
    rests: u32,
}

impl World {
    fn new(pod: Pod) -> Self {
        let memory = PodMemory::adopt(&pod);
        Self {
            known: pod.clone(),
            pod: Some(pod),
            observed: PodObservation::default(),
            memory,
            now: "2026-11-23T10:00:00Z".parse().unwrap(),
            under_way: Vec::new(),
            volumes: false,
            deleted: false,
            made: 0,
            job_code: 0,
            started: Vec::new(),
            traffic: None,
            rests: 0,
        }
    }

    fn context(&self) -> Context {
        Context { node_ip: [192, 0, 2, 1].into(), now: self.now, traffic: self.traffic }
    }

    fn advance(&mut self, time: Duration) {
        self.now = backoff::after(self.now, time);
    }

    /// Plans, checks what must always hold, and notes the actions as under way.
    fn plan(&mut self) -> PodPlan {
        self.memory.observe(self.pod.as_ref(), &self.observed, self.now);
        let plan = plan_pod(self.pod.as_ref(), &self.observed, &self.memory, self.context());
        let again = plan_pod(self.pod.as_ref(), &self.observed, &self.memory, self.context());
        assert_eq!(plan, again, "same input, same output");
        self.memory.planned(plan.held, self.now);
        let before = self.memory.status.as_ref().and_then(|s| s.phase.clone());
        let after = plan.status.as_ref().and_then(|s| s.phase.clone());
        let rank = |phase: &Option<String>| match phase.as_deref() {
            Some("Running") => 1,
            Some("Succeeded" | "Failed") => 2,
            _ => 0,
        };
        assert!(after.is_none() || rank(&before) <= rank(&after), "{before:?} -> {after:?}");
        for action in &plan.actions {
            match action {
                Action::Start { container, .. } => {
                    assert!(!self.observed.all(container).any(is_running), "{container} runs already");
                    assert!(self.volumes && rank(&after) < 2, "{action:?}");
                }
                Action::RunInfra { .. } => assert!(self.observed.infra().is_none()),
                Action::RemoveVolumes => assert!(self.observed.containers.is_empty()),
                Action::FinalDelete => assert!(!self.volumes && self.observed.containers.is_empty()),
                _ => {}
            }
        }
        if let Some(status) = &plan.status {
            self.memory.status = Some(status.clone());
        }
        for action in &plan.actions {
            self.memory.begin(action);
            if let Some(slot) = action.slot() {
                self.under_way.retain(|a| a.slot().as_ref() != Some(&slot));
                self.under_way.push(action.clone());
            }
        }
        plan
    }

    fn container(&mut self, name: &str, hash: String, attempt: u32) -> Option<ContainerId> {
        if self.observed.all(name).any(|c| c.attempt == attempt && c.hash == hash) {
            return None;
        }
        self.made += 1;
        let id = ContainerId(format!("{name}-{}", self.made));
        let container = Container {
            id: id.clone(),
            pod_uid: "u1".into(),
            pod_name: "p".into(),
            pod_namespace: "default".into(),
            name: name.into(),
            hash,
            attempt,
            image: "i".into(),
            image_id: "sha256:i".into(),
            created_at: self.now,
            state: State::Running { started_at: self.now },
            ip: (name == labels::INFRA).then(|| [10, 244, 1, 2].into()),
        };
        self.observed.containers.push(Arc::new(container));
        let live = self.observed.all(name).filter(|c| is_running(c)).count();
        assert_eq!(live, 1, "two live containers called {name}");
        Some(id)
    }

    fn end(&mut self, id: &ContainerId, code: i32) {
        let now = self.now;
        if let Some(c) = self.observed.containers.iter_mut().find(|c| c.id == *id)
            && let State::Running { started_at } = c.state
        {
            let (oom_killed, error) = (false, String::new());
            Arc::make_mut(c).state = State::Exited { code, oom_killed, started_at, finished_at: now, error };
        }
    }

    /// Carries out an operation. With `answer` lost, the work is done and the outcome a failure.
    fn carry_out(&mut self, action: &Action, works: bool, answer: bool) {
        let Some(slot) = action.slot() else { return };
        self.under_way.retain(|a| a != action);
        let failed = || Outcome::Failed { reason: "Injected", message: "injected".into() };
        let cancelled = self.memory.in_flight.get(&slot).is_some_and(|op| op.cancelled);
        let outcome = match action {
            Action::Start { .. } | Action::RunInfra { .. } | Action::EnsureImage { .. } if cancelled => {
                Outcome::Cancelled
            }
            Action::EnsureImage { pull: Pull::Look, .. } if !works => {
                Outcome::ImageMissing { reason: "ErrImagePull", message: "no".into(), looked: true }
            }
            Action::EnsureImage { .. } if !works => {
                Outcome::ImageMissing { reason: "ErrImagePull", message: "no".into(), looked: false }
            }
            _ if !works => failed(),
            Action::MountVolumes => {
                self.volumes = true;
                Outcome::VolumesReady
            }
            Action::EnsureImage { .. } => Outcome::ImageReady,
            Action::RunInfra { attempt } => {
                let hash = infra_hash(&self.known);
                if self.container(labels::INFRA, hash, *attempt).is_some() { Outcome::Done } else { failed() }
            }
            Action::Start { container, attempt, infra } => {
                let joined = self.observed.by_id(infra).is_some_and(is_running);
                let spec = self.pod.as_ref().unwrap_or(&self.known).spec.clone().unwrap();
                let hash = restart::containers(&spec).find(|(_, c)| c.name == *container).map(|(_, c)| spec_hash(c));
                match hash.filter(|_| joined).and_then(|hash| self.container(container, hash, *attempt)) {
                    Some(id) => {
                        self.started.push(container.clone());
                        Outcome::Started { id, hook: false }
                    }
                    None => failed(),
                }
            }
            Action::RunHook { .. } => Outcome::Done,
            Action::Stop { id, .. } => {
                self.end(id, 143);
                Outcome::Done
            }
            Action::Remove { id } => {
                self.observed.containers.retain(|c| c.id != *id);
                Outcome::Done
            }
            Action::RemoveVolumes => {
                assert!(self.observed.containers.is_empty(), "volumes go after the containers");
                self.volumes = false;
                Outcome::VolumesRemoved
            }
            Action::FinalDelete => {
                self.deleted = true;
                Outcome::Deleted
            }
            Action::Cancel(_) => return,
        };
        self.memory.finish(&slot, if answer { outcome } else { failed() }, self.now);
    }

    /// True if any ran.
    fn finish_jobs(&mut self) -> bool {
        let jobs = |c: &&Container| is_running(c) && (c.name.starts_with("init") || c.name.starts_with("job"));
        let running: Vec<_> = self.observed.own().filter(jobs).map(|c| c.id.clone()).collect();
        for id in &running {
            self.end(id, self.job_code);
        }
        !running.is_empty()
    }

    /// No more faults: everything works at once and time passes.
    fn settle(&mut self) -> PodPlan {
        for _ in 0..300 {
            let plan = self.plan();
            let idle = self.under_way.is_empty() && plan.recheck_at.is_none();
            if plan.done || idle && !self.finish_jobs() {
                return plan;
            }
            for action in self.under_way.clone() {
                self.carry_out(&action, true, true);
                self.advance(Duration::from_millis(5));
            }
            self.finish_jobs();
            if let Some(at) = plan.recheck_at {
                self.now = self.now.max(at);
            }
            self.advance(Duration::from_millis(100));
        }
        panic!("did not settle: {:?} {:?}", self.observed, self.memory);
    }

    /// The minion forgets everything; the master has the last status.
    fn restart_minion(&mut self) {
        self.under_way.clear();
        if let Some(pod) = &mut self.pod {
            pod.status = self.memory.status.as_deref().cloned();
        }
        self.memory = self.pod.as_ref().map(PodMemory::adopt).unwrap_or_default();
    }

    /// The pod goes to rest, if it may, and is woken again: what follows must be as if it had not.
    fn rest(&mut self) {
        let plan = self.plan();
        if !plan.actions.is_empty() || plan.recheck_at.is_some() {
            return;
        }
        let Some(pod) = &mut self.pod else { return };
        pod.status = self.memory.status.as_deref().cloned();
        let wire = Wire::of(pod).unwrap().into();
        let stored = pod.status.as_ref();
        let Some(kept) = Keepsake::of(&wire, stored, &self.memory, &self.observed, self.now) else { return };
        let opened = kept.pod.open().unwrap();
        assert_eq!(opened, *pod);
        self.memory = kept.memory(&opened);
        let again = self.plan();
        assert_eq!(plan, again, "who begins anew plans what the other one would have");
        self.rests += 1;
    }

    fn delete(&mut self) {
        if let Some(pod) = &mut self.pod {
            pod.metadata.deletion_timestamp = Some(coracle_api::meta::Time(self.now));
            pod.metadata.deletion_grace_period_seconds = Some(5);
        }
    }

    fn running(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.observed.own().filter(|c| is_running(c)).map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn phase(&self) -> &str {
        self.memory.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }

    fn status_of(&self, name: &str) -> coracle_api::core::ContainerStatus {
        let all = self.memory.status.as_ref().and_then(|s| s.container_statuses.clone()).unwrap_or_default();
        all.into_iter().find(|c| c.name == name).unwrap()
    }

    fn waiting(&self, name: &str) -> String {
        self.status_of(name).state.and_then(|s| s.waiting?.reason).unwrap_or_default()
    }

    fn id(&self, name: &str) -> ContainerId {
        self.observed.newest(name).unwrap().id.clone()
    }

    /// One step of chaos, told by a byte.
    fn disturb(&mut self, byte: u8) {
        let pick = |n: usize| usize::from(byte >> 4) % n.max(1);
        match byte & 15 {
            0..=2 => drop(self.plan()),
            3..=7 => {
                self.plan();
                if let Some(action) = self.under_way.get(pick(self.under_way.len())).cloned() {
                    self.carry_out(&action, byte & 15 != 6, byte & 15 != 7);
                }
            }
            8 => {
                let ids: Vec<_> = self.observed.containers.iter().map(|c| c.id.clone()).collect();
                if let Some(id) = ids.get(pick(ids.len())) {
                    self.end(id, i32::from(byte >> 4));
                }
            }
            9 => {
                let ids: Vec<_> = self.observed.containers.iter().map(|c| c.id.clone()).collect();
                if let Some(id) = ids.get(pick(ids.len())) {
                    self.observed.containers.retain(|c| c.id != *id);
                }
            }
            10 => self.restart_minion(),
            11 => drop(self.finish_jobs()),
            12 => self.advance(Duration::from_secs(u64::from(byte >> 4))),
            13 => self.rest(),
            _ => {
                for action in self.under_way.clone() {
                    self.carry_out(&action, true, true);
                }
            }
        }
        self.advance(Duration::from_millis(7));
    }
}

#[test]
fn a_pod_rests_once_all_is_well_and_again_when_a_restarted_container_has_run_for_a_while() {
    let mut world = World::new(pod("Always", &["init"], &["a"]));
    world.rest();
    assert_eq!(world.rests, 0, "it is still to be started");
    world.settle();
    world.rest();
    assert_eq!(world.rests, 1);
    let id = world.id("a");
    world.end(&id, 1);
    world.settle();
    world.rest();
    assert_eq!(world.rests, 1, "a series of crashes is remembered");
    world.advance(Duration::from_secs(60));
    world.rest();
    assert_eq!(world.rests, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_service_pod_runs_again_whatever_happened(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut world = World::new(pod("Always", &["init"], &["a", "b"]));
        bytes.iter().for_each(|b| world.disturb(*b));
        let plan = world.settle();
        prop_assert_eq!(world.running(), ["a", "b"]);
        prop_assert_eq!(world.phase(), "Running");
        prop_assert!(plan.actions.is_empty());
        // At most the newest dead one of each name is left.
        for name in ["a", "b", "init"] {
            prop_assert!(world.observed.all(name).filter(|c| !is_running(c)).count() <= 1);
        }
        prop_assert_eq!(world.observed.all(labels::INFRA).count(), 1);
    }

    #[test]
    fn a_deleted_pod_leaves_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..60), after in proptest::collection::vec(any::<u8>(), 0..30), vanishes: bool, served: bool) {
        let mut world = World::new(pod("Always", &["init"], &["a", "b"]));
        world.traffic = served.then_some(Traffic::Taken);
        bytes.iter().for_each(|b| world.disturb(*b));
        if vanishes { world.pod = None } else { world.delete() }
        after.iter().for_each(|b| world.disturb(*b));
        let plan = world.settle();
        prop_assert!(plan.done && world.observed.containers.is_empty() && !world.volumes);
        prop_assert_eq!(world.deleted, !vanishes);
    }

    #[test]
    fn a_job_ends_once_and_for_all(bytes in proptest::collection::vec(any::<u8>(), 0..60), code in 0..2i32, policy in prop_oneof![Just("Never"), Just("OnFailure")]) {
        let mut world = World::new(pod(policy, &[], &["job-a", "job-b"]));
        world.job_code = code;
        bytes.iter().for_each(|b| world.disturb(*b));
        if policy == "OnFailure" {
            world.job_code = 0;
        }
        world.settle();
        let phase = world.phase().to_owned();
        prop_assert!(phase == "Succeeded" || phase == "Failed" && policy == "Never", "{}", phase);
        prop_assert!(world.observed.infra().is_none());
        let started = world.started.len();
        for byte in [0x10, 0xd0, 0xa0, 0xd0, 0x3c, 0xd0] {
            world.disturb(byte);
        }
        prop_assert_eq!(world.started.len(), started, "a pod that has ended starts nothing");
        prop_assert_eq!(world.phase(), phase);
    }

    #[test]
    fn a_restarted_minion_restarts_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut world = World::new(pod("Always", &["init"], &["a", "b"]));
        bytes.iter().for_each(|b| world.disturb(*b));
        world.settle();
        let before = world.observed.clone();
        world.restart_minion();
        let plan = world.plan();
        let harmless = |a: &Action| matches!(a, Action::MountVolumes);
        prop_assert!(plan.actions.iter().all(harmless), "{:?}", plan.actions);
        world.settle();
        prop_assert_eq!(world.observed, before);
    }
}

#[test]
fn everything_that_can_overlap_starts_at_once() {
    let mut world = World::new(pod("Always", &[], &["a", "b"]));
    let plan = world.plan();
    let image = |i: &str| Action::EnsureImage { image: i.into(), pull: Pull::IfMissing };
    let expected = [Action::MountVolumes, Action::RunInfra { attempt: 0 }, image("image-a"), image("image-b")];
    assert_eq!(plan.actions, expected);
    assert_eq!(world.plan().actions, [], "what is under way is not planned again");
    assert_eq!(world.waiting("a"), "ContainerCreating");
}

#[test]
fn a_crash_is_reported_and_restarted_in_the_same_plan() {
    let mut world = World::new(pod("Always", &[], &["a", "b"]));
    world.settle();
    world.advance(Duration::from_secs(1));
    let id = world.id("a");
    world.end(&id, 9);
    let plan = world.plan();
    assert!(matches!(plan.actions.as_slice(), [Action::Start { attempt: 1, .. }]), "{:?}", plan.actions);
    let status = world.status_of("a");
    assert_eq!(status.state.unwrap().terminated.unwrap().exit_code, 9);
    assert!(!status.ready && world.status_of("b").ready);
    world.settle();
    let status = world.status_of("a");
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 9);
    assert!(status.ready);
}

#[test]
fn a_crash_loop_backs_off_and_says_so_until_a_steady_run() {
    let mut world = World::new(pod("Always", &[], &["a"]));
    world.settle();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let id = world.id("a");
        world.end(&id, 1);
        let before = world.now;
        let plan = world.plan();
        if plan.recheck_at.is_some() {
            assert_eq!(world.waiting("a"), "CrashLoopBackOff");
        }
        waits.push(plan.recheck_at.map_or(0, |at| at.duration_since(before).as_secs()));
        world.settle();
    }
    assert_eq!(waits, [0, 1, 2, 4, 8]);
    world.advance(backoff::STEADY_RUN);
    let id = world.id("a");
    world.end(&id, 1);
    assert!(matches!(world.plan().actions.as_slice(), [Action::Start { .. }]));
}

#[test]
fn a_lost_network_restarts_all_containers_in_a_new_one_with_the_volumes_intact() {
    let mut world = World::new(pod("Always", &["init"], &["a", "b"]));
    world.settle();
    let infra = world.observed.infra().unwrap().id.clone();
    world.advance(Duration::from_secs(60));
    world.end(&infra, 137);
    let plan = world.plan();
    assert!(plan.actions.contains(&Action::RunInfra { attempt: 1 }));
    assert_eq!(plan.actions.iter().filter(|a| matches!(a, Action::Stop { .. })).count(), 2);
    assert!(plan.status.unwrap().pod_ip.is_none());
    world.settle();
    assert_eq!(world.running(), ["a", "b"]);
    assert_eq!(world.started, ["init", "a", "b", "init", "a", "b"]);
    assert!(world.volumes);
}

#[test]
fn a_new_image_replaces_only_its_container() {
    let mut world = World::new(pod("Always", &[], &["a", "b"]));
    world.settle();
    let pod = world.pod.as_mut().unwrap();
    pod.spec.as_mut().unwrap().containers[0].image = Some("new".into());
    pod.metadata.generation = Some(2);
    let plan = world.plan();
    assert!(
        matches!(plan.actions.as_slice(), [Action::Stop { container, reason: StopReason::Replaced, .. }] if container == "a")
    );
    world.settle();
    assert_eq!(world.started, ["a", "b", "a"]);
    assert_eq!(world.running(), ["a", "b"]);
}

#[test]
fn init_containers_run_one_after_the_other_before_the_rest() {
    let mut world = World::new(pod("Always", &["init-1", "init-2"], &["a"]));
    world.settle();
    assert_eq!(world.started, ["init-1", "init-2", "a"]);
    let mut world = World::new(pod("Never", &["init-1", "init-2"], &["a"]));
    world.job_code = 4;
    world.settle();
    assert_eq!((world.phase(), world.started.as_slice()), ("Failed", ["init-1".to_owned()].as_slice()));
}

#[test]
fn a_missing_image_is_told_apart_from_a_repeated_one_and_looked_for() {
    let mut world = World::new(pod("Always", &[], &["a"]));
    let fail = |world: &mut World| {
        for action in world.under_way.clone() {
            world.carry_out(&action, !matches!(action, Action::EnsureImage { .. }), true);
        }
        world.plan()
    };
    world.plan();
    let plan = fail(&mut world);
    assert_eq!(world.waiting("a"), "ErrImagePull");
    assert!(matches!(plan.actions.as_slice(), [Action::EnsureImage { pull: Pull::IfMissing, .. }]));
    fail(&mut world);
    assert_eq!(world.waiting("a"), "ImagePullBackOff");
    world.settle();
    assert_eq!(world.running(), ["a"]);
}

#[test]
fn a_shorter_grace_replaces_the_stop_under_way() {
    let mut world = World::new(pod("Always", &[], &["a"]));
    world.settle();
    world.delete();
    let stops = |plan: &PodPlan| plan.actions.iter().filter(|a| matches!(a, Action::Stop { .. })).count();
    assert_eq!(stops(&world.plan()), 1);
    assert_eq!(stops(&world.plan()), 0);
    world.pod.as_mut().unwrap().metadata.deletion_grace_period_seconds = Some(0);
    assert_eq!(stops(&world.plan()), 1);
}

#[test]
fn a_pod_that_clients_are_sent_to_is_not_stopped_before_they_are_sent_elsewhere() {
    let mut world = World::new(pod("Always", &[], &["a"]));
    world.settle();
    world.traffic = Some(Traffic::Taken);
    world.delete();
    let deleted = world.now;
    let plan = world.plan();
    assert!(plan.held && plan.actions.is_empty(), "{plan:?}");
    assert_eq!(plan.recheck_at, Some(backoff::after(deleted, Duration::from_millis(2500))), "half of its grace");
    world.advance(Duration::from_millis(300));
    world.traffic = Some(Traffic::Ended(world.now));
    let plan = world.plan();
    assert_eq!((plan.held, plan.recheck_at), (true, Some(backoff::after(deleted, Duration::from_millis(1300)))));
    world.advance(Duration::from_millis(1000));
    let plan = world.plan();
    let graces: Vec<_> = (plan.actions.iter())
        .filter_map(|action| if let Action::Stop { grace, .. } = action { Some(*grace) } else { None })
        .collect();
    assert_eq!(graces, [Duration::from_millis(3700)], "what is left of it");
    world.advance(Duration::from_millis(500));
    assert!(world.plan().actions.is_empty(), "it is under way");
    // Nothing that is heard later holds it again, or gives it more or less.
    for traffic in [None, Some(Traffic::Taken), Some(Traffic::Ended(world.now))] {
        world.traffic = traffic;
        let plan = world.plan();
        assert!(!plan.held && plan.actions.is_empty(), "{traffic:?}: {plan:?}");
    }
    // The service that sent clients to it is removed meanwhile: it has served on for as long as that.
    let mut world = World::new(pod("Always", &[], &["a"]));
    world.settle();
    world.traffic = Some(Traffic::Taken);
    world.delete();
    assert!(world.plan().held);
    world.advance(Duration::from_millis(400));
    world.traffic = None;
    let plan = world.plan();
    let left = Duration::from_millis(4600);
    assert!(matches!(plan.actions.as_slice(), [Action::Stop { grace, .. }] if *grace == left), "{plan:?}");
    // Whoever wants it gone at once gets it.
    let mut world = World::new(pod("Always", &[], &["a"]));
    world.settle();
    world.traffic = Some(Traffic::Taken);
    world.pod = None;
    assert!(matches!(world.plan().actions.as_slice(), [Action::Stop { .. }]));
}

#[test]
fn a_pod_past_its_deadline_fails_and_is_stopped() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.spec.as_mut().unwrap().active_deadline_seconds = Some(30);
    let mut world = World::new(pod);
    world.plan();
    world.settle();
    assert_eq!((world.phase(), world.running().len()), ("Failed", 0));
    assert_eq!(world.memory.status.as_ref().unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let mut world = World::new(pod("Always", &[], &["a"]));
    world.settle();
    world.memory.containers.get_mut("a").unwrap().probes.as_mut().unwrap().dead =
        Some("liveness probe failed: x".into());
    let plan = world.plan();
    assert!(matches!(plan.actions.as_slice(), [Action::Stop { reason: StopReason::Unhealthy(_), .. }]));
    world.settle();
    let status = world.status_of("a");
    assert_eq!(status.restart_count, 1);
    assert!(status.last_state.unwrap().terminated.unwrap().message.unwrap().contains("liveness"));
}

#[test]
fn a_sidecar_starts_before_the_others_and_does_not_keep_the_pod() {
    let mut pod = pod("OnFailure", &["side"], &["job"]);
    pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].restart_policy = Some("Always".into());
    let mut world = World::new(pod);
    world.settle();
    assert_eq!(world.started, ["side", "job"]);
    assert_eq!((world.phase(), world.running().len()), ("Succeeded", 0));
}

#[test]
fn a_sidecar_is_ready_by_its_own_probe_and_the_pod_with_it() {
    let mut pod = pod("Always", &["side"], &["a"]);
    let side = &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0];
    side.restart_policy = Some("Always".into());
    side.readiness_probe = serde_json::from_value(serde_json::json!({"exec": {"command": ["true"]}})).unwrap();
    let mut world = World::new(pod);
    world.settle();
    let pod_ready = |world: &World| {
        let conditions = world.memory.status.as_ref().unwrap().conditions.clone().unwrap();
        let of = |type_: &str| conditions.iter().find(|c| c.type_ == type_).unwrap().clone();
        assert_eq!(of("Initialized").status, "True");
        (of("Ready").status, of("ContainersReady").message.unwrap_or_default())
    };
    let side = |world: &World| world.memory.status.as_ref().unwrap().init_container_statuses.clone().unwrap().remove(0);
    assert_eq!(world.running(), ["a", "side"], "the others do not wait for its readiness");
    assert_eq!((side(&world).started, side(&world).ready), (Some(true), false));
    assert_eq!(pod_ready(&world), ("False".into(), "containers not ready: side".into()));
    world.memory.containers.get_mut("side").unwrap().probes.as_mut().unwrap().ready = true;
    world.settle();
    assert!(side(&world).ready);
    assert_eq!(pod_ready(&world), ("True".into(), String::new()));
}

#[test]
fn a_startup_probe_that_failed_gives_its_own_grace() {
    let mut pod = pod("Always", &[], &["a"]);
    let probe = |grace: i64| {
        serde_json::from_value(
            serde_json::json!({"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": grace}),
        )
        .unwrap()
    };
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    (container.startup_probe, container.liveness_probe) = (probe(1), probe(2));
    let mut world = World::new(pod);
    world.settle();
    for (started, expected) in [(false, 1), (true, 2)] {
        let probes = world.memory.containers.get_mut("a").unwrap().probes.as_mut().unwrap();
        (probes.started, probes.dead) = (started, Some("the probe failed: x".into()));
        let plan = world.plan();
        let [Action::Stop { grace, reason: StopReason::Unhealthy(_), .. }] = plan.actions.as_slice() else {
            panic!("{:?}", plan.actions)
        };
        assert_eq!(grace.as_secs(), expected);
        world.settle();
    }
}

#[test]
fn an_image_that_is_lost_again_and_again_is_not_fetched_without_a_pause() {
    let mut world = World::new(pod("Always", &[], &["a"]));
    let lose = |world: &mut World| {
        let mut lost = 0;
        for _ in 0..30 {
            world.plan();
            for action in world.under_way.clone() {
                if !matches!(action, Action::Start { .. }) {
                    world.carry_out(&action, true, true);
                    continue;
                }
                lost += 1;
                world.under_way.retain(|a| *a != action);
                let image = "image-a".to_owned();
                world.memory.finish(&action.slot().unwrap(), Outcome::ImageLost { image }, world.now);
            }
        }
        lost
    };
    assert_eq!(lose(&mut world), 2, "only the first time is free");
    assert_eq!(world.plan().recheck_at, Some(backoff::after(world.now, Duration::from_secs(1))));
    world.advance(Duration::from_secs(1));
    assert_eq!(lose(&mut world), 1);
    world.advance(Duration::from_secs(2));
    world.settle();
    assert_eq!(world.running(), ["a"]);
}
