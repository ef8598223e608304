//! Names of services: the minion's DNS beside dnsmasq, which has the same names from a hosts file.
//! Both run in the node's namespace and are asked by dnsperf from a pod.

use std::{
    fmt::Write,
    io::{BufRead, BufReader},
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coracle_api::{
    client::{Change, Client, ListParams, Reflector},
    core::{Endpoints, Service},
    kinds::TypedObject,
};
use coracle_minion::dns::{CLUSTER_DOMAIN, Dns, DnsConfig, Feeds, HostFiles, Site};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    median,
    range::{GATEWAY, POD, PODS_CIDR, Range, SERVICE_CIDR},
    services::MASTER,
};

/// Where the peer listens.
const PEER_PORT: u16 = 5353;
const OWN_PORT: u16 = 53;
/// Names that are asked, at most, one after the other.
const ASKED_MAX: usize = 10_000;
/// Sockets of the client, and questions under way over all of them.
const SOCKETS: &str = "8";
const UNDER_WAY: &str = "64";
/// After the last question, for the answers.
const ANSWERS_LIMIT: Duration = Duration::from_secs(5);
const READY_LIMIT: Duration = Duration::from_secs(10);
const QUEUE: usize = 64;

/// What one server did in one round.
#[derive(Debug, Clone, Copy)]
struct Turn {
    per_second: f64,
    mean_ms: f64,
}

/// The header of the rows.
pub(super) const HEADER: &str = "services   names/s: Coracle   dnsmasq   x dnsmasq   mean ms: Coracle   dnsmasq";

/// Takes the figures with the services that there are; a row.
pub(super) fn row(range: &Range, count: usize, seconds: Duration, turns: usize) -> Result<String> {
    let names: Vec<String> = (0..count).map(|i| format!("s{i}.default.svc.{CLUSTER_DOMAIN}")).collect();
    let questions = names.iter().take(ASKED_MAX).fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{name} A");
        text
    });
    std::fs::write(range.dir.path().join("questions"), questions)?;
    let _own = Server::own(range)?;
    let _peer = Server::dnsmasq(range, &names)?;
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        own.push(ask(range, OWN_PORT, seconds)?);
        peer.push(ask(range, PEER_PORT, seconds)?);
    }
    Ok(format!(
        "{count:>8} {:>18.0} {:>9.0} {:>11.2} {:>18.2} {:>9.2}",
        median(own.iter().map(|t| t.per_second)),
        median(peer.iter().map(|t| t.per_second)),
        median(own.iter().zip(&peer).map(|(own, peer)| own.per_second / peer.per_second)),
        median(own.iter().map(|t| t.mean_ms)),
        median(peer.iter().map(|t| t.mean_ms)),
    ))
}

/// Asks all names again and again for so long. Fails where an answer is missing or says anything but
/// an address.
///
/// dnsperf waits for what is missing, and that is what tells it. Its count does not: it looks at the time of
/// the oldest question without its lock, and at times counts one as late that it has just asked.
fn ask(range: &Range, port: u16, time: Duration) -> Result<Turn> {
    let mut command = range.command_in_pod(1, "dnsperf");
    let limit = time + ANSWERS_LIMIT;
    command.args(["-s", GATEWAY, "-p", &port.to_string(), "-l", &time.as_secs().to_string()]);
    command.args(["-t", &limit.as_secs().to_string()]);
    command.args(["-c", SOCKETS, "-q", UNDER_WAY, "-T", "1", "-d"]).arg(range.dir.path().join("questions"));
    let begun = Instant::now();
    let out = command.output().context("dnsperf")?;
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "dnsperf: {text}{}", String::from_utf8_lossy(&out.stderr));
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.with_context(|| format!("dnsperf said nothing of {name}: {text}")).map(|rest| rest.trim().to_owned())
    };
    let first = |text: String| text.split(' ').next().map(str::to_owned).unwrap_or_default();
    ensure!(figure("Response codes:")?.starts_with("NOERROR") && !text.contains("NXDOMAIN"), "dnsperf: {text}");
    ensure!(took < limit, "an answer is missing: {text}");
    let mean: f64 = first(figure("Average Latency (s):")?).parse()?;
    Ok(Turn { per_second: figure("Queries per second:")?.parse()?, mean_ms: mean * 1e3 })
}

/// A running server.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn own(range: &Range) -> Result<Self> {
        let mut command = range.command(std::env::current_exe()?);
        let mut process = command.arg("names").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = process.stdout.take().context("no output of the server")?;
        let server = Self(process);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the server of names ended early");
        Ok(server)
    }

    fn dnsmasq(range: &Range, names: &[String]) -> Result<Self> {
        let hosts = range.dir.path().join("hosts");
        let text = names.iter().fold(String::new(), |mut text, name| {
            let _ = writeln!(text, "{} {name}", POD[0]);
            text
        });
        std::fs::write(&hosts, text)?;
        let mut command = range.command("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
        command.args(["--bind-interfaces", "--pid-file=", &format!("--listen-address={GATEWAY}")]);
        command.arg(format!("--port={PEER_PORT}")).arg(format!("--addn-hosts={}", hosts.display()));
        // Its questions under way are bounded lower than those of the client otherwise.
        command.arg("--dns-forward-max=1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().context("dnsmasq")?);
        range.within(|| answers(PEER_PORT))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status());
        drop(self.0.wait());
    }
}

/// Waits until something answers there.
fn answers(port: u16) -> Result<()> {
    // A question for the root's name servers, which any server answers somehow: id 1, one question.
    const QUESTION: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let deadline = Instant::now() + READY_LIMIT;
    let socket = UdpSocket::bind((GATEWAY, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    loop {
        drop(socket.send_to(&QUESTION, (GATEWAY, port)));
        match socket.recv(&mut [0; 512]) {
            Ok(_) => return Ok(()),
            Err(error) => ensure!(Instant::now() < deadline, "nothing answers at port {port}: {error}"),
        }
    }
}

/// `coracle-bench names`: serves the names of the master's services until it is terminated.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let client = Client::new(MASTER)?;
        let listen = SocketAddr::new(GATEWAY.parse()?, OWN_PORT);
        let SocketAddr::V4(listen) = listen else { anyhow::bail!("{listen} is not IPv4") };
        let site =
            Site { domain: CLUSTER_DOMAIN.into(), service_cidr: SERVICE_CIDR.parse()?, pods_cidr: PODS_CIDR.parse()? };
        let config = DnsConfig { listen, site, node_ip: (*listen.ip()).into(), host: HostFiles::default() };
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let feeds =
            Feeds { services: follow::<Service>(&client, &stop), endpoints: follow::<Endpoints>(&client, &stop) };
        let dns = Dns::start(config, feeds);
        let listening = tokio::time::timeout(READY_LIMIT, dns.ready()).await.context("no list, or no socket")?;
        ensure!(listening.is_some(), "the server of names ended");
        println!("ready");
        terminate.recv().await;
        dns.shutdown().await;
        Ok(())
    })
}

fn follow<T: TypedObject>(client: &Client, stop: &CancellationToken) -> mpsc::Receiver<Change<T>> {
    let (changes, feed) = mpsc::channel(QUEUE);
    let mut reflector = Reflector::new(client.all::<T>(), ListParams::default());
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(async move { while changes.send(reflector.next().await).await.is_ok() {} }),
    );
    feed
}
