//! The internal model of 0.5.4 (metadata, spec, status), which `-yaml`, `resize`, `stop` and `run`
//! print, made from the flat `v1beta1` wire form.
//!
//! Invariant: fields come in the order of the 0.5.4 types; what was empty there and marked
//! optional is left out.

use serde_json::Value;

use super::{
    resource::{list, text},
    table::pod_phase,
    yaml::Node,
};

/// How a field is copied.
enum Shape {
    /// As it is.
    Any,
    /// An object with these fields.
    Fields(&'static [Field]),
    /// A list of objects with these fields.
    Each(&'static [Field]),
}

struct Field {
    name: &'static str,
    shape: Shape,
    /// Printed even when empty.
    always: bool,
}

const fn optional(name: &'static str) -> Field {
    Field { name, shape: Shape::Any, always: false }
}

const fn always(name: &'static str) -> Field {
    Field { name, shape: Shape::Any, always: true }
}

const fn each(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::Each(fields), always: false }
}

const fn fields(name: &'static str, fields: &'static [Field]) -> Field {
    Field { name, shape: Shape::Fields(fields), always: false }
}

static HTTP_GET: &[Field] = &[optional("path"), always("port"), optional("host")];
static HANDLER: &[Field] = &[fields("exec", &[optional("command")]), fields("httpGet", HTTP_GET)];
static PROBE: &[Field] = &[
    fields("httpGet", HTTP_GET),
    fields("tcpSocket", &[always("port")]),
    fields("exec", &[optional("command")]),
    optional("initialDelaySeconds"),
];
static CONTAINER: &[Field] = &[
    always("name"),
    always("image"),
    optional("command"),
    optional("workingDir"),
    each(
        "ports",
        &[optional("name"), optional("hostPort"), always("containerPort"), optional("protocol"), optional("hostIP")],
    ),
    each("env", &[always("name"), optional("value")]),
    optional("memory"),
    optional("cpu"),
    each("volumeMounts", &[always("name"), optional("readOnly"), optional("mountPath")]),
    fields("livenessProbe", PROBE),
    fields("lifecycle", &[fields("postStart", HANDLER), fields("preStop", HANDLER)]),
    optional("terminationMessagePath"),
    optional("privileged"),
    always("imagePullPolicy"),
];
static VOLUME: &[Field] = &[
    always("name"),
    Field {
        name: "source",
        shape: Shape::Fields(&[always("hostDir"), always("emptyDir"), always("persistentDisk"), always("gitRepo")]),
        always: true,
    },
];
static MANIFEST: &[Field] = &[
    Field { name: "volumes", shape: Shape::Each(VOLUME), always: true },
    Field { name: "containers", shape: Shape::Each(CONTAINER), always: true },
    always("restartPolicy"),
];
static SERVICE: &[Field] = &[
    always("port"),
    optional("protocol"),
    optional("selector"),
    optional("portalIP"),
    optional("proxyPort"),
    optional("createExternalLoadBalancer"),
    optional("publicIPs"),
    always("containerPort"),
];
static EVENT: &[Field] = &[
    fields(
        "involvedObject",
        &[
            optional("kind"),
            optional("namespace"),
            optional("name"),
            optional("uid"),
            optional("apiVersion"),
            optional("resourceVersion"),
            optional("fieldPath"),
        ],
    ),
    optional("status"),
    optional("reason"),
    optional("message"),
    optional("source"),
    optional("timestamp"),
];
static STATUS: &[Field] =
    &[optional("status"), optional("message"), optional("reason"), optional("details"), optional("code")];

/// YAML of the internal model of an object or a list.
pub(crate) fn to_yaml(object: &Value) -> String {
    let kind = text(object, "/kind");
    match kind.strip_suffix("List") {
        Some(item_kind) => {
            let items = list(object, "/items").iter().map(|i| convert(item_kind, i)).collect();
            Node::Map(vec![entry("metadata", list_metadata(object)), entry("items", Node::List(items))])
        }
        None => convert(kind, object),
    }
    .render()
}

fn convert(kind: &str, object: &Value) -> Node {
    let mut out = vec![entry("metadata", metadata(object))];
    match kind {
        "Pod" => out.extend([entry("spec", pod_spec(object, "")), entry("status", pod_status(object))]),
        "ReplicationController" => out.extend([entry("spec", rc_spec(object)), entry("status", rc_status(object))]),
        "Service" => out.extend([entry("spec", copy(object, SERVICE)), entry("status", Node::Map(Vec::new()))]),
        "Minion" => {
            let capacity = &object["resources"]["capacity"];
            out.push(entry("spec", present(vec![("capacity", Node::of(capacity))])));
            out.push(entry("status", present(vec![("hostIP", Node::of(&object["hostIP"]))])));
        }
        "Event" => out.extend(entries(object, EVENT)),
        "Status" => out = entries(object, STATUS),
        _ => return Node::of(object),
    }
    Node::Map(out)
}

fn entry(name: &str, node: Node) -> (String, Node) {
    (name.to_owned(), node)
}

/// The entries that are not empty.
fn present(entries: Vec<(&str, Node)>) -> Node {
    Node::Map(entries.into_iter().filter(|(_, n)| !is_empty(n)).map(|(k, n)| entry(k, n)).collect())
}

fn is_empty(node: &Node) -> bool {
    match node {
        Node::Map(map) => map.is_empty(),
        Node::List(items) => items.is_empty(),
        Node::Text(text) => text.is_empty(),
        Node::Plain(text) => matches!(text.as_str(), "null" | "0" | "false"),
    }
}

fn metadata(object: &Value) -> Node {
    let mut out = Vec::new();
    for (wire, name) in [("id", "name"), ("namespace", "namespace"), ("selfLink", "selfLink"), ("uid", "uid")] {
        out.push((name, Node::of(&object[wire])));
    }
    out.push(("resourceVersion", version(object)));
    out.push(("creationTimestamp", Node::Text(timestamp(object).to_owned())));
    out.push(("labels", Node::of(&object["labels"])));
    out.push(("annotations", Node::of(&object["annotations"])));
    present(out)
}

fn list_metadata(object: &Value) -> Node {
    present(vec![("selfLink", Node::of(&object["selfLink"])), ("resourceVersion", version(object))])
}

/// A number on the wire, a string inside.
fn version(object: &Value) -> Node {
    match object["resourceVersion"].as_u64() {
        Some(version) if version > 0 => Node::Text(version.to_string()),
        _ => Node::Text(String::new()),
    }
}

/// 0.5.4 prints an unset time as the word null in quotes.
fn timestamp(object: &Value) -> &str {
    object["creationTimestamp"].as_str().unwrap_or("null")
}

fn pod_spec(pod: &Value, prefix: &str) -> Node {
    let manifest = pod.pointer(&format!("{prefix}/desiredState/manifest")).unwrap_or(&Value::Null);
    let mut out = entries(manifest, MANIFEST);
    let selector = Node::of(&pod["nodeSelector"]);
    if prefix.is_empty() && !is_empty(&selector) {
        out.push(entry("nodeSelector", selector));
    }
    Node::Map(out)
}

fn pod_status(pod: &Value) -> Node {
    let state = &pod["currentState"];
    let field = |name: &'static str| (name, Node::of(&state[name]));
    present(vec![
        ("phase", Node::Text(pod_phase(pod).to_owned())),
        field("host"),
        field("hostIP"),
        field("podIP"),
        field("info"),
    ])
}

fn rc_spec(rc: &Value) -> Node {
    let desired = &rc["desiredState"];
    let template = &desired["podTemplate"];
    let metadata = present(vec![
        ("creationTimestamp", Node::Text(timestamp(template).to_owned())),
        ("labels", Node::of(&template["labels"])),
        ("annotations", Node::of(&template["annotations"])),
    ]);
    let template =
        Node::Map(vec![entry("metadata", metadata), entry("spec", pod_spec(rc, "/desiredState/podTemplate"))]);
    Node::Map(vec![
        entry("replicas", Node::of(&desired["replicas"])),
        entry("selector", map_of(&desired["replicaSelector"])),
        entry("template", template),
    ])
}

fn rc_status(rc: &Value) -> Node {
    let replicas = rc["currentState"]["replicas"].as_i64().unwrap_or_default();
    Node::Map(vec![entry("replicas", Node::Plain(replicas.to_string()))])
}

fn map_of(value: &Value) -> Node {
    if value.is_object() { Node::of(value) } else { Node::Map(Vec::new()) }
}

fn copy(object: &Value, fields: &[Field]) -> Node {
    Node::Map(entries(object, fields))
}

fn entries(object: &Value, fields: &[Field]) -> Vec<(String, Node)> {
    fields
        .iter()
        .filter_map(|field| {
            let value = &object[field.name];
            let node = match &field.shape {
                Shape::Any => Node::of(value),
                Shape::Fields(fields) if value.is_object() => copy(value, fields),
                Shape::Fields(_) => Node::of(value),
                Shape::Each(fields) => {
                    Node::List(value.as_array().into_iter().flatten().map(|v| copy(v, fields)).collect())
                }
            };
            (field.always || !is_empty(&node)).then(|| entry(field.name, missing_text(field, value, node)))
        })
        .collect()
}

/// A name or policy that must show is an empty string when absent, not null.
fn missing_text(field: &Field, value: &Value, node: Node) -> Node {
    let text = matches!(field.name, "name" | "image" | "imagePullPolicy");
    let map = field.name == "restartPolicy";
    match value {
        Value::Null if text => Node::Text(String::new()),
        Value::Null if map => Node::Map(Vec::new()),
        _ => node,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resized_controller_prints_as_in_0_5_4() {
        let rc = json!({"kind":"ReplicationController","id":"jenkins-slave","namespace":"default",
            "uid":"0d0e9984-e700-11f1-a5cb-12a1c29a496c","creationTimestamp":"2026-11-23T05:38:03Z",
            "selfLink":"/api/v1beta1/replicationControllers/jenkins-slave","resourceVersion":21,"apiVersion":"v1beta1",
            "desiredState":{"replicas":2,"replicaSelector":{"name":"jenkins-slave"},"podTemplate":{"desiredState":{
                "manifest":{"version":"v1beta2","id":"","volumes":null,"containers":[{"name":"jenkins-slave",
                    "image":"csanchez/jenkins-swarm-slave:1.21","command":["sh","-c","run it"],"imagePullPolicy":""}],
                    "restartPolicy":{"always":{}}}},"labels":{"name":"jenkins-slave"}}},
            "currentState":{"replicas":1,"podTemplate":{"desiredState":{"manifest":{}}}},
            "labels":{"name":"jenkins-slave"}});
        assert_eq!(
            to_yaml(&rc),
            "\
metadata:
  name: jenkins-slave
  namespace: default
  selfLink: /api/v1beta1/replicationControllers/jenkins-slave
  uid: 0d0e9984-e700-11f1-a5cb-12a1c29a496c
  resourceVersion: \"21\"
  creationTimestamp: 2026-11-23T05:38:03Z
  labels:
    name: jenkins-slave
spec:
  replicas: 2
  selector:
    name: jenkins-slave
  template:
    metadata:
      creationTimestamp: \"null\"
      labels:
        name: jenkins-slave
    spec:
      volumes: []
      containers:
      - name: jenkins-slave
        image: csanchez/jenkins-swarm-slave:1.21
        command:
        - sh
        - -c
        - run it
        imagePullPolicy: \"\"
      restartPolicy:
        always: {}
status:
  replicas: 1
"
        );
    }

    #[test]
    fn a_list_of_pods_prints_phases_and_volumes() {
        let list = json!({"kind":"PodList","selfLink":"/api/v1beta1/pods","resourceVersion":35,"items":[
            {"id":"a","creationTimestamp":"2026-11-23T05:38:02Z",
             "desiredState":{"manifest":{"volumes":[{"name":"d","source":{"emptyDir":{},"hostDir":null}}],
                "containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}]}],
                "restartPolicy":{"never":{}}}},
             "currentState":{"status":"Terminated","host":"h"}}]});
        assert_eq!(
            to_yaml(&list),
            "\
metadata:
  selfLink: /api/v1beta1/pods
  resourceVersion: \"35\"
items:
- metadata:
    name: a
    creationTimestamp: 2026-11-23T05:38:02Z
  spec:
    volumes:
    - name: d
      source:
        hostDir: null
        emptyDir: {}
        persistentDisk: null
        gitRepo: null
    containers:
    - name: c
      image: i
      ports:
      - containerPort: 80
        protocol: TCP
      imagePullPolicy: \"\"
    restartPolicy:
      never: {}
  status:
    phase: Failed
    host: h
"
        );
    }

    #[test]
    fn a_service_keeps_its_order() {
        let service = json!({"kind":"Service","id":"s","creationTimestamp":null,"port":80,"protocol":"TCP",
            "selector":{"name":"s"},"containerPort":0,"portalIP":"10.0.0.2"});
        assert_eq!(
            to_yaml(&service),
            "metadata:\n  name: s\n  creationTimestamp: \"null\"\nspec:\n  port: 80\n  protocol: TCP\n  selector:\n    \
             name: s\n  portalIP: 10.0.0.2\n  containerPort: 0\nstatus: {}\n"
        );
    }
}
