//! The sign of life. A beat that fails is not repeated: the next one comes soon enough, and the
//! master decides what silence means. It also says when the next one is due: in a large cluster each
//! minion beats less often.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::client::{Client, ClientError, encode};
use http::Method;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::registration::{Registration, pod_cidr_of};
use crate::runtime::{Runtime, infra};

/// A look at the engine that must not delay the next beat by much.
const ENGINE_LIMIT: Duration = Duration::from_secs(2);
/// How long an engine may be silent: a restart of it takes about that.
const ENGINE_SILENCE_MAX: Duration = Duration::from_secs(5);
const BEAT_LIMIT_MIN: Duration = Duration::from_secs(2);
/// Whatever the master says, a minion beats no more and no less often.
const NEXT_MIN: Duration = Duration::from_millis(100);
const NEXT_MAX: Duration = Duration::from_secs(60);

/// The body of a beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Beat {
    ready: bool,
    reason: &'static str,
    message: String,
}

/// What the master answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    next_millis: u64,
}

/// Beats until cancelled. Registers again when the master does not know the node.
///
/// `pod_cidr` is the network that this node's pods use; `interval` the time to the next beat after one
/// that was not heard.
pub async fn run<R: Runtime>(
    client: Client,
    registration: Registration,
    pod_cidr: Ipv4Net,
    runtime: Arc<R>,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let path = format!("/coracle/v1/nodes/{}/heartbeat", encode(&registration.facts().name));
    let limit = interval.max(BEAT_LIMIT_MIN);
    let mut next = Instant::now();
    let mut silent_since = None;
    let mut heard = true;
    // Whether the Node may lack what this minion says of itself: then no pod should come here yet.
    let mut unregistered = false;
    loop {
        // Cancel-safe: nothing is under way.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let begun = Instant::now();
        let engine = engine_error(&*runtime).await;
        silent_since = engine.is_some().then(|| silent_since.unwrap_or(begun));
        let beat = beat(silent_since.map(|since| begun - since), engine);
        let beating = async {
            if unregistered {
                register_again(&registration, pod_cidr, &mut unregistered).await?;
            }
            match tokio::time::timeout(limit, send(&client, &path, &beat)).await {
                Ok(Ok(next)) => Ok(next.unwrap_or(interval)),
                Ok(Err(e)) if e.is_not_found() => {
                    register_again(&registration, pod_cidr, &mut unregistered).await.map(|()| interval)
                }
                Ok(Err(e)) => Err(e.to_string()),
                Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
            }
        };
        // Cancel-safe: a beat lost is a beat missed.
        let beaten = tokio::select! {
            () = shutdown.cancelled() => return,
            beaten = beating => beaten,
        };
        let wait = *beaten.as_ref().unwrap_or(&interval);
        // That an engine is silent, or is back, is told without waiting for a beat that may be far away.
        next = begun + if silent_since.is_some() { wait.min(interval) } else { wait };
        let error = beaten.err();
        if error.is_some() == heard {
            heard = error.is_none();
            match error {
                Some(error) => tracing::warn!(%error, "the master does not hear this minion"),
                None => tracing::info!("the master hears this minion again"),
            }
        }
    }
}

/// Sends a beat. `None`: the master did not say when to send the next one.
async fn send(client: &Client, path: &str, beat: &Beat) -> Result<Option<Duration>, ClientError> {
    // A struct of a bool and strings always serialises.
    let body = Bytes::from(serde_json::to_vec(beat).unwrap_or_default());
    let answer = client.transport().json(Method::PUT, path, Some(body)).await?;
    let next = serde_json::from_slice::<Answer>(&answer).ok().map(|a| Duration::from_millis(a.next_millis));
    Ok(next.map(|next| next.clamp(NEXT_MIN, NEXT_MAX)))
}

/// Makes the Node anew. It takes several requests: as long as not all were answered, `unregistered` says so.
async fn register_again(registration: &Registration, pod_cidr: Ipv4Net, unregistered: &mut bool) -> Result<(), String> {
    *unregistered = true;
    let node = registration.ensure(Some(pod_cidr)).await.map_err(|e| e.to_string())?;
    *unregistered = false;
    tracing::info!(node = registration.facts().name, "registered again: the master had no such node");
    match pod_cidr_of(&node) {
        Some(given) if given != pod_cidr => Err(format!(
            "the node has the pod network {given} now, its pods are in {pod_cidr}: restart the minion to move them"
        )),
        _ => Ok(()),
    }
}

/// Why the engine can't be used, if so. Looking up the image that every pod needs is the cheapest
/// question that involves more of the engine than its listener.
async fn engine_error<R: Runtime>(runtime: &R) -> Option<String> {
    match tokio::time::timeout(ENGINE_LIMIT, runtime.image(infra::IMAGE)).await {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => Some(e.to_string()),
        Err(_) => Some(format!("the Docker engine does not answer within {} s", ENGINE_LIMIT.as_secs())),
    }
}

fn beat(silent: Option<Duration>, engine_error: Option<String>) -> Beat {
    match engine_error {
        Some(message) if silent >= Some(ENGINE_SILENCE_MAX) => {
            Beat { ready: false, reason: "EngineUnreachable", message }
        }
        _ => Beat { ready: true, reason: "MinionReady", message: "the minion and its Docker engine are well".into() },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io,
        net::Ipv4Addr,
        sync::{Mutex, PoisonError},
    };

    use coracle_api::{
        client::{Dial, Duplex},
        clock::Clock,
        core::NodeSystemInfo,
    };
    use futures_util::future::BoxFuture;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::{node::facts::NodeFacts, runtime::hollow::Hollow};

    /// A master that knows no node at first and fails the first write of a status.
    #[derive(Debug, Default)]
    struct Forgetful(Mutex<Known>);

    #[derive(Debug, Default)]
    struct Known {
        node: Option<Bytes>,
        heard: Vec<String>,
        /// When to beat again, in milliseconds; it knows every node then.
        next: Option<u64>,
    }

    impl Forgetful {
        fn answer(&self, method: &str, path: &str, body: Bytes) -> (StatusCode, Bytes) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let what = path.rsplit('/').next().unwrap_or_default();
            if let ("heartbeat", Some(next)) = (what, known.next) {
                let beat: serde_json::Value = serde_json::from_slice(&body).unwrap();
                known.heard.push(beat["reason"].as_str().unwrap_or_default().to_owned());
                return (StatusCode::OK, format!(r#"{{"nextMillis":{next}}}"#).into());
            }
            let code = match (method, what, known.node.is_some()) {
                ("PUT", "status", _) if !known.heard.iter().any(|h| h.starts_with("PUT status")) => 503,
                ("PUT", "status", _) => 200,
                ("POST", ..) => 201,
                (.., known) => {
                    if known {
                        200
                    } else {
                        404
                    }
                }
            };
            known.heard.push(format!("{method} {what} {code}"));
            if method == "POST" {
                known.node = Some(body);
            }
            (StatusCode::from_u16(code).unwrap(), known.node.clone().unwrap_or_default())
        }
    }

    #[derive(Debug, Clone)]
    struct Line(Arc<Forgetful>);

    impl Dial for Line {
        fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let master = self.0.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let master = master.clone();
                async move {
                    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let (code, body) = master.answer(&method, &path, body);
                    Ok::<_, Infallible>(Response::builder().status(code).body(Full::new(body)).unwrap())
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
            Box::pin(async { Ok(Box::new(ours) as Box<dyn Duplex>) })
        }
    }

    /// Beats for so long.
    async fn beat_for(time: Duration, master: &Arc<Forgetful>, runtime: Hollow) {
        let client = Client::with_dial("192.0.2.1", Arc::new(Line(Arc::clone(master)))).unwrap();
        let facts = NodeFacts {
            name: "m1".into(),
            address: Ipv4Addr::new(192, 0, 2, 7).into(),
            cpu_milli: 2000,
            memory_bytes: 8 << 30,
            pods_max: 110,
            system: NodeSystemInfo::default(),
        };
        let registration = Registration::new(&client, facts);
        let (interval, stop) = (Duration::from_secs(2), CancellationToken::new());
        let cidr = "10.244.3.0/24".parse().unwrap();
        let beating = run(client, registration, cidr, Arc::new(runtime), interval, stop.clone());
        assert!(tokio::time::timeout(time, beating).await.is_err(), "it beats for ever");
    }

    fn engine() -> Hollow {
        Hollow::new(Clock::simulated(jiff::Timestamp::UNIX_EPOCH))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_made_by_half_is_finished_before_the_next_beat() {
        let master = Arc::new(Forgetful::default());
        beat_for(Duration::from_secs(5), &master, engine()).await;
        let heard = master.0.lock().unwrap().heard.join(", ");
        let expected = "PUT heartbeat 404, GET m1 404, POST nodes 201, PUT status 503, \
            GET m1 200, PUT status 200, PUT heartbeat 200, PUT heartbeat 200";
        assert_eq!(heard, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_engine_is_told_of_within_seconds_however_far_apart_beats_are() {
        let master = Arc::new(Forgetful::default());
        master.0.lock().unwrap().next = Some(20_000);
        let engine = engine();
        beat_for(Duration::from_secs(50), &master, engine.clone()).await;
        assert_eq!(std::mem::take(&mut master.0.lock().unwrap().heard), ["MinionReady"; 3]);
        engine.set_reachable(false);
        beat_for(Duration::from_secs(7), &master, engine.clone()).await;
        let heard = std::mem::take(&mut master.0.lock().unwrap().heard);
        assert_eq!(heard, ["MinionReady", "MinionReady", "MinionReady", "EngineUnreachable"]);
        engine.set_reachable(true);
        beat_for(Duration::from_secs(15), &master, engine).await;
        assert_eq!(master.0.lock().unwrap().heard, ["MinionReady"]);
    }

    #[test]
    fn an_engine_may_be_silent_for_the_time_of_a_restart() {
        let ready = |silent: Option<u64>| beat(silent.map(Duration::from_secs), silent.map(|_| "gone".into())).ready;
        assert!(ready(None));
        assert!(ready(Some(0)));
        assert!(ready(Some(4)));
        assert!(!ready(Some(5)));
    }

    #[test]
    fn a_beat_without_engine_carries_the_engines_error() {
        let json = serde_json::to_string(&beat(Some(ENGINE_SILENCE_MAX), Some("connection refused".into()))).unwrap();
        assert_eq!(json, r#"{"ready":false,"reason":"EngineUnreachable","message":"connection refused"}"#);
    }
}
