//! Updates in a model of a cluster: with several clients, interrupted, turned round, resized.

use proptest::prelude::*;

use super::*;

/// A controller with its pods, as the master works.
#[derive(Debug, Clone)]
struct World {
    view: View,
    /// The template now, and that of each pod.
    template: u32,
    made_of: Vec<u32>,
    made: usize,
    /// Writes so far.
    written: usize,
}

impl World {
    fn new(wanted: usize) -> Self {
        let mut world =
            Self { view: View { wanted, pods: Vec::new() }, template: 0, made_of: Vec::new(), made: 0, written: 0 };
        world.control();
        world.get_ready(usize::MAX);
        world
    }

    /// What the replication controller does, to the end. (Its own tests show that it does.)
    fn control(&mut self) {
        loop {
            let pods = &self.view.pods;
            let staying = pods.iter().filter(|p| p.replace.is_none()).count();
            let ready = pods.iter().filter(|p| p.ready).count();
            let leaving = pods.iter().position(|p| p.replace.is_some() && (!p.ready || ready > self.view.wanted));
            if staying < self.view.wanted {
                self.made += 1;
                let name = format!("p{:03}", self.made);
                self.view.pods.push(PodView { uid: name.clone(), name, ..PodView::default() });
                self.made_of.push(self.template);
            } else if staying > self.view.wanted {
                let order = |(i, p): &(usize, &PodView)| (p.ready, self.made_of[*i] == self.template);
                let staying = pods.iter().enumerate().filter(|(_, p)| p.replace.is_none());
                if let Some(index) = staying.min_by_key(order).map(|(index, _)| index) {
                    self.remove(index);
                }
            } else if let Some(index) = leaving {
                self.remove(index);
            } else {
                return;
            }
        }
    }

    fn remove(&mut self, index: usize) {
        self.view.pods.remove(index);
        self.made_of.remove(index);
    }

    /// Some pods that are not broken become ready.
    fn get_ready(&mut self, count: usize) {
        let odd = |template: &u32| template % 2 == 1;
        let waiting = self.view.pods.iter_mut().zip(&self.made_of).filter(|(p, _)| !p.ready && p.obstacle.is_none());
        for (pod, template) in waiting.take(count) {
            self.written += 1;
            pod.version = self.written.to_string();
            // Odd templates are broken.
            pod.ready = !odd(template);
            let broken = Obstacle { reason: "ImagePullBackOff".into(), message: String::new(), lasts: Duration::ZERO };
            pod.obstacle = odd(template).then_some(broken);
        }
    }

    /// What a client sees.
    fn seen(&self) -> View {
        let mut view = self.view.clone();
        for (pod, template) in view.pods.iter_mut().zip(&self.made_of) {
            pod.current = *template == self.template;
        }
        view
    }

    fn carry_out(&mut self, step: &Step) {
        let order = match step {
            Step::Replace(_) => Some(true),
            Step::TakeBack(_) => None,
            Step::Wait | Step::Broken(_) | Step::Done => return,
        };
        if let Step::Replace(pod) | Step::TakeBack(pod) = step
            && let Some(found) = self.view.pods.iter_mut().find(|p| (&p.uid, &p.version) == (&pod.uid, &pod.version))
        {
            found.replace = order;
            self.written += 1;
            found.version = self.written.to_string();
        }
    }

    fn check(&self, before: usize) -> Result<(), TestCaseError> {
        let (wanted, pods) = (self.view.wanted, self.view.pods.len());
        prop_assert!(self.view.ready() >= before.min(wanted), "{before} ready before: {self:?}");
        prop_assert!(pods <= wanted + 1, "{pods} of {wanted}: {self:?}");
        Ok(())
    }

    /// Goes on until nothing changes. The last step.
    fn settle(&mut self) -> Result<Step, TestCaseError> {
        for _ in 0..500 {
            let before = self.view.ready();
            let (step, seen) = (next(&self.seen()), self.clone());
            self.carry_out(&step);
            self.control();
            self.check(before)?;
            self.get_ready(1);
            self.control();
            if matches!(step, Step::Broken(_) | Step::Done) && seen.view == self.view {
                return Ok(step);
            }
        }
        Err(TestCaseError::fail(format!("it does not end: {self:?}")))
    }
}

proptest! {
    #[test]
    fn no_pod_is_missed_and_one_at_most_is_too_many(
        wanted in 0usize..8,
        events in prop::collection::vec((0u8..8, any::<u8>()), 0..60),
    ) {
        let mut world = World::new(wanted);
        // A step that was decided on and is carried out late, after others.
        let mut late = Step::Wait;
        for (event, detail) in events {
            let before = world.view.ready();
            match event {
                // Two clients, one of which looks at what was.
                0..=2 => {
                    let step = next(&world.seen());
                    world.carry_out(&step);
                }
                3 => late = next(&world.seen()),
                // A step is bound to the pod it was decided for, as that was.
                4 => world.carry_out(&std::mem::replace(&mut late, Step::Wait)),
                5 | 6 => world.get_ready(usize::from(detail % 3)),
                // At any time somebody wants another template, or one that was before.
                _ => {
                    world.template = u32::from(detail % 6);
                    late = Step::Wait;
                }
            }
            world.control();
            world.check(before)?;
        }
        let last = world.settle()?;
        if world.template.is_multiple_of(2) {
            prop_assert_eq!(last, Step::Done);
            prop_assert!(world.made_of.iter().all(|t| *t == world.template));
        } else {
            // It stopped by itself, and one step back is a cluster as it was.
            prop_assert!(world.view.ready() >= world.view.wanted, "{world:?}");
            prop_assert!(wanted == 0 || matches!(last, Step::Broken(_)));
            for template in [world.template - 1, world.template + 1] {
                world.template = template;
                world.control();
                prop_assert_eq!(world.settle()?, Step::Done);
            }
        }
    }

    #[test]
    fn a_controller_that_is_resized_meanwhile_gets_there(from in 0usize..6, to in 0usize..6, steps in 0usize..20) {
        let mut world = World::new(from);
        world.template = 2;
        for _ in 0..steps {
            let step = next(&world.seen());
            world.carry_out(&step);
            world.control();
            world.get_ready(1);
        }
        world.view.wanted = to;
        world.control();
        prop_assert_eq!(world.settle()?, Step::Done);
        prop_assert_eq!(world.view.pods.len(), to);
    }
}

fn pod(name: &str, current: bool, ready: bool) -> PodView {
    PodView { name: name.into(), uid: name.into(), current, ready, ..PodView::default() }
}

#[test]
fn steps_follow_from_the_pods() {
    let check = |wanted, pods: Vec<PodView>, expected: Step| assert_eq!(next(&View { wanted, pods }), expected);
    let leaving = |ours| PodView { replace: Some(ours), ..pod("a", false, true) };
    check(2, vec![pod("b", false, true), pod("a", false, true)], Step::Replace(pod("a", false, true)));
    check(2, vec![pod("a", false, true), pod("b", false, false)], Step::Replace(pod("b", false, false)));
    check(2, vec![leaving(true), pod("b", false, true), pod("c", true, false)], Step::Wait);
    check(2, vec![leaving(false), pod("b", false, true), pod("c", true, true)], Step::Wait);
    check(2, vec![pod("b", false, true), pod("c", true, false)], Step::Wait);
    check(2, vec![pod("b", false, true)], Step::Wait);
    check(1, vec![pod("b", false, true), pod("c", true, true)], Step::Wait);
    // What a broken update left behind holds the next one up.
    let left = pod("broken", false, false);
    check(2, vec![leaving(true), pod("b", false, true), left.clone()], Step::Replace(left));
    check(1, vec![pod("c", true, true)], Step::Done);
    check(0, vec![], Step::Done);
    let again = PodView { replace: Some(true), ..pod("a", true, true) };
    check(1, vec![pod("b", false, false), again.clone()], Step::TakeBack(again));
    // What a drain ordered stands.
    check(1, vec![PodView { replace: Some(false), ..pod("a", true, true) }], Step::Wait);
}

#[test]
fn only_what_stays_in_the_way_stops_an_update() {
    let with = |reason: &str, seconds| {
        let lasts = Duration::from_secs(seconds);
        let obstacle = Some(Obstacle { reason: reason.into(), message: "m".into(), lasts });
        View { wanted: 2, pods: vec![pod("a", false, true), PodView { obstacle, ..pod("b", true, false) }] }
    };
    assert_eq!(next(&with("ErrImagePull", 1)), Step::Wait);
    assert!(matches!(next(&with("ErrImagePull", 10)), Step::Broken(_)));
    assert!(matches!(next(&with("CrashLoopBackOff", 0)), Step::Broken(_)));
    let mut old = with("CrashLoopBackOff", 0);
    old.pods[1].current = false;
    assert!(matches!(next(&old), Step::Replace(_)), "an old pod that fails is a reason to go on");
}
