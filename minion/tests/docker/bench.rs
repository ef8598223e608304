//! What the tests stand on: a cluster id, a network and an image of their own on the real engine,
//! all removed by label afterwards, whatever happened.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bollard::{
    Docker,
    models::NetworkCreateRequest,
    query_parameters::{
        CreateImageOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
    },
};
use coracle_minion::runtime::{
    ContainerId, ContainerSpec, InfraSpec, LogQuery, Runtime,
    docker::{DockerConfig, DockerRuntime, Engine},
    labels,
};
use futures_util::{FutureExt, TryStreamExt};
use tokio::{net::UnixListener, task::JoinHandle};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const NODE: &str = "test-node";

/// A place for one test.
pub(crate) struct Bench {
    pub(crate) cluster: String,
    pub(crate) image: String,
    pub(crate) runtime: Arc<DockerRuntime>,
    dir: tempfile::TempDir,
}

/// Runs a test on a bench of its own and cleans up, also after a panic.
pub(crate) async fn with_engine(test: impl AsyncFnOnce(&Bench)) {
    let engine = Engine::connect(None).await.unwrap_or_else(|e| {
        panic!("{e}\nThese tests need a Docker engine: start one with `systemctl start docker` or `dockerd &`.")
    });
    let cluster = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    let network = format!("coracle-{cluster}");
    let result = AssertUnwindSafe(async {
        let image = import_busybox(engine.docker(), &cluster).await;
        let request = NetworkCreateRequest {
            name: network.clone(),
            labels: Some(HashMap::from([(labels::CLUSTER.to_owned(), cluster.clone())])),
            ..Default::default()
        };
        engine.docker().create_network(request).await.unwrap();
        let config = DockerConfig { cluster: cluster.clone(), node: NODE.into(), network: network.clone() };
        let runtime = Arc::new(DockerRuntime::new(engine.clone(), config).await.unwrap());
        test(&Bench { cluster: cluster.clone(), image, runtime, dir: tempfile::tempdir().unwrap() }).await;
    })
    .catch_unwind()
    .await;
    clean(engine.docker(), &cluster, &network).await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

async fn clean(docker: &Docker, cluster: &str, network: &str) {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{}={cluster}", labels::CLUSTER)])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(options)).await.unwrap_or_default() {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let _ = docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await;
    }
    let _ = coracle_minion::proxy::remove(cluster).await;
    let _ = docker.remove_network(network).await;
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    let _ = docker.remove_image(&image_name(cluster), Some(options), None).await;
}

fn image_name(cluster: &str) -> String {
    format!("coracle/test-busybox:{cluster}")
}

/// An image of the host's static busybox, with the programs that the tests name.
async fn import_busybox(docker: &Docker, cluster: &str) -> String {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static is installed");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    tar.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    for program in ["sh", "sleep", "cat", "echo", "hostname", "yes", "head", "touch", "stty"] {
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, format!("bin/{program}"), "busybox").unwrap();
    }
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo("coracle/test-busybox")
        .tag(cluster)
        .changes(vec![format!("LABEL {}={cluster}", labels::CLUSTER)])
        .build();
    let body = bollard::body_full(tar.into_inner().unwrap().into());
    docker.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await.unwrap();
    image_name(cluster)
}

impl Bench {
    fn labels(&self, uid: &str, container: &str) -> BTreeMap<String, String> {
        let pod = format!("pod-{uid}");
        [
            (labels::CLUSTER, self.cluster.as_str()),
            (labels::NODE, NODE),
            (labels::POD_UID, uid),
            (labels::POD_NAME, &pod),
            (labels::POD_NAMESPACE, "default"),
            (labels::CONTAINER, container),
            (labels::HASH, "h"),
            (labels::ATTEMPT, "0"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    /// The infra container of pod `uid`.
    pub(crate) fn infra(&self, uid: &str) -> InfraSpec {
        InfraSpec {
            name: format!("cor-{}-{uid}-net", self.cluster),
            labels: self.labels(uid, labels::INFRA),
            hostname: format!("pod-{uid}"),
            ports: Vec::new(),
            host_network: false,
        }
    }

    /// A container that runs a shell script.
    pub(crate) fn container(&self, uid: &str, name: &str, infra: &ContainerId, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: format!("cor-{}-{uid}-{name}", self.cluster),
            labels: self.labels(uid, name),
            infra: Some(infra.clone()),
            image: self.image.clone(),
            entrypoint: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
            ..Default::default()
        }
    }

    /// Creates and starts a container that runs a shell script.
    pub(crate) async fn run(&self, uid: &str, name: &str, infra: &ContainerId, script: &str) -> ContainerId {
        let id = self.runtime.create(&self.container(uid, name, infra, script)).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    /// Waits until a container has written `line`.
    pub(crate) async fn wrote(&self, id: &ContainerId, line: &str) {
        eventually(line, async || {
            let mut log = self.runtime.logs(id, &LogQuery::default()).await.unwrap();
            let mut text = Vec::new();
            while let Some(piece) = log.recv().await {
                text.extend_from_slice(&piece);
            }
            String::from_utf8(text).unwrap().lines().any(|l| l == line).then_some(())
        })
        .await;
    }

    /// Kills a container as a user would, behind the runtime's back.
    pub(crate) async fn kill(&self, id: &ContainerId) {
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        self.runtime.engine().docker().kill_container(&id.0, Some(options)).await.unwrap();
    }

    /// Memory of a container's first process in kB.
    pub(crate) async fn resident_kb(&self, id: &ContainerId) -> u64 {
        let seen = self.runtime.engine().docker().inspect_container(&id.0, None).await.unwrap();
        let pid = seen.state.unwrap().pid.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.map_or(0, |l| l.trim().trim_end_matches(" kB").parse().unwrap())
    }

    /// A runtime of the same cluster through another socket.
    pub(crate) async fn runtime_at(&self, socket: &Path) -> DockerRuntime {
        let engine = Engine::connect(socket.to_str()).await.unwrap();
        let network = format!("coracle-{}", self.cluster);
        let config = DockerConfig { cluster: self.cluster.clone(), node: NODE.into(), network };
        DockerRuntime::new(engine, config).await.unwrap()
    }

    /// A socket that leads to the engine until it is cut.
    pub(crate) fn forwarder(&self) -> Forwarder {
        let target = PathBuf::from(self.runtime.engine().socket());
        let mut forwarder = Forwarder { socket: self.dir.path().join("docker.sock"), target, task: None };
        forwarder.serve();
        forwarder
    }
}

/// Connections to the engine that can be cut.
pub(crate) struct Forwarder {
    socket: PathBuf,
    target: PathBuf,
    task: Option<JoinHandle<()>>,
}

impl Forwarder {
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Accepts connections again.
    pub(crate) fn serve(&mut self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let target = self.target.clone();
        self.task = Some(tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    if let Ok(mut engine) = tokio::net::UnixStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
                    }
                });
            }
        }));
    }

    /// Cuts every connection and refuses new ones.
    pub(crate) async fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// Waits until `probe` gives something.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
