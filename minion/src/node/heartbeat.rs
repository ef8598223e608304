//! The sign of life. A beat that fails is not repeated: the next one comes soon enough, and the
//! master decides what silence means.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::client::{Client, ClientError, encode};
use http::Method;
use ipnet::Ipv4Net;
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::registration::{Registration, pod_cidr_of};
use crate::runtime::{Runtime, infra};

/// A look at the engine that must not delay the next beat by much.
const ENGINE_LIMIT: Duration = Duration::from_secs(2);
/// Beats that a silent engine is forgiven; a restart of the engine takes about two.
const SILENT_BEATS_MAX: u32 = 2;
const BEAT_LIMIT_MIN: Duration = Duration::from_secs(2);

/// The body of a beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Beat {
    ready: bool,
    reason: &'static str,
    message: String,
}

/// Beats until cancelled. Registers again when the master does not know the node.
///
/// `pod_cidr` is the network that this node's pods use.
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
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_beats = 0;
    let mut heard = true;
    loop {
        // Cancel-safe: a tick not taken comes again.
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let engine = engine_error(&*runtime).await;
        silent_beats = if engine.is_some() { silent_beats + 1 } else { 0 };
        let beat = beat(silent_beats, engine);
        // Cancel-safe: a beat lost is a beat missed.
        let sent = tokio::select! {
            () = shutdown.cancelled() => return,
            sent = tokio::time::timeout(limit, send(&client, &path, &beat)) => sent,
        };
        let error = match sent {
            Ok(Ok(())) => None,
            Ok(Err(e)) if e.is_not_found() => register_again(&registration, pod_cidr).await.err(),
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some(format!("no answer within {} ms", limit.as_millis())),
        };
        if error.is_some() == heard {
            heard = error.is_none();
            match error {
                Some(error) => tracing::warn!(%error, "the master does not hear this minion"),
                None => tracing::info!("the master hears this minion again"),
            }
        }
    }
}

async fn send(client: &Client, path: &str, beat: &Beat) -> Result<(), ClientError> {
    // A struct of a bool and strings always serialises.
    let body = Bytes::from(serde_json::to_vec(beat).unwrap_or_default());
    client.transport().json(Method::PUT, path, Some(body)).await.map(drop)
}

async fn register_again(registration: &Registration, pod_cidr: Ipv4Net) -> Result<(), String> {
    let node = registration.ensure(Some(pod_cidr)).await.map_err(|e| e.to_string())?;
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

fn beat(silent_beats: u32, engine_error: Option<String>) -> Beat {
    match engine_error {
        Some(message) if silent_beats > SILENT_BEATS_MAX => Beat { ready: false, reason: "EngineUnreachable", message },
        _ => Beat { ready: true, reason: "MinionReady", message: "the minion and its Docker engine are well".into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_may_be_silent_for_two_beats() {
        let ready = |silent, error: Option<&str>| beat(silent, error.map(str::to_owned)).ready;
        assert!(ready(0, None));
        assert!(ready(1, Some("gone")));
        assert!(ready(2, Some("gone")));
        assert!(!ready(3, Some("gone")));
    }

    #[test]
    fn a_beat_without_engine_carries_the_engines_error() {
        let json = serde_json::to_string(&beat(3, Some("connection refused".into()))).unwrap();
        assert_eq!(json, r#"{"ready":false,"reason":"EngineUnreachable","message":"connection refused"}"#);
    }
}
