//! Health checks of containers: when to probe, what a series of outcomes means, how to ask.
//!
//! [`ProbeState`] decides, without I/O or clock; [`check`] asks once; [`watch`] is the loop around
//! them, one task for each probe of each running container. A check that can't be made has failed.

mod grpc;
mod http;
mod state;
mod target;

use std::{sync::Arc, time::Duration};

use coracle_api::core::{Container, ExecAction, LifecycleHandler, Probe};
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use state::{ProbeKind, ProbeSettings, ProbeState};
pub use target::Target;

use crate::{
    pods::Clock,
    runtime::{ContainerId, Runtime},
};

/// How much of an answer is read, for the message.
const ANSWER_BYTES_MAX: usize = 1024;

/// What to ask.
#[derive(Debug, Clone, PartialEq)]
enum Question {
    Exec(Vec<String>),
    Http(http::Request),
    Tcp { host: String, port: u16 },
    Grpc { host: String, port: u16, service: String },
    Sleep(Duration),
}

/// A verdict of a probe that differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which run of which container.
    pub id: ContainerId,
    /// The container's name in its pod.
    pub container: String,
    /// Which probe.
    pub kind: ProbeKind,
    /// What it says now.
    pub healthy: bool,
    /// Why it is unhealthy, as a sentence.
    pub message: String,
}

/// Asks once. The error is a sentence.
pub async fn check<R: Runtime>(
    runtime: &R,
    id: &ContainerId,
    target: &Target<'_>,
    probe: &Probe,
    timeout: Duration,
) -> Result<(), String> {
    let exec = |exec: &ExecAction| Question::Exec(exec.command.clone().unwrap_or_default());
    let question = match (&probe.exec, &probe.http_get, &probe.tcp_socket, &probe.grpc) {
        (Some(action), ..) => exec(action),
        (_, Some(get), ..) => http::question(get, target)?,
        (_, _, Some(tcp), _) => target.tcp(tcp.host.as_deref(), &tcp.port)?,
        (_, _, _, Some(grpc)) => target.grpc(grpc)?,
        _ => return Err("the probe says neither exec, httpGet, tcpSocket nor grpc".into()),
    };
    ask(runtime, id, question, timeout).await
}

/// Runs a hook once. The error is a sentence.
pub async fn run_hook<R: Runtime>(
    runtime: &R,
    id: &ContainerId,
    target: &Target<'_>,
    hook: &LifecycleHandler,
    timeout: Duration,
) -> Result<(), String> {
    let question = match (&hook.exec, &hook.http_get, &hook.tcp_socket, &hook.sleep) {
        (Some(action), ..) => Question::Exec(action.command.clone().unwrap_or_default()),
        (_, Some(get), ..) => http::question(get, target)?,
        (_, _, Some(tcp), _) => target.tcp(tcp.host.as_deref(), &tcp.port)?,
        (_, _, _, Some(sleep)) => Question::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))),
        _ => return Ok(()),
    };
    ask(runtime, id, question, timeout).await
}

async fn ask<R: Runtime>(runtime: &R, id: &ContainerId, question: Question, timeout: Duration) -> Result<(), String> {
    let answer = async {
        match question {
            Question::Exec(command) => match runtime.exec(id, &command, timeout).await {
                Ok(outcome) if outcome.code == 0 => Ok(()),
                Ok(outcome) => {
                    let text: String = outcome.output.trim().chars().take(ANSWER_BYTES_MAX).collect();
                    Err(format!("the command {:?} ended with exit code {}: {text}", command.join(" "), outcome.code))
                }
                Err(e) => Err(format!("the command {:?} failed: {e}", command.join(" "))),
            },
            Question::Http(request) => http::get(&request).await,
            Question::Tcp { host, port } => match tokio::net::TcpStream::connect((host.as_str(), port)).await {
                Ok(_) => Ok(()),
                Err(e) => Err(format!("connecting to {host}:{port}: {e}")),
            },
            Question::Grpc { host, port, service } => grpc::check(&host, port, &service).await,
            Question::Sleep(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    };
    let late = || Err(format!("no answer within {} s", timeout.as_secs_f32()));
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| late())
}

/// A running container to be probed.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The container's spec.
    pub container: Container,
    /// Its present run.
    pub id: ContainerId,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// The pod's address.
    pub ip: std::net::IpAddr,
    /// The probe's verdict so far, known after a restart of the minion.
    pub healthy: bool,
}

/// The probe of a kind that a container has.
pub fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// Probes a container for ever and sends each change of the verdict. Ends when nobody listens;
/// abort it when the container ends.
pub async fn watch<R: Runtime>(
    runtime: Arc<R>,
    clock: Clock,
    subject: Subject,
    kind: ProbeKind,
    verdicts: mpsc::Sender<Verdict>,
) {
    let Some(probe) = probe_of(&subject.container, kind) else { return };
    let settings = ProbeSettings::of(kind, probe);
    let mut state = ProbeState::new(kind, settings, subject.started_at, subject.healthy);
    loop {
        let wait = state.due().duration_since(clock.now());
        tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
        let target = Target { container: &subject.container, ip: subject.ip };
        let outcome = check(&*runtime, &subject.id, &target, probe, settings.timeout).await;
        let Some(healthy) = state.observe(outcome.is_ok(), clock.now()) else { continue };
        let message = outcome.err().map(|why| format!("{} probe failed: {why}", kind.as_str())).unwrap_or_default();
        let (id, container) = (subject.id.clone(), subject.container.name.clone());
        if verdicts.send(Verdict { id, container, kind, healthy, message }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
