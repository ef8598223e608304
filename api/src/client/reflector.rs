//! List, then watch, for ever: the loop that keeps a cache equal to the server.
//!
//! ```text
//!   List --ok--> Start(rv) --ok--> Watching(rv) --end/error--> Start(rv)
//!    ^              |                  |
//!    +---- 410 -----+------ 410 -------+        errors back off, in any state
//! ```

use std::time::Duration;

use super::{Api, ClientError, ListParams, WatchEvent, WatchStream};
use crate::kinds::{Object, TypedObject};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The server sends a bookmark at least every 30 s; a connection silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// What a reflector reports.
#[derive(Debug, Clone)]
pub enum Change<T> {
    /// The whole set, after a (re)list: replace the cache, so that no deletion is missed.
    Replaced(Vec<T>),
    /// Created or changed.
    Applied(T),
    /// Gone. Holds the last state.
    Deleted(T),
    /// The server can't be reached or refused; the cache is stale. The loop goes on by itself.
    Interrupted(String),
}

#[derive(Debug)]
enum State<T> {
    List,
    Start { resource_version: String },
    Watching { resource_version: String, stream: WatchStream<T> },
}

/// The loop. Call [`Reflector::next`] again and again.
#[derive(Debug)]
pub struct Reflector<T> {
    api: Api<T>,
    params: ListParams,
    state: State<T>,
    backoff: Duration,
    retry_at: Option<tokio::time::Instant>,
}

impl<T: TypedObject> Reflector<T> {
    /// A reflector of what `params` selects. Does nothing until asked.
    pub fn new(api: Api<T>, params: ListParams) -> Self {
        Self { api, params, state: State::List, backoff: BACKOFF_MIN, retry_at: None }
    }

    /// The next change. Cancel-safe: state moves only after an await has finished.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            match &mut self.state {
                State::List => match self.api.list(&self.params).await {
                    Ok(list) => {
                        self.backoff = BACKOFF_MIN;
                        self.state = State::Start { resource_version: list.resource_version };
                        return Change::Replaced(list.items);
                    }
                    Err(e) => return self.failed(&e),
                },
                State::Start { resource_version } => {
                    let resource_version = resource_version.clone();
                    match self.api.watch(&self.params, &resource_version).await {
                        Ok(stream) => self.state = State::Watching { resource_version, stream },
                        Err(e) => return self.failed(&e),
                    }
                }
                State::Watching { resource_version, stream } => {
                    let event = match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
                        Ok(Some(Ok(event))) => event,
                        Ok(Some(Err(e))) => return self.failed(&e),
                        Ok(None) | Err(_) => {
                            let resource_version = std::mem::take(resource_version);
                            self.state = State::Start { resource_version };
                            self.retry_at = Some(tokio::time::Instant::now() + BACKOFF_MIN);
                            continue;
                        }
                    };
                    self.backoff = BACKOFF_MIN;
                    match event {
                        WatchEvent::Bookmark(version) => *resource_version = version,
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                            *resource_version = version_of(&object);
                            return Change::Applied(object);
                        }
                        WatchEvent::Deleted(object) => {
                            *resource_version = version_of(&object);
                            return Change::Deleted(object);
                        }
                    }
                }
            }
        }
    }

    fn failed(&mut self, error: &ClientError) -> Change<T> {
        let state = std::mem::replace(&mut self.state, State::List);
        self.state = match state {
            State::Start { resource_version } | State::Watching { resource_version, .. } if !error.is_expired() => {
                State::Start { resource_version }
            }
            _ => State::List,
        };
        self.retry_at = Some(tokio::time::Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Change::Interrupted(error.to_string())
    }
}

fn version_of<T: TypedObject>(object: &T) -> String {
    Object::meta(object).resource_version.clone().unwrap_or_default()
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
            Change::Replaced(pods) => pods.into_iter().filter_map(|p| p.metadata.name).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(next().await), ["a", "b"]);
        let interrupted = next().await;
        assert!(matches!(&interrupted, Change::Interrupted(why) if why.contains("too old")), "{interrupted:?}");
        assert_eq!(names(next().await), ["b", "c"]);
    }
}
