//! Commands inside running containers: short ones for probes and hooks, attached ones for users.
//!
//! The engine has no way to end a command: one that outlives its time limit or its user is left to
//! notice that its streams are closed.

use std::{pin::Pin, time::Duration};

use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::Engine;
use crate::runtime::{ContainerId, ExecOutcome, ExecOutput, ExecQuery, ExecSession, RuntimeError};

/// What of a probe's output is kept.
const OUTPUT_MAX: usize = 10 * 1024;
/// Pieces in each direction of a session; the slower side makes the other wait.
const QUEUE: usize = 16;
/// The engine notes the exit code a moment after the streams close.
const EXIT_POLLS: u32 = 100;
const EXIT_POLL: Duration = Duration::from_millis(20);

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Runs a command to its end, or for `timeout`.
pub(super) async fn run(
    engine: &Engine,
    id: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> Result<ExecOutcome, RuntimeError> {
    let running = async {
        let query = ExecQuery { command: command.to_vec(), stdin: false, tty: false };
        let (exec, mut output, _input) = attach(engine, id, &query).await?;
        let mut text = Vec::new();
        while let Some(piece) = output.next().await {
            let Ok(piece) = piece else { break };
            let room = OUTPUT_MAX - text.len();
            let piece = piece.into_bytes();
            text.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let code = exit_code(engine, &exec).await?;
        Ok(ExecOutcome { code, output: String::from_utf8_lossy(&text).into_owned() })
    };
    let late =
        || RuntimeError::Timeout { what: format!("running '{}'", command.join(" ")), seconds: timeout.as_secs() };
    tokio::time::timeout(timeout, running).await.unwrap_or_else(|_| Err(late()))
}

/// Starts a command with its streams attached.
pub(super) async fn session(engine: &Engine, id: &ContainerId, query: &ExecQuery) -> Result<ExecSession, RuntimeError> {
    let (exec, output, input) = attach(engine, id, query).await?;
    let (stdin_tx, stdin_rx) = mpsc::channel(QUEUE);
    let (output_tx, output_rx) = mpsc::channel(QUEUE);
    let (resize_tx, resize_rx) = mpsc::channel(QUEUE);
    let engine = engine.clone();
    let wants_stdin = query.stdin;
    tokio::spawn(async move {
        // Cancel-safe: the output arm decides; the others hold only what has no receiver any more.
        let ended = tokio::select! {
            ended = deliver(output, &output_tx) => ended,
            () = feed(input, stdin_rx) => true,
            () = resize(&engine, &exec, resize_rx) => true,
        };
        if ended {
            match exit_code(&engine, &exec).await {
                Ok(code) => drop(output_tx.send(ExecOutput::Exit(code)).await),
                Err(error) => tracing::debug!(%exec, %error, "no exit code of an attached command"),
            }
        }
    });
    Ok(ExecSession { stdin: wants_stdin.then_some(stdin_tx), output: output_rx, resize: resize_tx })
}

async fn attach(engine: &Engine, id: &ContainerId, query: &ExecQuery) -> Result<(String, Output, Input), RuntimeError> {
    let options = CreateExecOptions::<String> {
        attach_stdin: Some(query.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(query.tty),
        cmd: Some(query.command.clone()),
        ..Default::default()
    };
    let creating = engine.docker().create_exec(&id.0, options);
    let exec = engine.change("preparing a command in container", &id.0, creating).await?.id;
    let options = StartExecOptions { detach: false, tty: query.tty, output_capacity: None };
    let starting = engine.docker().start_exec(&exec, Some(options));
    match engine.change("starting a command in container", &id.0, starting).await? {
        StartExecResults::Attached { output, input } => Ok((exec, output, input)),
        StartExecResults::Detached => {
            Err(RuntimeError::Refused(format!("a command in container {id} was not attached")))
        }
    }
}

/// Output to the user. `false` when the user is gone.
async fn deliver(mut output: Output, tx: &mpsc::Sender<ExecOutput>) -> bool {
    loop {
        // Cancel-safe: a stream keeps what it has not yielded.
        let piece = tokio::select! {
            () = tx.closed() => return false,
            piece = output.next() => piece,
        };
        let piece = match piece {
            Some(Ok(LogOutput::StdErr { message })) => ExecOutput::Stderr(message),
            Some(Ok(other)) => ExecOutput::Stdout(other.into_bytes()),
            Some(Err(_)) | None => return true,
        };
        if tx.send(piece).await.is_err() {
            return false;
        }
    }
}

/// The user's input to the command, then end-of-file. Never ends: the output does.
async fn feed(mut input: Input, mut rx: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = rx.recv().await {
        if input.write_all(&bytes).await.is_err() {
            // It reads no more; what it still has to say comes on its output.
            rx.close();
        }
    }
    let _ = input.shutdown().await;
    std::future::pending().await
}

/// Terminal sizes to the engine. Never ends: the output does.
async fn resize(engine: &Engine, exec: &str, mut rx: mpsc::Receiver<(u16, u16)>) {
    while let Some((width, height)) = rx.recv().await {
        let call = engine.docker().resize_exec(exec, ResizeExecOptions { height, width });
        if let Err(error) = engine.read("resizing the terminal of", exec, call).await {
            tracing::debug!(%exec, %error, "a terminal kept its size");
        }
    }
    std::future::pending().await
}

async fn exit_code(engine: &Engine, exec: &str) -> Result<i64, RuntimeError> {
    for _ in 0..EXIT_POLLS {
        let state = engine.read("inspecting a command", exec, engine.docker().inspect_exec(exec)).await?;
        if let (Some(false), Some(code)) = (state.running, state.exit_code) {
            return Ok(code);
        }
        tokio::time::sleep(EXIT_POLL).await;
    }
    Err(RuntimeError::Refused("the command closed its output and did not end".into()))
}
