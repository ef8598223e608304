//! The article's files, in the wire form that the binaries of 0.5.4 printed (spec §11).

use serde_json::{Value, json};

use super::{decode, hub, printed};
use crate::{Object, core, kinds::Kind, objects, v1beta1};

const POD: &str = "pod.json";
const CONTROLLER: &str = "replication.json";
const SERVICE_HTTP: &str = "service-http.json";
const SERVICE_SLAVE: &str = "service-slave.json";

const UID: &str = "0d03e9f4-e700-11f1-a5cb-12a1c29a496c";
const META: &str = r#""uid":"0d03e9f4-e700-11f1-a5cb-12a1c29a496c","creationTimestamp":"2026-11-23T05:38:02Z","selfLink":"/api/v1beta1/PATH","resourceVersion":30,"apiVersion":"v1beta1","namespace":"default""#;
const EMPTY_STATE: &str = r#"{"manifest":{"version":"","id":"","volumes":null,"containers":null,"restartPolicy":{}}"#;

/// Decodes, defaults, and gives the object what a server gives on creation.
fn created(kind: &'static Kind, file: &str) -> Box<dyn Object> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/jenkins/").to_owned() + file;
    let body: Value = serde_json::from_slice(&std::fs::read(&path).expect(&path)).unwrap();
    let mut object = decode(kind, &body);
    object.prepare_create();
    object.set_defaults();
    object.validate().unwrap();
    let meta = object.meta_mut();
    meta.uid = Some(UID.into());
    meta.creation_timestamp = Some("2026-11-23T05:38:02Z".parse::<jiff::Timestamp>().unwrap().into());
    meta.resource_version = Some("30".into());
    object
}

fn meta(path: &str) -> String {
    META.replace("PATH", path)
}

fn jenkins_pod(status: &str) -> String {
    [
        r#"{"kind":"Pod","id":"jenkins","#,
        &meta("pods/jenkins"),
        r#","labels":{"name":"jenkins"},"desiredState":{"manifest":{"version":"v1beta1","id":"jenkins","#,
        r#""uuid":"0d03e878-e700-11f1-a5cb-12a1c29a496c","volumes":[{"name":"jenkins-data","#,
        r#""source":{"hostDir":null,"emptyDir":{},"persistentDisk":null,"gitRepo":null}}],"#,
        r#""containers":[{"name":"jenkins","image":"csanchez/jenkins-swarm:1.565.3.3","#,
        r#""ports":[{"hostPort":8080,"containerPort":8080,"protocol":"TCP"},"#,
        r#"{"hostPort":50000,"containerPort":50000,"protocol":"TCP"}],"volumeMounts":[{"name":"jenkins-data","#,
        r#""mountPath":"/var/jenkins_home","path":"/var/jenkins_home"}],"imagePullPolicy":""}],"#,
        r#""restartPolicy":{"always":{}}},"status":"Running","host":"127.0.0.2"},"currentState":"#,
        EMPTY_STATE,
        status,
        "}}",
    ]
    .concat()
}

#[test]
fn the_jenkins_pod_reads_as_in_2014_before_it_starts() {
    let mut pod = created(&objects::pod::KIND, POD);
    pod.downcast_mut::<core::Pod>().unwrap().spec.as_mut().unwrap().node_name = Some("127.0.0.2".into());
    assert_eq!(printed(&*pod), jenkins_pod(r#","status":"Waiting","host":"127.0.0.2""#));
}

#[test]
fn the_jenkins_pod_reads_as_in_2014_once_it_runs() {
    let mut pod = created(&objects::pod::KIND, POD);
    let typed = pod.downcast_mut::<core::Pod>().unwrap();
    typed.spec.as_mut().unwrap().node_name = Some("127.0.0.2".into());
    typed.status = Some(
        serde_json::from_value(json!({"phase": "Running", "podIP": "10.244.1.5", "startTime": "2026-11-23T05:38:03Z",
            "containerStatuses": [{"name": "jenkins", "image": "csanchez/jenkins-swarm:1.565.3.3", "imageID": "x",
                "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-11-23T05:38:04.25Z"}}}]}))
        .unwrap(),
    );
    let status = concat!(
        r#","status":"Running","host":"127.0.0.2","podIP":"10.244.1.5","info":{"#,
        r#""jenkins":{"state":{"running":{"startedAt":"2026-11-23T05:38:04.25Z"}},"restartCount":0,"#,
        r#""image":"csanchez/jenkins-swarm:1.565.3.3"},"net":{"state":{"running":"#,
        r#"{"startedAt":"2026-11-23T05:38:03Z"}},"restartCount":0,"podIP":"10.244.1.5","image":"coracle/infra:1"}}"#
    );
    assert_eq!(printed(&*pod), jenkins_pod(status));
}

#[test]
fn the_slave_controller_reads_as_in_2014() {
    let rc = created(&objects::replication_controller::KIND, CONTROLLER);
    let expected = [
        r#"{"kind":"ReplicationController","id":"jenkins-slave","#,
        &meta("replicationControllers/jenkins-slave"),
        r#","desiredState":{"replicas":1,"replicaSelector":{"name":"jenkins-slave"},"podTemplate":{"desiredState":"#,
        r#"{"manifest":{"version":"v1beta2","id":"","volumes":null,"containers":[{"name":"jenkins-slave","#,
        r#""image":"csanchez/jenkins-swarm-slave:1.21","command":["sh","-c","/usr/local/bin/jenkins-slave.sh "#,
        r#"-master http://$JENKINS_SERVICE_HOST:$JENKINS_SERVICE_PORT "#,
        r#"-tunnel $JENKINS_SLAVE_SERVICE_HOST:$JENKINS_SLAVE_SERVICE_PORT "#,
        r#"-username jenkins -password jenkins -executors 1"],"imagePullPolicy":""}],"#,
        r#""restartPolicy":{"always":{}}}},"labels":{"name":"jenkins-slave"}}},"#,
        r#""currentState":{"replicas":0,"podTemplate":{"desiredState":"#,
        EMPTY_STATE,
        r#"}}},"labels":{"name":"jenkins-slave"}}"#,
    ]
    .concat();
    assert_eq!(printed(&*rc), expected);
}

#[test]
fn the_services_read_as_in_2014() {
    for (file, name, port, target) in
        [(SERVICE_HTTP, "jenkins", 8888, 8080), (SERVICE_SLAVE, "jenkins-slave", 50000, 50000)]
    {
        let mut service = created(&objects::service::KIND, file);
        service.downcast_mut::<core::Service>().unwrap().spec.as_mut().unwrap().cluster_ip =
            Some("10.0.188.133".into());
        let expected = format!(
            r#"{{"kind":"Service","id":"{name}",{},"port":{port},"protocol":"TCP","selector":{{"name":"jenkins"}},"containerPort":{target},"portalIP":"10.0.188.133"}}"#,
            meta(&format!("services/{name}"))
        );
        assert_eq!(printed(&*service), expected);
    }
}

#[test]
fn what_the_jenkins_pod_becomes_in_the_hub() {
    let pod = created(&objects::pod::KIND, POD);
    let spec = pod.downcast_ref::<core::Pod>().unwrap().spec.as_ref().unwrap();
    assert_eq!(spec.termination_grace_period_seconds, Some(10));
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
    let rc = created(&objects::replication_controller::KIND, CONTROLLER);
    let rc = rc.downcast_ref::<core::ReplicationController>().unwrap();
    let template = rc.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap();
    assert_eq!(template.containers[0].command, None, "the image's entrypoint stays");
    assert_eq!(template.containers[0].args.as_ref().map(|a| a[0].as_str()), Some("sh"));
    assert_eq!(rc.metadata.annotations.as_ref().unwrap()["io.coracle.v1beta1/uuid-names"], "true");
}

#[test]
fn lists_have_one_version_and_bare_items() {
    let endpoints: core::Endpoints = hub(json!({
        "metadata": {"name": "jenkins", "resourceVersion": "36"},
        "subsets": [{"addresses": [{"ip": "10.244.1.5"}, {"ip": "fd00::1"}], "ports": [{"port": 8080}]},
            {"notReadyAddresses": [{"ip": "10.244.1.6"}], "ports": [{"port": 8080}]}]}));
    let list = v1beta1::encode_list(&objects::endpoints::KIND, [&endpoints as &dyn Object], 40);
    let expected = concat!(
        r#"{"kind":"EndpointsList","creationTimestamp":null,"selfLink":"/api/v1beta1/endpoints","#,
        r#""resourceVersion":40,"apiVersion":"v1beta1","items":[{"id":"jenkins","creationTimestamp":null,"#,
        r#""selfLink":"/api/v1beta1/endpoints/jenkins","resourceVersion":36,"#,
        r#""endpoints":["10.244.1.5:8080","[fd00::1]:8080"]}]}"#
    );
    assert_eq!(String::from_utf8(list).unwrap(), expected);
    let empty = v1beta1::encode_list(&objects::pod::KIND, [], 35);
    let expected = concat!(
        r#"{"kind":"PodList","creationTimestamp":null,"selfLink":"/api/v1beta1/pods","resourceVersion":35,"#,
        r#""apiVersion":"v1beta1","items":[]}"#
    );
    assert_eq!(String::from_utf8(empty).unwrap(), expected);
}

#[test]
fn the_list_of_minions_has_its_items_twice() {
    let node: core::Node = hub(json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "127.0.0.2"}],
        "capacity": {"cpu": "1", "memory": "3Gi"}}}));
    let list = v1beta1::encode_list(&objects::node::KIND, [&node as &dyn Object], 0);
    let item = concat!(
        r#"[{"id":"n1","creationTimestamp":null,"selfLink":"/api/v1beta1/minions/n1","#,
        r#""hostIP":"127.0.0.2","resources":{"capacity":{"cpu":1000,"memory":3221225472}}}]"#
    );
    let expected = [
        r#"{"kind":"MinionList","creationTimestamp":null,"selfLink":"/api/v1beta1/minions","#,
        r#""apiVersion":"v1beta1","minions":"#,
        item,
        r#","items":"#,
        item,
        "}",
    ]
    .concat();
    assert_eq!(String::from_utf8(list).unwrap(), expected);
}

#[test]
fn an_event_tells_of_minions_and_has_a_status_word() {
    let event: core::Event = hub(json!({"metadata": {"name": "jenkins.1", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "n1", "apiVersion": "v1", "resourceVersion": "7"},
        "reason": "Started", "message": "up", "source": {"component": "kubelet", "host": "n1"},
        "lastTimestamp": "2026-11-23T05:38:02Z", "type": "Normal"}));
    let expected = concat!(
        r#"{"kind":"Event","id":"jenkins.1","creationTimestamp":null,"selfLink":"/api/v1beta1/events/jenkins.1","#,
        r#""apiVersion":"v1beta1","namespace":"default","involvedObject":{"kind":"Minion","name":"n1","#,
        r#""apiVersion":"v1beta1","resourceVersion":"7"},"status":"running","reason":"Started","message":"up","#,
        r#""source":"kubelet","timestamp":"2026-11-23T05:38:02Z"}"#
    );
    assert_eq!(printed(&event), expected);
}

#[test]
fn pods_of_a_controller_show_the_version_of_templates() {
    let pod: core::Pod = hub(json!({"metadata": {"name": "p", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ReplicationController", "name": "r", "uid": "u", "controller": true}]}}));
    assert!(printed(&pod).contains(r#""version":"v1beta2","id":"p""#), "{}", printed(&pod));
}
