//! One action of a plan, carried out. Nothing is decided here: what can go wrong becomes an
//! [`Outcome`] for the next plan.

use std::{net::IpAddr, sync::Arc, time::Duration};

use coracle_api::core::{Container, Pod};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    container::{Prepared, container_spec, infra_spec, needs_image_user},
    directory::Directory,
    environment::{Surroundings, environment},
    expansion::expand,
    manager::Config,
    memory::StopReason,
    naming::uid_of,
    operations::{Action, Outcome, Pull},
    plan::image_of,
    report::{PodEvent, Report, ReportError},
    resolver::{self, Resolvers, resolv_conf},
    restart,
    services::ServicesSeen,
    stopping::Stopping,
};
use crate::{
    probes::{self, Target},
    runtime::{ContainerId, Runtime, RuntimeError},
    volumes::{self, Volumes},
};

/// Permits that only restarts may use, besides the common ones: healing comes before growth.
pub(super) const RESTARTS_MAX: usize = 2;
/// A postStart hook that takes longer has failed.
const POST_START_LIMIT: Duration = Duration::from_secs(600);
/// What a container gets between its preStop hook and SIGKILL, however long the hook took.
const GRACE_AFTER_HOOK_MIN: Duration = Duration::from_secs(2);
/// Pods that moved away while this minion was cut off are stopped before another starts: they may hold
/// its ports, and what it is given may be the very pod that must not run twice. Longer than their
/// grace.
const LEAVING_MAX: Duration = Duration::from_secs(15);
/// Waiting for the first word of a registry when the image is here already.
const REGISTRY_SILENCE_MAX: Duration = Duration::from_secs(10);

/// What all workers share.
#[derive(Debug)]
pub(super) struct Shared<R, P> {
    pub(super) config: Config,
    pub(super) runtime: Arc<R>,
    pub(super) report: Arc<P>,
    pub(super) volumes: Volumes,
    /// How many pods that a list no longer named are still being stopped.
    pub(super) leaving: watch::Sender<usize>,
    pub(super) stopping: Stopping,
    pub(super) starts: Semaphore,
    pub(super) restarts: Semaphore,
    pub(super) pulls: Semaphore,
    pub(super) services: ServicesSeen,
    pub(super) directory: Directory,
}

/// An action with what it needs.
#[derive(Debug)]
pub(super) struct Job {
    /// As the master has it, or last had it; `None` for a pod that was never known.
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) uid: String,
    pub(super) action: Action,
    pub(super) pod_ip: Option<IpAddr>,
    /// The pod is deleted, or not here any more.
    pub(super) leaves: bool,
    /// The address, if the action is the end of the pod's network.
    pub(super) gives_back: Option<IpAddr>,
    pub(super) cancel: CancellationToken,
}

/// Carries out a job.
pub(super) async fn run<R: Runtime, P: Report>(shared: Arc<Shared<R, P>>, job: Job) -> Outcome {
    let step = Step { shared: &shared, job: &job };
    match (&job.action, &job.pod) {
        (Action::Stop { container, id, grace, reason }, _) => step.stop(container, id, *grace, reason).await,
        (Action::Remove { id }, _) => step.remove(id).await,
        (Action::RemoveVolumes, _) => step.remove_volumes().await,
        (Action::MountVolumes, Some(pod)) => step.mount_volumes(pod).await,
        (Action::EnsureImage { image, pull }, _) => step.ensure_image(image, *pull).await,
        (Action::RunInfra { attempt }, Some(pod)) => step.run_infra(pod, *attempt).await,
        (Action::Start { container, attempt, infra }, Some(pod)) => step.start(pod, container, *attempt, infra).await,
        (Action::RunHook { container, id }, Some(pod)) => step.run_hook(pod, container, id).await,
        (Action::FinalDelete, Some(pod)) => match shared.report.delete(pod).await {
            Ok(()) | Err(ReportError::Gone) => Outcome::Deleted,
            Err(e) => failed("DeleteError", e),
        },
        // Only a pod that is known can want these, and orders to the worker are no jobs.
        (_, None) | (Action::Cancel(_), _) => Outcome::Done,
    }
}

fn failed(reason: &'static str, message: impl std::fmt::Display) -> Outcome {
    Outcome::Failed { reason, message: message.to_string() }
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    restart::containers(pod.spec.as_ref()?).map(|(_, c)| c).find(|c| c.name == name)
}

struct Step<'a, R, P> {
    shared: &'a Shared<R, P>,
    job: &'a Job,
}

impl<R: Runtime, P: Report> Step<'_, R, P> {
    fn event(&self, event: PodEvent) {
        if let Some(pod) = &self.job.pod {
            self.shared.report.event(pod, event, self.shared.config.clock.now());
        }
    }

    /// A permit to start something, or `None` when told to give up while waiting for it.
    async fn permit(&self, restart: bool) -> Option<SemaphorePermit<'_>> {
        if !restart {
            let mut leaving = self.shared.leaving.subscribe();
            let stopped = tokio::time::timeout(LEAVING_MAX, leaving.wait_for(|leaving| *leaving == 0));
            // Cancel-safe: both only wait.
            tokio::select! {
                biased;
                () = self.job.cancel.cancelled() => return None,
                // Late or not: what does not stop must not keep others from running.
                _ = stopped => {}
            }
        }
        // Cancel-safe: a permit that is not taken stays with its semaphore.
        tokio::select! {
            biased;
            () = self.job.cancel.cancelled() => None,
            permit = self.shared.restarts.acquire(), if restart => permit.ok(),
            permit = self.shared.starts.acquire() => permit.ok(),
        }
    }

    async fn remove(&self, id: &ContainerId) -> Outcome {
        // Of a pod that stays, something waits to take the container's place.
        if self.job.leaves {
            self.shared.stopping.until_idle().await;
        }
        if let Some(ip) = self.job.gives_back {
            self.shared.runtime.settle(ip).await;
        }
        match self.shared.runtime.remove(id).await {
            Ok(()) | Err(RuntimeError::NotFound(_)) => Outcome::Done,
            Err(e) => failed("RemoveContainerError", e),
        }
    }

    async fn mount_volumes(&self, pod: &Arc<Pod>) -> Outcome {
        if !volumes::has_volumes(pod) {
            return Outcome::VolumesReady;
        }
        let (volumes, pod) = (self.shared.volumes.clone(), Arc::clone(pod));
        match tokio::task::spawn_blocking(move || volumes.mount(&pod)).await {
            Ok(Ok(())) => Outcome::VolumesReady,
            Ok(Err(e)) => failed("FailedMount", e),
            Err(e) => failed("FailedMount", e),
        }
    }

    async fn remove_volumes(&self) -> Outcome {
        if !self.shared.volumes.can_keep() {
            return Outcome::VolumesRemoved;
        }
        let (volumes, uid) = (self.shared.volumes.clone(), self.job.uid.clone());
        match tokio::task::spawn_blocking(move || volumes.remove(&uid)).await {
            Ok(Ok(())) => Outcome::VolumesRemoved,
            Ok(Err(e)) => failed("FailedUnmount", format!("the volumes of the pod can't be removed: {e}")),
            Err(e) => failed("FailedUnmount", e),
        }
    }

    async fn ensure_image(&self, image: &str, pull: Pull) -> Outcome {
        let here = match self.shared.runtime.image(image).await {
            Ok(here) => here.is_some(),
            Err(e) => return failed("ImageInspectError", format!("looking for the image {image}: {e}")),
        };
        let missing = |reason, message, looked| Outcome::ImageMissing { reason, message, looked };
        match (here, pull) {
            (true, Pull::IfMissing | Pull::Look | Pull::Never) => {
                self.event(PodEvent::normal("Pulled", None, format!("The image {image} is present on this node")));
                Outcome::ImageReady
            }
            (false, Pull::Look) => missing("ErrImagePull", String::new(), true),
            (false, Pull::Never) => {
                let text = format!(
                    "the image {image} is not on this node and imagePullPolicy is Never; load it there, or let it be pulled"
                );
                missing("ErrImageNeverPull", text, false)
            }
            (here, Pull::Always | Pull::IfMissing) => match self.pull(image, !here).await {
                None => Outcome::Cancelled,
                Some(Ok(())) => {
                    self.event(PodEvent::normal("Pulled", None, format!("Pulled the image {image}")));
                    Outcome::ImageReady
                }
                Some(Err(why)) if here => {
                    let text = format!("The image {image} could not be refreshed, what is here is used: {why}");
                    self.event(PodEvent::warning("PullSkipped", None, text));
                    Outcome::ImageReady
                }
                Some(Err(why)) => {
                    let text =
                        format!("the image {image} could not be pulled: {why}; check its name, or load it on the node");
                    missing("ErrImagePull", text, false)
                }
            },
        }
    }

    /// `None` when told to give up. Without patience the registry must send something soon.
    async fn pull(&self, image: &str, patient: bool) -> Option<Result<(), String>> {
        let pull = async {
            let Ok(_permit) = self.shared.pulls.acquire().await else { return Ok(()) };
            self.event(PodEvent::normal("Pulling", None, format!("Pulling the image {image}")));
            let (progress, mut lines) = mpsc::channel(4);
            let pull = self.shared.runtime.pull(image, progress);
            tokio::pin!(pull);
            let (mut patient, mut open) = (patient, true);
            let deadline = Instant::now() + REGISTRY_SILENCE_MAX;
            loop {
                // The pull is pinned and goes on; a line or a deadline that is not taken stays.
                tokio::select! {
                    result = &mut pull => return result.map_err(|e| e.to_string()),
                    line = lines.recv(), if open => (patient, open) = (patient || line.is_some(), line.is_some()),
                    () = tokio::time::sleep_until(deadline), if !patient => {
                        return Err(format!("its registry was silent for {} s", REGISTRY_SILENCE_MAX.as_secs()));
                    }
                }
            }
        };
        // Dropping a pull ends it; the engine keeps what it has for the next one.
        tokio::select! {
            biased;
            () = self.job.cancel.cancelled() => None,
            result = pull => Some(result),
        }
    }

    async fn run_infra(&self, pod: &Pod, attempt: u32) -> Outcome {
        let Some(_permit) = self.permit(attempt > 0).await else { return Outcome::Cancelled };
        match self.shared.runtime.run_infra(&infra_spec(pod, attempt, &self.shared.config)).await {
            Ok(_) => Outcome::Done,
            Err(RuntimeError::PortTaken(port)) => failed(
                "FailedCreatePodSandBox",
                format!("port {port} of the node is in use by something else; free it, or change hostPort"),
            ),
            Err(e) => failed("FailedCreatePodSandBox", format!("the pod's network can't be set up: {e}")),
        }
    }

    async fn start(&self, pod: &Arc<Pod>, name: &str, attempt: u32, infra: &ContainerId) -> Outcome {
        let Some(container) = find(pod, name) else { return Outcome::Cancelled };
        let Some(_permit) = self.permit(attempt > 0).await else { return Outcome::Cancelled };
        let services = self.shared.services.borrow().clone().unwrap_or_default();
        let (config, runtime) = (&self.shared.config, &self.shared.runtime);
        let mut image_user = String::new();
        if needs_image_user(pod, container) {
            let image = image_of(container);
            match runtime.image(image).await {
                Ok(Some(here)) => image_user = here.user,
                Ok(None) => return Outcome::ImageLost { image: image.to_owned() },
                Err(e) => return failed("ImageInspectError", format!("looking for the image {image}: {e}")),
            }
        }
        let around =
            Surroundings { services: &services, pod_ip: self.job.pod_ip, node_ip: config.node_ip, node: &config.node };
        let spec = match self.binds(pod, container, &around).await {
            Ok(binds) => {
                let prepared = Prepared { binds, image_user };
                container_spec(pod, container, attempt, infra, prepared, &around, config).map_err(|e| e.0)
            }
            Err(e) => Err(e),
        };
        let spec = match spec {
            Ok(spec) => spec,
            Err(e) => return failed("CreateContainerConfigError", e),
        };
        let id = match runtime.create(&spec).await {
            Ok(id) => id,
            // Not so for the infra container, which may have just gone.
            Err(RuntimeError::NotFound(what)) if what.starts_with("image") => {
                return Outcome::ImageLost { image: spec.image };
            }
            Err(e) => return failed("CreateContainerError", format!("container {name} can't be created: {e}")),
        };
        self.event(PodEvent::normal("Created", Some(name), format!("Created container {name}")));
        if let Err(e) = runtime.start(&id).await {
            // It may even run, without its hook. Nothing is left of a start that failed.
            if let Err(e) = runtime.remove(&id).await {
                tracing::warn!(kind = "container", name, error = %e, "what a failed start left can't be removed yet");
            }
            return failed("RunContainerError", format!("container {name} can't be started: {e}"));
        }
        self.event(PodEvent::normal("Started", Some(name), format!("Started container {name}")));
        let hook = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
        Outcome::Started { id, hook }
    }

    async fn binds(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        around: &Surroundings<'_>,
    ) -> Result<Vec<String>, String> {
        let dns = self.shared.config.dns.clone().filter(|_| !resolver::is_mounted(container));
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        if mounts.is_empty() && dns.is_none() {
            return Ok(Vec::new());
        }
        let (given, mut container) = (container, container.clone());
        if mounts.iter().any(|m| m.sub_path_expr.is_some()) {
            let env = environment(pod, given, around).map_err(|e| e.0)?;
            for mount in container.volume_mounts.iter_mut().flatten() {
                if let Some(text) = mount.sub_path_expr.take() {
                    mount.sub_path = Some(expand(&text, |name| env.get(name)));
                }
            }
        }
        let (volumes, pod) = (self.shared.volumes.clone(), Arc::clone(pod));
        let binds = tokio::task::spawn_blocking(move || {
            let mut binds = volumes.binds(&pod, &container).map_err(|e| e.to_string())?;
            if let Some(dns) = dns {
                let around = Resolvers {
                    cluster: dns.server.borrow().map(|server| server.ip()),
                    domain: &dns.domain,
                    host: &dns.host.read(),
                };
                let path = volumes.resolv_conf(&pod, &resolv_conf(&pod, around).to_string())?;
                binds.push(resolver::bind(&path, &container)?);
            }
            Ok(binds)
        });
        binds.await.map_err(|e| e.to_string())?
    }

    async fn run_hook(&self, pod: &Pod, name: &str, id: &ContainerId) -> Outcome {
        let container = find(pod, name);
        let hook = container.and_then(|c| c.lifecycle.as_ref()?.post_start.as_ref());
        let (Some(container), Some(hook)) = (container, hook) else { return Outcome::Done };
        let target = Target { container, ip: self.job.pod_ip.unwrap_or(self.shared.config.node_ip) };
        let run = probes::run_hook(&*self.shared.runtime, id, &target, hook, POST_START_LIMIT);
        // A hook that is dropped goes on in its container, which is about to end.
        let result = tokio::select! {
            biased;
            () = self.job.cancel.cancelled() => return Outcome::Cancelled,
            result = run => result,
        };
        match result {
            Ok(()) => Outcome::Done,
            Err(why) => {
                let text = format!("the postStart hook of container {name} failed: {why}");
                self.event(PodEvent::warning("FailedPostStartHook", Some(name), text.clone()));
                Outcome::HookFailed(text)
            }
        }
    }

    async fn stop(&self, name: &str, id: &ContainerId, grace: Duration, reason: &StopReason) -> Outcome {
        let text = format!("Stopping container {name}: {}", reason.sentence());
        self.event(PodEvent::normal("Killing", Some(name), text));
        let started = Instant::now();
        let container = self.job.pod.as_ref().and_then(|pod| find(pod, name));
        let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        let mut left = grace;
        if let (Some((container, hook)), false) = (hook, grace.is_zero()) {
            let target = Target { container, ip: self.job.pod_ip.unwrap_or(self.shared.config.node_ip) };
            if let Err(why) = probes::run_hook(&*self.shared.runtime, id, &target, hook, grace).await {
                let text = format!("the preStop hook of container {name} failed: {why}");
                self.event(PodEvent::warning("FailedPreStopHook", Some(name), text));
            }
            left = grace.saturating_sub(started.elapsed()).max(GRACE_AFTER_HOOK_MIN.min(grace));
        }
        match self.shared.stopping.during(self.shared.runtime.stop(id, left)).await {
            Ok(()) | Err(RuntimeError::NotFound(_)) => Outcome::Done,
            Err(e) => {
                failed("FailedKillPod", format!("container {name} of pod {} can't be stopped: {e}", self.subject()))
            }
        }
    }

    fn subject(&self) -> &str {
        self.job.pod.as_ref().map_or(&self.job.uid, |pod| pod.metadata.name.as_deref().unwrap_or(uid_of(pod)))
    }
}
