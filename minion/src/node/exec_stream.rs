//! A command's streams in Kubernetes' remote-command protocol over WebSocket.
//!
//! Each binary message is a channel number and data: 0 stdin, 1 stdout, 2 stderr, 3 the final
//! `Status`, 4 the terminal's size; in v5 also 255 with the number of a channel that the client
//! closes. Source: k8s.io/apimachinery `pkg/util/remotecommand` and KEP-4006.
//!
//! The handshake is the master's: here the two bodies of an HTTP/2 exchange are the connection.

use bytes::{Bytes, BytesMut};
use coracle_api::meta::{Status, StatusCause, StatusDetails};
use futures_util::{
    SinkExt, StreamExt, TryStreamExt,
    stream::{SplitSink, SplitStream},
};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt, DuplexStream, WriteHalf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::{io::ReaderStream, sync::CancellationToken, task::TaskTracker};

use super::server::Body;
use crate::runtime::{ExecOutput, ExecSession};

/// Bytes under way in each direction between the connection and the session.
const PIPE_BYTES: usize = 64 * 1024;
/// The largest message taken from a client (kubectl sends 32 KiB).
const MESSAGE_BYTES_MAX: usize = 1 << 20;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket = WebSocketStream<DuplexStream>;

/// The versions of the protocol spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A client can't close its standard input.
    V4,
    /// With the message that closes a channel.
    V5,
}

impl Protocol {
    pub(super) const NAMES: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "v5.channel.k8s.io" => Some(Protocol::V5),
            "v4.channel.k8s.io" => Some(Protocol::V4),
            _ => None,
        }
    }
}

/// Connects a session with the client whose WebSocket bytes come in `incoming` and go out in the
/// returned body. Ends with the command, the client, or `shutdown`.
pub(super) fn start<B>(
    session: ExecSession,
    protocol: Protocol,
    incoming: B,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Body
where
    B: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (outgoing, to_session) = tokio::io::split(far);
    tasks.spawn(async move {
        // Cancel-safe: whichever arm ends, the whole exchange is over and everything is dropped.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run(session, protocol, near) => {}
            () = receive(incoming, to_session) => {}
        }
    });
    let frames = ReaderStream::with_capacity(outgoing, PIPE_BYTES).map_ok(Frame::data).map_err(Into::into);
    StreamBody::new(frames).boxed_unsync()
}

/// The client's bytes to the session. Ends only when its stream breaks: at an orderly end the session
/// first reads what is still under way.
async fn receive<B>(mut incoming: B, mut to_session: WriteHalf<DuplexStream>)
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else { return };
        if let Ok(data) = frame.into_data()
            && to_session.write_all(&data).await.is_err()
        {
            break;
        }
    }
    let _ = to_session.shutdown().await;
    std::future::pending().await
}

async fn run(session: ExecSession, protocol: Protocol, near: DuplexStream) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .max_write_buffer_size(2 * MESSAGE_BYTES_MAX);
    let (mut sink, source) = WebSocketStream::from_raw_socket(near, Role::Server, Some(config)).await.split();
    let ExecSession { stdin, mut output, resize } = session;
    // Cancel-safe: when the client is gone nothing needs an end; when the output has ended nothing
    // reads input any more.
    tokio::select! {
        () = take_input(source, protocol, stdin, resize) => {}
        _ = give_output(&mut sink, &mut output) => {}
    }
}

/// Output, then the status, then the close that ends the conversation.
async fn give_output(
    sink: &mut SplitSink<Socket, Message>,
    output: &mut tokio::sync::mpsc::Receiver<ExecOutput>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let mut code = None;
    while let Some(piece) = output.recv().await {
        match piece {
            ExecOutput::Stdout(bytes) => sink.send(message(STDOUT, &bytes)).await?,
            ExecOutput::Stderr(bytes) => sink.send(message(STDERR, &bytes)).await?,
            ExecOutput::Exit(n) => code = Some(n),
        }
    }
    // A Status holds strings and numbers: writing it cannot fail.
    let status = serde_json::to_vec(&exit_status(code)).unwrap_or_default();
    sink.send(message(STATUS, &status)).await?;
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
    sink.close().await
}

/// Input until the client closes the connection.
async fn take_input(
    mut source: SplitStream<Socket>,
    protocol: Protocol,
    mut stdin: Option<tokio::sync::mpsc::Sender<Bytes>>,
    resize: tokio::sync::mpsc::Sender<(u16, u16)>,
) {
    while let Some(Ok(message)) = source.next().await {
        match decode(message, protocol) {
            Input::Stdin(bytes) => {
                if let Some(pipe) = &stdin
                    && pipe.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::CloseStdin => stdin = None,
            // Sizes come often while a window is dragged; only the last matters.
            Input::Resize(size) => drop(resize.try_send(size)),
            Input::Nothing => {}
            Input::End => return,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize((u16, u16)),
    Nothing,
    End,
}

fn decode(message: Message, protocol: Protocol) -> Input {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let mut data = match message {
        Message::Binary(data) => data,
        Message::Close(_) => return Input::End,
        _ => return Input::Nothing,
    };
    if data.is_empty() {
        return Input::Nothing;
    }
    let channel = data.split_to(1)[0];
    match channel {
        STDIN if !data.is_empty() => Input::Stdin(data),
        RESIZE => serde_json::from_slice::<Size>(&data).map_or(Input::Nothing, |s| Input::Resize((s.width, s.height))),
        CLOSE if protocol == Protocol::V5 && data.first() == Some(&STDIN) => Input::CloseStdin,
        _ => Input::Nothing,
    }
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.extend_from_slice(&[channel]);
    bytes.extend_from_slice(data);
    Message::Binary(bytes.freeze())
}

/// What a client reads on the status channel; kubectl takes its exit code from here.
fn exit_status(code: Option<i64>) -> Status {
    let failure = |reason: &str, message: String| Status {
        status: Some("Failure".into()),
        reason: Some(reason.into()),
        message: Some(message),
        ..Default::default()
    };
    match code {
        Some(0) => Status { status: Some("Success".into()), ..Default::default() },
        Some(n) => Status {
            details: Some(StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("ExitCode".into()),
                    message: Some(n.to_string()),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..failure("NonZeroExitCode", format!("command terminated with non-zero exit code: exit status {n}"))
        },
        None => failure("InternalError", "the engine lost the command: its exit code is not known".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn statuses_are_those_that_kubectl_reads() {
        let json = |code| serde_json::to_value(exit_status(code)).unwrap();
        assert_eq!(json(Some(0))["status"], "Success");
        assert_eq!(json(Some(3))["reason"], "NonZeroExitCode");
        assert_eq!(json(Some(3))["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(json(Some(3))["details"]["causes"][0]["message"], "3");
        assert_eq!(json(None)["reason"], "InternalError");
    }

    #[test]
    fn messages_of_a_client_are_understood_and_nonsense_is_ignored() {
        let check = |bytes: &'static [u8], protocol, expected: Input| {
            assert_eq!(decode(Message::Binary(Bytes::from_static(bytes)), protocol), expected, "{bytes:?}");
        };
        check(b"\0hello", Protocol::V5, Input::Stdin(Bytes::from_static(b"hello")));
        check(b"\0", Protocol::V5, Input::Nothing);
        check(b"", Protocol::V5, Input::Nothing);
        check(b"\xff\0", Protocol::V5, Input::CloseStdin);
        check(b"\xff\0", Protocol::V4, Input::Nothing);
        check(b"\xff\x01", Protocol::V5, Input::Nothing);
        check(b"\x04{\"Width\":80,\"Height\":24}", Protocol::V5, Input::Resize((80, 24)));
        check(b"\x04{\"Width\":-1}", Protocol::V5, Input::Nothing);
        check(b"\x07x", Protocol::V5, Input::Nothing);
    }

    /// A client on one side, the ends of a fake command on the other.
    struct Scene {
        client: Socket,
        stdin: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<ExecOutput>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    }

    async fn scene() -> Scene {
        let (stdin_tx, stdin) = mpsc::channel(4);
        let (output, output_rx) = mpsc::channel(4);
        let session = ExecSession { stdin: Some(stdin_tx), output: output_rx, resize: mpsc::channel(4).0 };
        let (upload, mut uploaded) = mpsc::channel::<Bytes>(4);
        let frames = futures_util::stream::poll_fn(move |cx| uploaded.poll_recv(cx));
        let incoming = StreamBody::new(frames.map(|data| Ok::<_, std::io::Error>(Frame::data(data))));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut body = start(session, Protocol::V5, incoming, &tasks, shutdown.clone());
        // The client's connection: what it writes becomes the request's body, the response's body
        // is what it reads.
        let (client, far) = tokio::io::duplex(1024);
        let (mut from_client, mut to_client) = tokio::io::split(far);
        tokio::spawn(async move {
            let mut buffer = [0; 256];
            while let Ok(n @ 1..) = tokio::io::AsyncReadExt::read(&mut from_client, &mut buffer).await {
                if upload.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                if to_client.write_all(&frame.into_data().unwrap_or_default()).await.is_err() {
                    return;
                }
            }
            let _ = to_client.shutdown().await;
        });
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        Scene { client, stdin, output, tasks, shutdown }
    }

    async fn settled(tasks: &TaskTracker) {
        tasks.close();
        tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.expect("the session ends");
    }

    #[tokio::test]
    async fn a_session_carries_input_output_and_the_exit_code() {
        let mut s = scene().await;
        s.client.send(message(STDIN, b"hello")).await.unwrap();
        assert_eq!(s.stdin.recv().await.unwrap(), "hello");
        s.client.send(message(CLOSE, &[STDIN])).await.unwrap();
        assert_eq!(s.stdin.recv().await, None, "end of file");

        s.output.send(ExecOutput::Stdout("out".into())).await.unwrap();
        s.output.send(ExecOutput::Stderr("err".into())).await.unwrap();
        s.output.send(ExecOutput::Exit(3)).await.unwrap();
        drop(s.output);
        assert_eq!(s.client.next().await.unwrap().unwrap(), message(STDOUT, b"out"));
        assert_eq!(s.client.next().await.unwrap().unwrap(), message(STDERR, b"err"));
        let Message::Binary(status) = s.client.next().await.unwrap().unwrap() else { panic!("a status") };
        assert!(status[0] == STATUS && String::from_utf8_lossy(&status).contains("NonZeroExitCode"));
        assert!(matches!(s.client.next().await, Some(Ok(Message::Close(_)))));
        settled(&s.tasks).await;
    }

    #[tokio::test]
    async fn a_session_ends_when_its_client_goes_away() {
        let mut s = scene().await;
        drop(s.client);
        assert_eq!(s.stdin.recv().await, None);
        s.output.closed().await;
        settled(&s.tasks).await;
    }

    #[tokio::test]
    async fn a_session_ends_with_the_minion() {
        let s = scene().await;
        s.shutdown.cancel();
        settled(&s.tasks).await;
    }

    #[tokio::test]
    async fn input_that_is_not_read_does_not_hold_up_output() {
        let mut s = scene().await;
        let flood = s.client.feed(message(STDIN, &[b'x'; 200]));
        flood.await.unwrap();
        for _ in 0..8 {
            s.client.send(message(STDIN, b"more")).await.unwrap();
        }
        s.output.send(ExecOutput::Stdout("out".into())).await.unwrap();
        assert_eq!(s.client.next().await.unwrap().unwrap(), message(STDOUT, b"out"));
    }
}
