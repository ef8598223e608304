//! Bad input: each fault gets its code and a sentence, and the server lives on.

use std::time::Duration;

use coracle_master::server::Limits;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::harness::{Master, PODS, SERVICES, pod, read_text, service};

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused() {
    let master = Master::start().await;
    let check = async |content_type: &str, body: &str, code: u16, part: &str| {
        master.send("POST", PODS, &[("content-type", content_type)], body.to_owned()).await.refused(code, part);
    };
    check("application/json", "", 400, "empty").await;
    check("application/json", "{\"kind\":", 400, "not valid JSON").await;
    check("application/json", "[]", 400, "").await;
    check("application/json", "\"text\"", 400, "").await;
    check("application/json", &service("a").to_string(), 400, "not a Pod").await;
    check("application/json", &json!({"apiVersion": "v2", "kind": "Pod"}).to_string(), 400, "v1").await;
    check("application/yaml", "kind: [", 400, "").await;
    check("application/yaml", "kind: Pod\n---\nkind: Pod\n", 400, "2 documents").await;
    check("application/vnd.kubernetes.protobuf", "k8s", 415, "not supported").await;
    let wrong_type = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": 7}]}});
    check("application/json", &wrong_type.to_string(), 422, "spec.containers[0].name").await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check("application/json", &deep, 400, "").await;
    check("application/yaml", &deep, 400, "").await;
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..20 {
        let before = format!("*a{},", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{before}]\n"));
    }
    check("application/yaml", &bomb, 400, "").await;
    master.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn objects_that_break_the_rules_are_refused_by_field() {
    let master = Master::start().await;
    let check = async |path: &str, object: &serde_json::Value, part: &str| {
        let reply = master.post(path, object).await;
        let causes = reply.json()["details"]["causes"].clone();
        assert!(causes.as_array().is_some_and(|c| !c.is_empty()), "{}", reply.text());
        reply.refused(422, part);
    };
    check(PODS, &pod("Not_A_Name"), "metadata.name").await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["ports"] = json!([{"containerPort": 70000}]);
    check(PODS, &object, "containerPort").await;
    let mut object = pod("a");
    object["spec"]["containers"] = json!([]);
    check(PODS, &object, "spec.containers").await;
    let mut object = pod("a");
    object["metadata"]["labels"] = json!({"bad key!": "x"});
    check(PODS, &object, "metadata.labels").await;
    let mut object = service("a");
    object["spec"]["ports"] = json!([{"port": 0}]);
    check(SERVICES, &object, "spec.ports[0].port").await;
}

#[tokio::test]
async fn requests_that_contradict_themselves_are_refused() {
    let master = Master::start().await;
    master.post(PODS, &pod("a")).await.expect(201);
    let mut versioned = pod("b");
    versioned["metadata"]["resourceVersion"] = "1".into();
    master.post(PODS, &versioned).await.refused(400, "resourceVersion should not be set");
    master.put(&format!("{PODS}/other"), &pod("a")).await.refused(400, "does not match the name");
    master.put(&format!("{PODS}/zz"), &pod("zz")).await.refused(404, "not found");
    let mut namesake = pod("a");
    namesake["metadata"]["uid"] = "another".into();
    master.put(&format!("{PODS}/a"), &namesake).await.refused(409, "uid");
    namesake = pod("a");
    namesake["metadata"]["resourceVersion"] = "x".into();
    master.put(&format!("{PODS}/a"), &namesake).await.refused(400, "'x'");
    master.post(&format!("{PODS}?dryRun=Some"), &pod("b")).await.refused(400, "dryRun");
    master.get("/api/v1/bogus").await.refused(404, "could not find the requested resource: bogus are not served");
    master.get("/apis/apps/v1/deployments").await.refused(404, "the group apps is not served");
    master.get(&format!("{PODS}/a/portforward")).await.refused(404, "pods have no portforward here: use");
    for all in ["/api/v1/pods", "/api/v1/namespaces"] {
        master.delete(all).await.refused(405, "does not allow this method");
    }
    let media = [("content-type", "application/vnd.kubernetes.protobuf")];
    master.send("DELETE", &format!("{PODS}/a"), &media, "k8s\0").await.refused(415, "not supported");
    master.get(&format!("{PODS}/a")).await.expect(200);
    master.put(PODS, &pod("a")).await.refused(405, "does not allow this method");
    assert_eq!(master.get("/bogus").await.expect(404).text(), "404: Page Not Found");
    master.get(&format!("{PODS}?labelSelector=%ff")).await.refused(400, "UTF-8");
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_about_or_ignored_as_asked() {
    let master = Master::start().await;
    let mut object = pod("a");
    object["spec"]["containers"][0]["imagee"] = "x".into();
    let post = async |validation: &str, object: &serde_json::Value| {
        master.post(&format!("{PODS}?fieldValidation={validation}&dryRun=All"), object).await
    };
    post("Strict", &object).await.refused(400, "unknown field \"spec.containers[0].imagee\"");
    let warned = post("Warn", &object).await.expect(201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.containers[0].imagee\\\"\"");
    assert!(!post("Ignore", &object).await.expect(201).headers.contains_key("warning"));
    post("Sometimes", &object).await.refused(400, "fieldValidation");
    let doubled = pod("a").to_string().replacen("\"kind\"", "\"kind\":\"Pod\",\"kind\"", 1);
    let path = format!("{PODS}?fieldValidation=Strict");
    master.send("POST", &path, &[], doubled).await.refused(400, "duplicate field \"kind\"");
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_early() {
    let master = Master::start().await;
    let announced =
        "POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n";
    let answer = master.raw(announced.as_bytes());
    assert!(answer.await.starts_with("HTTP/1.1 413"));

    // Without an announced length it is counted as it comes.
    let mut stream = TcpStream::connect(master.address).await.unwrap();
    stream
        .write_all(
            b"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await
        .unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    while sent < 100 << 20 && stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 50 << 20, "{sent} bytes were taken");
    let answer = read_text(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    master.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn slow_senders_are_given_up() {
    let time = Duration::from_millis(200);
    let master = Master::with(Limits { header_time: time, body_time: time, ..Default::default() }).await;
    // Nothing, half a method that could still become either protocol, half a header.
    for bytes in ["", "P", "GET /healthz HTTP/1.1\r\nHost: loc"] {
        let answer = master.raw(bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{bytes:?}: {answer}");
    }
    let half = "POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
    let answer = master.raw(half.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive within 0.2 s"), "{answer}");
    master.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn absurd_heads_are_refused() {
    let master = Master::start().await;
    let head = |line: &str, headers: &str| format!("{line}\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let check = async |request: String, code: u16| {
        let answer = master.raw(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{}", &answer[..answer.len().min(200)]);
    };
    check(head(&format!("GET {PODS}?labelSelector={} HTTP/1.1", "a".repeat(40_000)), ""), 414).await;
    check(head("GET /healthz HTTP/1.1", &format!("X-Big: {}\r\n", "x".repeat(200_000))), 431).await;
    let many: String = (0..500).map(|i| format!("X-{i}: x\r\n")).collect();
    check(head("GET /healthz HTTP/1.1", &many), 431).await;
    check(head("GET\u{1}/ HTTP/9.9", ""), 400).await;
    check(head("GET /healthz HTTP/1.1", "Content-Length: -1\r\n"), 400).await;
    master.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn web_pages_cannot_reach_the_api_through_a_browser() {
    let master = Master::start().await;
    let local = master.address.to_string();
    master.send("GET", PODS, &[("host", "evil.example:80")], "").await.refused(403, "evil.example");
    master.send("GET", PODS, &[("origin", "https://evil.example")], "").await.refused(403, "evil.example");
    let own = format!("http://{local}");
    master.send("GET", PODS, &[("origin", &own)], "").await.expect(200);
    master.send("GET", PODS, &[("host", "localhost:1")], "").await.expect(200);
}

#[tokio::test]
async fn further_connections_wait_for_a_place() {
    let master = Master::with(Limits { connections: 1, ..Default::default() }).await;
    let first = TcpStream::connect(master.address).await.unwrap();
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut second = TcpStream::connect(master.address).await.unwrap();
    second.write_all(get.as_bytes()).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(100), second.readable()).await;
    assert!(waited.is_err(), "the second was served beside the first");
    drop(first);
    assert!(read_text(&mut second).await.ends_with("ok"));
}
