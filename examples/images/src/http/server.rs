//! The server: one request per connection, each step bounded in time.

use std::{future::Future, io, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Request, Response};
use crate::{accept, frame::FrameReader};

const CONNECTIONS_MAX: usize = 256;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Answers requests until dropped. `handle` bounds its own time.
pub async fn serve<H, F>(listener: TcpListener, handle: H)
where
    H: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    accept::serve(listener, CONNECTIONS_MAX, move |stream| {
        let handle = handle.clone();
        async move {
            // A peer that went away needs no answer.
            let _ = converse(stream, handle).await;
        }
    })
    .await;
}

async fn converse<H, F>(stream: TcpStream, handle: H) -> io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let (read, mut write) = stream.into_split();
    let mut reader = FrameReader::new(read);
    let (response, with_body) = match timeout(READ_TIMEOUT, reader.next::<Request>()).await {
        Ok(Ok(Some(mut request))) => {
            let with_body = request.method != "HEAD";
            if !with_body {
                request.method = "GET".to_owned();
            }
            (handle(request).await, with_body)
        }
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => (Response::text(400, error.to_string()), true),
        Ok(Err(error)) => return Err(error),
        Err(_) => (Response::text(408, "the request took too long to arrive"), true),
    };
    timeout(WRITE_TIMEOUT, async {
        write.write_all(response.encode(with_body).as_bytes()).await?;
        write.shutdown().await
    })
    .await??;
    // Closing a socket with unread bytes resets it, and the reset can overtake the answer to a refused request.
    timeout(LINGER_TIMEOUT, reader.discard(LINGER_BYTES_MAX)).await?
}
