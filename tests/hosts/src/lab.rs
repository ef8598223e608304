//! Hosts, their network and their master together.

use std::{path::PathBuf, process::Command, sync::Arc, thread};

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::Ipv4Net;

use crate::{
    coracle,
    docker::{self, IMAGES},
    eventually,
    footprint::Footprint,
    host::{Host, Shared},
    output,
    switch::Switch,
};

/// How many hosts a network has room for.
const HOSTS_MAX: u8 = 100;

/// What kind of lab.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of hosts besides the master's.
    pub hosts: u8,
    /// Part of the names of everything; a name of its own when `None`.
    pub name: Option<String>,
    /// The addresses: a /24.
    pub network: Ipv4Net,
    /// 1, or 2 with a router between them: then hosts with even numbers are on the second one.
    pub segments: u8,
    /// Whether the machine itself reaches the hosts. Otherwise only programs on hosts do.
    pub from_machine: bool,
    /// What the engines have, of the machine's images.
    pub images: Vec<String>,
    /// Who may call the master, as `--allow-from` has it; all of the network when `None`.
    pub allow_from: Option<String>,
    /// More arguments for the master.
    pub master_flags: Vec<String>,
    /// More arguments for every minion.
    pub minion_flags: Vec<String>,
}

impl Options {
    /// The defaults for this many hosts.
    pub fn new(hosts: u8) -> Self {
        Self {
            hosts,
            name: None,
            // TEST-NET-1; each lab has it for itself.
            network: Ipv4Net::new_assert([192, 0, 2, 0].into(), 24),
            segments: 1,
            from_machine: false,
            images: IMAGES.map(str::to_owned).into(),
            allow_from: None,
            master_flags: Vec::new(),
            minion_flags: Vec::new(),
        }
    }
}

/// Some hosts. Dropping it, also in a panic, removes every trace of them, unless it was kept.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
    hosts: Vec<Host>,
    kept: bool,
}

impl Lab {
    /// This many hosts with engines, and one for the master; neither minions nor master run yet.
    pub fn new(hosts: u8) -> Result<Self> {
        Self::with(&Options::new(hosts))
    }

    /// A lab with options.
    pub fn with(options: &Options) -> Result<Self> {
        ensure!(options.hosts <= HOSTS_MAX, "a lab has room for {HOSTS_MAX} hosts");
        docker::require_engine()?;
        let footprint = match &options.name {
            Some(name) => Footprint::claim(name)?,
            None => Footprint::claim_any()?,
        };
        // From here on a failure removes what was made.
        let claimed = Claimed(Some(footprint.clone()));
        let switch = Switch::start(&footprint, options.network, options.segments)?;
        let shared = Arc::new(Shared {
            allow_from: options.allow_from.clone().unwrap_or_else(|| switch.network().to_string()),
            footprint,
            switch,
            minion_flags: options.minion_flags.clone(),
            master_flags: options.master_flags.clone(),
        });
        let hosts = (0..=options.hosts).map(|number| Host::new(&shared, number)).collect::<Result<_>>()?;
        let lab = Self { shared, hosts, kept: false };
        claimed.handed_over();
        std::os::unix::fs::symlink(coracle(), lab.kubecfg_path())?;
        let images = lab.shared.footprint.run_dir().join("images.tar");
        thread::scope(|scope| {
            let saving = scope.spawn(|| {
                let names: Vec<&str> = options.images.iter().map(String::as_str).collect();
                if names.is_empty() { Ok(()) } else { docker::save(&names, &images) }
            });
            let booted = lab.on_each(0.., Host::boot);
            saving.join().map_err(|_| anyhow!("a panic"))?.and(booted)
        })?;
        if !options.images.is_empty() {
            lab.on_each(1.., |host| host.engine()?.load(&images))?;
            std::fs::remove_file(&images)?;
        }
        if options.from_machine {
            lab.shared.switch.connect_machine(options.hosts)?;
        }
        Ok(lab)
    }

    /// A lab with a master and all minions, ready.
    pub fn ready(options: &Options) -> Result<Self> {
        let lab = Self::with(options)?;
        lab.start_master()?;
        lab.on_each(1.., Host::start)?;
        lab.wait_ready()?;
        Ok(lab)
    }

    /// Does the same on several hosts at once.
    pub fn on_each(
        &self,
        numbers: std::ops::RangeFrom<usize>,
        work: impl Fn(&Host) -> Result<()> + Sync,
    ) -> Result<()> {
        thread::scope(|scope| {
            let hosts = self.hosts.get(numbers).unwrap_or_default();
            let work = &work;
            let threads: Vec<_> = hosts.iter().map(|host| (host, scope.spawn(move || work(host)))).collect();
            // All are waited for, whichever fails.
            let results: Vec<Result<()>> = threads
                .into_iter()
                .map(|(host, thread)| {
                    let result = thread.join().map_err(|_| anyhow!("a panic"))?;
                    result.with_context(|| format!("host {}", host.name()))
                })
                .collect();
            results.into_iter().collect()
        })
    }

    /// Starts the master on its host and waits until it serves.
    pub fn start_master(&self) -> Result<()> {
        let host = self.host(0);
        host.start()?;
        let address = host.address().to_string();
        eventually("the master serves", || {
            host.check()
                .map_err(Some)
                .and_then(|()| host.get(&address, 8080, "/readyz").map_err(|_| None))
                .map_or_else(|ended| ended.map(Err), |_| Some(Ok(())))
        })?
    }

    /// Host number `number`, from 1 on; 0 is the master's.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// The hosts that have minions.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts[1..]
    }

    /// The network.
    pub fn switch(&self) -> &Switch {
        &self.shared.switch
    }

    /// Where the master is for minions and clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.master())
    }

    /// What `coracle get nodes` says of a node: `Ready`, `NotReady`, ...
    pub fn status(&self, node: &str) -> Result<String> {
        let table = self.coracle(&["get", "nodes", "--no-headers"])?;
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|words| words.first() == Some(&node));
        line.and_then(|words| words.get(1).map(|w| (*w).to_owned())).with_context(|| format!("no {node} in:\n{table}"))
    }

    /// Waits until the master says this of a node.
    pub fn wait_status(&self, node: &str, status: &str) -> Result<()> {
        let mut last = String::new();
        let waited = eventually(&format!("{node} is {status}"), || {
            last = self.status(node).unwrap_or_else(|error| format!("{error:#}"));
            (last == status).then_some(())
        });
        waited.with_context(|| {
            let logs = self.hosts.iter().filter(|host| host.name() == node || host.name() == "m");
            let logs: Vec<String> = logs.map(|host| format!("{}:\n{}", host.name(), host.log())).collect();
            format!("{last}\n{}", logs.join("\n"))
        })
    }

    /// Waits until every host's node is ready. Fails when a minion ends.
    pub fn wait_ready(&self) -> Result<()> {
        eventually("all nodes are ready", || {
            if let Some(ended) = self.hosts.iter().find_map(|host| host.check().err()) {
                return Some(Err(ended));
            }
            let ready = |host: &Host| self.status(host.name()).is_ok_and(|status| status == "Ready");
            self.hosts().iter().all(ready).then_some(Ok(()))
        })?
    }

    fn kubecfg_path(&self) -> PathBuf {
        self.shared.footprint.run_dir().join("kubecfg")
    }

    /// Runs a client verb as `coracle`, on the master's host.
    pub fn coracle(&self, args: &[&str]) -> Result<String> {
        output(self.client(coracle()).args(args))
    }

    /// Runs a client verb as `kubecfg`, on the master's host.
    pub fn kubecfg(&self, args: &[&str]) -> Result<String> {
        output(self.client(self.kubecfg_path()).args(args))
    }

    /// A client on the master's host.
    pub fn client(&self, program: PathBuf) -> Command {
        let mut command = self.host(0).site().command(program);
        command.env("KUBERNETES_MASTER", self.url()).env("HOME", self.shared.footprint.run_dir());
        command
    }

    /// Lets the lab outlive this process. [`Lab::remove`] ends it then.
    pub fn keep(mut self) -> Result<()> {
        self.shared.footprint.keep()?;
        self.kept = true;
        Ok(())
    }

    /// Removes the lab with this name, whoever made it. Whether there was one.
    pub fn remove(name: &str) -> Result<bool> {
        let footprint = Footprint::of(name)?;
        let exists = footprint.exists();
        footprint.remove()?;
        Ok(exists)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.kept {
            // Relays first: they are in the switch.
            for host in &self.hosts {
                drop(host.delay(std::time::Duration::ZERO));
            }
            remove(&self.shared.footprint);
        }
    }
}

/// Removes what was made, unless a lab takes care of it.
struct Claimed(Option<Footprint>);

impl Claimed {
    fn handed_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(footprint) = &self.0 {
            remove(footprint);
        }
    }
}

#[expect(clippy::print_stderr, reason = "a drop can't return an error, and what is left behind must be seen")]
fn remove(footprint: &Footprint) {
    if let Err(error) = footprint.remove() {
        eprintln!("the hosts in {}: {error:#}", footprint.run_dir().display());
    }
}
