use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::{ContainerSpec, hollow::Hollow, labels};

const SOON: Duration = Duration::from_secs(5);

/// Answers every connection with these bytes. Returns the port.
async fn server(answer: &'static str) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

async fn probe(json: serde_json::Value, ports: serde_json::Value) -> Result<(), String> {
    let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "ports": ports})).unwrap();
    let probe: Probe = serde_json::from_value(json).unwrap();
    let target = Target { container: &container, ip: [127, 0, 0, 1].into() };
    let runtime = Hollow::new(Clock::system());
    check(&runtime, &ContainerId("none".into()), &target, &probe, SOON).await
}

fn get(port: impl serde::Serialize) -> serde_json::Value {
    serde_json::json!({"httpGet": {"port": port, "path": "/health"}})
}

#[tokio::test]
async fn http_statuses_from_200_to_399_are_healthy_and_redirects_are_not_followed() {
    for (answer, healthy) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope", false),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", false),
        ("not http at all\r\n\r\n", false),
    ] {
        let port = server(answer).await;
        let result = probe(get(port), serde_json::json!([])).await;
        assert_eq!(result.is_ok(), healthy, "{answer}: {result:?}");
    }
}

#[tokio::test]
async fn of_a_long_answer_the_beginning_is_told() {
    let answer = format!("HTTP/1.1 500 Oops\r\ncontent-length: 4096\r\n\r\nno database{}", "x".repeat(4085));
    let port = server(answer.leak()).await;
    let why = probe(get(port), serde_json::json!([])).await.unwrap_err();
    assert!(why.contains("answered with 500: no databasexxx"), "{why}");
    assert!(why.len() < 1200, "{} bytes", why.len());
}

#[tokio::test]
async fn a_refused_connection_is_a_failure() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = probe(get(closed), serde_json::json!([])).await.unwrap_err();
    assert!(error.contains(&closed.to_string()), "{error}");
    assert!(probe(serde_json::json!({"tcpSocket": {"port": closed}}), serde_json::json!([])).await.is_err());
    assert!(probe(serde_json::json!({"grpc": {"port": closed}}), serde_json::json!([])).await.is_err());
}

#[tokio::test]
async fn a_named_port_is_the_container_port() {
    let port = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let ports = serde_json::json!([{"name": "web", "containerPort": port, "hostPort": 1}]);
    assert_eq!(probe(get("web"), ports.clone()).await, Ok(()));
    assert_eq!(probe(serde_json::json!({"tcpSocket": {"port": "web"}}), ports.clone()).await, Ok(()));
    assert!(probe(get("admin"), ports).await.unwrap_err().contains("no port named admin"));
}

#[tokio::test]
async fn a_command_is_judged_by_its_exit_code_whatever_it_says() {
    let runtime = Hollow::new(Clock::system());
    let labels = [(labels::POD_UID, "u1"), (labels::CONTAINER, "c"), (labels::ATTEMPT, "0")];
    let spec = ContainerSpec {
        name: "c".into(),
        image: "i".into(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Default::default()
    };
    let id = runtime.create(&spec).await.unwrap();
    runtime.start(&id).await.unwrap();
    let container: Container = serde_json::from_value(serde_json::json!({"name": "c"})).unwrap();
    let target = Target { container: &container, ip: [127, 0, 0, 1].into() };
    for (script, healthy) in [("echo broken; exit 0", true), ("echo ok; exit 1", false)] {
        let probe = serde_json::json!({"exec": {"command": ["sh", "-c", script]}});
        let probe: Probe = serde_json::from_value(probe).unwrap();
        let result = check(&runtime, &id, &target, &probe, SOON).await;
        assert_eq!(result.is_ok(), healthy, "{script}: {result:?}");
    }
}

#[tokio::test]
async fn a_probe_that_asks_nothing_fails() {
    assert!(probe(serde_json::json!({}), serde_json::json!([])).await.is_err());
}
