//! What one caller may cost: body size and time, requests in flight, watches, connections.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use coracle_api::{ApiError, error::Reason};
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Fault;

/// A request body as it arrives.
pub(crate) type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// Path and query together. Longer ones are mistakes or attacks.
pub(crate) const URI_BYTES_MAX: usize = 32 << 10;

/// Bytes of a body that are read, and thrown away past the limit, before it is refused: a client
/// that is still sending does not look at the answer.
pub(crate) const DRAIN_BYTES_MAX: usize = 16 << 20;

/// The limits. The defaults suit a master with some tens of megabytes of memory to spare.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Requests being answered at once, watches and other streams apart; further ones get 429.
    pub requests: usize,
    /// Watches, log streams, exec sessions and tunnels at once; further ones get 429.
    pub streams: usize,
    /// Bytes of a request body: what etcd takes twice over.
    pub body_bytes: usize,
    /// Time for a request body to arrive.
    pub body_time: Duration,
    /// Time for request headers to arrive, and for a new connection to send its first request.
    pub header_time: Duration,
    /// Time for an answer that is not a stream.
    pub answer_time: Duration,
    /// How long a watcher may leave data unread before it is cut off.
    pub stall_time: Duration,
    /// Time between bookmarks.
    pub bookmark_time: Duration,
    /// Time for open requests to finish when the server stops.
    pub drain_time: Duration,
}

/// Files that a master needs besides its connections.
const FILES_RESERVED: usize = 512;
const CONNECTIONS_MAX: usize = 65_536;

impl Limits {
    /// For a master alone in its process, which has this many files: each minion has some connections open.
    pub fn for_files(files: Option<usize>) -> Self {
        let usual = Self::default();
        let connections = files.map_or(CONNECTIONS_MAX, |files| files.saturating_sub(FILES_RESERVED));
        let connections = connections.clamp(usual.connections, CONNECTIONS_MAX);
        Self { connections, streams: connections, ..usual }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            requests: 1000,
            streams: 10_000,
            body_bytes: 3 << 20,
            body_time: Duration::from_secs(30),
            header_time: Duration::from_secs(30),
            // Longer than the longest wait of a v1beta1 delete, shorter than our client's patience.
            answer_time: Duration::from_secs(58),
            stall_time: Duration::from_secs(30),
            bookmark_time: Duration::from_secs(30),
            drain_time: Duration::from_secs(5),
        }
    }
}

/// Counts what is in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    streams_max: usize,
}

impl InFlight {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(limits.requests)),
            streams: Arc::new(Semaphore::new(limits.streams)),
            streams_max: limits.streams,
        }
    }

    /// A place for one request, or 429.
    pub(crate) fn request(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.requests.clone().try_acquire_owned().map_err(|_| busy("requests are in flight"))
    }

    /// A place for one stream, or 429.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.streams.clone().try_acquire_owned().map_err(|_| busy("watches and streams are open"))
    }

    /// Streams open now.
    pub(crate) fn streams_open(&self) -> usize {
        self.streams_max.saturating_sub(self.streams.available_permits())
    }
}

fn busy(what: &str) -> ApiError {
    let message = format!("too many {what}; try again in a second");
    ApiError { retry_after_s: Some(1), ..ApiError::new(Reason::TooManyRequests, message) }
}

/// Reads a body, counting while it arrives.
pub(crate) async fn read_body(mut body: BodyStream, limits: &Limits) -> Result<Bytes, Fault> {
    let read = async {
        let (mut buffer, mut size) = (BytesMut::new(), 0);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| ApiError::bad_request(format!("the request body broke off: {e}")))?;
            size += chunk.len();
            if size <= limits.body_bytes {
                buffer.extend_from_slice(&chunk);
            } else if size > DRAIN_BYTES_MAX {
                break;
            } else {
                buffer = BytesMut::new();
            }
        }
        if size > limits.body_bytes { Err(too_large(limits)) } else { Ok(buffer.freeze()) }
    };
    match tokio::time::timeout(limits.body_time, read).await {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => {
            let message = format!("the request body did not arrive within {} s", limits.body_time.as_secs_f32());
            Err(Fault { code: 408, error: ApiError::new(Reason::Timeout, message) })
        }
    }
}

pub(crate) fn too_large(limits: &Limits) -> ApiError {
    let message = format!("the request body is larger than the limit of {} bytes", limits.body_bytes);
    ApiError::new(Reason::RequestEntityTooLarge, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { requests: 1, streams: 1, body_bytes: 10, ..Default::default() }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_not_a_byte_further() {
        let body = |sizes: &[usize]| -> BodyStream {
            let chunks: Vec<_> = sizes.iter().map(|n| Ok(Bytes::from(vec![b'x'; *n]))).collect();
            Box::pin(futures_util::stream::iter(chunks))
        };
        assert_eq!(read_body(body(&[4, 6]), &limits()).await.unwrap().len(), 10);
        assert_eq!(read_body(body(&[]), &limits()).await.unwrap().len(), 0);
        let fault = read_body(body(&[4, 7]), &limits()).await.unwrap_err();
        assert_eq!((fault.code, fault.error.reason), (413, Reason::RequestEntityTooLarge));
        // Whoever is still sending gets to the end, and then to the answer.
        let rest = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = rest.clone();
        let body = body(&[4, 7, 1 << 20, 1 << 20]).inspect(move |_| {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(read_body(Box::pin(body), &limits()).await.unwrap_err().code, 413);
        assert_eq!(rest.load(std::sync::atomic::Ordering::Relaxed), 4);
        // Endless bodies are cut off too: nothing waits for their end.
        let endless = Box::pin(futures_util::stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 16]))));
        assert_eq!(read_body(endless, &limits()).await.unwrap_err().code, 413);
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let limits = Limits { body_time: Duration::from_millis(20), ..limits() };
        let fault = read_body(Box::pin(futures_util::stream::pending()), &limits).await.unwrap_err();
        assert_eq!(fault.code, 408);
        assert!(fault.error.message.contains("0.02 s"), "{}", fault.error.message);
    }

    #[test]
    fn requests_and_streams_have_their_own_places() {
        let in_flight = InFlight::new(&limits());
        let request = in_flight.request().unwrap();
        let _stream = in_flight.stream().unwrap();
        assert_eq!(in_flight.streams_open(), 1);
        assert_eq!(in_flight.request().unwrap_err().code(), 429);
        assert_eq!(in_flight.stream().unwrap_err().retry_after_s, Some(1));
        drop(request);
        assert!(in_flight.request().is_ok());
    }
}
