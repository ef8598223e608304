//! List, then watch, for ever: the loop that keeps a cache equal to the server.
//!
//! ```text
//!   List --ok--> Start --ok--> Watching --end/error--> Start
//!    ^             |              |
//!    +---- 410 ----+----- 410 ----+        errors back off, in any state
//! ```
//!
//! The last version seen goes along: a watch goes on from it at whichever master, and a list must
//! not be older. A master that has not heard of it yet says so, and is asked again for a moment.
//!
//! Invariant: the cache never goes back in time, unless the cluster itself did.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Api, ClientError, ListParams, Received, WatchEvent, WatchStream};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The server sends a bookmark at least every 30 s; a connection silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// How long a master may take to hear of what another one told. After that the cluster is taken to
/// have no such version (any more), as after a restore.
const EARLY_MAX: Duration = Duration::from_secs(3);
const EARLY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// What a reflector reports. Objects are shared: a change costs each follower a pointer.
#[derive(Debug, Clone)]
pub enum Change<T> {
    /// The whole set, after a (re)list: replace the cache, so that no deletion is missed.
    Replaced(Vec<Arc<T>>),
    /// Created or changed.
    Applied(Arc<T>),
    /// Gone. Holds the last state.
    Deleted(Arc<T>),
    /// The server can't be reached or refused; the cache is stale. The loop goes on by itself.
    Interrupted(String),
}

impl<T> Change<T> {
    /// [`Change::Replaced`] by these.
    pub fn replaced(objects: Vec<T>) -> Self {
        Self::Replaced(objects.into_iter().map(Arc::new).collect())
    }

    /// [`Change::Applied`] with this.
    pub fn applied(object: T) -> Self {
        Self::Applied(Arc::new(object))
    }

    /// [`Change::Deleted`] with this.
    pub fn deleted(object: T) -> Self {
        Self::Deleted(Arc::new(object))
    }
}

#[derive(Debug)]
enum State<T> {
    List,
    Start,
    Watching(WatchStream<T>),
}

/// The loop. Call [`Reflector::next`] again and again.
#[derive(Debug)]
pub struct Reflector<T> {
    api: Api<T>,
    params: ListParams,
    state: State<T>,
    /// The last version seen; empty before the first list.
    version: String,
    /// Since when masters have not heard of `version`.
    early: Option<Instant>,
    backoff: Duration,
    retry_at: Option<Instant>,
}

impl<T: Received> Reflector<T> {
    /// A reflector of what `params` selects. Does nothing until asked.
    pub fn new(api: Api<T>, params: ListParams) -> Self {
        let version = String::new();
        Self { api, params, state: State::List, version, early: None, backoff: BACKOFF_MIN, retry_at: None }
    }

    /// The next change. Cancel-safe: state moves only after an await has finished.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            let step = match &mut self.state {
                State::List => match self.api.list_since(&self.params, &self.version).await {
                    Ok(list) => {
                        self.went_well();
                        self.version = list.resource_version;
                        self.state = State::Start;
                        Ok(Some(Change::replaced(list.items)))
                    }
                    Err(e) => Err(e),
                },
                State::Start => match self.api.watch(&self.params, &self.version).await {
                    Ok(stream) => {
                        self.state = State::Watching(stream);
                        Ok(None)
                    }
                    Err(e) => Err(e),
                },
                State::Watching(stream) => {
                    let transport = &self.api.transport;
                    let master = stream.master();
                    // Cancel-safe: bytes read so far stay in the stream's buffer, the other arm only looks.
                    let event = tokio::select! {
                        event = tokio::time::timeout(SILENCE_MAX, stream.next()) => event,
                        // Other requests found it gone before this connection shows it.
                        () = transport.left(master) => Ok(None),
                    };
                    if event.is_err() {
                        transport.avoid(master);
                    }
                    match event.unwrap_or(None) {
                        Some(Ok(event)) => {
                            self.went_well();
                            Ok(self.take(event))
                        }
                        Some(Err(e)) => Err(e),
                        None => {
                            self.state = State::Start;
                            self.retry_at = Some(Instant::now() + BACKOFF_MIN);
                            Ok(None)
                        }
                    }
                }
            };
            match step {
                Ok(None) => {}
                Ok(Some(change)) => return change,
                Err(error) => {
                    if let Some(change) = self.failed(&error) {
                        return change;
                    }
                }
            }
        }
    }

    fn take(&mut self, event: WatchEvent<T>) -> Option<Change<T>> {
        let (change, version) = match event {
            WatchEvent::Bookmark(version) => (None, version),
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.version().to_owned();
                (Some(Change::applied(object)), version)
            }
            WatchEvent::Deleted(object) => {
                let version = object.version().to_owned();
                (Some(Change::deleted(object)), version)
            }
        };
        self.version = version;
        change
    }

    fn went_well(&mut self) {
        self.backoff = BACKOFF_MIN;
        self.early = None;
    }

    /// What to report of an error, if anything.
    fn failed(&mut self, error: &ClientError) -> Option<Change<T>> {
        let now = Instant::now();
        let mut pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        let master = match std::mem::replace(&mut self.state, State::List) {
            State::Watching(stream) => {
                self.state = State::Start;
                Some(stream.master())
            }
            State::Start => {
                self.state = State::Start;
                None
            }
            State::List => None,
        };
        let waits = error.is_early() && now < *self.early.get_or_insert(now) + EARLY_MAX;
        if waits {
            pause = pause.min(EARLY_PAUSE_MAX);
        } else if error.is_early() {
            // Another master is less likely to be behind.
            self.api.transport.avoid(master.unwrap_or_else(|| self.api.transport.at()));
            self.early = None;
            self.version.clear();
            self.state = State::List;
        } else if error.is_expired() {
            self.state = State::List;
        }
        self.retry_at = Some(now + pause);
        (!waits).then(|| Change::Interrupted(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{client::Client, core::Pod};

    fn pods(names: &[&str], version: &str) -> Value {
        let items: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
    }

    /// Gives these answers, one a connection, and returns its address.
    async fn server(answers: Vec<Value>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
                stream.write_all(format!("{head}{answer}\n").as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_history_that_was_cleared_is_listed_again() {
        let gone =
            json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"});
        let address =
            server(vec![pods(&["a", "b"], "5"), json!({"type": "ERROR", "object": gone}), pods(&["b", "c"], "900")])
                .await;
        let api = Client::new(&address).unwrap().all::<Pod>();
        let mut reflector = Reflector::new(api, ListParams::default());
        let mut next = async || tokio::time::timeout(Duration::from_secs(20), reflector.next()).await.unwrap();
        let names = |change: Change<Pod>| match change {
            Change::Replaced(pods) => pods.iter().filter_map(|p| p.metadata.name.clone()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(next().await), ["a", "b"]);
        let interrupted = next().await;
        assert!(matches!(&interrupted, Change::Interrupted(why) if why.contains("too old")), "{interrupted:?}");
        assert_eq!(names(next().await), ["b", "c"]);
    }
}
