//! A container engine in memory, with the delays of a real one and faults on request: the double
//! of tests, and the engine of simulated nodes, thousands in a process.
//!
//! Containers do what their command says (see `script`). All of it lives in one lock that is never
//! held across an await.

mod script;
mod world;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use self::{script::Script, world::World};
use super::{
    Container, ContainerId, ContainerSpec, ExecOutcome, ExecOutput, ExecQuery, ExecSession, Image, InfraSpec, LogQuery,
    Runtime, RuntimeError, RuntimeEvent,
};
use crate::pods::Clock;

/// Events that a listener may have waiting; one that is slower hears of a gap.
const EVENTS_WAITING_MAX: usize = 1024;
/// The exit code of a crash that was made to happen.
const CRASHED: i32 = 139;

/// Calls that can be counted, delayed and made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as the calls of the trait")]
pub enum Call {
    List,
    Image,
    Pull,
    RunInfra,
    Settle,
    Create,
    Start,
    Stop,
    Remove,
    Exec,
}

/// How long calls take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delays {
    /// `list`, `list_pod`, `image`
    pub look: Duration,
    /// `create`, `remove`
    pub change: Duration,
    /// `start`, and the second half of `run_infra`
    pub start: Duration,
    /// From the signal to the end of a container.
    pub stop: Duration,
    /// `pull`
    pub pull: Duration,
}

impl Delays {
    /// Nothing takes time.
    pub const NONE: Self = Self {
        look: Duration::ZERO,
        change: Duration::ZERO,
        start: Duration::ZERO,
        stop: Duration::ZERO,
        pull: Duration::ZERO,
    };
    /// About what Docker 20.10 takes on a small machine.
    pub const DOCKER: Self = Self {
        look: Duration::from_millis(4),
        change: Duration::from_millis(30),
        start: Duration::from_millis(180),
        stop: Duration::from_millis(60),
        pull: Duration::from_secs(3),
    };
}

/// What goes wrong by itself, at random.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mishaps {
    /// The share of starts that fail, 0 to 1.
    pub failed_starts: f64,
    /// How long a container runs on average until it crashes; for ever when absent.
    pub crash_after: Option<Duration>,
}

impl Mishaps {
    fn fails_start(&self) -> bool {
        self.failed_starts > 0.0 && rand::random::<f64>() < self.failed_starts
    }

    /// A life that ends in a crash: exponential, as of what ages not.
    fn life(&self) -> Option<Duration> {
        let mean = self.crash_after?.as_secs_f64();
        // The logarithm of a number from (0, 1].
        let drawn = -(1.0 - rand::random::<f64>()).ln();
        Duration::try_from_secs_f64(mean * drawn).ok()
    }
}

/// The engine. Cheap to clone; clones share the containers.
#[derive(Debug, Clone)]
pub struct Hollow {
    clock: Clock,
    delays: Delays,
    mishaps: Mishaps,
    world: Arc<Mutex<World>>,
}

impl Hollow {
    /// An engine that takes no time and has every image.
    pub fn new(clock: Clock) -> Self {
        Self::with_delays(clock, Delays::NONE)
    }

    /// An engine that takes its time.
    pub fn with_delays(clock: Clock, delays: Delays) -> Self {
        Self::with_mishaps(clock, delays, Mishaps::default())
    }

    /// An engine on which things go wrong.
    pub fn with_mishaps(clock: Clock, delays: Delays, mishaps: Mishaps) -> Self {
        Self { clock, delays, mishaps, world: Arc::default() }
    }

    /// Gives pods addresses from here on.
    pub fn set_first_address(&self, address: Ipv4Addr) {
        self.world().first_address = Some(address);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All containers, as they are.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.world().containers.values().map(|p| Arc::clone(&p.container)).collect()
    }

    /// How often a call was made.
    pub fn calls(&self, call: Call) -> u64 {
        self.world().calls.get(&call).copied().unwrap_or(0)
    }

    /// Makes the next `times` calls fail before they do anything.
    pub fn fail(&self, call: Call, times: u32) {
        self.world().faults.insert(call, (times, false));
    }

    /// Makes the next `times` calls do their work and then end as if the answer was lost.
    pub fn lose_answer(&self, call: Call, times: u32) {
        self.world().faults.insert(call, (times, true));
    }

    /// Takes an image away. A pull gets it back if it is `pullable`.
    pub fn take_image(&self, image: &str, pullable: bool) {
        self.world().missing.insert(image.to_owned(), pullable);
    }

    /// Gives an image, as a user does who loads it.
    pub fn give_image(&self, image: &str) {
        self.world().missing.remove(image);
    }

    /// Ends a running container from outside, as `docker kill` does.
    pub fn kill(&self, id: &ContainerId) {
        self.world().exit(id, 137, self.clock.now());
    }

    /// Removes a container from outside, as `docker rm -f` does.
    pub fn remove_by_hand(&self, id: &ContainerId) {
        self.world().remove(id);
    }

    /// Cuts the engine off; `true` brings it back, with a gap.
    pub fn set_reachable(&self, reachable: bool) {
        self.world().set_reachable(reachable);
    }

    /// Swallows events; `false` ends that with a gap.
    pub fn lose_events(&self, lose: bool) {
        self.world().lose_events(lose);
    }

    async fn enter(&self, call: Call, delay: Duration) -> Result<(), RuntimeError> {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.world().enter(call)
    }

    /// The answer of a call that did its work.
    fn leave<T>(&self, call: Call, value: T) -> Result<T, RuntimeError> {
        self.world().leave(call).map(|()| value)
    }

    /// `life` ends in a crash, if the container's own is not shorter.
    fn launch(&self, id: &ContainerId, life: Option<Duration>) -> Result<(), RuntimeError> {
        let now = self.clock.now();
        let Some((run, mut script)) = self.world().launch(id, now)? else { return Ok(()) };
        if let Some(life) = life.filter(|life| script.lives.is_none_or(|lives| *life < lives)) {
            (script.lives, script.code) = (Some(life), CRASHED);
        }
        if let Some(lives) = script.lives {
            let (world, clock, id) = (Arc::downgrade(&self.world), self.clock.clone(), id.clone());
            tokio::spawn(async move {
                tokio::time::sleep(lives).await;
                if let Some(world) = world.upgrade() {
                    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
                    if world.containers.get(&id).is_some_and(|p| p.run == run) {
                        world.exit(&id, script.code, clock.now());
                    }
                }
            });
        }
        Ok(())
    }
}

impl Runtime for Hollow {
    async fn list(&self) -> Result<Vec<Arc<Container>>, RuntimeError> {
        self.enter(Call::List, self.delays.look).await?;
        Ok(self.containers())
    }

    async fn list_pod(&self, pod_uid: &str) -> Result<Vec<Arc<Container>>, RuntimeError> {
        self.enter(Call::List, self.delays.look).await?;
        Ok(self.world().pod(pod_uid))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        self.world().listen(sender);
        receiver
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.enter(Call::Image, self.delays.look).await?;
        let here = !self.world().missing.contains_key(image);
        Ok(here.then(|| Image { id: format!("sha256:{image}"), user: String::new() }))
    }

    async fn pull(&self, image: &str, progress: mpsc::Sender<String>) -> Result<(), RuntimeError> {
        let _ = progress.try_send(format!("downloading {image}"));
        self.enter(Call::Pull, self.delays.pull).await?;
        let mut world = self.world();
        if world.missing.get(image) == Some(&false) {
            return Err(RuntimeError::Image(format!(
                "the image {image} is not in its registry; check the name and tag"
            )));
        }
        world.missing.remove(image);
        Ok(())
    }

    async fn run_infra(&self, spec: &InfraSpec) -> Result<ContainerId, RuntimeError> {
        self.enter(Call::RunInfra, self.delays.change).await?;
        let id = self.world().create_infra(spec, self.clock.now())?;
        tokio::time::sleep(self.delays.start).await;
        self.launch(&id, None)?;
        self.leave(Call::RunInfra, id)
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        self.enter(Call::Create, self.delays.change).await?;
        let id = self.world().create(spec, self.clock.now())?;
        self.leave(Call::Create, id)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter(Call::Start, self.delays.start).await?;
        if self.mishaps.fails_start() {
            return Err(RuntimeError::Refused("the start was made to fail".into()));
        }
        self.launch(id, self.mishaps.life())?;
        self.leave(Call::Start, ())
    }

    async fn settle(&self, _: IpAddr) {
        // There is nothing to clear; it counts.
        let _ = self.world().enter(Call::Settle);
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.enter(Call::Stop, self.delays.stop).await?;
        let ignores_term = {
            let world = self.world();
            let process = world.containers.get(id).ok_or_else(|| RuntimeError::NotFound(id.0.clone()))?;
            process.script.ignores_term
        };
        if ignores_term {
            tokio::time::sleep(grace).await;
        }
        self.world().exit(id, if ignores_term { 137 } else { 143 }, self.clock.now());
        self.leave(Call::Stop, ())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter(Call::Remove, self.delays.change).await?;
        self.world().remove(id);
        self.leave(Call::Remove, ())
    }

    async fn exec(&self, id: &ContainerId, command: &[String], limit: Duration) -> Result<ExecOutcome, RuntimeError> {
        self.enter(Call::Exec, self.delays.look).await?;
        self.world().running(id)?;
        let script = Script::parse(Some(command), None);
        let lives = script.lives.unwrap_or(Duration::MAX);
        if lives > limit {
            tokio::time::sleep(limit).await;
            return Err(RuntimeError::Timeout { what: command.join(" "), seconds: limit.as_secs() });
        }
        tokio::time::sleep(lives).await;
        Ok(ExecOutcome { code: script.code.into(), output: script.output })
    }

    async fn exec_session(&self, id: &ContainerId, query: &ExecQuery) -> Result<ExecSession, RuntimeError> {
        self.enter(Call::Exec, self.delays.look).await?;
        self.world().running(id)?;
        let script = Script::parse(Some(&query.command), None);
        let (stdin, mut input) = mpsc::channel::<Bytes>(8);
        let (resize, _) = mpsc::channel(1);
        let (sender, output) = mpsc::channel(8);
        let echo = query.stdin;
        tokio::spawn(async move {
            let _ = sender.send(ExecOutput::Stdout(script.output.into())).await;
            match script.lives {
                Some(lives) => tokio::time::sleep(lives).await,
                // Like `cat`: what comes in goes out, until the end of the input.
                None => {
                    while let Some(bytes) = input.recv().await {
                        if sender.send(ExecOutput::Stdout(bytes)).await.is_err() {
                            return;
                        }
                    }
                }
            }
            let _ = sender.send(ExecOutput::Exit(script.code.into())).await;
        });
        Ok(ExecSession { stdin: echo.then_some(stdin), output, resize })
    }

    async fn logs(&self, id: &ContainerId, query: &LogQuery) -> Result<mpsc::Receiver<Bytes>, RuntimeError> {
        let process = self.world().containers.get(id).cloned();
        let process = process.ok_or_else(|| RuntimeError::NotFound(id.0.clone()))?;
        let (sender, receiver) = mpsc::channel(8);
        let (hollow, id, follow) = (self.clone(), id.clone(), query.follow);
        let lines: Vec<_> = process.script.output.lines().map(|l| format!("{l}\n")).collect();
        let skip = query.tail.map_or(0, |tail| lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX)));
        tokio::spawn(async move {
            let mut events = hollow.events();
            for line in lines.into_iter().skip(skip) {
                if sender.send(line.into()).await.is_err() {
                    return;
                }
            }
            while follow && hollow.world().running(&id).is_ok() {
                // Both are cancel-safe: nothing is lost but the wish to go on.
                tokio::select! {
                    event = events.recv() => if event.is_none() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{State, contract};

    #[tokio::test(start_paused = true)]
    async fn the_hollow_engine_keeps_the_contract() {
        let hollow = Hollow::with_delays(Clock::simulated(jiff::Timestamp::UNIX_EPOCH), Delays::DOCKER);
        let fixture = contract::Fixture::new("busybox", "0badcafe", "n1");
        contract::check(&hollow, &fixture).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn starts_fail_and_containers_crash_as_often_as_asked() {
        let clock = Clock::simulated(jiff::Timestamp::UNIX_EPOCH);
        let mishaps = Mishaps { failed_starts: 0.5, crash_after: Some(Duration::from_secs(100)) };
        let hollow = Hollow::with_mishaps(clock, Delays::NONE, mishaps);
        let fixture = contract::Fixture::new("busybox", "0badcafe", "n1");
        let infra = hollow.run_infra(&fixture.infra("p1", 0)).await.unwrap();
        let mut started = 0;
        for n in 0..2000 {
            let container = fixture.container("p1", &format!("c{n}"), &infra, "serve");
            let id = hollow.create(&container).await.unwrap();
            started += usize::from(hollow.start(&id).await.is_ok());
        }
        // Bounds that chance crosses once in millions of times.
        assert!((880..1120).contains(&started), "{started} of 2000 starts succeeded");
        tokio::time::sleep(Duration::from_secs(100)).await;
        let crashed = |c: &&Arc<Container>| matches!(c.state, State::Exited { code: CRASHED, .. });
        let crashed = hollow.containers().iter().filter(crashed).count() as f64 / started as f64;
        assert!((0.55..0.71).contains(&crashed), "{crashed} crashed in their average life");
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_stay_in_the_nodes_network_however_many_containers_come_and_go() {
        let hollow = Hollow::with_delays(Clock::simulated(jiff::Timestamp::UNIX_EPOCH), Delays::NONE);
        let fixture = contract::Fixture::new("busybox", "0badcafe", "n1");
        let kept = hollow.run_infra(&fixture.infra("kept", 0)).await.unwrap();
        for n in 0..600 {
            let infra = hollow.run_infra(&fixture.infra("p1", n)).await.unwrap();
            let addresses: Vec<_> =
                hollow.containers().into_iter().filter_map(|c| Some((c.id.clone(), c.ip?))).collect();
            assert_eq!(addresses.len(), 2);
            let unlike = addresses[0].1 != addresses[1].1;
            let near = addresses.iter().all(|(_, ip)| ip.to_string().starts_with("10.244.0."));
            assert!(unlike && near, "{addresses:?}");
            assert!(addresses.iter().any(|(id, _)| *id == kept));
            hollow.remove(&infra).await.unwrap();
        }
    }

    #[test]
    fn a_lost_answer_leaves_its_work() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        rt.block_on(async {
            let hollow = Hollow::new(Clock::system());
            hollow.lose_answer(Call::RunInfra, 1);
            let spec = contract::Fixture::new("busybox", "0badcafe", "n1").infra("p1", 0);
            assert!(matches!(hollow.run_infra(&spec).await, Err(RuntimeError::Timeout { .. })));
            assert!(matches!(hollow.run_infra(&spec).await, Err(RuntimeError::NameTaken(_))));
            assert!(matches!(hollow.containers()[0].state, State::Running { .. }));
        });
    }
}
