//! Faults are told by the names of 2014, and no body is a reason to panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{core, kinds::KINDS, kinds::Kind, objects, v1beta1};

fn check(kind: &'static Kind, body: Value, code: u16, expected: &str) {
    let error = v1beta1::decode(kind, &body, "default").unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message.contains(expected), "{error}");
}

fn pod(manifest: Value) -> Value {
    json!({"id": "x", "desiredState": {"manifest": manifest}})
}

#[test]
fn faults_of_a_pod_are_told_by_their_path() {
    let kind = &objects::pod::KIND;
    let container = |c: Value| pod(json!({"version": "v1beta1", "containers": [c]}));
    const AT: &str = "pod \"x\" is invalid: desiredState.manifest";
    check(kind, json!({"id": "x"}), 422, &format!("{AT}.version: required value"));
    check(kind, pod(json!({"version": "v3"})), 422, &format!("{AT}.version: unsupported value: 'v3'"));
    check(kind, container(json!({"image": 5})), 422, &format!("{AT}.containers[0].image: wrong type"));
    check(kind, container(json!({"command": "ls"})), 422, &format!("{AT}.containers[0].command: wrong type"));
    check(kind, container(json!({"cpu": -1})), 422, &format!("{AT}.containers[0].cpu: invalid value: '-1'"));
    check(
        kind,
        container(json!({"imagePullPolicy": "Sometimes"})),
        422,
        &format!("{AT}.containers[0].imagePullPolicy: unsupported value: 'Sometimes'"),
    );
    check(
        kind,
        container(json!({"ports": [{"containerPort": 5_000_000_000_u64}]})),
        422,
        &format!("{AT}.containers[0].ports[0].containerPort: invalid value: '5000000000'"),
    );
    check(
        kind,
        container(json!({"livenessProbe": {"tcpSocket": {"port": true}}})),
        422,
        &format!("{AT}.containers[0].livenessProbe.tcpSocket.port: wrong type"),
    );
    let both = json!({"version": "v1beta1", "restartPolicy": {"always": {}, "never": {}}});
    check(kind, pod(both), 422, &format!("{AT}.restartPolicy: invalid value"));
}

#[test]
fn faults_of_other_kinds_are_told_by_their_path() {
    check(&objects::binding::KIND, json!({}), 422, "[podID: required value, host: required value]");
    check(&objects::endpoints::KIND, json!({"endpoints": ["10.0.0.1:80", "x"]}), 422, "endpoints[1]: invalid value");
    check(&objects::endpoints::KIND, json!({"endpoints": ["10.0.0.1:0"]}), 422, "endpoints[0]: invalid value");
    check(&objects::service::KIND, json!({"id": "s", "port": "http"}), 422, "service \"s\" is invalid: port: wrong");
    check(
        &objects::replication_controller::KIND,
        json!({"id": "r", "desiredState": {"podTemplate": {"desiredState": {"manifest":
            {"containers": [{"memory": -5}]}}}}}),
        422,
        "desiredState.podTemplate.desiredState.manifest.containers[0].memory: invalid value",
    );
    check(
        &objects::node::KIND,
        json!({"id": "n", "resources": {"capacity": {"cpu": "many"}}}),
        422,
        "resources.capacity.cpu: invalid value: 'many'",
    );
    check(&objects::event::KIND, json!({"timestamp": "yesterday"}), 422, "timestamp: wrong type");
    check(&objects::pod::KIND, json!({"id": 5}), 422, "id: wrong type");
}

#[test]
fn a_body_of_another_kind_version_or_namespace_is_refused() {
    let kind = &objects::pod::KIND;
    check(kind, json!({"kind": "Service"}), 400, "the body is a Service of apiVersion v1beta1, but a Pod");
    check(kind, json!({"apiVersion": "v1"}), 400, "the body is a Pod of apiVersion v1, but");
    check(&objects::node::KIND, json!({"kind": "Node"}), 400, "but a Minion of apiVersion v1beta1 belongs here");
    check(kind, json!([]), 400, "not a JSON object");
    check(kind, json!({"id": "x", "namespace": "other"}), 409, "does not match the provided context");
    check(&objects::namespace::KIND, json!({}), 400, "namespaces do not exist in apiVersion v1beta1");
}

#[test]
fn what_2014_forgave_is_forgiven() {
    let body = json!({"id": "x", "creationTimestamp": null, "surprise": {"a": 1}, "labels": null,
        "desiredState": {"manifest": {"version": "V1BETA2", "volumes": null, "restartPolicy": null, "containers":
            [{"name": "c", "image": "i", "env": [{"key": "A", "value": "1"}], "ports": [{"containerPort": 80,
            "protocol": "udp"}], "volumeMounts": [{"name": "v", "path": "/p", "mountType": "HOST"}],
            "imagePullPolicy": "pullnever", "livenessProbe": {"type": "tcp", "enabled": true}}]}}});
    let pod = v1beta1::decode(&objects::pod::KIND, &body, "").unwrap();
    let container = &pod.downcast_ref::<core::Pod>().unwrap().spec.as_ref().unwrap().containers[0];
    assert_eq!(container.env.as_ref().unwrap()[0].name, "A");
    assert_eq!(container.ports.as_ref().unwrap()[0].protocol.as_deref(), Some("UDP"));
    assert_eq!(container.volume_mounts.as_ref().unwrap()[0].mount_path, "/p");
    assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
    assert_eq!(pod.meta().namespace, None, "an empty namespace leaves the body's");
}

/// Values in the places where 2014 fields are, and some in places where none is.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9:\\[\\].é-]{0,8}".prop_map(Value::from),
        Just(json!("v1beta1")),
        Just(json!("2026-11-23T05:38:02Z")),
    ];
    let keys = prop::sample::select(vec![
        "id",
        "kind",
        "desiredState",
        "manifest",
        "version",
        "containers",
        "volumes",
        "source",
        "hostDir",
        "path",
        "ports",
        "containerPort",
        "port",
        "env",
        "name",
        "cpu",
        "image",
        "livenessProbe",
        "httpGet",
        "command",
        "lifecycle",
        "postStart",
        "restartPolicy",
        "never",
        "labels",
        "podTemplate",
        "replicas",
        "endpoints",
        "resources",
        "capacity",
        "involvedObject",
        "timestamp",
        "podID",
        "host",
        "annotations",
        "surprise",
    ]);
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in anything(), parts in prop::collection::vec(anything(), 4)) {
        let parts = parts.try_into().map(|[manifest, template, spec, meta]: [Value; 4]| json!({
            "id": meta, "desiredState": {"manifest": manifest, "podTemplate": {"desiredState": template}},
            "resources": {"capacity": spec}}));
        for kind in KINDS {
            for body in [Some(&body), parts.as_ref().ok()].into_iter().flatten() {
                if let Ok(object) = v1beta1::decode(kind, body, "default") {
                    let printed = v1beta1::encode_json(&*object);
                    prop_assert!(serde_json::from_slice::<Value>(&printed).is_ok());
                    v1beta1::decode_update(kind, body, "default", &*object).unwrap();
                }
            }
        }
    }
}
