//! The gRPC health checking protocol, one call: `grpc.health.v1.Health/Check`.
//!
//! Its two messages have one field each, so they are written and read by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::ANSWER_BYTES_MAX;

/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u8 = 1;

pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("gRPC health check of {host}:{port}: {e}");
    let stream = TcpStream::connect((host, port)).await.map_err(|e| failed(&e))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(request_bytes(service)))
        .map_err(|e| failed(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| failed(&e))?;
        if is_serving(&body.to_bytes()) { Ok(()) } else { Err(failed(&"the service is not SERVING")) }
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// `HealthCheckRequest { service = 1 }`, framed.
fn request_bytes(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.put_slice(&message);
    frame.freeze()
}

/// Whether it is `HealthCheckResponse { status = 1: SERVING }`, framed.
fn is_serving(frame: &[u8]) -> bool {
    frame.get(5..) == Some(&[0x08, SERVING])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_the_protocol_says() {
        assert_eq!(&request_bytes("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request_bytes("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for bad in [&[][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8, 2], &[0, 0, 0]] {
            assert!(!is_serving(bad), "{bad:?}");
        }
    }
}
