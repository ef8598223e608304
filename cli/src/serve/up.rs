//! `up`, `master` and `minion`: say what is done, be ready when it says so, stop in order.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use coracle_api::open_files;
use coracle_master::{
    cluster::Ranges,
    master::{Master, MasterConfig, StoreConfig},
    server::Limits,
};
use coracle_minion::{Minion, MinionConfig, network, node::facts::default_address};
use ipnet::Ipv4Net;

use super::{
    hollow,
    process::{StopSignals, log_to_stderr},
    say,
    store::store_config,
};
use crate::args::{MinionArgs, NetworkArgs, ServerArgs};

/// Parts of the data directory.
pub(super) const MASTER_DIR: &str = "master";
pub(super) const MINION_DIR: &str = "minion";
/// How long `up` waits for its own master, which answers already.
const MASTER_LIMIT: Duration = Duration::from_secs(30);

/// A whole cluster in one process.
pub(crate) async fn up(args: ServerArgs) -> Result<()> {
    log_to_stderr();
    let begun = Instant::now();
    let mut signals = StopSignals::new()?;
    let master = tokio::select! {
        // Cancel-safe enough: a start that is given up leaves at most an empty data directory.
        master = start_master(&args, Limits::default()) => master?,
        () = signals.next() => bail!("interrupted"),
    };
    let url = url(&args, &master);
    let mut config = MinionConfig::new(&url, args.store.data_dir.join(MINION_DIR));
    (config.name, config.docker) = (args.name, args.docker);
    config = with_network(config, args.network);
    config.master_limit = MASTER_LIMIT;
    config.own_listeners = vec![master.address()];
    let running = run_minion(config, &mut signals, |minion| {
        let ms = begun.elapsed().as_millis();
        say(&format!("minion: {} with pods in {}", minion.name(), minion.pod_cidr()));
        say(&format!("ready after {ms} ms; stop with Ctrl-C. In another terminal:"));
        if url != "http://127.0.0.1:8080" {
            say(&format!("    export KUBERNETES_MASTER={url}"));
        }
        say("    coracle get nodes");
    });
    let result = tokio::select! {
        result = running => result,
        // The minion is given up where it is; its pods keep running.
        () = master.failed() => master_failed(),
    };
    within_second_signal(&mut signals, master.shutdown()).await?;
    say("stopped; the next `coracle up` finds the pods again");
    result
}

fn with_network(config: MinionConfig, args: NetworkArgs) -> MinionConfig {
    let NetworkArgs { proxy_mode, pod_routes, external_ips } = args;
    MinionConfig { proxy_mode, pod_routes, external_ips, ..config }
}

/// A master alone.
pub(crate) async fn master(args: ServerArgs) -> Result<()> {
    log_to_stderr();
    let mut signals = StopSignals::new()?;
    let limits = Limits::for_files(open_files::raise_limit());
    let master = tokio::select! {
        master = start_master(&args, limits) => master?,
        () = signals.next() => bail!("interrupted"),
    };
    say(&format!("ready; join minions with: coracle minion --master {}", url(&args, &master)));
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        () = master.failed() => master_failed(),
    };
    say("stopping");
    within_second_signal(&mut signals, master.shutdown()).await?;
    result
}

fn master_failed() -> Result<()> {
    bail!("a part of the master ended by itself; see the log, and start it again")
}

/// A minion of masters elsewhere.
pub(crate) async fn minion(args: MinionArgs, masters: &str) -> Result<()> {
    if let Some(count) = args.hollow.hollow {
        return hollow::minions(count, args.name, args.hollow, masters).await;
    }
    log_to_stderr();
    let mut signals = StopSignals::new()?;
    say(&format!("master: {masters}"));
    let mut config = MinionConfig::new(masters, args.data_dir.join(MINION_DIR));
    (config.name, config.address, config.docker) = (args.name, args.address, args.docker);
    config = with_network(config, args.network);
    run_minion(config, &mut signals, |minion| {
        say(&format!("ready: {} with pods in {}", minion.name(), minion.pod_cidr()));
    })
    .await
}

async fn start_master(args: &ServerArgs, limits: Limits) -> Result<Master> {
    let store = store_config(&args.store)?;
    let used = match &store {
        StoreConfig::Embedded(directory) => used_ranges(directory).await,
        // Whether there is a cluster in it already is not known yet.
        StoreConfig::Etcd(_) => used_ranges(Path::new("")).await,
    };
    let free = |candidates: Vec<Ipv4Net>| {
        let first = candidates.first().copied().unwrap_or_default();
        network::free_cidr(&candidates, &used).unwrap_or(first)
    };
    match &store {
        StoreConfig::Embedded(_) => say(&format!("data: {}", args.store.data_dir.display())),
        StoreConfig::Etcd(_) => say(&format!("store: {}", args.store.store)),
    }
    let config = MasterConfig {
        store,
        listen: args.listen,
        allow_from: args.allow_from.clone(),
        advertise: advertised(args.listen.ip()),
        services: Ranges { wanted: args.service_cidr, default: free(network::service_candidates()) },
        pods: Ranges { wanted: args.pod_cidr, default: free(network::pod_candidates()) },
        limits,
    };
    let master = Master::start(config).await?;
    let facts = master.facts();
    say(&format!(
        "master: {} (cluster {}, services in {}, pods in {})",
        url(args, &master),
        facts.cluster_id,
        facts.service_cidr,
        facts.pod_cidr
    ));
    Ok(master)
}

/// Where other hosts reach a master that listens on this address.
fn advertised(listen: IpAddr) -> Option<IpAddr> {
    let address = if listen.is_unspecified() { default_address() } else { listen };
    (!address.to_canonical().is_loopback()).then_some(address)
}

/// Where to reach this master, from other hosts where they can.
fn url(args: &ServerArgs, master: &Master) -> String {
    let listening = master.address();
    let ip = advertised(args.listen.ip()).unwrap_or(listening.ip());
    format!("http://{}", SocketAddr::new(ip, listening.port()))
}

/// The ranges in use on this host, for a cluster that is yet to choose its own.
async fn used_ranges(data_dir: &Path) -> Vec<Ipv4Net> {
    if data_dir.exists() {
        return Vec::new();
    }
    match network::used_cidrs(None).await {
        Ok(used) => used.into_iter().map(|used| used.cidr).collect(),
        Err(error) => {
            tracing::warn!(%error, "the host's networks can't be read; the usual ranges are taken");
            Vec::new()
        }
    }
}

/// Runs a minion until a signal comes or a part of it fails.
async fn run_minion(config: MinionConfig, signals: &mut StopSignals, ready: impl FnOnce(&Minion)) -> Result<()> {
    let minion = tokio::select! {
        // Dropping the start gives up at once and leaves nothing running.
        minion = Minion::start(config) => minion?,
        () = signals.next() => return Ok(()),
    };
    tokio::select! {
        () = minion.ready() => ready(&minion),
        () = signals.next() => return finish(minion, signals).await,
    }
    let failed = tokio::select! {
        part = minion.failed() => Some(part),
        () = signals.next() => None,
    };
    finish(minion, signals).await?;
    match failed {
        Some(part) => bail!("the minion's {part} ended by itself; see the log, and start it again"),
        None => Ok(()),
    }
}

async fn finish(minion: Minion, signals: &mut StopSignals) -> Result<()> {
    say("stopping; the pods keep running");
    within_second_signal(signals, minion.shutdown()).await
}

async fn within_second_signal(signals: &mut StopSignals, work: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        () = work => Ok(()),
        () = signals.next() => Err(anyhow::anyhow!("ended at once by a second signal")).context("stopping"),
    }
}
