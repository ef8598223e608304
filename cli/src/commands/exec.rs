//! `coracle exec`: a command in a container, with our stdin, stdout, stderr and exit status.
//!
//! Invariant: reading never waits for writing, so neither side can block the other for ever.

use std::{io::Write, time::Duration};

use coracle_api::{
    ApiError, TypedObject,
    client::{encode, object_path},
    core::Pod,
    kinds::Subresource,
};
use futures_util::{
    Sink, SinkExt, Stream, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    signal::unix::{SignalKind, signal},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use super::{Context, logs::default_container};
use crate::{
    args::ExecArgs,
    channel::{self, Ending, Received},
    failure::{Failure, Outcome},
    output, target,
    terminal::{self, RawMode},
};

/// The master answers the handshake once the minion started the command.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
const STDIN_BYTES: usize = 32 << 10;

type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn run(context: &Context, args: ExecArgs) -> Outcome {
    let pod = target::pod_name(&args.pod)?.to_owned();
    let container = match &args.container {
        Some(container) => container.clone(),
        None => default_container(context, &pod).await?,
    };
    let socket = connect(context, &path(context, &pod, &container, &args)).await?;
    let raw = if args.tty && args.stdin { RawMode::enter()? } else { None };
    if args.tty && args.stdin && raw.is_none() {
        output::note("stdin is not a terminal: it is passed on as it is");
    }
    let outcome = converse(socket, args.stdin, args.tty).await;
    drop(raw);
    outcome.map_err(|e| match e {
        Failure::Failed(why) => Failure::Failed(format!("exec in container {container} of pod {pod}: {why}")),
        other => other,
    })
}

fn path(context: &Context, pod: &str, container: &str, args: &ExecArgs) -> String {
    let path = object_path(Pod::row(), Some(&context.namespace), Some(pod), Some(Subresource::Exec));
    let command: String = args.command.iter().map(|word| format!("&command={}", encode(word))).collect();
    // A terminal has one output.
    let (stdin, tty, stderr) = (args.stdin, args.tty, !args.tty);
    format!("{path}?container={}&stdin={stdin}&stdout=true&stderr={stderr}&tty={tty}{command}", encode(container))
}

async fn connect(context: &Context, path: &str) -> Outcome<Socket> {
    let (stream, authority) = context.session.client().transport().connect().await?;
    stream.set_nodelay(true)?;
    let failed = |e: tungstenite::Error| handshake_failure(e);
    let mut request = format!("ws://{authority}{path}").into_client_request().map_err(failed)?;
    request.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static(channel::PROTOCOL));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, client_async(request, stream)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(e)) => Err(handshake_failure(e)),
        Err(_) => Err(Failure::Failed(format!(
            "the master did not start the command within {} s; see: coracle get nodes",
            HANDSHAKE_TIMEOUT.as_secs()
        ))),
    }
}

fn handshake_failure(error: tungstenite::Error) -> Failure {
    match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            Failure::Client(ApiError::from_json(response.status().as_u16(), body).into())
        }
        other => Failure::Failed(other.to_string()),
    }
}

/// Carries bytes both ways until the command ends.
async fn converse(socket: Socket, with_stdin: bool, tty: bool) -> Outcome {
    let (sink, stream) = socket.split();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reader = receive(stream);
    let writer = send(sink, with_stdin, tty);
    tokio::pin!(reader, writer);
    let mut writing = true;
    loop {
        // Reader and writer are pinned and polled on, never dropped half-way; signals lose nothing.
        tokio::select! {
            ended = &mut reader => return ended,
            sent = &mut writer, if writing => {
                writing = false;
                // When the other side is gone the reader says why.
                let _ = sent;
            }
            _ = terminate.recv() => return Err(Failure::Exit(143)),
            _ = hangup.recv() => return Err(Failure::Exit(129)),
        }
    }
}

async fn receive(mut stream: SplitStream<Socket>) -> Outcome {
    while let Some(message) = next(&mut stream).await? {
        match channel::receive(&message) {
            Received::Stdout(data) => output::write_bytes(data)?,
            Received::Stderr(data) => {
                let mut stderr = std::io::stderr().lock();
                stderr.write_all(data)?;
                stderr.flush()?;
            }
            Received::Ended(Ok(())) => return Ok(()),
            Received::Ended(Err(Ending::Code(code))) => return Err(Failure::Exit(code)),
            Received::Ended(Err(Ending::Failed(why))) => return Err(Failure::Failed(why)),
            Received::Other => {}
        }
    }
    Err(Failure::Failed(
        "the connection ended before the command did; is its minion well? see: coracle get nodes".into(),
    ))
}

/// The next data message; `None` at the end.
async fn next(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
) -> Outcome<Option<bytes::Bytes>> {
    while let Some(message) = stream.next().await {
        match message {
            Ok(Message::Binary(data)) => return Ok(Some(data)),
            Ok(Message::Text(text)) => return Ok(Some(bytes::Bytes::from(text))),
            Ok(Message::Close(_)) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(Failure::Failed(format!("the connection broke: {e}"))),
        }
    }
    Ok(None)
}

/// Sends the terminal's size as it changes, and stdin until it ends.
async fn send(mut sink: SplitSink<Socket, Message>, with_stdin: bool, tty: bool) -> Result<(), tungstenite::Error> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; STDIN_BYTES];
    let mut open = with_stdin;
    if tty {
        send_size(&mut sink).await?;
    }
    while open || tty {
        // Both arms are cancel-safe: bytes not read stay in stdin, signals coalesce.
        tokio::select! {
            read = stdin.read(&mut buffer), if open => {
                let message = match read {
                    Ok(0) | Err(_) => {
                        open = false;
                        channel::close_stdin()
                    }
                    Ok(n) => channel::stdin(&buffer[..n]),
                };
                sink.send(Message::Binary(message.into())).await?;
            }
            _ = resized.recv(), if tty => send_size(&mut sink).await?,
        }
    }
    Ok(())
}

async fn send_size(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
) -> Result<(), tungstenite::Error> {
    match terminal::size() {
        Some((columns, rows)) => sink.send(Message::Binary(channel::resize(columns, rows).into())).await,
        None => Ok(()),
    }
}
