//! kubecfg through the real binary: requests, texts, exit statuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use fake::{Fake, Ran, answer, failure, ok};
use serde_json::{Value, json};

const POD: &str = r#"{"id":"jenkins","kind":"Pod","apiVersion":"v1beta1","desiredState":{"manifest":{"version":"v1beta1",
"id":"jenkins","containers":[{"name":"jenkins","image":"csanchez/jenkins-swarm:1.565.3.3",}]}},"labels":{"name":"jenkins"}}"#;

fn stored_pod() -> Value {
    json!({"kind": "Pod", "id": "jenkins", "resourceVersion": 30, "apiVersion": "v1beta1", "namespace": "default",
        "labels": {"name": "jenkins"},
        "desiredState": {"manifest": {"containers": [{"name": "jenkins", "image": "csanchez/jenkins-swarm:1.565.3.3"}]}},
        "currentState": {"status": "Waiting"}})
}

fn stored_rc(replicas: i64) -> Value {
    json!({"kind": "ReplicationController", "id": "r", "resourceVersion": 7, "creationTimestamp": null,
        "desiredState": {"replicas": replicas, "replicaSelector": {"name": "r"},
            "podTemplate": {"desiredState": {"manifest": {"containers": [{"name": "c", "image": "i:1"}]}}}},
        "currentState": {"replicas": 1}})
}

/// The fatal line's text; the line must have glog's form and be the only one.
fn fatal(ran: &Ran) -> &str {
    assert_eq!((ran.code, ran.out.as_str()), (255, ""), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    let (head, text) = ran.err.trim_end().split_once("] ").unwrap();
    let words: Vec<_> = head.split_whitespace().collect();
    assert!(words.len() == 4 && words[0].starts_with('F') && words[0].len() == 5, "{head}");
    assert!(words[3].starts_with("kubecfg.go:"), "{head}");
    text
}

#[test]
fn create_sends_the_file_and_prints_the_pod() {
    let fake = Fake::start(|_, _| answer(201, stored_pod()));
    let file = fake.file("pod.json", POD);
    let out = fake.run(&["-c", &file, "create", "pods"]).good();
    assert_eq!(
        out,
        "\
Name                Image(s)                           Host                Labels              Status
----------          ----------                         ----------          ----------          ----------
jenkins             csanchez/jenkins-swarm:1.565.3.3   <unassigned>        name=jenkins        Pending

"
    );
    assert_eq!(fake.asked(), ["POST /api/v1beta1/pods?namespace=default"]);
    assert_eq!(fake.last_body()["id"], "jenkins");
}

#[test]
fn list_carries_selectors_and_namespace_and_json_is_raw() {
    let raw = "{\"kind\":\"PodList\",  \"items\":[]}";
    let fake = Fake::start(move |_, _| fake::Answer { status: 200, headers: "", body: raw.to_owned() });
    let out = fake.run(&["-l", "name=a,x!=y", "-fields=name=z", "-ns", "team", "-json", "list", "/pods"]).good();
    assert_eq!(out, format!("{raw}\n"));
    assert_eq!(fake.asked(), ["GET /api/v1beta1/pods?namespace=team&labels=name%3Da%2Cx%21%3Dy&fields=name%3Dz"]);
}

#[test]
fn errors_are_one_glog_line_and_255() {
    let fake = Fake::start(|_, _| failure(404, "NotFound", "pod \"nope\" not found"));
    assert_eq!(fatal(&fake.run(&["get", "pods/nope"])), "Got request error: pod \"nope\" not found");
    assert_eq!(fatal(&fake.run(&["resize", "r", "x"])), "Error parsing replicas: 'x' is not a count");
    assert_eq!(fatal(&fake.run(&["create", "pods"])), "Need config file (-c)");
    assert_eq!(
        fatal(&fake.run(&["list", "bogus"])),
        "usage: kubecfg [OPTIONS] list <events|minions|pods|replicationControllers|services>"
    );
    assert_eq!(fatal(&fake.run(&["-json", "bogus"])), "Unknown command bogus");
    let file = fake.file("pod.json", POD);
    assert!(
        fatal(&fake.run(&["-c", &file, "create", "services"])).ends_with("data of kind 'Pod', obj of type 'Service'")
    );
}

#[test]
fn a_master_that_is_not_there_is_told_with_address_and_remedy() {
    let fake = Fake::start(|_, _| ok(Value::Null));
    // A port that was just free: nobody listens on it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = fake.run(&["-h", &free.to_string(), "list", "pods"]);
    let text = fatal(&ran);
    assert!(text.contains(&free.to_string()) && text.contains("try: coracle up"), "{text}");
}

#[test]
fn wrong_flags_are_2_and_no_words_are_1() {
    let fake = Fake::start(|_, _| ok(Value::Null));
    let ran = fake.run(&["-json", "-bogus", "list", "pods"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.starts_with("flag provided but not defined: -bogus\nUsage: "), "{}", ran.err);
    let ran = fake.run(&["-json"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("kubecfg [OPTIONS] list"), "{}", ran.err);
    assert_eq!(fake.run(&["-version"]).good(), "Kubernetes v0.5.4\n");
}

#[test]
fn a_link_named_kubecfg_knows_no_modern_verb() {
    let fake = Fake::start(|_, _| ok(json!({"kind": "MinionList", "items": [{"id": "127.0.0.2"}]})));
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("kubecfg");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coracle"), &link).unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(&link);
        Ran::of(command.args(args).env("KUBERNETES_MASTER", &fake.url).env("HOME", dir.path()).output().unwrap())
    };
    assert_eq!(run(&["list", "minions"]).good(), "Minion identifier\n----------\n127.0.0.2\n\n");
    assert_eq!(fatal(&run(&["up"])), "Unknown command up");
    assert!(fatal(&run(&["get", "pods"])).starts_with("usage: kubecfg [OPTIONS] get <"));
}

#[test]
fn resize_reads_writes_and_prints_yaml_and_tries_again_on_a_conflict() {
    let fake = Fake::start(|number, request| match (number, request.method.as_str()) {
        (_, "GET") => ok(stored_rc(1)),
        (1, _) => failure(409, "Conflict", "changed"),
        _ => ok(request.body.clone()),
    });
    let out = fake.run(&["resize", "r", "2"]).good();
    assert!(
        out.starts_with("metadata:\n  name: r\n  resourceVersion: \"7\"\n") && out.contains("\n  replicas: 2\n"),
        "{out}"
    );
    assert_eq!(fake.asked().len(), 4);
    assert_eq!(fake.asked()[3], "PUT /api/v1beta1/replicationControllers/r?namespace=default");
    assert_eq!(fake.last_body()["resourceVersion"], 7);
}

#[test]
fn rm_refuses_a_running_controller_and_is_silent_on_success() {
    let fake = Fake::start(|_, _| ok(stored_rc(2)));
    assert_eq!(fatal(&fake.run(&["rm", "r"])), "Error: controller has non-zero replicas (2), please stop it first");
    let fake = Fake::start(|_, r| if r.method == "GET" { ok(stored_rc(0)) } else { ok(json!({"kind": "Status"})) });
    assert_eq!(fake.run(&["rm", "r"]).good(), "");
    assert_eq!(fake.asked()[1], "DELETE /api/v1beta1/replicationControllers/r?namespace=default");
}

#[test]
fn update_takes_over_the_stored_version() {
    let fake = Fake::start(|_, _| ok(stored_pod()));
    let file = fake.file("pod.json", POD);
    fake.run(&["-c", &file, "update", "pods/jenkins"]).good();
    assert_eq!(fake.last_body()["resourceVersion"], 30);
}

#[test]
fn run_creates_a_controller_and_a_service() {
    let fake = Fake::start(|_, request| ok(request.body.clone()));
    let out = fake.run(&["-p", "8080:80", "-s", "80", "run", "nginx", "2", "web"]).good();
    assert!(out.contains("replicas: 2") && out.contains("port: 80"), "{out}");
    assert_eq!(
        fake.asked(),
        ["POST /api/v1beta1/replicationControllers?namespace=default", "POST /api/v1beta1/services?namespace=default",]
    );
}

#[test]
fn operations_that_still_work_are_polled() {
    let fake = Fake::start(|number, _| match number {
        0 => answer(202, json!({"kind": "Status", "status": "Working", "details": {"id": "93", "kind": "operation"}})),
        _ => ok(json!({"kind": "Status", "status": "Success"})),
    });
    let ran = fake.run(&["delete", "pods/x"]);
    assert!(ran.err.contains("Waiting for completion of operation 93"), "{ran:?}");
    assert_eq!(ran.good(), "Status\n----------\nSuccess\n\n");
    assert_eq!(fake.asked()[1], "GET /api/v1beta1/operations/93");
}

#[test]
fn templates_print_what_they_are_asked_for() {
    let fake = Fake::start(|_, _| ok(json!({"kind": "PodList", "items": [stored_pod()]})));
    let out =
        fake.run(&["-template", "{{range .items}}{{.id}} {{.currentState.status}}{{end}}", "list", "pods"]).good();
    assert_eq!(out, "jenkins Waiting\n");
    let file = fake.file("t", "{{len .items}}");
    assert_eq!(fake.run(&["-template_file", &file, "list", "pods"]).good(), "1\n");
    assert!(fatal(&fake.run(&["-template", "{{end}}", "list", "pods"])).contains("unexpected {{end}}"));
}

#[test]
fn the_namespace_is_remembered() {
    let fake = Fake::start(|_, _| ok(json!({"kind": "PodList", "items": []})));
    assert_eq!(fake.run(&["ns"]).good(), "Using namespace default\n");
    assert_eq!(fake.run(&["ns", "team"]).good(), "Using namespace team\n");
    fake.run(&["list", "pods"]).good();
    assert_eq!(fake.asked(), ["GET /api/v1beta1/pods?namespace=team"]);
    assert!(fatal(&fake.run(&["ns", "No.Label"])).contains("DNS label"));
}

/// A controller `r` and its pods, which are replaced at once when that is ordered.
struct Controller {
    rc: Value,
    pods: Vec<Value>,
}

impl Controller {
    fn new(replicas: usize) -> Self {
        let template =
            json!({"metadata": {"labels": {"name": "r"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let rc = json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "r", "uid": "u",
            "resourceVersion": "7"}, "spec": {"replicas": replicas, "selector": {"name": "r"}, "template": template}});
        let mut controller = Self { rc, pods: Vec::new() };
        (0..replicas).for_each(|i| controller.make(&format!("a{i}")));
        controller
    }

    fn make(&mut self, name: &str) {
        let template = serde_json::from_value(self.rc["spec"]["template"].clone()).unwrap();
        let hash = coracle_api::objects::replacement::template_hash(&template);
        let owner =
            json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "r", "uid": "u", "controller": true});
        self.pods.push(json!({
            "metadata": {"name": name, "uid": name, "ownerReferences": [owner], "annotations": {"io.coracle/template-hash": hash}},
            "spec": {"nodeName": "h1", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }));
    }

    fn answer(&mut self, request: &fake::Request) -> fake::Answer {
        let rc = "/api/v1/namespaces/default/replicationcontrollers/r";
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", path) if path == rc => ok(self.rc.clone()),
            ("PUT", path) if path == rc => {
                self.rc = request.body.clone();
                ok(self.rc.clone())
            }
            ("GET", path) if path.contains("watch=true") => {
                fake::Answer { status: 200, headers: "", body: String::new() }
            }
            ("GET", path) if path.starts_with("/api/v1/namespaces/default/pods?labelSelector=name%3Dr") => {
                ok(json!({"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": self.pods}))
            }
            ("POST", path) => {
                let name = path.strip_suffix("/eviction").and_then(|p| p.rsplit('/').next()).unwrap().to_owned();
                self.pods.retain(|p| p["metadata"]["name"] != name.as_str());
                self.make(&format!("b-{name}"));
                answer(201, json!({"kind": "Status", "status": "Success"}))
            }
            _ => failure(404, "NotFound", "replicationController \"r\" not found"),
        }
    }
}

#[test]
fn a_rolling_update_replaces_pod_by_pod_and_prints_nothing() {
    let controller = std::sync::Mutex::new(Controller::new(2));
    let fake = Fake::start(move |_, request| controller.lock().unwrap().answer(request));
    let ran = fake.run(&["-image", "i:2", "rollingupdate", "r"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    let steps: Vec<_> = ran.err.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(
        steps,
        [
            "rc/r: image i:1 -> i:2",
            "1/2 a0 is replaced by b-a0 on h1",
            "2/2 a1 is replaced by b-a1 on h1",
            "rc/r: 2 of 2 up to date"
        ]
    );
    let evicted: Vec<_> = fake.asked().into_iter().filter(|line| line.starts_with("POST")).collect();
    assert_eq!(evicted, ["a0", "a1"].map(|pod| format!("POST /api/v1/namespaces/default/pods/{pod}/eviction")));
    // Once more it is done already; back is the same the other way round, once.
    let ran = fake.run(&["-image", "i:2", "rollingupdate", "r"]);
    assert!(ran.err.contains("as asked before") && ran.code == 0, "{ran:?}");
    for replaced in [true, false] {
        let ran = fake.run(&["rollingupdate", "r", "--rollback"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.out.lines().any(|line| line.starts_with("2/2 ")), replaced, "{ran:?}");
    }
    let refused = fake.run(&["-image", "i:2", "rollingupdate", "nope"]);
    assert!(fatal(&refused).contains("not found"), "{refused:?}");
}
