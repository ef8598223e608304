//! `coracle exec` against a WebSocket of `v5.channel.k8s.io`: bytes both ways, the exit status.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

/// Echoes stdin to stdout and stderr; at its end sends `status` on the error channel.
async fn serve(stream: TcpStream, status: &'static str) -> String {
    let mut asked = String::new();
    #[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    let callback = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        asked = request.uri().to_string();
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        assert_eq!(protocol, "v5.channel.k8s.io");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, callback).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(data) = message else { continue };
        match data.split_first() {
            Some((0, text)) => {
                for channel in [1, 2] {
                    let echo = [&[channel], text].concat();
                    socket.send(Message::Binary(echo.into())).await.unwrap();
                }
            }
            Some((255, _)) => break,
            _ => {}
        }
    }
    socket.send(Message::Binary([b"\x03", status.as_bytes()].concat().into())).await.unwrap();
    let _ = socket.close(None).await;
    asked
}

async fn run(input: &str, status: &'static str) -> (std::process::Output, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let input = input.to_owned();
    let client = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coracle"))
            .args(["--master", &address.to_string(), "exec", "-i", "pod/a", "-c", "c", "--", "cat", "a b"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let (stream, _) = listener.accept().await.unwrap();
    let asked = serve(stream, status).await;
    (client.await.unwrap(), asked)
}

#[tokio::test]
async fn bytes_go_both_ways_and_success_is_0() {
    let (output, asked) = run("hello", r#"{"status":"Success"}"#).await;
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(0), &b"hello"[..], &b"hello"[..]));
    assert_eq!(
        asked,
        "/api/v1/namespaces/default/pods/a/exec?container=c&stdin=true&stdout=true&stderr=true&tty=false\
         &command=cat&command=a%20b"
    );
}

#[tokio::test]
async fn the_exit_status_is_the_commands() {
    let status =
        r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
    let (output, _) = run("", status).await;
    assert_eq!((output.status.code(), output.stderr.len()), (Some(3), 0));
}

#[tokio::test]
async fn a_command_that_cannot_run_is_told_with_pod_and_container() {
    let (output, _) = run("", r#"{"status":"Failure","message":"no such file: cat"}"#).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "coracle: exec in container c of pod a: no such file: cat\n");
}
