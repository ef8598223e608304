//! The modern command line, in clap's terms. Holds no behaviour.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use coracle_minion::{network::PodRoutes, proxy::ProxyMode};
use ipnet::{IpNet, Ipv4Net};

use crate::{failure::Outcome, kubecfg::flags::parse_go_duration, session::DEFAULT_MASTER, target::node_name};

const AFTER_HELP: &str = "\
The command line of kubecfg 0.5.4 works too, as typed in 2014:
  coracle list pods
  coracle -c pod.json create pods
  coracle get pods/jenkins          coracle delete pods/jenkins
  coracle resize jenkins-slave 2    coracle stop|rm jenkins-slave
  coracle -image IMAGE -u 10s rollingupdate jenkins-slave
Through a link named kubecfg this binary speaks only that.";

/// Containers on many hosts: the Kubernetes model in one small binary.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, about, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Address of the master, or of several; the first that answers is used
    #[arg(long, short = 's', global = true, env = "KUBERNETES_MASTER", value_name = "URL[,URL]", default_value = DEFAULT_MASTER)]
    pub(crate) master: String,
    /// Namespace of the request
    #[arg(long, short = 'n', global = true, value_name = "NS", default_value = "default")]
    pub(crate) namespace: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine: master and minion in one process
    Up(ServerArgs),
    /// Run a master
    Master(ServerArgs),
    /// Run a minion that joins the masters given by --master
    Minion(MinionArgs),
    /// Remove everything a cluster left on this host
    Reset(ResetArgs),
    /// Save all objects of the cluster in a file
    Backup(BackupArgs),
    /// Fill the empty store of a master that is stopped from a backup
    Restore(RestoreArgs),
    /// Look after the store of a master
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show objects in a table
    Get(GetArgs),
    /// Show one object in detail, its events, and what is wrong with it
    Describe(DescribeArgs),
    /// Print the output of a container
    Logs(LogsArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Make the cluster's objects equal to those in files
    Apply(FilesArgs),
    /// Create the objects in files
    Create(FilesArgs),
    /// Delete objects and wait until they are gone
    Delete(DeleteArgs),
    /// Set the number of replicas
    Scale(ScaleArgs),
    /// Replace the pods of a replication controller one by one, without an outage
    #[command(name = "rollingupdate", visible_alias = "rolling-update")]
    RollingUpdate(RollingUpdateArgs),
    /// Let a node get no new pods
    Cordon(NodesArgs),
    /// Let a node get pods again
    Uncordon(NodesArgs),
    /// Move the pods of a node elsewhere, without an outage of what has a controller
    Drain(DrainArgs),
    /// Show where pods would go, and why; nothing is created
    Schedule(ScheduleArgs),
    /// List events, the newest last
    Events(EventsArgs),
    /// Run an image in a pod, or in several with --replicas
    Run(RunArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the versions of client and master
    Version,
    /// List the kinds of objects
    ApiResources,
}

/// `coracle up`, `coracle master`
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Address of the API
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Who may call besides this host, for an address that others reach. There is no authentication:
    /// whoever can send from there, pods of these hosts included, controls the cluster and, through
    /// it, is root on every minion
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    pub(crate) allow_from: Vec<IpNet>,
    /// Socket of the Docker engine [default: DOCKER_HOST, then /var/run/docker.sock]
    #[arg(long, value_name = "SOCK")]
    pub(crate) docker: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<Ipv4Net>,
    /// Addresses of services
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<Ipv4Net>,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// How a minion reaches pods and services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct NetworkArgs {
    /// How services are served: auto (nftables where it can be used), nftables, or userspace
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) proxy_mode: ProxyMode,
    /// How pods of other nodes are reached: auto (direct on a shared segment, else VXLAN), direct, or vxlan
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) pod_routes: PodRoutes,
    /// Where services may have external addresses that this node answers for [default: nowhere]
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    pub(crate) external_ips: Vec<Ipv4Net>,
}

/// The store of a master.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the embedded store and of the minion's volumes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle")]
    pub(crate) data_dir: PathBuf,
    /// Where objects are kept: embedded, etcd://HOST:PORT,...[/PREFIX], or etcds://... with TLS
    #[arg(long, value_name = "STORE", default_value = "embedded")]
    pub(crate) store: String,
    /// Certificate of the authority that vouches for etcd
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Certificate that vouches for this master
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// User of etcd
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub(crate) etcd_user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
}

/// `coracle backup`
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file, or - for stdout [default: coracle-CLUSTER-VERSION.backup]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `coracle restore`
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Delete what is in the store first
    #[arg(long)]
    pub(crate) replace: bool,
    /// Do it without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `coracle store`
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Verify the store of a master that is stopped, and every object in it
    Check(StoreCheckArgs),
}

/// `coracle store check`
#[derive(Debug, Args)]
pub(crate) struct StoreCheckArgs {
    /// Directory given to `up` or `master`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle")]
    pub(crate) data_dir: PathBuf,
}

/// `coracle minion`; the masters come from `--master`.
#[derive(Debug, Args)]
pub(crate) struct MinionArgs {
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where other nodes reach this one [default: the address of the default route]
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<std::net::IpAddr>,
    /// Socket of the Docker engine [default: DOCKER_HOST, then /var/run/docker.sock]
    #[arg(long, value_name = "SOCK")]
    pub(crate) docker: Option<String>,
    /// Directory of the pods' volumes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) hollow: HollowArgs,
}

/// Simulated minions instead of this machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Simulated minions")]
pub(crate) struct HollowArgs {
    /// Run so many simulated minions, called NAME-00000 and so on [NAME default: hollow], instead of a real one
    #[arg(long, value_name = "N", conflicts_with_all = ["docker", "address"])]
    pub(crate) hollow: Option<usize>,
    /// Processors of each
    #[arg(long, value_name = "N", default_value_t = 4, requires = "hollow")]
    pub(crate) hollow_cpus: u32,
    /// Memory of each, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 16, requires = "hollow")]
    pub(crate) hollow_memory: u32,
    /// Pods that each takes
    #[arg(long, value_name = "N", default_value_t = 110, requires = "hollow")]
    pub(crate) hollow_pods: u32,
    /// What starting a container takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0, requires = "hollow")]
    pub(crate) hollow_start_ms: u32,
    /// The share of starts that fail, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, requires = "hollow")]
    pub(crate) hollow_failed_starts: f64,
    /// How long a container runs on average until it crashes, in seconds; 0: for ever
    #[arg(long, value_name = "S", default_value_t = 0, requires = "hollow")]
    pub(crate) hollow_crash_after: u32,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not between 0 and 1".to_owned()) }
}

/// `coracle reset`
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Directory given to `up`, `master` or `minion`
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle")]
    pub(crate) data_dir: PathBuf,
    /// Socket of the Docker engine [default: DOCKER_HOST, then /var/run/docker.sock]
    #[arg(long, value_name = "SOCK")]
    pub(crate) docker: Option<String>,
    /// Do it without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// JSON as the API has it
    Json,
    /// YAML as the API has it
    Yaml,
    /// The table with more columns
    Wide,
    /// kind/name, one a line
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// KIND [NAME..], KIND/NAME .., or `all`
    #[arg(required = true, value_name = "KIND[/NAME]")]
    pub(crate) what: Vec<String>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
    /// Only objects whose labels match
    #[arg(long, short = 'l', value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Only objects whose fields match
    #[arg(long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    pub(crate) field_selector: String,
    /// Form of the output
    #[arg(long, short = 'o', value_name = "FORM")]
    pub(crate) output: Option<Form>,
    /// Go on showing changes until interrupted
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
    /// Leave out the header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// KIND NAME.. or KIND/NAME..
    #[arg(required = true, value_name = "KIND NAME")]
    pub(crate) what: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The pod, NAME or pod/NAME
    pub(crate) pod: String,
    /// The container, if the pod has several
    #[arg(long, short = 'c')]
    pub(crate) container: Option<String>,
    /// Go on as the container writes
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Only what is newer, such as 5m
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// The time before each line
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Of the container before its last restart
    #[arg(long, short = 'p')]
    pub(crate) previous: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The pod, NAME or pod/NAME
    pub(crate) pod: String,
    /// The container, if the pod has several
    #[arg(long, short = 'c')]
    pub(crate) container: Option<String>,
    /// Pass stdin on
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// The command, after --
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `apply` and `create`
#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// File, directory, or - for stdin; may be repeated
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Form of the output
    #[arg(long, short = 'o', value_name = "FORM")]
    pub(crate) output: Option<Form>,
}

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cascade {
    /// They go after their owner
    Background,
    /// They go before their owner
    Foreground,
    /// They stay, and belong to nobody
    Orphan,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// KIND NAME.. or KIND/NAME..
    #[arg(value_name = "KIND NAME", required_unless_present_any = ["files"])]
    pub(crate) what: Vec<String>,
    /// File, directory, or - for stdin, with the objects to delete
    #[arg(long = "filename", short = 'f', value_name = "FILE", conflicts_with = "what")]
    pub(crate) files: Vec<String>,
    /// All objects whose labels match
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// All objects of the kind
    #[arg(long, conflicts_with = "selector")]
    pub(crate) all: bool,
    /// Stop containers within one second
    #[arg(long, conflicts_with = "grace_period")]
    pub(crate) now: bool,
    /// Seconds containers get to stop; 0 removes the object at once
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace_period: Option<u32>,
    /// What becomes of the objects that the deleted ones own, such as a controller's pods
    #[arg(long, value_name = "WAY", value_enum, default_value = "background")]
    pub(crate) cascade: Cascade,
    /// Do not wait until the objects are gone
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "AGE", value_parser = duration, default_value = "90s")]
    pub(crate) timeout: Duration,
    /// Objects that do not exist are no error
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, value_name = "KIND/NAME")]
    pub(crate) what: Vec<String>,
    /// Replicas wanted
    #[arg(long, value_name = "N")]
    pub(crate) replicas: u32,
}

/// `rollingupdate`
#[derive(Debug, Args)]
pub(crate) struct RollingUpdateArgs {
    /// The replication controller, NAME or rc/NAME
    #[arg(value_name = "NAME")]
    pub(crate) controller: String,
    /// New image of the first container. Without it pods become what the controller's template says, or
    /// new ones where they are that already. The same command again goes on with an update that was
    /// interrupted
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Go back to the template before the last update
    #[arg(long, conflicts_with = "image")]
    pub(crate) rollback: bool,
    /// How long a new pod must be ready before the next old one goes
    #[arg(long, value_name = "AGE", value_parser = duration, default_value = "2s")]
    pub(crate) min_ready: Duration,
    /// Give up when nothing changes for so long
    #[arg(long, value_name = "AGE", value_parser = duration, default_value = "5m")]
    pub(crate) timeout: Duration,
    /// Pause between two pods
    #[arg(long, short = 'u', value_name = "AGE", value_parser = duration, default_value = "0")]
    pub(crate) pause: Duration,
}

/// `cordon` and `uncordon`
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// The nodes, NAME or node/NAME
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

impl NodesArgs {
    /// Their names.
    pub(crate) fn names(&self) -> Outcome<Vec<&str>> {
        self.nodes.iter().map(|word| node_name(word)).collect()
    }
}

/// What becomes of pods without a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bare {
    /// They stop, and start anew elsewhere with empty volumes
    Move,
    /// They go for good
    Delete,
}

/// `drain`
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node, NAME or node/NAME
    pub(crate) node: String,
    /// What becomes of pods that no controller replaces; without it, a node with such pods is not
    /// drained
    #[arg(long, value_name = "WAY", value_enum)]
    pub(crate) bare: Option<Bare>,
    /// Seconds containers get to stop, instead of their pod's own
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace_period: Option<u32>,
    /// How long to wait for the last pod
    #[arg(long, value_name = "AGE", value_parser = duration, default_value = "5m")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Tell what would happen; nothing else is done yet, so it must be there
    #[arg(long, required = true)]
    pub(crate) explain: bool,
    /// File, directory, or - for stdin, with pods or replication controllers; may be repeated
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Form of the output
    #[arg(long, short = 'o', value_name = "FORM")]
    pub(crate) output: Option<Form>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
    /// Only about this object
    #[arg(long = "for", value_name = "KIND/NAME")]
    pub(crate) about: Option<String>,
    /// Go on showing new events until interrupted
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the pod or controller
    pub(crate) name: String,
    /// The image
    #[arg(long)]
    pub(crate) image: String,
    /// Keep this many pods with a replication controller
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u32>,
    /// Port of the container
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Labels as k=v,k=v [default: run=NAME]
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub(crate) labels: Option<String>,
    /// When containers are started again
    #[arg(long, value_name = "POLICY", default_value = "Always", value_parser = ["Always", "OnFailure", "Never"])]
    pub(crate) restart: String,
    /// Arguments of the image, after --
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_go_duration(text).ok_or_else(|| "expected a duration such as 30s, 5m or 1h30m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_of_the_modern_grammar_parse() {
        for line in [
            "coracle up --data-dir /d --listen 127.0.0.1:0 --docker unix:///s --pod-cidr 10.1.0.0/16 --service-cidr 10.2.0.0/16",
            "coracle master --name a",
            "coracle minion --master http://h:1,http://i:1 --name a --address 10.0.0.1 --docker /s --data-dir /d",
            "coracle up --proxy-mode userspace --external-ips 203.0.113.0/24,198.51.100.7/32",
            "coracle minion --proxy-mode nftables --external-ips 203.0.113.0/24 --pod-routes vxlan",
            "coracle reset --data-dir /d --yes",
            "coracle up --store etcd://a:1,b:2/x --etcd-user u --etcd-password-file /p",
            "coracle master --store etcds://a:1 --etcd-ca /ca --etcd-cert /c --etcd-key /k",
            "coracle backup",
            "coracle backup -o -",
            "coracle restore f --data-dir /d --replace --yes",
            "coracle store check --data-dir /d",
            "coracle get pods -A -o wide -w",
            "coracle -n x get po/a rc/b",
            "coracle describe pod a",
            "coracle logs -f a -c b --tail 5 --since 5m --timestamps -p",
            "coracle exec -it a -c b -- sh -c x",
            "coracle exec a -- ls -l",
            "coracle apply -f a -f -",
            "coracle delete pod a b --now",
            "coracle delete -f x --grace-period 3",
            "coracle delete pods -l a=b",
            "coracle delete rc/a --cascade orphan",
            "coracle scale rc/a --replicas=3",
            "coracle rollingupdate a",
            "coracle rollingupdate rc/a --image b:1 --min-ready 0 --timeout 1m -u 5s",
            "coracle rolling-update a --rollback",
            "coracle cordon a node/b",
            "coracle uncordon a",
            "coracle drain a --bare move --timeout 30s --grace-period 5",
            "coracle schedule --explain -f a -f - -o json",
            "coracle events --for pod/a -w",
            "coracle run a --image=b --replicas 2 -- x -y",
            "coracle completions bash",
        ] {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "coracle",
            "coracle get",
            "coracle scale rc/a",
            "coracle rollingupdate a --image b --rollback",
            "coracle drain a --bare leave",
            "coracle cordon",
            "coracle delete",
            "coracle logs a --since soon",
            "coracle restore",
            "coracle store",
            "coracle up --etcd-cert /c",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
