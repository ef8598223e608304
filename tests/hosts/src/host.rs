//! One host of a lab, and what may happen to it.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    coracle,
    delay::Delay,
    engine::{Engine, Site},
    footprint::Footprint,
    machine::Machine,
    process::{Process, in_background},
    root,
    switch::{Count, Switch},
};

/// What all hosts of a lab have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) footprint: Footprint,
    pub(crate) switch: Switch,
    /// More arguments for every minion.
    pub(crate) minion_flags: Vec<String>,
    /// Who may call the master.
    pub(crate) allow_from: String,
    /// More arguments for the master.
    pub(crate) master_flags: Vec<String>,
}

impl Shared {
    pub(crate) fn master(&self) -> String {
        format!("{}:8080", self.switch.address(0))
    }
}

/// A host with an engine and a minion; number 0 has the master instead.
#[derive(Debug)]
pub struct Host {
    shared: Arc<Shared>,
    number: u8,
    machine: Arc<Machine>,
    engine: Option<Mutex<Engine>>,
    agent: Mutex<Agent>,
    delay: Mutex<Option<Delay>>,
}

/// The coracle process of a host.
#[derive(Debug, Default)]
struct Agent {
    process: Option<Process>,
    /// Whether it starts when the host does.
    enabled: bool,
}

impl Host {
    /// A host that is off.
    pub(crate) fn new(shared: &Arc<Shared>, number: u8) -> Result<Self> {
        let name = if number == 0 { "m".to_owned() } else { format!("h{number}") };
        let machine = Arc::new(Machine::new(&shared.footprint, &name)?);
        let engine = (number > 0).then(|| Engine::of(machine.clone()).map(Mutex::new)).transpose()?;
        let (agent, delay) = (Mutex::default(), Mutex::default());
        Ok(Self { shared: shared.clone(), number, machine, engine, agent, delay })
    }

    /// Its name, which is its node's too.
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Its address on the network between the hosts.
    pub fn address(&self) -> Ipv4Addr {
        self.shared.switch.address(self.number)
    }

    /// Its network and its engine, for processes that the host's own know nothing of.
    pub fn site(&self) -> Site {
        self.machine.site()
    }

    /// The engine, to stop or kill it alone.
    pub fn engine(&self) -> Result<MutexGuard<'_, Engine>> {
        let engine = self.engine.as_ref().with_context(|| format!("{} has no engine", self.name()))?;
        Ok(lock(engine))
    }

    pub(crate) fn boot(&self) -> Result<()> {
        self.machine.boot()?;
        self.shared.switch.attach(self.name(), self.number)?;
        match &self.engine {
            Some(engine) => lock(engine).launch(),
            None => Ok(()),
        }
    }

    /// Starts the minion, or the master on the host that has it, without waiting until it is ready.
    pub fn start(&self) -> Result<()> {
        let mut agent = lock(&self.agent);
        if let Some(process) = &mut agent.process {
            ensure!(process.try_wait()?.is_some(), "{} runs its {} already", self.name(), self.role());
        }
        let program = root().join("vagrant/provision.sh").display().to_string();
        let mut command = self.machine.command(&program)?;
        command
            .arg("--foreground")
            .arg("--binary")
            .arg(coracle())
            .arg("--bin-dir")
            .arg(self.shared.footprint.run_dir().join("bin"))
            .arg(self.role())
            .arg("--data-dir")
            .arg(self.machine.data_dir().join("coracle"));
        if self.number == 0 {
            command.args(["--listen", &self.shared.master(), "--allow-from", &self.shared.allow_from]);
            command.args(&self.shared.master_flags);
        } else {
            command.args(["--master", &format!("http://{}", self.shared.master()), "--name", self.name()]);
            command.arg("--docker").arg(self.site().socket).args(&self.shared.minion_flags);
        }
        in_background(&mut command, &self.log_path())?;
        *agent = Agent { process: Some(Process::spawn_below(&mut command)?), enabled: true };
        Ok(())
    }

    fn role(&self) -> &'static str {
        if self.number == 0 { "master" } else { "minion" }
    }

    /// [`Host::start`] of a minion.
    pub fn start_minion(&self) -> Result<()> {
        ensure!(self.number > 0, "{} is the master's host", self.name());
        self.start()
    }

    /// kill -9 of the minion; its pods keep running.
    pub fn kill_minion(&self) -> Result<()> {
        self.agent()?.kill()
    }

    /// Ends the minion in order; its pods keep running.
    pub fn stop_minion(&self) -> Result<()> {
        let status = self.agent()?.stop()?;
        ensure!(status.success(), "the {} of {} ended with {status}:\n{}", self.role(), self.name(), self.log());
        Ok(())
    }

    fn agent(&self) -> Result<Process> {
        let mut agent = lock(&self.agent);
        agent.enabled = false;
        agent.process.take().with_context(|| format!("{} runs no {}", self.name(), self.role()))
    }

    /// Fails with the log when the minion, or the master, has ended.
    pub fn check(&self) -> Result<()> {
        let ended = lock(&self.agent).process.as_mut().map(Process::try_wait).transpose()?.flatten();
        match ended {
            Some(status) => bail!("the {} of {} ended with {status}:\n{}", self.role(), self.name(), self.log()),
            None => Ok(()),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.machine.run_dir().join("coracle.log")
    }

    /// What the minion, or the master, printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The host is lost: its power goes, and with it every process and what the kernel knew. No
    /// connection is closed. The disk stays.
    pub fn kill(&self) -> Result<()> {
        ensure!(self.machine.is_on(), "{} is off", self.name());
        self.delay(Duration::ZERO)?;
        self.shared.switch.plug(self.name(), false)?;
        self.machine.power_off()?;
        self.shared.switch.detach(self.name())?;
        if let Some(engine) = &self.engine {
            lock(engine).lost()?;
        }
        if let Some(mut process) = lock(&self.agent).process.take() {
            process.wait()?;
        }
        Ok(())
    }

    /// A host that was lost comes back: a boot on the old disk. What was set on its link is gone.
    pub fn revive(&self) -> Result<()> {
        self.boot()?;
        if lock(&self.agent).enabled { self.start() } else { Ok(()) }
    }

    /// Pulls the cable.
    pub fn cut(&self) -> Result<()> {
        self.shared.switch.plug(self.name(), false)
    }

    /// Puts the cable back.
    pub fn heal(&self) -> Result<()> {
        self.shared.switch.plug(self.name(), true)
    }

    /// Has the link lose this share of the packets, of each direction for itself. 0 ends it.
    pub fn lose(&self, percent: u8) -> Result<()> {
        self.shared.switch.lose(self.name(), percent)
    }

    /// Has every packet take this much longer, in each direction. Zero ends it. Limits are told at
    /// [`crate::delay`].
    pub fn delay(&self, time: Duration) -> Result<()> {
        let mut delay = lock(&self.delay);
        // Two at a time would be in each other's way.
        drop(delay.take());
        if !time.is_zero() {
            *delay = Some(Delay::start(&self.shared.switch, self.name(), self.number, time)?);
        }
        Ok(())
    }

    /// Begins to count the packets that leave the host for a range of addresses, such as
    /// `10.244.0.0/16`. Ends with the host's power.
    pub fn count(&self, range: &str) -> Result<Count> {
        self.shared.switch.count(self.name(), range)
    }

    /// Runs a program with the host's network and returns its output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.site().run(program, args)
    }

    /// Runs `docker` with the host's engine.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        self.site().docker(args)
    }

    /// The body of a GET made on the host.
    pub fn get(&self, address: &str, port: u16, path: &str) -> Result<String> {
        self.site().get(address, port, path)
    }

    /// Starts a program with the host's network; it ends with the host at the latest. `prepare`
    /// sets arguments and pipes.
    pub fn spawn(&self, program: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) -> Result<Process> {
        let mut command = self.site().command(program);
        Process::spawn(prepare(&mut command))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
