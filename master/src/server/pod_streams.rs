//! Logs and commands of a pod's containers, through the tunnel of the pod's minion.
//!
//! The master answers the WebSocket handshake of a command itself, so that it can choose the
//! subprotocol, and from then on carries raw bytes without looking at them.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use coracle_api::{ApiError, TypedObject, client::encode, core::Pod, error::Reason};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Shared,
    answer::{self, Response},
    query::Query,
    request::Permit,
    router::Target,
    tunnel::TunnelBody,
    upgrade,
};

/// Subprotocols, best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// The container that is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const LOG_PARAMETERS: [&str; 7] =
    ["follow", "tailLines", "timestamps", "sinceSeconds", "sinceTime", "previous", "limitBytes"];
/// Frames between a minion and a client.
const FRAMES: usize = 4;
const READ_BYTES: usize = 16 << 10;
/// How long a minion gets to end a command whose client went away.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a container is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    node: String,
    uid: String,
    container: String,
}

impl Place {
    fn request(
        &self,
        method: Method,
        verb: &str,
        target: &Target,
        query: &str,
        body: TunnelBody,
    ) -> Request<TunnelBody> {
        let segments = [target.namespace(), target.name(), &self.container].map(encode).join("/");
        let uri = format!("http://minion/{verb}/{segments}?uid={}{query}", encode(&self.uid));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // All parts are encoded, so the text is a URI.
        *request.uri_mut() = uri.parse().unwrap_or_default();
        request
    }
}

/// Answers a request for a container's log.
pub(crate) async fn log(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    permit: Permit,
) -> Result<Response, ApiError> {
    let place = place(shared, target, query)?;
    for number in ["tailLines", "sinceSeconds", "limitBytes"] {
        query.number(number)?;
    }
    if let Some(text) = query.get("sinceTime") {
        if text.parse::<Timestamp>().is_err() {
            let message = format!("sinceTime: '{text}' is not a time such as 2026-01-02T03:04:05Z");
            return Err(ApiError::bad_request(message));
        }
        if query.get("sinceSeconds").is_some() {
            return Err(ApiError::bad_request("sinceTime and sinceSeconds exclude each other: give one of them"));
        }
    }
    let parameters: String =
        LOG_PARAMETERS.iter().filter_map(|p| query.get(p).map(|v| format!("&{p}={}", encode(v)))).collect();
    let body = Full::new(Bytes::new()).map_err(|e| match e {}).boxed();
    let request = place.request(Method::GET, "logs", target, &parameters, body);
    let response = shared.tunnels.request(&place.node, request).await?;
    let (frames, mut relayed) = mpsc::channel(FRAMES);
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        // Cancel-safe: the log is not a promise; the client asks again.
        stop.run_until_cancelled(relay_log(response.into_body(), frames)).await;
        drop(permit);
    });
    let parts = futures_util::stream::poll_fn(move |cx| relayed.poll_recv(cx));
    Ok(answer::stream("text/plain; charset=utf-8", parts))
}

async fn relay_log(mut body: Incoming, frames: mpsc::Sender<Result<Bytes, std::io::Error>>) {
    loop {
        // Cancel-safe: a frame is taken whole or not at all.
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = frames.closed() => return,
        };
        let part = match frame {
            None => return,
            Some(Ok(frame)) => frame.into_data().map_err(|_| ()).ok().map(Ok),
            Some(Err(e)) => Some(Err(std::io::Error::other(e))),
        };
        if let Some(part) = part
            && frames.send(part).await.is_err()
        {
            return;
        }
    }
}

/// Answers a request to run a command in a container.
pub(crate) async fn exec(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    connection: Option<OnUpgrade>,
    permit: Permit,
) -> Result<Response, ApiError> {
    let handshake = Handshake::parse(headers)?;
    let connection = connection.ok_or_else(|| ApiError::bad_request("exec needs HTTP/1.1 to switch to WebSocket"))?;
    let place = place(shared, target, query)?;
    let parameters = exec_parameters(query)?;
    let (to_minion, mut from_client) = mpsc::channel::<Bytes>(FRAMES);
    let frames =
        futures_util::stream::poll_fn(move |cx| from_client.poll_recv(cx).map(|f| f.map(|f| Ok(Frame::data(f)))));
    let mut request = place.request(Method::POST, "exec", target, &parameters, BodyExt::boxed(StreamBody::new(frames)));
    let protocol = HeaderValue::from_static(handshake.protocol);
    request.headers_mut().insert(HeaderName::from_static("upgrade-protocol"), protocol.clone());
    let answered = shared.tunnels.request(&place.node, request).await?;
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        // Cancel-safe: dropping both ends ends the command.
        let carried = stop.run_until_cancelled(carry(connection, answered.into_body(), to_minion)).await;
        if let Some(Err(error)) = carried {
            tracing::debug!(%error, "a command's connection ended");
        }
        drop(permit);
    });
    let mut response = upgrade::switching("websocket");
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    if let Ok(accept) = HeaderValue::from_str(&handshake.accept) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

/// Carries bytes both ways until the minion is done, or the client is gone and the minion has had
/// its time.
async fn carry(connection: OnUpgrade, mut answers: Incoming, to_minion: mpsc::Sender<Bytes>) -> std::io::Result<()> {
    let Some(upgraded) = upgrade::finish(connection).await else { return Ok(()) };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
    let upward = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            match from_client.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) if to_minion.send(buffer.split().freeze()).await.is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let downward = async move {
        while let Some(frame) = answers.frame().await {
            if let Ok(data) = frame.map_err(std::io::Error::other)?.into_data() {
                to_client.write_all(&data).await?;
            }
        }
        to_client.shutdown().await
    };
    tokio::pin!(downward);
    // Cancel-safe: `downward` is polled on by the second await, `upward` is finished or not needed.
    tokio::select! {
        ended = &mut downward => ended,
        () = upward => tokio::time::timeout(END_TIMEOUT, downward).await.unwrap_or(Ok(())),
    }
}

/// What the client's WebSocket handshake comes to.
#[derive(Debug, PartialEq, Eq)]
struct Handshake {
    protocol: &'static str,
    accept: String,
}

impl Handshake {
    fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        if !upgrade::asks_for(headers, "websocket") {
            return Err(ApiError::bad_request(
                "exec needs a WebSocket: send 'Connection: Upgrade' and 'Upgrade: websocket' (SPDY is not supported)",
            ));
        }
        let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let (Some(b"13"), Some(key)) = (version, key) else {
            return Err(ApiError::bad_request("the WebSocket handshake needs a key and version 13"));
        };
        let offered: Vec<_> = upgrade::tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
        let protocol = PROTOCOLS.into_iter().find(|p| offered.contains(p)).ok_or_else(|| {
            let message = format!(
                "none of the subprotocols [{}] is supported: use {}",
                offered.join(", "),
                PROTOCOLS.join(" or ")
            );
            ApiError::bad_request(message)
        })?;
        Ok(Self { protocol, accept: derive_accept_key(key) })
    }
}

fn exec_parameters(query: &Query) -> Result<String, ApiError> {
    let mut text = String::new();
    for command in query.all("command") {
        text.push_str(&format!("&command={}", encode(command)));
    }
    if text.is_empty() {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    let unsaid = |name: &str| query.all(name).next().is_none();
    for (name, default) in [("stdin", false), ("stdout", true), ("stderr", true), ("tty", false)] {
        let on = if unsaid(name) { default } else { query.flag(name) };
        text.push_str(&format!("&{name}={on}"));
    }
    Ok(text)
}

/// Finds the pod's minion and the container that is meant.
fn place(shared: &Shared, target: &Target, query: &Query) -> Result<Place, ApiError> {
    let row = Pod::row();
    let pod = shared
        .registry
        .get_typed::<Pod>(target.namespace(), target.name())
        .ok_or_else(|| ApiError::not_found(row.error_name, target.name()))?;
    place_of(&pod, query.get("container"))
}

fn place_of(pod: &Pod, wanted: Option<&str>) -> Result<Place, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let refuse = |message: String| Err(ApiError::bad_request(message).about(Pod::row().error_name, name));
    let spec = pod.spec.as_ref();
    let containers: Vec<&str> = spec.iter().flat_map(|s| &s.containers).map(|c| c.name.as_str()).collect();
    let others = spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| c.name.as_str());
    let annotated = pod.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_CONTAINER)).map(String::as_str);
    let container = match (wanted.or(annotated), containers.as_slice()) {
        (Some(wanted), _) if containers.contains(&wanted) || others.clone().any(|c| c == wanted) => wanted,
        (Some(wanted), _) => return refuse(format!("container {wanted} is not valid for pod {name}")),
        (None, [only]) => only,
        (None, several) => {
            let list = several.join(" ");
            return refuse(format!("a container name must be specified for pod {name}, choose one of: [{list}]"));
        }
    };
    match spec.and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()) {
        None => Err(ApiError::new(Reason::BadRequest, format!("pod {name} does not have a host assigned"))
            .about(Pod::row().error_name, name)),
        Some(node) => Ok(Place {
            node: node.to_owned(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            container: container.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str], node: &str) -> Pod {
        let containers: Vec<_> = containers.iter().map(|c| serde_json::json!({"name": c, "image": "i"})).collect();
        let spec = serde_json::json!({"nodeName": node, "containers": containers});
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_container_is_the_named_one_or_the_only_one() {
        let check =
            |pod: &Pod, wanted: Option<&str>, expected: Result<&str, &str>| match (place_of(pod, wanted), expected) {
                (Ok(place), Ok(container)) => assert_eq!(place.container, container),
                (Err(error), Err(part)) => {
                    assert!(error.code() == 400 && error.message.contains(part), "{}", error.message)
                }
                (found, expected) => panic!("{found:?} is not {expected:?}"),
            };
        check(&pod(&["a"], "n"), None, Ok("a"));
        check(&pod(&["a", "b"], "n"), Some("b"), Ok("b"));
        check(&pod(&["a", "b"], "n"), None, Err("choose one of: [a b]"));
        check(&pod(&["a"], "n"), Some("c"), Err("container c is not valid"));
        check(&pod(&["a"], ""), None, Err("does not have a host assigned"));
        let mut annotated = pod(&["a", "b"], "n");
        annotated.metadata.annotations = Some([(DEFAULT_CONTAINER.to_owned(), "b".to_owned())].into());
        check(&annotated, None, Ok("b"));
    }

    fn handshake(lines: &[(&'static str, &'static str)]) -> Result<Handshake, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Handshake::parse(&headers)
    }

    #[test]
    fn the_best_common_subprotocol_is_chosen() {
        let good = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            // RFC 6455 §1.3
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let with = |protocols: &'static str| handshake(&[&good[..], &[("sec-websocket-protocol", protocols)]].concat());
        let found = with("v4.channel.k8s.io, v5.channel.k8s.io").unwrap();
        assert_eq!(found.protocol, "v5.channel.k8s.io");
        assert_eq!(found.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(with("v4.channel.k8s.io").unwrap().protocol, "v4.channel.k8s.io");
        assert!(with("base64.channel.k8s.io").unwrap_err().message.contains("base64.channel.k8s.io"));
        assert_eq!(handshake(&good).unwrap_err().code(), 400);
        assert_eq!(handshake(&good[..3]).unwrap_err().code(), 400);
        assert!(handshake(&[("upgrade", "SPDY/3.1")]).unwrap_err().message.contains("SPDY"));
    }

    #[test]
    fn a_command_needs_words() {
        let query = Query::parse("command=sh&command=-c&command=a%20b&tty=true&stderr=false").unwrap();
        assert_eq!(
            exec_parameters(&query).unwrap(),
            "&command=sh&command=-c&command=a%20b&stdin=false&stdout=true&stderr=false&tty=true"
        );
        assert_eq!(exec_parameters(&Query::default()).unwrap_err().code(), 400);
    }
}
