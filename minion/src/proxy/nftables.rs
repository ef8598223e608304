//! The data plane in the kernel: runs `nft`, and notices when its work is undone.

use std::{collections::BTreeMap, io, net::SocketAddrV4, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::Instant};

use super::{
    ProxyConfig, ProxyError, conntrack,
    driver::{DataPlane, Spared},
    nft::{self, Frame, Masquerade, Refusal, Remembered, Ruleset},
    table::{Backends, Delta, Forward, Frontend, Portal, Protocol, Stale, Table},
    userspace,
};
use crate::{
    network,
    rulesets::{self, Heard, Monitor},
};

/// A full load of 10,000 services takes 0.4 s; a machine under load takes its time.
const LIMIT: Duration = Duration::from_secs(30);
/// How much of nft's complaints is kept: it repeats the line it complains about.
const OUTPUT_CHARS: usize = 400;
/// Between looks at whether bridges show their frames to netfilter, which is switched rarely (by a
/// module load); reads one file.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Between looks at the table itself, below announcements that were lost.
const VERIFY_INTERVAL: Duration = Duration::from_secs(60);
const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

const KERNEL_RELEASE: &str = "/proc/sys/kernel/osrelease";

/// The kernel's nftables table of one cluster.
#[derive(Debug)]
pub(super) struct Nftables {
    /// The cluster, until what the other data plane may have left is removed.
    inherited: Option<String>,
    ruleset: Ruleset,
    monitor: Option<Monitor>,
    next_look: Instant,
    next_verify: Instant,
}

impl Nftables {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        let now = Instant::now();
        Self {
            inherited: Some(config.cluster_id.clone()),
            ruleset: Ruleset::new(frame(config)),
            monitor: None,
            next_look: now + LOOK_INTERVAL,
            next_verify: now + VERIFY_INTERVAL,
        }
    }

    async fn transaction(&mut self, what: &'static str, script: &str) -> Result<(), ProxyError> {
        let monitor = self.monitor.as_mut();
        run(what, &["-f", "-"], script, |pid| monitor.into_iter().for_each(|m| m.expect(pid))).await.map(drop)
    }

    fn listen(&mut self) {
        if self.monitor.is_none() {
            let opened = Monitor::open(&self.ruleset.frame.table);
            self.monitor = opened
                .inspect_err(|error| tracing::debug!(%error, "no announcements of ruleset changes; looking by time"))
                .ok();
        }
    }

    /// Whether the kernel still has the rules that everything hangs on.
    async fn intact(&self) -> bool {
        let table = &self.ruleset.frame.table;
        match run("a look at the table", &["--terse", "list", "table", "ip", table], "", |_| {}).await {
            Ok(listing) => {
                let counts = |part: &str, least| listing.matches(part).count() >= least;
                let range = self.ruleset.frame.service_cidr.to_string();
                counts("jump find", 4)
                    && counts("jump node-find", 2)
                    && counts("vmap @portals", 2)
                    && counts("vmap @node-portals", 2)
                    && counts(&range, 4)
                    && counts("snat to", 2)
            }
            Err(ProxyError::Refused { .. }) => false,
            // Not known; the next look tells.
            Err(_) => true,
        }
    }

    /// Whom the backends remember, where the table asks for it. A client that comes between this and the load may be
    /// forgotten.
    async fn remembered(&self, table: &Table) -> Remembered {
        if table.portals().values().all(|forward| forward.sticky.is_none()) {
            return Remembered::default();
        }
        let name = &self.ruleset.frame.table;
        match run("a look at who is remembered", &["list", "sets", "table", "ip", name], "", |_| {}).await {
            Ok(listing) => Remembered::read(name, &listing),
            Err(error) => {
                tracing::debug!(%error, "nobody is remembered");
                Remembered::default()
            }
        }
    }

    async fn heard(monitor: &mut Option<Monitor>) -> Heard {
        let Some(open) = monitor else { return std::future::pending().await };
        match open.next().await {
            Ok(heard) => heard,
            Err(error) => {
                tracing::debug!(%error, "the announcements of ruleset changes ended");
                *monitor = None;
                Heard::Gap
            }
        }
    }
}

impl DataPlane for Nftables {
    async fn load(&mut self, table: &Table) -> Result<(), ProxyError> {
        // Before there are rules: a connection that they make with an address of those links would be lost.
        if let Some(cluster_id) = self.inherited.take()
            && let Err(error) = userspace::remove(&cluster_id).await
        {
            tracing::debug!(%error, "nothing of the userspace data plane is removed");
        }
        // Listening first: what is undone right after the load is noticed. Anew: what was announced until here is undone by
        // the load, and of a large table that is more than one announcement.
        self.monitor = None;
        self.listen();
        self.ruleset.frame.masquerade = masquerade_now();
        let remembered = self.remembered(table).await;
        let script = self.ruleset.full(table, &remembered);
        match self.transaction("the full table", &script).await {
            // Clients can do without, services can't.
            Err(ProxyError::Refused { output, .. }) if remembered != Remembered::default() => {
                tracing::warn!(output, "the service table is loaded without the clients that it remembers");
                let script = self.ruleset.full(table, &Remembered::default());
                self.transaction("the full table", &script).await
            }
            loaded => loaded,
        }
    }

    async fn update(&mut self, delta: &Delta) -> Result<(), ProxyError> {
        for script in self.ruleset.update(delta) {
            self.transaction("a change", &script).await?;
        }
        Ok(())
    }

    fn cut(&self, flows: Vec<Stale>, table: &Table, spared: Spared) -> impl Future<Output = ()> + Send + 'static {
        conntrack::cut(&flows, table, spared, self.ruleset.frame.service_cidr)
    }

    async fn disturbed(&mut self) -> &'static str {
        loop {
            let wake = self.next_look.min(self.next_verify);
            // Cancel-safe: a datagram is read whole, a sleep keeps nothing; the times are kept.
            tokio::select! {
                heard = Self::heard(&mut self.monitor) => match heard {
                    Heard::ForeignChange => return "the table was changed",
                    Heard::Gap => self.next_verify = Instant::now(),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            let now = Instant::now();
            if now >= self.next_look {
                self.next_look = now + LOOK_INTERVAL;
                if masquerade_now() != self.ruleset.frame.masquerade {
                    return "bridge netfilter was switched";
                }
            }
            if now >= self.next_verify {
                // Moved only when done: a look that is cancelled is taken again.
                let intact = self.intact().await;
                self.next_verify = Instant::now() + VERIFY_INTERVAL;
                if !intact {
                    return "the table is not as it was loaded";
                }
            }
        }
    }
}

fn frame(config: &ProxyConfig) -> Frame {
    Frame {
        table: nft::table_name(&config.cluster_id),
        service_cidr: config.service_cidr.trunc(),
        pods_cidr: config.pods_cidr.trunc(),
        pod_cidr: config.pod_cidr.trunc(),
        gateway: network::gateway(config.pod_cidr).addr(),
        masquerade: masquerade_now(),
        refusal: Refusal::of_kernel(&std::fs::read_to_string(KERNEL_RELEASE).unwrap_or_default()),
    }
}

/// Whether tool and kernel can do what the rules need: makes a table with one of each, and removes
/// it, in one transaction.
pub(super) async fn probe(config: &ProxyConfig) -> Result<(), ProxyError> {
    let frame = frame(config);
    let table = format!("{}-probe", frame.table);
    let mut ruleset = Ruleset::new(Frame { table: table.clone(), ..frame });
    let portal = |at, port| Portal { at, protocol: Protocol::Tcp, port };
    let backends: Backends = [1, 2].map(|port| SocketAddrV4::new(config.pod_cidr.addr(), port)).into();
    let sticky = Forward { backends: backends.clone(), sticky: Some(1) };
    let portals = [
        (portal(Frontend::Service(config.service_cidr.addr()), 1), Forward::to(backends)),
        (portal(Frontend::Node, 1), sticky),
    ];
    let script = ruleset.full(&Table::from(BTreeMap::from(portals)), &Remembered::default()) + &nft::remove(&table);
    run("a probe table", &["-f", "-"], &script, |_| {}).await.map(drop)
}

/// Whether the kernel has nftables at all.
pub(super) async fn works() -> bool {
    run("a look at the tables", &["list", "tables", "ip"], "", |_| {}).await.is_ok()
}

/// Removes the cluster's table. Not by the tool: that may have gone since the table was made.
pub(super) async fn remove(cluster_id: &str) -> Result<(), ProxyError> {
    rulesets::remove(&nft::table_name(cluster_id)).await.map(drop).map_err(ProxyError::Remove)
}

/// Bridges show their frames to netfilter unless the module is absent or switched off.
fn masquerade_now() -> Masquerade {
    match std::fs::read_to_string(BRIDGE_NETFILTER) {
        Ok(value) if value.trim() == "1" => Masquerade::Loops,
        _ => Masquerade::Bridge,
    }
}

/// Runs nft with `input` and returns its output. `started` gets the process id before nft acts.
async fn run(
    what: &'static str,
    arguments: &[&str],
    input: &str,
    started: impl FnOnce(u32),
) -> Result<String, ProxyError> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => ProxyError::Missing,
        _ => ProxyError::Run(e),
    })?;
    // nft acts only after the end of its input, so nothing of it can be announced before this.
    if let Some(pid) = child.id() {
        started(pid);
    }
    let stdin = child.stdin.take();
    let finish = async {
        let writing = async {
            if let Some(mut stdin) = stdin {
                // Where nft gives up early, its status and words tell more than a broken pipe.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(writing, child.wait_with_output());
        output
    };
    let output = tokio::time::timeout(LIMIT, finish)
        .await
        .map_err(|_| ProxyError::Timeout { what, seconds: LIMIT.as_secs() })??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().chars().take(OUTPUT_CHARS).collect();
    Err(ProxyError::Refused { what, output: words })
}
