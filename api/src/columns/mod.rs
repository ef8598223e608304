//! Which columns a listing shows for a kind, and what stands in them: kubectl's. Read off `v1`
//! JSON, by the client for its own tables and by the server for those that kubectl asks for.

pub mod age;
pub mod json;
pub mod pod_status;

use jiff::Timestamp;
use serde_json::Value;

use crate::Kind;
use age::age;
use json::{list, number, pairs, text, time};

/// Addresses shown of an Endpoints object before `+ N more...`.
const ENDPOINTS_SHOWN: usize = 3;

/// The columns of a kind; `wide` adds the long ones.
pub fn header(kind: &Kind, wide: bool) -> Vec<&'static str> {
    let (short, long): (&[&str], &[&str]) = match kind.kind {
        "Pod" => (&["NAME", "READY", "STATUS", "RESTARTS", "AGE"], &["IP", "NODE"]),
        "ReplicationController" => {
            (&["NAME", "DESIRED", "CURRENT", "READY", "AGE"], &["CONTAINERS", "IMAGES", "SELECTOR"])
        }
        "Service" => (&["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"], &["SELECTOR"]),
        "Endpoints" => (&["NAME", "ENDPOINTS", "AGE"], &[]),
        "Node" => (
            &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
            &["INTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"],
        ),
        "Namespace" => (&["NAME", "STATUS", "AGE"], &[]),
        "Event" => (&["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], &["SOURCE", "COUNT", "NAME"]),
        _ => (&["NAME", "AGE"], &[]),
    };
    short.iter().chain(if wide { long } else { &[] }).copied().collect()
}

/// The cells of one object, in the order of [`header`].
pub fn row(kind: &Kind, object: &Value, wide: bool, now: Timestamp) -> Vec<String> {
    let name = text(object, "/metadata/name").to_owned();
    let age = age(time(object, "/metadata/creationTimestamp"), now);
    let (mut cells, long) = match kind.kind {
        "Pod" => pod(object, name, age, now),
        "ReplicationController" => controller(object, name, age),
        "Service" => service(object, name, age),
        "Endpoints" => (vec![name, endpoints(object), age], Vec::new()),
        "Node" => node(object, name, age),
        "Namespace" => (vec![name, text(object, "/status/phase").to_owned(), age], Vec::new()),
        "Event" => event(object, now),
        _ => (vec![name, age], Vec::new()),
    };
    if wide {
        cells.extend(long);
    }
    cells
}

type Cells = (Vec<String>, Vec<String>);

fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

fn pod(pod: &Value, name: String, age: String, now: Timestamp) -> Cells {
    let cells = pod_status::of(pod, now);
    let long = vec![or_none(text(pod, "/status/podIP")), or_none(text(pod, "/spec/nodeName"))];
    (vec![name, cells.ready, cells.status, cells.restarts, age], long)
}

fn controller(rc: &Value, name: String, age: String) -> Cells {
    let count = |pointer: &str| number(rc, pointer).to_string();
    let containers = list(rc, "/spec/template/spec/containers");
    let joined = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    (
        vec![name, count("/spec/replicas"), count("/status/replicas"), count("/status/readyReplicas"), age],
        vec![joined("/name"), joined("/image"), or_none(&pairs(rc, "/spec/selector"))],
    )
}

fn service(service: &Value, name: String, age: String) -> Cells {
    let kind = match text(service, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    };
    let ports = list(service, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(",");
    (
        vec![
            name,
            kind.to_owned(),
            or_none(text(service, "/spec/clusterIP")),
            external_ip(service, kind),
            or_none(&ports),
            age,
        ],
        vec![or_none(&pairs(service, "/spec/selector"))],
    )
}

fn port(port: &Value) -> String {
    let protocol = match text(port, "/protocol") {
        "" => "TCP",
        protocol => protocol,
    };
    match number(port, "/nodePort") {
        0 => format!("{}/{protocol}", number(port, "/port")),
        node_port => format!("{}:{node_port}/{protocol}", number(port, "/port")),
    }
}

fn external_ip(service: &Value, kind: &str) -> String {
    let ingress = list(service, "/status/loadBalancer/ingress");
    let mut ips: Vec<_> =
        ingress.iter().map(|i| text(i, if i["ip"].is_null() { "/hostname" } else { "/ip" })).collect();
    ips.extend(list(service, "/spec/externalIPs").iter().filter_map(Value::as_str));
    match (kind, ips.is_empty()) {
        ("ExternalName", _) => or_none(text(service, "/spec/externalName")),
        ("LoadBalancer", true) => "<pending>".to_owned(),
        _ => or_none(&ips.join(",")),
    }
}

/// `ip:port,ip:port + 2 more...`
pub fn endpoints(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(endpoints, "/subsets") {
        for address in list(subset, "/addresses") {
            let ports = list(subset, "/ports");
            all.extend(ports.iter().map(|p| format!("{}:{}", text(address, "/ip"), number(p, "/port"))));
            if ports.is_empty() {
                all.push(text(address, "/ip").to_owned());
            }
        }
    }
    let shown = all.iter().take(ENDPOINTS_SHOWN).cloned().collect::<Vec<_>>().join(",");
    match all.len().saturating_sub(ENDPOINTS_SHOWN) {
        0 => or_none(&shown),
        more => format!("{shown} + {more} more..."),
    }
}

fn node(node: &Value, name: String, age: String) -> Cells {
    let ready = list(node, "/status/conditions").iter().find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    const ROLE: &str = "node-role.kubernetes.io/";
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let roles = labels.filter_map(|(k, _)| k.strip_prefix(ROLE)).collect::<Vec<_>>().join(",");
    let info = |field: &str| or_none(text(node, &format!("/status/nodeInfo/{field}")));
    let addresses = list(node, "/status/addresses");
    let ip = addresses.iter().find(|a| text(a, "/type") == "InternalIP").map_or("", |a| text(a, "/address"));
    (
        vec![name, status, or_none(&roles), age, info("kubeletVersion")],
        vec![or_none(ip), info("osImage"), info("kernelVersion"), info("containerRuntimeVersion")],
    )
}

/// When an event was seen last.
pub fn last_seen(event: &Value) -> Option<Timestamp> {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp", "/metadata/creationTimestamp"]
        .iter()
        .find_map(|p| time(event, p))
}

fn event(event: &Value, now: Timestamp) -> Cells {
    let object =
        format!("{}/{}", text(event, "/involvedObject/kind").to_lowercase(), text(event, "/involvedObject/name"));
    let component = match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        component => component,
    };
    let source = [component, text(event, "/source/host")].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>();
    (
        vec![
            age(last_seen(event), now),
            text(event, "/type").to_owned(),
            text(event, "/reason").to_owned(),
            object,
            text(event, "/message").trim().to_owned(),
        ],
        vec![source.join(", "), number(event, "/count").max(1).to_string(), text(event, "/metadata/name").to_owned()],
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: &str, object: Value, wide: bool, expected: &[&str]) {
        let kind = Kind::by_any_name(kind).unwrap();
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let cells = row(kind, &object, wide, now);
        assert_eq!(cells, expected);
        assert_eq!(header(kind, wide).len(), cells.len());
    }

    #[test]
    fn rows_hold_what_kubectl_shows() {
        let meta = json!({"name": "x", "creationTimestamp": "2026-11-23T09:59:30Z"});
        check(
            "po",
            json!({"metadata": meta, "spec": {"containers": [{}]}, "status": {"phase": "Pending"}}),
            true,
            &["x", "0/1", "Pending", "0", "30s", "<none>", "<none>"],
        );
        check(
            "rc",
            json!({"metadata": meta, "spec": {"replicas": 2, "selector": {"a": "b"},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"replicas": 1}}),
            true,
            &["x", "2", "1", "0", "30s", "c", "i", "a=b"],
        );
        check(
            "svc",
            json!({"metadata": meta, "spec": {"clusterIP": "10.0.0.9", "type": "NodePort",
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            false,
            &["x", "NodePort", "10.0.0.9", "<none>", "80:30080/TCP,53/UDP", "30s"],
        );
        check(
            "ep",
            json!({"metadata": meta, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}],
            "ports": [{"port": 80}, {"port": 81}]}]}),
            false,
            &["x", "1.1.1.1:80,1.1.1.1:81,1.1.1.2:80 + 1 more...", "30s"],
        );
        check(
            "no",
            json!({"metadata": meta, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "nodeInfo": {"kubeletVersion": "v0.1"}}}),
            false,
            &["x", "NotReady,SchedulingDisabled", "<none>", "30s", "v0.1"],
        );
        check("ns", json!({"metadata": meta, "status": {"phase": "Active"}}), false, &["x", "Active", "30s"]);
        check(
            "ev",
            json!({"metadata": meta, "type": "Warning", "reason": "FailedScheduling", "message": "no\n",
            "involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-11-23T09:59:50Z"}),
            false,
            &["10s", "Warning", "FailedScheduling", "pod/p", "no"],
        );
    }
}
