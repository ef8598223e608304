//! What the minion asks of a container engine, and what it sees of it.
//!
//! Everything the minion must know after a restart is on the containers themselves, as labels and
//! in the name; the engine is the only record of what runs. Implementations: [`docker`] and
//! [`hollow`], which pass the same contract suite.

pub mod contract;
pub mod docker;
pub mod hollow;
pub mod infra;

use std::{collections::BTreeMap, future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// Labels on every container, network and image of a minion.
pub mod labels {
    /// The cluster (8 hex digits) that owns the object. `reset` removes by this label.
    pub const CLUSTER: &str = "io.coracle.cluster";
    /// The minion's name.
    pub const NODE: &str = "io.coracle.node";
    /// The pod's UID, name and namespace.
    pub const POD_UID: &str = "io.coracle.pod.uid";
    /// The pod's name.
    pub const POD_NAME: &str = "io.coracle.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.coracle.pod.namespace";
    /// The container's name in the pod; [`INFRA`] for the infra container.
    pub const CONTAINER: &str = "io.coracle.container";
    /// Hash of the container's spec: another hash means the container must be replaced.
    pub const HASH: &str = "io.coracle.container.hash";
    /// How many times the container was started before in this pod (decimal).
    pub const ATTEMPT: &str = "io.coracle.container.attempt";
    /// The value of [`CONTAINER`] on the infra container, as Kubernetes 0.5 named it.
    pub const INFRA: &str = "net";
}

/// The engine's id of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container of ours as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Engine id.
    pub id: ContainerId,
    /// UID of its pod.
    pub pod_uid: String,
    /// Name of its pod.
    pub pod_name: String,
    /// Namespace of its pod.
    pub pod_namespace: String,
    /// Name in the pod; [`labels::INFRA`] for the infra container.
    pub name: String,
    /// [`labels::HASH`]
    pub hash: String,
    /// [`labels::ATTEMPT`]
    pub attempt: u32,
    /// Image reference it was created from.
    pub image: String,
    /// Engine id of the image.
    pub image_id: String,
    /// Creation time.
    pub created_at: Timestamp,
    /// What it does now.
    pub state: State,
    /// Address in the pod network; only on a running infra container.
    pub ip: Option<IpAddr>,
}

/// An image on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Engine id.
    pub id: String,
    /// `user[:group]`, names or numbers, that its containers run as; empty for root.
    pub user: String,
}

/// What a container does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Created and never started.
    Created,
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// 128 + signal for a container ended by a signal, as the engine reports it.
        code: i32,
        /// Ended by the kernel for want of memory.
        oom_killed: bool,
        /// Start of the run.
        started_at: Timestamp,
        /// End of the run.
        finished_at: Timestamp,
        /// The engine's error text, such as why the start failed. Empty if none.
        error: String,
    },
}

/// Something happened to a container; the observer inspects or lists again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// This container of this pod changed (started, died, was removed).
    Changed {
        /// UID of its pod.
        pod_uid: String,
        /// Engine id.
        id: ContainerId,
    },
    /// Events may have been lost (the stream was interrupted): list everything again.
    Gap,
    /// The engine can't be reached; a `Gap` follows when it can.
    Unreachable(String),
}

/// A pod's infra container: owner of the network namespace and the IP.
#[derive(Debug, Clone, PartialEq)]
pub struct InfraSpec {
    /// Engine name, unique per pod and attempt: creating it twice must fail with `NameTaken`.
    pub name: String,
    /// All [`labels`].
    pub labels: BTreeMap<String, String>,
    /// Hostname of the pod.
    pub hostname: String,
    /// Ports published on the node.
    pub ports: Vec<PublishedPort>,
    /// Share the node's network instead of having an own address.
    pub host_network: bool,
}

/// A port published on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Address on the node; `None` for all.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
}

/// A container of a pod, everything resolved: the runtime only carries it out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerSpec {
    /// Engine name, unique per pod, container and attempt.
    pub name: String,
    /// All [`labels`].
    pub labels: BTreeMap<String, String>,
    /// The infra container whose network and IPC namespaces it joins.
    pub infra: Option<ContainerId>,
    /// Image reference.
    pub image: String,
    /// Replaces the image's entrypoint when set (`v1` `command`).
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command when set (`v1` `args`).
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`, in order; later wins.
    pub env: Vec<String>,
    /// Working directory; the image's when `None`.
    pub working_dir: Option<String>,
    /// `host:container[:ro]` binds.
    pub binds: Vec<String>,
    /// CPU shares (1024 a core); 0 for the engine's default.
    pub cpu_shares: i64,
    /// CPU limit in thousandths of a core; 0 for none.
    pub cpu_limit_milli: i64,
    /// Memory limit in bytes; 0 for none.
    pub memory_limit: i64,
    /// `uid[:gid]`; the image's when `None`.
    pub user: Option<String>,
    /// Full privileges on the host.
    pub privileged: bool,
    /// Root file system mounted read-only.
    pub read_only_root: bool,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub stdin: bool,
}

/// The result of a command run inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Exit status.
    pub code: i64,
    /// Both output streams, cut at 10 KiB.
    pub output: String,
}

/// Which part of a log to read.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on with new output until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only since then.
    pub since: Option<Timestamp>,
    /// Prefix each line with its time.
    pub timestamps: bool,
}

/// A command attached to the caller's streams. Dropping the ends closes them.
#[derive(Debug)]
pub struct ExecSession {
    /// Standard input; dropping it sends end-of-file.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Output as it comes; `None` from `recv` means that the command ended.
    pub output: mpsc::Receiver<ExecOutput>,
    /// Terminal size changes: (columns, rows).
    pub resize: mpsc::Sender<(u16, u16)>,
}

/// What an attached command sends.
#[derive(Debug)]
pub enum ExecOutput {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error; never with a terminal.
    Stderr(Bytes),
    /// The last message: the exit status.
    Exit(i64),
}

/// What to run in an attached command.
#[derive(Debug, Clone, Default)]
pub struct ExecQuery {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Attach standard input.
    pub stdin: bool,
    /// Attach a terminal; output is then one stream.
    pub tty: bool,
}

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such container or image: the observation is stale, list again.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The engine has a container of that name: an earlier attempt succeeded, list again.
    #[error("a container named {0} exists")]
    NameTaken(String),
    /// A port of the node is in use by something else. Retry later.
    #[error("port {0} of the host is in use")]
    PortTaken(String),
    /// The image can't be had. Retry with back-off.
    #[error("{0}")]
    Image(String),
    /// The engine can't be reached. Retry.
    #[error("the Docker engine at {socket} can't be reached: {cause}")]
    Unreachable {
        /// Where it was expected.
        socket: String,
        /// Why.
        cause: String,
    },
    /// The engine refused; the text is its own. Retry with back-off.
    #[error("{0}")]
    Refused(String),
    /// Not done in time; the outcome is unknown, list again.
    #[error("{what} took longer than {seconds} s")]
    Timeout {
        /// The call.
        what: String,
        /// The limit.
        seconds: u64,
    },
}

/// A container engine. All calls are idempotent or fail with an error that says what is there.
pub trait Runtime: Send + Sync + 'static {
    /// All containers of this cluster and node, in any state.
    fn list(&self) -> impl Future<Output = Result<Vec<Arc<Container>>, RuntimeError>> + Send;

    /// All containers of one pod, in any state.
    fn list_pod(&self, pod_uid: &str) -> impl Future<Output = Result<Vec<Arc<Container>>, RuntimeError>> + Send;

    /// Starts to deliver events; the first is a `Gap`. The task behind it ends when the receiver
    /// is dropped, reconnects by itself and never loses an event without a `Gap`.
    fn events(&self) -> mpsc::Receiver<RuntimeEvent>;

    /// The image, if it is here.
    fn image(&self, image: &str) -> impl Future<Output = Result<Option<Image>, RuntimeError>> + Send;

    /// Pulls the image. Progress lines such as `downloading 12/40 MB` go to `progress` as far as
    /// it has room.
    fn pull(
        &self,
        image: &str,
        progress: mpsc::Sender<String>,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Creates and starts a pod's infra container.
    fn run_infra(&self, spec: &InfraSpec) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;

    /// Creates a container.
    fn create(&self, spec: &ContainerSpec) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;

    /// Starts a created container.
    fn start(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Clears the way for the end of a pod's network. To be called before its infra container, when
    /// nothing else of the pod runs, is removed.
    fn settle(&self, ip: IpAddr) -> impl Future<Output = ()> + Send {
        let _ = ip;
        async {}
    }

    /// SIGTERM (or the image's stop signal), then SIGKILL after `grace`. Done when it has ended.
    /// A container that is not running is left as it is.
    fn stop(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes a container in any state, with its anonymous volumes. Gone already is success.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Runs a command inside a running container, for probes and hooks.
    fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> impl Future<Output = Result<ExecOutcome, RuntimeError>> + Send;

    /// Starts a command with attached streams, for users.
    fn exec_session(
        &self,
        id: &ContainerId,
        query: &ExecQuery,
    ) -> impl Future<Output = Result<ExecSession, RuntimeError>> + Send;

    /// Streams a log. The receiver ends with the log; dropping it stops the stream.
    fn logs(
        &self,
        id: &ContainerId,
        query: &LogQuery,
    ) -> impl Future<Output = Result<mpsc::Receiver<Bytes>, RuntimeError>> + Send;
}
