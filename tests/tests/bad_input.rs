//! Bad input gets the right status code and a sentence that names the field and the remedy, and
//! the server serves on.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result};
use coracle_tests::Cluster;

struct Answer {
    code: u16,
    body: String,
}

/// Sends one request by hand, so that nothing between cares about its sense.
fn send(cluster: &Cluster, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(cluster.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        cluster.address,
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    // A server that refuses a large body may close before it was all sent.
    let sent = stream.write_all(body);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code =
        text.split(' ').nth(1).and_then(|c| c.parse().ok()).with_context(|| format!("{sent:?} {read:?} {text}"))?;
    let body = text.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default();
    Ok(Answer { code, body })
}

fn check(cluster: &Cluster, path: &str, body: &[u8], code: u16, words: &[&str]) -> Result<()> {
    let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
    let answer = send(cluster, "POST", path, body)?;
    assert_eq!(answer.code, code, "{path} {shown}: {}", answer.body);
    for word in words {
        assert!(answer.body.contains(word), "'{word}' in the answer to {path} {shown}: {}", answer.body);
    }
    assert_eq!(send(cluster, "GET", "/healthz", b"")?.code, 200, "the server serves on after {shown}");
    Ok(())
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const OLD_PODS: &str = "/api/v1beta1/pods?namespace=default";

fn pod(spec: &str) -> Vec<u8> {
    format!(r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"p"}},"spec":{spec}}}"#).into_bytes()
}

#[test]
fn every_bad_input_is_told_what_is_wrong() -> Result<()> {
    let cluster = Cluster::start()?;
    let c = &cluster;
    check(c, PODS, b"{\"kind\": \"Pod\", ", 400, &["BadRequest"])?;
    check(c, PODS, b"a: [b\n c: }", 400, &["BadRequest"])?;
    check(c, PODS, b"", 400, &["BadRequest"])?;
    check(c, PODS, br#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"p"}}"#, 400, &["Pod"])?;
    check(c, OLD_PODS, br#"{"kind":"Service","apiVersion":"v1beta1","id":"p"}"#, 400, &["Service"])?;
    check(c, PODS, &pod(r#"{"containers":[{"name":"c"}]}"#), 422, &["spec.containers[0].image"])?;
    check(c, PODS, &pod(r#"{"containers":[{"name":"C_","image":"i"}]}"#), 422, &["spec.containers[0].name", "C_"])?;
    check(c, PODS, &pod(r#"{"containers":[]}"#), 422, &["spec.containers"])?;
    check(
        c,
        PODS,
        &pod(r#"{"containers":[{"name":"c","image":"i","ports":[{"containerPort":70000}]}]}"#),
        422,
        &["spec.containers[0].ports[0].containerPort", "65535"],
    )?;
    check(
        c,
        PODS,
        &pod(r#"{"containers":[{"name":"c","image":"i","ports":[{"containerPort":"http"}]}]}"#),
        422,
        &["spec.containers[0].ports[0].containerPort"],
    )?;
    let path = format!("{PODS}?fieldValidation=Strict");
    check(c, &path, &pod(r#"{"containers":[{"name":"c","image":"i","imagee":"x"}]}"#), 400, &["imagee"])?;
    let bad_name = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"Bad_Name"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    check(c, PODS, bad_name, 422, &["metadata.name", "Bad_Name"])?;
    let rcs = "/api/v1/namespaces/default/replicationcontrollers";
    let rc = br#"{"kind":"ReplicationController","apiVersion":"v1","metadata":{"name":"r"},"spec":{"replicas":1,"selector":{"a":"b"},
        "template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    check(c, rcs, rc, 422, &["spec.template.metadata.labels"])?;
    let old = br#"{"id":"p","desiredState":{"manifest":{"version":"v1beta1","containers":[{"name":"c"}]}}}"#;
    check(c, OLD_PODS, old, 422, &["desiredState.manifest.containers[0].image"])?;
    check(
        c,
        "/api/v1/namespaces/nowhere/pods",
        &pod(r#"{"containers":[{"name":"c","image":"i"}]}"#),
        404,
        &["nowhere"],
    )?;

    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    check(c, PODS, deep.as_bytes(), 400, &["BadRequest"])?;
    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for i in 1..40 {
        bomb.push_str(&format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1));
    }
    check(c, PODS, bomb.as_bytes(), 400, &["BadRequest"])?;
    let large = vec![b' '; 100 << 20];
    let answer = send(c, "POST", PODS, &large)?;
    assert_eq!(answer.code, 413, "{}", answer.body);

    let selector = send(c, "GET", "/api/v1/pods?labelSelector=a%20b%20c", b"")?;
    assert_eq!(selector.code, 400, "{}", selector.body);
    let field = send(c, "GET", "/api/v1/pods?fieldSelector=spec.nope%3D1", b"")?;
    assert_eq!(field.code, 400, "{}", field.body);
    assert!(field.body.contains("spec.nope"), "{}", field.body);
    assert_eq!(send(c, "GET", "/healthz", b"")?.code, 200);
    Ok(())
}

#[test]
fn what_cannot_run_says_why() -> Result<()> {
    let cluster = Cluster::start()?;
    let huge = pod(r#"{"containers":[{"name":"c","image":"i","resources":{"requests":{"memory":"900Ti"}}}]}"#);
    assert_eq!(send(&cluster, "POST", PODS, &huge)?.code, 201);
    let said = coracle_tests::eventually("the unschedulable pod is explained", || {
        cluster.coracle(&["describe", "pod", "p"]).ok().filter(|text| text.contains("too little memory"))
    })?;
    assert!(said.contains("900Ti") || said.contains("needs"), "{said}");
    let missing = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"q"},"spec":{"containers":[
        {"name":"c","image":"coracle/does-not-exist:1","imagePullPolicy":"IfNotPresent"}]}}"#;
    assert_eq!(send(&cluster, "POST", PODS, missing)?.code, 201);
    coracle_tests::eventually("the missing image is explained", || {
        cluster
            .coracle(&["describe", "pod", "q"])
            .ok()
            .filter(|text| text.contains("coracle/does-not-exist:1"))
            .filter(|text| text.contains("ErrImagePull") || text.contains("ImagePullBackOff"))
    })?;
    Ok(())
}
