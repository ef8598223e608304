//! Pulls, from a registry that the test plays: two layers and a configuration. The engine speaks
//! plain HTTP to registries on loopback.

use std::{
    collections::HashMap,
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use bollard::query_parameters::RemoveImageOptionsBuilder;
use bytes::Bytes;
use coracle_minion::runtime::{Runtime, RuntimeError};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

use crate::bench::{Bench, with_engine};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

fn digest(bytes: &[u8]) -> String {
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    format!("sha256:{}", &output[..64])
}

fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size as u64);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, vec![7; size].as_slice()).unwrap();
    tar.into_inner().unwrap()
}

/// Path below `/v2/REPOSITORY/` to content type and content.
fn contents(seed: &str) -> HashMap<String, (&'static str, Vec<u8>)> {
    let layers = [layer(&format!("a-{seed}"), 3_000_000), layer(&format!("b-{seed}"), 2_000_000)];
    let digests = layers.each_ref().map(|l| digest(l));
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = config.to_string().into_bytes();
    let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": part(CONFIG, &config),
        "layers": layers.each_ref().map(|l| part(LAYER, l)),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut contents = HashMap::from([
        ("manifests/1".to_owned(), (MANIFEST, manifest.clone())),
        (format!("manifests/{}", digest(&manifest)), (MANIFEST, manifest)),
        (format!("blobs/{}", digest(&config)), ("application/octet-stream", config)),
    ]);
    for layer in layers {
        contents.insert(format!("blobs/{}", digest(&layer)), ("application/octet-stream", layer));
    }
    contents
}

/// Serves `contents` as any repository called `coracle/pulled`. Gives `host:port`.
async fn registry(contents: HashMap<String, (&'static str, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let contents = Arc::new(contents);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let contents = Arc::clone(&contents);
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path();
                let found = path.strip_prefix("/v2/coracle/pulled/").and_then(|p| contents.get(p)).cloned();
                let response = match found {
                    _ if path == "/v2/" => Response::new(Full::new(Bytes::new())),
                    Some((kind, bytes)) => {
                        let response = Response::builder().header("content-type", kind);
                        response.body(Full::from(bytes)).unwrap()
                    }
                    None => {
                        let mut response = Response::new(Full::from(r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#));
                        *response.status_mut() = StatusCode::NOT_FOUND;
                        response
                    }
                };
                async move { Ok::<_, hyper::Error>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn an_image_is_pulled_with_progress() {
    with_engine(async |b: &Bench| {
        let registry = registry(contents(&b.cluster)).await;
        let image = format!("{registry}/coracle/pulled:1");
        let (tx, mut rx) = mpsc::channel(64);
        b.runtime.pull(&image, tx).await.unwrap();
        let present = b.runtime.image(&image).await.unwrap();
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        b.runtime.engine().docker().remove_image(&image, Some(options), None).await.unwrap();
        assert!(present.is_some());
        let mut lines = Vec::new();
        while let Some(line) = rx.recv().await {
            lines.push(line);
        }
        assert!(lines.iter().any(|l| l.contains("Downloaded newer image")), "{lines:?}");

        let (tx, _rx) = mpsc::channel(1);
        let missing = b.runtime.pull(&format!("{registry}/coracle/pulled:2"), tx).await;
        assert!(matches!(missing, Err(RuntimeError::Image(_))), "{missing:?}");
    })
    .await;
}

#[tokio::test]
async fn an_image_that_can_not_be_pulled_says_where_from() {
    with_engine(async |b: &Bench| {
        let (tx, _rx) = mpsc::channel(16);
        // Nothing listens there: the engine refuses at once.
        let error = b.runtime.pull("127.0.0.1:1/coracle/none:1", tx).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Image(ref text) if text.contains("127.0.0.1:1")), "{error:?}");
    })
    .await;
}
