//! An object as a page for people. Pure: objects and the time in, text out.

mod pod;
mod sheet;

use coracle_api::Kind;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    diagnose::Diagnosis,
    json::{list, number, pairs, text, time},
    output::{age::age, columns, table::Table},
};
use sheet::Sheet;

/// Older events say little about now.
const EVENTS_SHOWN: usize = 20;

/// The page of one object; `events` are about it, oldest first, `endpoints` those of a service.
pub(crate) fn describe(
    kind: &Kind,
    object: &Value,
    events: &[Value],
    endpoints: Option<&Value>,
    diagnosis: Option<&Diagnosis>,
    now: Timestamp,
) -> String {
    let mut sheet = Sheet::default();
    sheet.field("Name", text(object, "/metadata/name"));
    if kind.namespaced {
        sheet.field("Namespace", text(object, "/metadata/namespace"));
    }
    sheet.list("Labels", &lines_of(object, "/metadata/labels"));
    sheet.list("Annotations", &annotations(object));
    sheet.field("Created", &since(object, "/metadata/creationTimestamp", now));
    if !text(object, "/metadata/deletionTimestamp").is_empty() {
        sheet.field("Deleted", &since(object, "/metadata/deletionTimestamp", now));
    }
    match kind.kind {
        "Pod" => pod::describe(&mut sheet, object, now),
        "ReplicationController" => controller(&mut sheet, object),
        "Service" => service(&mut sheet, object, endpoints),
        "Node" => node(&mut sheet, object, now),
        "Endpoints" => sheet.field("Endpoints", &columns::endpoints(object)),
        "Namespace" => sheet.field("Status", text(object, "/status/phase")),
        _ => sheet.block("Object", &crate::output::yaml(object)),
    }
    sheet.block("Events", &event_table(events, now));
    let mut out = sheet.into_text();
    if let Some(Diagnosis { cause, remedy }) = diagnosis {
        out.push_str(&format!("\nCause:   {cause}\nRemedy:  {remedy}\n"));
    }
    out
}

fn controller(sheet: &mut Sheet, rc: &Value) {
    sheet.field("Selector", &pairs(rc, "/spec/selector"));
    let (now, wanted) = (number(rc, "/status/replicas"), number(rc, "/spec/replicas"));
    sheet.field("Replicas", &format!("{now} current, {wanted} desired, {} ready", number(rc, "/status/readyReplicas")));
    sheet.field("Pod Labels", &pairs(rc, "/spec/template/metadata/labels"));
    sheet.heading("Containers");
    for container in list(rc, "/spec/template/spec/containers") {
        pod::container_spec(sheet, container);
    }
}

fn service(sheet: &mut Sheet, service: &Value, endpoints: Option<&Value>) {
    sheet.field("Selector", &pairs(service, "/spec/selector"));
    sheet.field("Type", text(service, "/spec/type"));
    sheet.field("IP", text(service, "/spec/clusterIP"));
    for port in list(service, "/spec/ports") {
        let target = match &port["targetPort"] {
            Value::String(name) => name.clone(),
            Value::Null => number(port, "/port").to_string(),
            other => other.to_string(),
        };
        let mut line = format!("{}/{} to port {target}", number(port, "/port"), text(port, "/protocol"));
        if number(port, "/nodePort") > 0 {
            line.push_str(&format!(", on every node at {}", number(port, "/nodePort")));
        }
        sheet.field("Port", &line);
    }
    sheet.field("Endpoints", &endpoints.map_or_else(|| "<none>".to_owned(), columns::endpoints));
    sheet.field("Session Affinity", text(service, "/spec/sessionAffinity"));
}

fn node(sheet: &mut Sheet, node: &Value, now: Timestamp) {
    sheet.field("Pod CIDR", text(node, "/spec/podCIDR"));
    sheet.field("Unschedulable", &(node.pointer("/spec/unschedulable") == Some(&Value::Bool(true))).to_string());
    let addresses: Vec<_> = list(node, "/status/addresses")
        .iter()
        .map(|a| format!("{} {}", text(a, "/type"), text(a, "/address")))
        .collect();
    sheet.list("Addresses", &addresses);
    sheet.list("Capacity", &lines_of(node, "/status/capacity"));
    sheet.list("Allocatable", &lines_of(node, "/status/allocatable"));
    sheet.list("System", &lines_of(node, "/status/nodeInfo"));
    sheet.block("Conditions", &conditions(node, now));
}

/// The conditions of an object as a table, or "".
fn conditions(object: &Value, now: Timestamp) -> String {
    let rows: Vec<_> = list(object, "/status/conditions")
        .iter()
        .map(|c| {
            let word = |p| text(c, p).to_owned();
            let age = age(time(c, "/lastTransitionTime"), now);
            vec![word("/type"), word("/status"), age, word("/reason"), word("/message")]
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        Table::new(&["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]).render(&rows)
    }
}

fn event_table(events: &[Value], now: Timestamp) -> String {
    let rows: Vec<_> = events[events.len().saturating_sub(EVENTS_SHOWN)..]
        .iter()
        .map(|e| {
            let word = |p| text(e, p).trim().to_owned();
            vec![
                age(columns::last_seen(e), now),
                word("/type"),
                word("/reason"),
                word("/source/component"),
                word("/message"),
            ]
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        Table::new(&["AGE", "TYPE", "REASON", "FROM", "MESSAGE"]).render(&rows)
    }
}

/// `key=value` lines of a map of scalars.
fn lines_of(object: &Value, pointer: &str) -> Vec<String> {
    let map = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    map.map(|(k, v)| format!("{k}={}", v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect()
}

/// Annotations, without the copies of manifests that `apply` and `rollingupdate` keep.
fn annotations(object: &Value) -> Vec<String> {
    const COPIES: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration=", "io.coracle/rolling-update="];
    let mut lines = lines_of(object, "/metadata/annotations");
    lines.retain(|l| !COPIES.iter().any(|copy| l.starts_with(copy)));
    lines
}

/// `2026-11-23T05:38:03Z (5m ago)`
fn since(object: &Value, pointer: &str, now: Timestamp) -> String {
    match time(object, pointer) {
        Some(then) if then > now => format!("{} (in {})", text(object, pointer), age(Some(now), then)),
        Some(then) => format!("{} ({} ago)", text(object, pointer), age(Some(then), now)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_ends_in_cause_and_remedy() {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"},
                "creationTimestamp": "2026-11-23T09:55:00Z",
                "ownerReferences": [{"kind": "ReplicationController", "name": "web", "controller": true}]},
            "spec": {"nodeName": "n1", "restartPolicy": "Always",
                "containers": [{"name": "c", "image": "img:1", "command": ["sh", "-c", "exit 3"],
                    "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}],
                    "resources": {"limits": {"memory": "64Mi"}},
                    "env": [{"name": "A", "value": "1"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}]}],
                "volumes": [{"name": "data", "emptyDir": {}}]},
            "status": {"phase": "Running", "podIP": "10.244.1.5", "hostIP": "192.0.2.1",
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-23T09:59:00Z"}],
                "containerStatuses": [{"name": "c", "ready": false, "restartCount": 4,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off of 4 s"}},
                    "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2026-11-23T09:59:00Z"}}}]}
        });
        let events = [json!({"type": "Warning", "reason": "BackOff", "message": "crashed\n",
            "lastTimestamp": "2026-11-23T09:59:30Z", "source": {"component": "minion"}})];
        let diagnosis = Diagnosis { cause: "C.".into(), remedy: "R.".into() };
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let text = describe(Kind::by_any_name("pod").unwrap(), &pod, &events, None, Some(&diagnosis), now);
        assert_eq!(
            text,
            "\
Name:              web
Namespace:         default
Labels:            app=web
Annotations:       <none>
Created:           2026-11-23T09:55:00Z (5m ago)
Node:              n1/192.0.2.1
Status:            CrashLoopBackOff
IP:                10.244.1.5
Controlled By:     ReplicationController/web
Restart Policy:    Always
Containers:
  c:
    Image:         img:1
    Command:       sh -c exit 3
    Port:          80/TCP, on the host at 8080
    Limits:        memory=64Mi
    Environment:   A=1
    Mount:         /data from data (read only)
    State:         waiting: CrashLoopBackOff: back-off of 4 s
    Last State:    ended with exit code 3: Error (60s ago)
    Ready:         no
    Restarts:      4
Volumes:
  data:            emptyDir
Conditions:
  TYPE    STATUS   SINCE   REASON   MESSAGE
  Ready   False    60s
Events:
  AGE   TYPE      REASON    FROM     MESSAGE
  30s   Warning   BackOff   minion   crashed

Cause:   C.
Remedy:  R.
"
        );
    }

    #[test]
    fn a_service_shows_where_it_leads() {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.244.0.2"}], "ports": [{"port": 8000}]}]});
        for (endpoints, expected) in [(Some(&endpoints), "10.244.0.2:8000"), (None, "<none>")] {
            let service = Kind::by_any_name("service").unwrap();
            let text = describe(service, &json!({"metadata": {"name": "x"}}), &[], endpoints, None, now);
            assert!(text.contains(&format!("\nEndpoints:         {expected}\n")), "{text}");
        }
    }

    #[test]
    fn other_kinds_have_a_page_too() {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        for kind in coracle_api::kinds::KINDS {
            let text = describe(kind, &json!({"metadata": {"name": "x"}}), &[], None, None, now);
            assert!(
                text.starts_with("Name:              x\n") && text.ends_with("Events:            <none>\n"),
                "{text}"
            );
        }
    }
}
