//! Each rule with the objects that trigger it, and the case next to it that must not.

use coracle_api::core::{Endpoints, Event, Node, Pod, ReplicationController, Service};
use serde_json::{Value, json};

use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, ready: &str) -> Node {
    of(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": ready, "message": "the engine is down"}]}}))
}

fn pod(node: &str, status: Value) -> Pod {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "img:1", "ports": [{"containerPort": 80, "name": "web"}],
            "readinessProbe": {"tcpSocket": {"port": 80}}}]},
        "status": status});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    of(pod)
}

fn container(ready: bool, restarts: i32, state: Value, last: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "c", "image": "img:1", "imageID": "", "ready": ready,
        "restartCount": restarts, "state": state, "lastState": last}]})
}

fn event(kind: &str, name: &str, reason: &str, message: &str) -> Event {
    of(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": kind, "name": name}, "reason": reason, "message": message}))
}

fn service(target: Value, selector: Value) -> Service {
    of(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": selector, "ports": [{"port": 8080, "targetPort": target}]}}))
}

/// Checks that cause and remedy hold these words; no words mean no diagnosis.
fn check(name: &str, got: Option<Diagnosis>, words: &[&str]) {
    match got {
        None => assert!(words.is_empty(), "{name}: nothing was found"),
        Some(d) => {
            assert!(!words.is_empty(), "{name}: found {d:?}");
            for word in words {
                let found = [&d.cause, &d.remedy].iter().any(|t| t.to_lowercase().contains(&word.to_lowercase()));
                assert!(found, "{name}: no '{word}' in {d:?}");
            }
            for text in [&d.cause, &d.remedy] {
                assert!(text.ends_with('.') && !text.contains('\n') && !text.ends_with(".."), "{name}: {text}");
            }
        }
    }
}

/// Name, pod, events about it, nodes, words expected.
type Case<'a> = (&'a str, Pod, Vec<Event>, &'a [Node], &'a [&'a str]);

#[test]
fn pods_are_diagnosed_by_the_most_fundamental_fault() {
    let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    let running = json!({"running": {"startedAt": "2026-11-23T10:00:00Z"}});
    let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let unplaced = |why: &str| {
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": why}]})
    };
    let ready = container(true, 0, running.clone(), json!({}));
    let up = [node("n", "True")];
    let silent = [node("n", "Unknown")];
    let cases: Vec<Case<'_>> = vec![
        ("well", pod("n", ready.clone()), vec![], &up, &[]),
        ("no minion", pod("", json!({"phase": "Pending"})), vec![], &[], &["minion has joined", "coracle minion"]),
        (
            "cpu",
            pod("", unplaced("0/1 minions fit: 1 too little cpu (needs 4000m, largest free 500m)")),
            vec![],
            &up,
            &["needs 4000m", "lower the requests"],
        ),
        (
            "selector",
            pod("", unplaced("0/1 minions fit: 1 without the labels disk=ssd")),
            vec![],
            &up,
            &["nodeSelector"],
        ),
        (
            "host port",
            pod("", unplaced("0/1 minions fit: 1 with host port 80/TCP taken")),
            vec![],
            &up,
            &["host port 80", "take another"],
        ),
        (
            "taint",
            pod("", unplaced("0/1 minions fit: 1 with the taint a=b:NoSchedule that the pod does not tolerate")),
            vec![],
            &up,
            &["a=b:NoSchedule", "toleration"],
        ),
        (
            "affinity",
            pod("", unplaced("0/1 minions fit: 1 outside the pod's node affinity")),
            vec![],
            &up,
            &["correct the affinity"],
        ),
        (
            "by event",
            pod("", json!({"phase": "Pending"})),
            vec![event("Pod", "p", "FailedScheduling", "1 cordoned")],
            &up,
            &["cordoned", "coracle uncordon"],
        ),
        ("just created", pod("", json!({"phase": "Pending"})), vec![], &up, &[]),
        ("node silent", pod("n", ready.clone()), vec![], &silent, &["does not answer", "start the host n"]),
        ("node gone", pod("n", ready.clone()), vec![], &up[..0], &["no longer part"]),
        (
            "image",
            pod("n", container(false, 0, waiting("ImagePullBackOff", "no such image"), json!({}))),
            vec![],
            &up,
            &["img:1", "no such image", "docker load"],
        ),
        (
            "port",
            pod(
                "n",
                container(false, 0, waiting("CreateContainerError", "port 8080 of the host is in use"), json!({})),
            ),
            vec![],
            &up,
            &["port 8080", "hostPort"],
        ),
        (
            "engine's port",
            pod(
                "n",
                container(false, 0, waiting("x", "Bind for 0.0.0.0:8080 failed: port is already allocated"), json!({})),
            ),
            vec![],
            &up,
            &["port 8080"],
        ),
        (
            "config",
            pod("n", container(false, 0, waiting("CreateContainerConfigError", "no such volume d"), json!({}))),
            vec![],
            &up,
            &["no such volume d"],
        ),
        ("creating", pod("n", container(false, 0, waiting("ContainerCreating", ""), json!({}))), vec![], &up, &[]),
        (
            "crash",
            pod("n", container(false, 4, waiting("CrashLoopBackOff", "wait"), ended(3, "Error"))),
            vec![],
            &up,
            &["exit code 3", "4 restarts", "coracle logs p -c c -p"],
        ),
        (
            "oom",
            pod("n", container(false, 1, waiting("CrashLoopBackOff", ""), ended(137, "OOMKilled"))),
            vec![],
            &up,
            &["more memory than its limit", "limits.memory"],
        ),
        (
            "no command",
            pod("n", container(false, 2, waiting("CrashLoopBackOff", ""), ended(127, "Error"))),
            vec![],
            &up,
            &["command was not found"],
        ),
        (
            "done",
            pod("n", container(false, 5, waiting("CrashLoopBackOff", ""), ended(0, "Completed"))),
            vec![],
            &up,
            &["exit code 0", "restartPolicy"],
        ),
        ("one crash, up again", pod("n", container(true, 1, running.clone(), ended(1, "Error"))), vec![], &up, &[]),
        (
            "not ready",
            pod("n", container(false, 0, running.clone(), json!({}))),
            vec![event("Pod", "p", "Unhealthy", "connection refused")],
            &up,
            &["readiness probe fails", "connection refused"],
        ),
        ("succeeded", pod("n", json!({"phase": "Succeeded"})), vec![], &silent, &[]),
        ("evicted", pod("n", json!({"phase": "Failed", "reason": "Evicted"})), vec![], &up, &["Evicted"]),
    ];
    for (name, pod, events, nodes, words) in cases {
        check(name, diagnose(&pod, &events, nodes, &[]), words);
    }
    let mut failed = container(false, 0, ended(2, "Error"), json!({}));
    failed["phase"] = "Failed".into();
    check("failed", diagnose(&pod("n", failed), &[], &up, &[]), &["exit code 2", "coracle logs p -c c."]);
    let wrong = service(json!("http"), json!({"app": "web"}));
    check("misdirected", diagnose(&pod("n", ready.clone()), &[], &up, &[wrong]), &["'http'", "80 (web)"]);
    let other = service(json!("http"), json!({"app": "other"}));
    check("not selected", diagnose(&pod("n", ready), &[], &up, &[other]), &[]);
}

#[test]
fn services_without_endpoints_say_which_link_is_broken() {
    let mut ready = pod("n", json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
    let idle = pod("n", json!({"phase": "Running"}));
    let endpoints: Endpoints = of(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}));
    let web = json!({"app": "web"});
    let one = |pod: &Pod| vec![pod.clone()];
    check("served", diagnose_service(&service(json!(80), web.clone()), &one(&ready), Some(&endpoints)), &[]);
    check("by name", diagnose_service(&service(json!("web"), web.clone()), &one(&ready), Some(&endpoints)), &[]);
    check(
        "nothing selected",
        diagnose_service(&service(json!(80), json!({"app": "wbe"})), &one(&ready), None),
        &["app=wbe", "closest: pod p with app=web"],
    );
    check("no pods", diagnose_service(&service(json!(80), web.clone()), &[], None), &["no pod has the labels"]);
    check(
        "none ready",
        diagnose_service(&service(json!(80), web.clone()), &one(&idle), None),
        &["none of the 1 pods", "coracle describe pod p"],
    );
    check(
        "wrong number",
        diagnose_service(&service(json!(81), web.clone()), &one(&ready), None),
        &["port 81", "80 (web)"],
    );
    check("wrong name", diagnose_service(&service(json!("x"), web.clone()), &one(&ready), None), &["'x'"]);
    check("lagging", diagnose_service(&service(json!(80), web.clone()), &one(&ready), None), &["no endpoints yet"]);
    check("no selector", diagnose_service(&service(json!(80), json!({})), &[], None), &[]);
    ready.spec.as_mut().unwrap().containers[0].ports = None;
    check(
        "undeclared ports may be right",
        diagnose_service(&service(json!(81), web), &one(&ready), Some(&endpoints)),
        &[],
    );
}

#[test]
fn controllers_tell_what_keeps_them_from_their_replicas() {
    let rc: ReplicationController = of(json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "r"}, "spec": {"replicas": 1, "selector": {"app": "web"}}}));
    let up = [node("n", "True")];
    let ready = pod("n", json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
    let mut crashing =
        container(false, 4, json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"terminated": {"exitCode": 3}}));
    crashing["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    check("reached", diagnose_controller(&rc, &[ready], &[], &up), &[]);
    check(
        "refused",
        diagnose_controller(&rc, &[], &[event("ReplicationController", "r", "FailedCreate", "bad image")], &up),
        &["0 of 1 pods exist", "bad image"],
    );
    check("lagging", diagnose_controller(&rc, &[], &[], &up), &["not created yet"]);
    check("sick", diagnose_controller(&rc, &[pod("n", crashing)], &[], &up), &["pod p", "exit code 3"]);
    check("starting", diagnose_controller(&rc, &[pod("n", json!({"phase": "Pending"}))], &[], &up), &["starting"]);
}

#[test]
fn nodes_say_what_is_wrong_with_them() {
    check("well", diagnose_node(&node("n", "True")), &[]);
    check("engine", diagnose_node(&node("n", "False")), &["the engine is down", "docker info"]);
    check("silent", diagnose_node(&node("n", "Unknown")), &["does not answer"]);
    let mut cordoned = node("n", "True");
    cordoned.spec.get_or_insert_default().unschedulable = Some(true);
    check("cordoned", diagnose_node(&cordoned), &["cordoned"]);
}
