//! What v1beta1 cannot express outlives an update through it.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{hub, sent};
use crate::{TypedObject, core, v1beta1};

/// Reads the stored object as a client of 2014, changes it, sends it back.
fn update<T: TypedObject>(stored: &T, change: impl FnOnce(&mut Value)) -> T {
    let mut body = sent(stored);
    change(&mut body);
    let updated = v1beta1::decode_update(T::row(), &body, "default", stored).unwrap();
    updated.downcast_ref::<T>().unwrap().clone()
}

/// The same change made in `v1`.
fn changed<T: TypedObject>(stored: &T, pointer: &str, value: Value) -> T {
    let mut json = serde_json::to_value(stored).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    hub(json)
}

fn check<T: TypedObject + PartialEq>(stored: &T, change: impl FnOnce(&mut Value), expected: &T) {
    assert_eq!(serde_json::to_value(update(stored, change)).unwrap(), serde_json::to_value(expected).unwrap());
}

fn container() -> Value {
    json!({"name": "web", "image": "nginx:1", "command": ["nginx"], "args": ["-g", "daemon off;"],
        "imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "env": [{"name": "A", "value": "1"}, {"name": "S", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP", "name": "dns"}],
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "example.com/gpu": "1"}, "requests": {"cpu": "100m"}},
        "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 3},
        "livenessProbe": {"httpGet": {"path": "/l", "port": "http", "scheme": "HTTPS"}, "failureThreshold": 7},
        "lifecycle": {"preStop": {"exec": {"command": ["a"]}}, "stopSignal": "SIGQUIT"},
        "securityContext": {"privileged": true, "runAsUser": 7},
        "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "x"},
            {"name": "conf", "mountPath": "/conf", "readOnly": true}]})
}

fn spec() -> Value {
    json!({"containers": [container(), {"name": "side", "image": "s", "imagePullPolicy": "Always"}],
        "initContainers": [{"name": "init", "image": "i"}], "nodeName": "n1", "restartPolicy": "Always",
        "nodeSelector": {"disk": "ssd"}, "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}, {"name": "conf", "configMap": {"name": "c"}}]})
}

fn pod() -> core::Pod {
    hub(json!({"metadata": {"name": "p", "namespace": "default", "uid": "0d03e9f4-e700-11f1-a5cb-12a1c29a496c",
        "resourceVersion": "7", "creationTimestamp": "2026-11-23T05:38:02Z", "labels": {"a": "b"},
        "annotations": {"note": "1", "io.coracle.v1beta1/x": "y"}, "finalizers": ["f"], "generation": 3},
        "spec": spec(), "status": {"phase": "Running", "podIP": "10.244.0.2"}}))
}

fn controller() -> core::ReplicationController {
    hub(json!({"metadata": {"name": "r", "namespace": "default", "resourceVersion": "9"},
        "spec": {"replicas": 2, "minReadySeconds": 5, "selector": {"a": "b"},
            "template": {"metadata": {"labels": {"a": "b"}, "annotations": {"k": "v"}}, "spec": spec()}},
        "status": {"replicas": 2, "readyReplicas": 1}}))
}

fn service() -> core::Service {
    hub(json!({"metadata": {"name": "s", "namespace": "default", "resourceVersion": "9"},
        "spec": {"type": "NodePort", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "selector": {"a": "b"},
            "sessionAffinity": "ClientIP", "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30080},
                {"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP"}]},
        "status": {"loadBalancer": {}}}))
}

#[test]
fn an_unchanged_object_stays_as_it_was() {
    check(&pod(), |_| {}, &pod());
    check(&controller(), |_| {}, &controller());
    check(&service(), |_| {}, &service());
    let node: core::Node = hub(json!({"metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"podCIDR": "10.244.1.0/24", "unschedulable": true}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.2"}, {"type": "Hostname", "address": "h"}],
        "capacity": {"cpu": "4", "memory": "16Gi", "pods": "110"}, "nodeInfo": {"architecture": "amd64",
        "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
        "kubeletVersion": "", "machineID": "", "operatingSystem": "linux", "osImage": "", "systemUUID": ""}}}));
    check(&node, |_| {}, &node);
    let endpoints: core::Endpoints = hub(json!({"metadata": {"name": "e", "namespace": "default"}, "subsets": [
        {"addresses": [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "name": "p"}}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}]}));
    check(&endpoints, |_| {}, &endpoints);
    let event: core::Event = hub(json!({"metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "n"}, "reason": "Started", "type": "Warning", "count": 3,
        "firstTimestamp": "2026-11-23T05:38:02Z", "lastTimestamp": "2026-11-23T05:39:02Z",
        "source": {"component": "minion", "host": "n"}}));
    check(&event, |_| {}, &event);
}

#[test]
fn resizing_changes_the_replicas_alone() {
    let expected = changed(&controller(), "/spec/replicas", json!(5));
    check(&controller(), |body| body["desiredState"]["replicas"] = json!(5), &expected);
}

#[test]
fn a_new_image_changes_the_image_and_the_pull_policy_that_follows_from_it() {
    const CONTAINERS: &str = "/desiredState/podTemplate/desiredState/manifest/containers";
    let set =
        |image: &'static str| move |body: &mut Value| body.pointer_mut(CONTAINERS).unwrap()[0]["image"] = json!(image);
    let image = |v: &str| changed(&controller(), "/spec/template/spec/containers/0/image", json!(v));
    check(&controller(), set("nginx:2"), &image("nginx:2"));
    let latest = changed(&image("nginx:latest"), "/spec/template/spec/containers/0/imagePullPolicy", json!("Always"));
    check(&controller(), set("nginx:latest"), &latest);
}

#[test]
fn a_changed_command_keeps_the_entrypoint_it_starts_with() {
    let set =
        |command: Value| move |body: &mut Value| body["desiredState"]["manifest"]["containers"][0]["command"] = command;
    let expect = |command: Option<Value>, args: Option<Value>| {
        let mut expected = serde_json::to_value(pod()).unwrap();
        let container = expected.pointer_mut("/spec/containers/0").unwrap().as_object_mut().unwrap();
        for (key, value) in [("command", command), ("args", args)] {
            container.remove(key);
            container.extend(value.map(|v| (key.to_owned(), v)));
        }
        hub::<core::Pod>(expected)
    };
    check(&pod(), set(json!(["nginx", "-t"])), &expect(Some(json!(["nginx"])), Some(json!(["-t"]))));
    check(&pod(), set(json!(["nginx"])), &expect(Some(json!(["nginx"])), None));
    check(&pod(), set(json!(["sh", "-c", "x"])), &expect(Some(json!(["sh", "-c", "x"])), None));
    check(&pod(), set(json!([])), &expect(None, None));
}

#[test]
fn removing_what_shows_keeps_what_does_not() {
    let removed = |body: &mut Value| {
        let container = body.pointer_mut("/desiredState/manifest/containers/0").unwrap().as_object_mut().unwrap();
        for field in ["privileged", "livenessProbe", "lifecycle", "cpu", "memory"] {
            container.remove(field).unwrap();
        }
    };
    let updated = update(&pod(), removed);
    let container = &serde_json::to_value(updated).unwrap()["spec"]["containers"][0];
    assert_eq!(container["securityContext"], json!({"runAsUser": 7}));
    assert_eq!(container["lifecycle"], json!({"stopSignal": "SIGQUIT"}));
    assert_eq!(container["resources"], json!({"limits": {"example.com/gpu": "1"}}));
    assert_eq!(container.get("livenessProbe"), None);
    assert!(container.get("readinessProbe").is_some());
}

#[test]
fn a_lower_cpu_lowers_the_request_too() {
    let updated = update(&pod(), |body| body["desiredState"]["manifest"]["containers"][0]["cpu"] = json!(50));
    let container = &serde_json::to_value(updated).unwrap()["spec"]["containers"][0];
    let expected =
        json!({"limits": {"cpu": "50m", "memory": "64Mi", "example.com/gpu": "1"}, "requests": {"cpu": "50m"}});
    assert_eq!(container["resources"], expected);
}

#[test]
fn a_service_changes_its_first_port_only() {
    let expected = changed(&service(), "/spec/ports/0/port", json!(81));
    check(&service(), |body| body["port"] = json!(81), &expected);
    let external = changed(&service(), "/spec/type", json!("LoadBalancer"));
    check(&service(), |body| body["createExternalLoadBalancer"] = json!(true), &external);
    let back = update(&external, |body| drop(body.as_object_mut().unwrap().remove("createExternalLoadBalancer")));
    assert_eq!(back.spec.unwrap().type_, None, "the default comes back");
}

#[test]
fn an_unset_container_port_is_the_first_of_the_pod() {
    let first = update(&service(), |body| body["containerPort"] = json!(0));
    assert_eq!(first.metadata.annotations.as_ref().unwrap()["io.coracle.v1beta1/container-port"], "first");
    assert_eq!(first.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].target_port, None);
    assert_eq!(sent(&first)["containerPort"], json!(0));
    assert_eq!(sent(&first).get("annotations"), None);
    let again = update(&first, |body| body["containerPort"] = json!("web"));
    assert_eq!(serde_json::to_value(again).unwrap(), serde_json::to_value(service()).unwrap());
}

#[test]
fn a_file_without_what_the_cluster_assigns_changes_none_of_it() {
    let stripped = |body: &mut Value| {
        for field in ["uid", "creationTimestamp", "selfLink", "namespace"] {
            body.as_object_mut().unwrap().remove(field);
        }
        body["desiredState"].as_object_mut().unwrap().remove("host");
        body.as_object_mut().unwrap().remove("currentState");
    };
    check(&pod(), stripped, &pod());
    check(&service(), |body| drop(body.as_object_mut().unwrap().remove("portalIP")), &service());
    let blind = update(&pod(), |body| drop(body.as_object_mut().unwrap().remove("resourceVersion")));
    assert_eq!(blind.metadata.resource_version, None, "the body's version decides, also a missing one");
}

/// An object of the hub with some of its fields missing.
fn thinned(full: Value) -> impl Strategy<Value = Value> {
    any::<u64>().prop_map(move |seed| {
        let mut full = full.clone();
        thin(&mut full, &mut { seed });
        full
    })
}

fn thin(value: &mut Value, bits: &mut u64) {
    // Without these there is no object, or another kind of one.
    const NEEDED: [&str; 11] = [
        "apiVersion",
        "kind",
        "name",
        "metadata",
        "spec",
        "template",
        "port",
        "containerPort",
        "mountPath",
        "image",
        "namespace",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| {
                *bits = bits.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                NEEDED.contains(&key.as_str()) || !bits.is_multiple_of(4)
            });
            fields.values_mut().for_each(|v| thin(v, bits));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| thin(v, bits)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn passing_through_unchanged_changes_nothing(
        (pod, rc, service) in (
            thinned(serde_json::to_value(pod()).unwrap()),
            thinned(serde_json::to_value(controller()).unwrap()),
            thinned(serde_json::to_value(service()).unwrap()),
        )
    ) {
        for object in [pod, rc, service] {
            let row = crate::Kind::by_kind(object["kind"].as_str().unwrap()).unwrap();
            let stored = (row.decode)(object.to_string().as_bytes()).unwrap();
            let body = sent(&*stored);
            let updated = v1beta1::decode_update(row, &body, "default", &*stored).unwrap();
            prop_assert_eq!(
                serde_json::from_slice::<Value>(&updated.to_json()).unwrap(),
                serde_json::from_slice::<Value>(&stored.to_json()).unwrap()
            );
        }
    }
}
