//! The modern verbs through the real binary: requests, texts, exit statuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::process::Stdio;

use fake::{Answer, Fake, Ran, answer, failure, ok};
use serde_json::{Value, json};

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default", "uid": "u1",
            "resourceVersion": "5"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Pending"}})
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "List", "metadata": {"resourceVersion": "9"}, "items": items})
}

#[test]
fn get_prints_tables_names_and_json() {
    let fake = Fake::start(|_, _| ok(list(vec![pod("a"), pod("b")])));
    let out = fake.run(&["get", "pods", "-l", "x=y"]).good();
    let lines: Vec<_> = out.lines().map(|l| l.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["NAME READY STATUS RESTARTS", "a 0/1 Pending 0", "b 0/1 Pending 0"]);
    assert_eq!(fake.asked(), ["GET /api/v1/namespaces/default/pods?labelSelector=x%3Dy"]);
    assert_eq!(fake.run(&["get", "po", "-A", "-o", "name"]).good(), "pod/a\npod/b\n");
    assert_eq!(fake.asked()[1], "GET /api/v1/pods");
    let json: Value = serde_json::from_str(&fake.run(&["get", "po", "-o", "json"]).good()).unwrap();
    assert_eq!((json["kind"].as_str(), json["items"][1]["kind"].as_str()), (Some("List"), Some("Pod")));
    let all = fake.run(&["get", "all", "-n", "x"]).good();
    assert!(all.contains("pod/a") && all.contains("service/a"), "{all}");
}

#[test]
fn errors_name_the_object_and_exit_1_and_wrong_use_exits_2() {
    let fake = Fake::start(|_, _| failure(404, "NotFound", "pod \"nope\" not found"));
    let ran = fake.run(&["get", "pod", "nope"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, "pod \"nope\" not found\n"));
    for args in [&["get", "bogus"][..], &["get"], &["scale", "pod/a", "--replicas", "1"], &["apply", "-f", "/missing"]]
    {
        let ran = fake.run(args);
        assert_eq!(ran.code, 2, "{args:?} {ran:?}");
        assert!(!ran.err.is_empty());
    }
    let ran = fake.run(&["--master", "127.0.0.1:1", "get", "pods"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("127.0.0.1:1") && ran.err.contains("try: coracle up"), "{}", ran.err);
}

#[test]
fn of_several_masters_the_first_that_answers_is_used() {
    let fake = Fake::start(|_, r| match r.path.as_str() {
        "/version" => ok(json!({"gitVersion": "v1"})),
        _ => ok(list(vec![pod("a")])),
    });
    let masters = format!("http://127.0.0.1:1,{}", fake.url);
    assert_eq!(fake.run(&["--master", &masters, "get", "po", "-o", "name"]).good(), "pod/a\n");
    assert!(fake.run(&["--master", &masters, "version"]).good().contains(&fake.url));
    let kubecfg = fake.command(&["-json", "list", "pods"]).env("KUBERNETES_MASTER", &masters).output().unwrap();
    assert!(kubecfg.status.success(), "{kubecfg:?}");
    let ran = fake.run(&["--master", "127.0.0.1:1,127.0.0.1:2", "get", "pods"]);
    assert_eq!(ran.code, 1);
    for part in ["none of the 2 masters", "127.0.0.1:1: Connection refused", "127.0.0.1:2: Connection", "--master"] {
        assert!(ran.err.contains(part), "'{part}' is not in: {}", ran.err);
    }
}

#[test]
fn an_empty_list_is_a_note_and_success() {
    let fake = Fake::start(|_, _| ok(list(vec![])));
    let ran = fake.run(&["get", "pods"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "No resources found in default namespace.\n"));
}

#[test]
fn warnings_of_the_master_are_printed() {
    let fake = Fake::start(|_, r| Answer {
        status: 201,
        headers: "Warning: 299 - \"spec.hostNetwork is stored but not enforced\"\r\n",
        body: r.body.to_string(),
    });
    let file = fake.file("p.yaml", "kind: Pod\napiVersion: v1\nmetadata: {name: a}\n");
    let ran = fake.run(&["create", "-f", &file]);
    assert_eq!(ran.err, "Warning: spec.hostNetwork is stored but not enforced\n");
    assert_eq!(ran.good(), "pod/a created\n");
}

#[test]
fn apply_creates_then_leaves_alone_then_configures() {
    let store = std::sync::Mutex::new(None::<Value>);
    let fake = Fake::start(move |_, request| {
        let mut stored = store.lock().unwrap();
        match request.method.as_str() {
            "GET" => stored.clone().map_or_else(|| failure(404, "NotFound", "no"), ok),
            _ => {
                let mut object = request.body.clone();
                object["metadata"]["resourceVersion"] = json!("1");
                object["spec"]["defaulted"] = json!(true);
                if request.method == "PUT" {
                    object["metadata"]["resourceVersion"] = json!("2");
                }
                *stored = Some(object.clone());
                ok(object)
            }
        }
    });
    let manifest = |image: &str| {
        format!(
            "kind: Pod\napiVersion: v1\nmetadata: {{name: a}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    };
    let file = fake.file("p.yaml", &manifest("i:1"));
    assert_eq!(fake.run(&["apply", "-f", &file]).good(), "pod/a created\n");
    let record = &fake.last_body()["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(record.as_str().unwrap().contains("i:1"));
    assert_eq!(fake.run(&["apply", "-f", &file]).good(), "pod/a unchanged\n");
    let file = fake.file("p.yaml", &manifest("i:2"));
    assert_eq!(fake.run(&["apply", "-f", &file]).good(), "pod/a configured\n");
    assert_eq!(fake.last_body()["spec"], json!({"containers": [{"name": "c", "image": "i:2"}], "defaulted": true}));
    assert_eq!(fake.asked().len(), 5);
}

#[test]
fn apply_speaks_v1beta1_to_documents_of_v1beta1() {
    let fake = Fake::start(|_, r| if r.method == "GET" { failure(404, "NotFound", "no") } else { ok(r.body.clone()) });
    let file = fake.file("s.json", r#"{"kind":"Service","apiVersion":"v1beta1","id":"s","port":80}"#);
    assert_eq!(fake.run(&["apply", "-f", &file, "-n", "x"]).good(), "service/s created\n");
    assert_eq!(fake.asked(), ["GET /api/v1beta1/services/s?namespace=x", "POST /api/v1beta1/services?namespace=x"]);
}

#[test]
fn delete_waits_until_the_object_is_gone() {
    let event = |kind: &str, name: &str| json!({"type": kind, "object": pod(name)}).to_string() + "\n";
    let gone = event("MODIFIED", "a") + &event("DELETED", "a");
    let fake = Fake::start(move |_, request| match request.method.as_str() {
        "DELETE" => ok(pod("a")),
        _ if request.path.contains("watch=true") => Answer { status: 200, headers: "", body: gone.clone() },
        _ => ok(list(vec![pod("a")])),
    });
    assert_eq!(fake.run(&["delete", "pod/a", "--now"]).good(), "pod \"a\" deleted\n");
    assert!(fake.asked()[2].contains("fieldSelector=metadata.name%3Da&watch=true"), "{:?}", fake.asked());
}

#[test]
fn delete_takes_what_the_object_owns_along_unless_told_otherwise() {
    let fake = Fake::start(|_, _| ok(json!({"kind": "Status", "status": "Success"})));
    for (args, policy) in [(&[][..], "Background"), (&["--cascade", "orphan"], "Orphan")] {
        assert_eq!(fake.run(&[&["delete", "rc/a"], args].concat()).good(), "replicationcontroller \"a\" deleted\n");
        assert_eq!(fake.last_body()["propagationPolicy"], policy);
    }
}

#[test]
fn delete_tells_what_stays() {
    let fake = Fake::start(|_, request| match request.method.as_str() {
        "DELETE" => ok(pod("a")),
        _ => ok(list(vec![pod("a")])),
    });
    let ran = fake.run(&["delete", "pod", "a", "--timeout", "300ms"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("--grace-period 0"), "{}", ran.err);
}

#[test]
fn scale_and_run_write_what_they_say() {
    let fake = Fake::start(|_, r| {
        if r.method == "GET" {
            ok(json!({"metadata": {"name": "r"}, "spec": {"replicas": 1}}))
        } else {
            ok(r.body.clone())
        }
    });
    assert_eq!(fake.run(&["scale", "rc/r", "--replicas=3"]).good(), "replicationcontroller/r scaled\n");
    assert_eq!(fake.last_body()["spec"]["replicas"], 3);
    assert_eq!(fake.run(&["run", "web", "--image=i", "--port", "80", "--", "x", "-y"]).good(), "pod/web created\n");
    assert_eq!(
        fake.last_body()["spec"]["containers"][0],
        json!({"name": "web", "image": "i", "args": ["x", "-y"], "ports": [{"containerPort": 80}]})
    );
}

#[test]
fn logs_pass_their_options_and_the_bytes() {
    let fake = Fake::start(|_, request| {
        if request.path.contains("/log") {
            Answer { status: 200, headers: "", body: "one\ntwo\n".into() }
        } else {
            ok(pod("a"))
        }
    });
    let out = fake.run(&["logs", "a", "--tail", "2", "--since", "90s", "--timestamps", "-p"]).good();
    assert_eq!(out, "one\ntwo\n");
    assert_eq!(
        fake.asked()[1],
        "GET /api/v1/namespaces/default/pods/a/log?container=c&tailLines=2&sinceSeconds=90&timestamps=true&previous=true"
    );
}

#[test]
fn a_closed_pipe_is_success() {
    let fake = Fake::start(|_, r| {
        if r.path.contains("/log") {
            Answer { status: 200, headers: "", body: "x".repeat(1 << 20) }
        } else {
            ok(pod("a"))
        }
    });
    let mut child = fake.command(&["logs", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn events_come_in_order_of_time() {
    let event = |name: &str, at: &str| {
        json!({"metadata": {"name": name}, "type": "Normal", "reason": name, "message": "m", "lastTimestamp": at,
            "involvedObject": {"kind": "Pod", "name": "a"}})
    };
    let fake = Fake::start(move |_, _| {
        ok(list(vec![event("Later", "2026-01-02T00:00:00Z"), event("Sooner", "2026-01-01T00:00:00Z")]))
    });
    let out = fake.run(&["events", "--for", "pod/a"]).good();
    assert!(out.find("Sooner").unwrap() < out.find("Later").unwrap(), "{out}");
    assert_eq!(
        fake.asked(),
        ["GET /api/v1/namespaces/default/events?fieldSelector=involvedObject.kind%3DPod%2CinvolvedObject.name%3Da"]
    );
}

#[test]
fn describe_ends_in_cause_and_remedy() {
    let fake = Fake::start(|_, request| match request.path.split('?').next().unwrap() {
        "/api/v1/namespaces/default/pods/a" => ok(pod("a")),
        _ => ok(list(vec![])),
    });
    let out = fake.run(&["describe", "pod", "a"]).good();
    assert!(
        out.ends_with(
            "Cause:   No minion has joined the cluster, so the pod has no place to run.\n\
         Remedy:  Start a minion: coracle minion --master URL.\n"
        ),
        "{out}"
    );
}

#[test]
fn a_watch_prints_changes_under_the_list() {
    let change = json!({"type": "ADDED", "object": pod("new-pod")}).to_string()
        + "\n"
        + &json!({"type": "ERROR", "object": {"code": 403, "reason": "Forbidden", "message": "enough"}}).to_string()
        + "\n";
    let fake = Fake::start(move |_, request| {
        if request.path.contains("watch=true") {
            Answer { status: 200, headers: "", body: change.clone() }
        } else {
            ok(list(vec![pod("a")]))
        }
    });
    let ran = fake.run(&["get", "pods", "-w"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.err, "coracle: enough\n");
    assert_eq!(ran.out.lines().count(), 3, "{}", ran.out);
    assert!(fake.asked()[1].ends_with("?watch=true&allowWatchBookmarks=true&resourceVersion=9"), "{:?}", fake.asked());
}

#[test]
fn versions_and_kinds_are_listed() {
    let fake = Fake::start(|_, _| answer(200, json!({"gitVersion": "v1"})));
    assert!(fake.run(&["version"]).good().contains("Server: Coracle v1"));
    assert!(fake.run(&["api-resources"]).good().contains("replicationcontrollers   rc"));
    assert!(fake.run(&["completions", "bash"]).good().contains("_coracle"));
    assert!(fake.run(&["--help"]).good().contains("kubecfg"));
    assert_eq!(fake.run(&[]).code, 2);
}
