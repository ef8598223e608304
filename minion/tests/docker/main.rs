//! The Docker runtime against a real engine. Needs one on this host and root.

// Clippy takes helpers of an integration test for something else than tests.
#![allow(clippy::unwrap_used)]

mod bench;
mod pods;
mod pull;
mod reset;
mod tunnel;
mod whole;

use std::{
    net::{IpAddr, TcpListener},
    time::{Duration, Instant},
};

use bench::{Bench, DEADLINE, NODE, eventually, with_engine};
use bytes::Bytes;
use coracle_minion::runtime::{
    ExecOutput, ExecQuery, LogQuery, PublishedPort, Runtime, RuntimeError, RuntimeEvent, State, contract,
    docker::Engine, infra,
};
use tokio::sync::mpsc;

async fn next(events: &mut mpsc::Receiver<RuntimeEvent>) -> RuntimeEvent {
    tokio::time::timeout(DEADLINE, events.recv()).await.expect("an event in time").expect("an event")
}

/// Reads events until `wanted`; returns those before it.
async fn until(
    events: &mut mpsc::Receiver<RuntimeEvent>,
    mut wanted: impl FnMut(&RuntimeEvent) -> bool,
) -> Vec<RuntimeEvent> {
    let mut before = Vec::new();
    loop {
        let event = next(events).await;
        if wanted(&event) {
            return before;
        }
        before.push(event);
    }
}

async fn text(mut log: mpsc::Receiver<Bytes>) -> String {
    let mut all = Vec::new();
    while let Some(piece) = tokio::time::timeout(DEADLINE, log.recv()).await.expect("the log goes on or ends") {
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn the_runtime_keeps_the_contract() {
    with_engine(async |b: &Bench| {
        let fixture = contract::Fixture::new(&b.image, &b.cluster, NODE);
        contract::check(&*b.runtime, &fixture).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named_with_its_socket() {
    let error = Engine::connect(Some("/nonexistent/docker.sock")).await.unwrap_err().to_string();
    assert_eq!(error, "the Docker engine at /nonexistent/docker.sock can't be reached: there is no such socket");
}

#[tokio::test]
async fn an_engine_that_is_too_old_is_refused_with_the_version_needed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("old.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let body = r#"{"Version":"19.03.1","ApiVersion":"1.40"}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    });
    let error = Engine::connect(socket.to_str()).await.unwrap_err().to_string();
    assert!(error.contains("API 1.40 (version 19.03.1)") && error.contains("1.41, Docker 20.10 or newer"), "{error}");
    serving.await.unwrap();
}

#[tokio::test]
async fn the_infra_container_waits_in_next_to_no_memory_and_dies_at_once_when_removed() {
    with_engine(async |b: &Bench| {
        let id = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let seen = b.runtime.list_pod("u1").await.unwrap();
        assert_eq!(seen.len(), 1);
        assert!(matches!(seen[0].state, State::Running { .. }), "{:?}", seen[0].state);
        assert!(seen[0].ip.is_some(), "an address on the pod network");
        assert_eq!((seen[0].name.as_str(), seen[0].image.as_str()), ("net", infra::IMAGE));
        assert!(b.resident_kb(&id).await < 1024);
        let began = Instant::now();
        b.runtime.remove(&id).await.unwrap();
        // A program that is asked first costs the engine's 10 s.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(b.runtime.list_pod("u1").await.unwrap().is_empty());
        b.runtime.remove(&id).await.expect("gone already is success");
    })
    .await;
}

#[tokio::test]
async fn the_infra_image_is_made_once() {
    with_engine(async |b: &Bench| {
        // While a container uses it nobody removes it.
        b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let first = b.runtime.image(infra::IMAGE).await.unwrap().expect("made when the runtime was");
        b.runtime_at(std::path::Path::new(b.runtime.engine().socket())).await;
        assert_eq!(b.runtime.image(infra::IMAGE).await.unwrap(), Some(first));
    })
    .await;
}

#[tokio::test]
async fn a_pods_containers_share_its_address_and_name() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "sleep 1000").await;
        let outcome = b.runtime.exec(&id, &["hostname".into(), "-i".into()], DEADLINE).await.unwrap();
        let ip: IpAddr = outcome.output.trim().parse().unwrap();
        let seen = b.runtime.list_pod("u1").await.unwrap();
        assert_eq!(seen.iter().find_map(|c| c.ip), Some(ip));
        let outcome = b.runtime.exec(&id, &["hostname".into()], DEADLINE).await.unwrap();
        assert_eq!((outcome.code, outcome.output.trim()), (0, "pod-u1"));
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_container_is_seen_with_its_code_and_times() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "exit 3").await;
        let state = eventually("the container ends", async || {
            let seen = b.runtime.list_pod("u1").await.unwrap();
            let state = seen.iter().find(|c| c.id == id)?.state.clone();
            matches!(state, State::Exited { .. }).then_some(state)
        })
        .await;
        let State::Exited { code, oom_killed, started_at, finished_at, error } = state else { unreachable!() };
        assert_eq!((code, oom_killed, error.as_str()), (3, false, ""));
        assert!(started_at <= finished_at);
    })
    .await;
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_a_failed_run_with_the_engines_words() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let mut spec = b.container("u1", "web", &infra, "");
        spec.entrypoint = Some(vec!["/no/such/program".into()]);
        let id = b.runtime.create(&spec).await.unwrap();
        assert!(b.runtime.start(&id).await.unwrap_err().to_string().contains("/no/such/program"));
        let seen = b.runtime.list_pod("u1").await.unwrap();
        let State::Exited { code, error, .. } = &seen.iter().find(|c| c.id == id).unwrap().state else {
            panic!("{seen:?}")
        };
        assert!(*code == 127 && error.contains("no such file"), "{code} {error}");
    })
    .await;
}

#[tokio::test]
async fn what_is_in_the_way_is_said_precisely() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let again = b.runtime.run_infra(&b.infra("u1")).await;
        assert!(matches!(again, Err(RuntimeError::NameTaken(ref n)) if *n == b.infra("u1").name), "{again:?}");

        let mut spec = b.container("u1", "web", &infra, "true");
        spec.image = "coracle/never-built:1".into();
        let missing = b.runtime.create(&spec).await;
        assert!(matches!(missing, Err(RuntimeError::NotFound(_))), "{missing:?}");
        assert_eq!(b.runtime.image("coracle/never-built:1").await.unwrap(), None);
        assert!(b.runtime.image(&b.image).await.unwrap().is_some());
        let (repository, _) = b.image.rsplit_once(':').expect("the image has a tag");
        assert_eq!(
            b.runtime.image(&format!("{repository}:never")).await.unwrap(),
            None,
            "another tag is another image"
        );
        let gone = coracle_minion::runtime::ContainerId("0123456789ab".into());
        assert!(matches!(b.runtime.start(&gone).await, Err(RuntimeError::NotFound(_))));
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_the_pod_can_be_tried_again() {
    with_engine(async |b: &Bench| {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let mut spec = b.infra("u1");
        spec.ports = vec![PublishedPort {
            protocol: "TCP".into(),
            container_port: 80,
            host_ip: Some("127.0.0.1".parse().unwrap()),
            host_port: port,
        }];
        for _ in 0..2 {
            let taken = b.runtime.run_infra(&spec).await;
            assert!(matches!(taken, Err(RuntimeError::PortTaken(ref p)) if *p == port.to_string()), "{taken:?}");
        }
        assert!(b.runtime.list().await.unwrap().is_empty(), "nothing is left of the attempts");
        drop(holder);
        b.runtime.run_infra(&spec).await.unwrap();

        let mut second = b.infra("u2");
        second.ports.clone_from(&spec.ports);
        let taken = b.runtime.run_infra(&second).await;
        assert!(matches!(taken, Err(RuntimeError::PortTaken(ref p)) if *p == port.to_string()), "{taken:?}");
    })
    .await;
}

#[tokio::test]
async fn a_container_is_stopped_politely_and_then_killed() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let polite = b.run("u1", "polite", &infra, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done").await;
        let stubborn = b.run("u1", "stubborn", &infra, "trap '' TERM; echo ready; while :; do sleep 0.1; done").await;
        b.wrote(&polite, "ready").await;
        b.wrote(&stubborn, "ready").await;
        let (first, second) = tokio::join!(
            b.runtime.stop(&polite, Duration::from_secs(30)),
            b.runtime.stop(&stubborn, Duration::from_millis(500)),
        );
        first.unwrap();
        second.unwrap();
        b.runtime.stop(&polite, Duration::ZERO).await.expect("stopped already is success");
        let seen = b.runtime.list_pod("u1").await.unwrap();
        for (id, expected) in [(&polite, 7), (&stubborn, 137)] {
            let state = &seen.iter().find(|c| c.id == *id).unwrap().state;
            assert!(matches!(state, State::Exited { code, .. } if *code == expected), "{state:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn only_containers_of_this_cluster_and_node_are_seen() {
    with_engine(async |b: &Bench| {
        b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let mut foreign = b.infra("u2");
        foreign.labels.insert("io.coracle.node".into(), "another".into());
        b.runtime.run_infra(&foreign).await.unwrap();
        let seen = b.runtime.list().await.unwrap();
        assert_eq!(seen.iter().map(|c| c.pod_uid.as_str()).collect::<Vec<_>>(), ["u1"]);
    })
    .await;
}

#[tokio::test]
async fn a_killed_container_is_reported_without_polling() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "sleep 1000").await;
        let mut events = b.runtime.events();
        assert_eq!(next(&mut events).await, RuntimeEvent::Gap);
        b.kill(&id).await;
        let died = RuntimeEvent::Changed { pod_uid: "u1".into(), id: id.clone() };
        until(&mut events, |e| *e == died).await;
    })
    .await;
}

#[tokio::test]
async fn events_resume_with_a_gap_when_the_stream_is_cut() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "sleep 1000").await;
        let mut forwarder = b.forwarder();
        let through = b.runtime_at(forwarder.socket()).await;
        let mut events = through.events();
        assert_eq!(next(&mut events).await, RuntimeEvent::Gap);

        forwarder.cut().await;
        until(&mut events, |e| matches!(e, RuntimeEvent::Unreachable(_))).await;
        b.kill(&id).await;
        forwarder.serve();
        let before = until(&mut events, |e| *e == RuntimeEvent::Gap).await;
        assert!(before.is_empty(), "said once: {before:?}");
        // What happened meanwhile is replayed; what happens next is delivered.
        let died = RuntimeEvent::Changed { pod_uid: "u1".into(), id };
        until(&mut events, |e| *e == died).await;
        let second = b.run("u1", "second", &infra, "sleep 1000").await;
        let started = RuntimeEvent::Changed { pod_uid: "u1".into(), id: second };
        until(&mut events, |e| *e == started).await;
    })
    .await;
}

#[tokio::test]
async fn a_command_gives_its_code_and_output_and_is_given_up_in_time() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "sleep 1000").await;
        let sh = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned);
        let outcome = b.runtime.exec(&id, &sh("echo out; echo err >&2; exit 5"), DEADLINE).await.unwrap();
        assert_eq!(outcome.code, 5);
        assert!(outcome.output.contains("out") && outcome.output.contains("err"));
        let outcome = b.runtime.exec(&id, &sh("yes | head -c 100000"), DEADLINE).await.unwrap();
        assert_eq!((outcome.code, outcome.output.len()), (0, 10 * 1024));
        let late = b.runtime.exec(&id, &sh("sleep 1000"), Duration::from_millis(500)).await;
        assert!(matches!(late, Err(RuntimeError::Timeout { .. })), "{late:?}");
        let absent = b.runtime.exec(&id, &["/no/such".to_owned()], DEADLINE).await;
        assert!(absent.as_ref().map_or(true, |o| o.code != 0), "{absent:?}");
    })
    .await;
}

#[tokio::test]
async fn an_attached_command_reads_its_input_to_the_end_and_reports_its_code() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "sleep 1000").await;
        let command = ["/bin/sh", "-c", "cat; echo done >&2; exit 9"].map(str::to_owned).to_vec();
        let query = ExecQuery { command, stdin: true, tty: false };
        let mut session = b.runtime.exec_session(&id, &query).await.unwrap();
        let stdin = session.stdin.take().expect("asked for");
        // More than all buffers on the way hold, in both directions at once.
        let sending = tokio::spawn(async move {
            for _ in 0..64 {
                stdin.send(Bytes::from(vec![b'x'; 16 * 1024])).await.unwrap();
            }
        });
        let (mut out, mut err, mut code) = (0, Vec::new(), None);
        while let Some(piece) = tokio::time::timeout(DEADLINE, session.output.recv()).await.expect("output or end") {
            match piece {
                ExecOutput::Stdout(bytes) => out += bytes.len(),
                ExecOutput::Stderr(bytes) => err.extend_from_slice(&bytes),
                ExecOutput::Exit(n) => code = Some(n),
            }
        }
        sending.await.unwrap();
        assert_eq!((out, err.as_slice(), code), (64 * 16 * 1024, b"done\n".as_slice(), Some(9)));
    })
    .await;
}

#[tokio::test]
async fn an_attached_terminal_has_the_size_it_is_given() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let id = b.run("u1", "web", &infra, "sleep 1000").await;
        let query = ExecQuery { command: vec!["/bin/sh".into()], stdin: true, tty: true };
        let mut session = b.runtime.exec_session(&id, &query).await.unwrap();
        let stdin = session.stdin.take().unwrap();
        session.resize.send((123, 45)).await.unwrap();
        let script = "until [ \"$(stty size)\" = '45 123' ]; do sleep 0.05; done; echo sized; exit 0\n";
        stdin.send(Bytes::from_static(script.as_bytes())).await.unwrap();
        let mut code = None;
        while let Some(piece) = tokio::time::timeout(DEADLINE, session.output.recv()).await.expect("output or end") {
            if let ExecOutput::Exit(n) = piece {
                code = Some(n);
            }
        }
        assert_eq!(code, Some(0));
    })
    .await;
}

#[tokio::test]
async fn logs_can_be_cut_and_followed_to_the_end() {
    with_engine(async |b: &Bench| {
        let infra = b.runtime.run_infra(&b.infra("u1")).await.unwrap();
        let script = "echo one; echo two; echo three; until [ -e /go ]; do sleep 0.05; done; echo err >&2";
        let id = b.run("u1", "web", &infra, script).await;
        let query = |follow, tail, timestamps| LogQuery { follow, tail, since: None, timestamps };
        b.wrote(&id, "three").await;
        let log = text(b.runtime.logs(&id, &query(false, None, false)).await.unwrap()).await;
        assert_eq!(log, "one\ntwo\nthree\n");
        let log = text(b.runtime.logs(&id, &query(false, Some(1), false)).await.unwrap()).await;
        assert_eq!(log, "three\n");
        let log = text(b.runtime.logs(&id, &query(false, Some(1), true)).await.unwrap()).await;
        let (time, line) = log.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && line == "three\n", "{log}");

        let mut following = b.runtime.logs(&id, &query(true, Some(1), false)).await.unwrap();
        assert_eq!(following.recv().await.as_deref(), Some(b"three\n".as_slice()));
        b.runtime.exec(&id, &["/bin/touch".into(), "/go".into()], DEADLINE).await.unwrap();
        assert_eq!(text(following).await, "err\n");
        let gone = coracle_minion::runtime::ContainerId("0123456789ab".into());
        assert!(matches!(b.runtime.logs(&gone, &LogQuery::default()).await, Err(RuntimeError::NotFound(_))));
    })
    .await;
}
