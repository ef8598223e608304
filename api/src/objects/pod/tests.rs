//! Tables of good and bad pods: each bad one names its field and the remedy.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::Object;

fn pod(spec: Value) -> Pod {
    let json = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    let mut pod: Pod = serde_json::from_value(json).unwrap();
    TypedObject::set_defaults(&mut pod);
    pod
}

/// A pod of one good container with these fields added or replaced.
fn with(fields: Value) -> Value {
    let mut container = json!({"name": "c", "image": "nginx:1"});
    for (key, value) in fields.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]})
}

fn check(spec: Value, expected: &str) {
    let error = Object::validate(&pod(spec.clone())).expect_err(&spec.to_string());
    assert!(error.message.contains(expected), "{spec}\nexpected {expected:?}\nin {:?}", error.message);
    assert_eq!((error.code(), error.causes.is_empty()), (422, false));
}

fn check_container(fields: Value, expected: &str) {
    check(with(fields), &format!("spec.containers[0].{expected}"));
}

fn good(spec: Value) {
    assert_eq!(Object::validate(&pod(spec.clone())), Ok(()), "{spec}");
}

#[test]
fn bad_containers_are_refused_with_path_and_remedy() {
    check(json!({"containers": []}), "spec.containers: required value: a pod needs at least one container");
    check_container(json!({"name": ""}), "name: required value: must be at most 63");
    check_container(json!({"name": "A"}), "name: invalid value: 'A': must be at most 63 lower-case");
    check_container(json!({"name": "net"}), "name: forbidden: 'net' is the name of the pod's own network container");
    check_container(json!({"image": " "}), "image: required value: the image to run");
    check_container(json!({"image": " nginx"}), "image: invalid value: ' nginx': must have no spaces");
    check_container(
        json!({"imagePullPolicy": "Sometimes"}),
        "imagePullPolicy: unsupported value: 'Sometimes': supported",
    );
    check_container(json!({"terminationMessagePolicy": "x"}), "terminationMessagePolicy: unsupported value");
    check_container(json!({"restartPolicy": "Always"}), "restartPolicy: unsupported value: 'Always': only init");
    check_container(json!({"volumeDevices": [{"name": "x", "devicePath": "/x"}]}), "volumeDevices: unsupported value");
    check_container(json!({"securityContext": {"runAsUser": -1}}), "securityContext.runAsUser: invalid value: '-1'");
    let c = |name: &str| json!({"name": name, "image": "i"});
    check(json!({"containers": [c("a"), c("a")]}), "spec.containers[1].name: duplicate value: 'a'");
    check(json!({"initContainers": [c("a")], "containers": [c("a")]}), "spec.containers[0].name: duplicate value: 'a'");
}

#[test]
fn bad_ports_are_refused_with_path_and_remedy() {
    let ports = |list: Value| json!({"ports": list});
    check_container(
        ports(json!([{"containerPort": 0}])),
        "ports[0].containerPort: required value: must be between 1 and 65535",
    );
    check_container(
        ports(json!([{"containerPort": 1}, {"containerPort": 70000}])),
        "ports[1].containerPort: invalid value: '70000': must be between 1 and 65535",
    );
    check_container(ports(json!([{"containerPort": 1, "hostPort": -1}])), "ports[0].hostPort: invalid value: '-1'");
    check_container(
        ports(json!([{"containerPort": 1, "protocol": "SCTP"}])),
        "ports[0].protocol: unsupported value: 'SCTP': supported values: TCP, UDP",
    );
    check_container(ports(json!([{"containerPort": 1, "name": "80"}])), "ports[0].name: invalid value: '80': must be");
    check_container(ports(json!([{"containerPort": 1, "hostPort": 1, "hostIP": "x"}])), "ports[0].hostIP: invalid");
    check_container(
        ports(json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}])),
        "ports[1].name: duplicate value: 'a'",
    );
    let host =
        |protocol: &str, ip: &str| json!({"containerPort": 1, "hostPort": 80, "protocol": protocol, "hostIP": ip});
    check_container(
        ports(json!([host("TCP", ""), host("TCP", "192.0.2.1")])),
        "ports[1].hostPort: duplicate value: '80/TCP'",
    );
    good(with(ports(json!([host("TCP", ""), host("UDP", ""), {"containerPort": 1, "name": "a-name-longer-than-15"}]))));
    good(with(ports(json!([host("TCP", "192.0.2.1"), host("TCP", "192.0.2.2")]))));
    let mut spec = with(ports(json!([{"containerPort": 1, "hostPort": 2}])));
    spec["hostNetwork"] = true.into();
    check(spec, "spec.containers[0].ports[0].hostPort: invalid value: '2': must be equal to containerPort");
}

#[test]
fn bad_variables_are_refused_with_path_and_remedy() {
    let env = |variable: Value| json!({"env": [variable]});
    check_container(env(json!({"name": ""})), "env[0].name: required value");
    check_container(env(json!({"name": "A=B"})), "env[0].name: invalid value: 'A=B': must be printable");
    check_container(env(json!({"name": "A", "valueFrom": {}})), "env[0].valueFrom: required value: one source");
    let field = |path: &str| json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}});
    check_container(
        env(field("spec.x")),
        "env[0].valueFrom.fieldRef.fieldPath: unsupported value: 'spec.x': supported",
    );
    good(with(env(field("metadata.labels['a.b/c']"))));
    good(with(env(field("status.podIP"))));
    check_container(
        env(json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})),
        "env[0].valueFrom: forbidden: may not be set together with value",
    );
    let secret = |optional: bool| json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": optional}}});
    check_container(env(secret(false)), "env[0].valueFrom.secretKeyRef: unsupported value: this cluster has no such");
    good(with(env(secret(true))));
    check_container(
        json!({"envFrom": [{"configMapRef": {"name": "m"}}]}),
        "envFrom[0].configMapRef: unsupported value",
    );
    check_container(json!({"envFrom": [{}]}), "envFrom[0]: required value");
    good(with(env(json!({"name": "my.name-1", "value": "$(X)"}))));
}

#[test]
fn bad_volumes_and_mounts_are_refused_with_path_and_remedy() {
    let volumes = |list: Value| json!({"containers": [{"name": "c", "image": "i"}], "volumes": list});
    check(volumes(json!([{"name": "A"}])), "spec.volumes[0].name: invalid value: 'A'");
    check(volumes(json!([{"name": "a"}, {"name": "a"}])), "spec.volumes[1].name: duplicate value: 'a'");
    check(
        volumes(json!([{"name": "a", "configMap": {"name": "x"}}])),
        "spec.volumes[0].configMap: unsupported value: 'configMap': supported values: emptyDir, hostPath",
    );
    check(
        volumes(json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}])),
        "spec.volumes[0].hostPath: forbidden: a volume has one source, and emptyDir is set: remove one",
    );
    check(volumes(json!([{"name": "a", "hostPath": {"path": ""}}])), "spec.volumes[0].hostPath.path: required value");
    check(volumes(json!([{"name": "a", "hostPath": {"path": "x"}}])), "must be absolute: begin with '/'");
    check(volumes(json!([{"name": "a", "hostPath": {"path": "/a/../b"}}])), "must not contain '..'");
    check(
        volumes(json!([{"name": "a", "hostPath": {"path": "/a", "type": "X"}}])),
        "supported values: DirectoryOrCreate",
    );
    check(volumes(json!([{"name": "a", "emptyDir": {"medium": "Tape"}}])), "spec.volumes[0].emptyDir.medium");
    check(
        volumes(json!([{"name": "a", "emptyDir": {"sizeLimit": "x"}}])),
        "sizeLimit: invalid value: 'x': must be a number",
    );
    good(volumes(
        json!([{"name": "a"}, {"name": "b", "hostPath": {"path": "/var/run/docker.sock", "type": "Socket"}}]),
    ));

    let mount = |m: Value| json!({"volumeMounts": [m]});
    check_container(
        mount(json!({"name": "other", "mountPath": "/x"})),
        "volumeMounts[0].name: not found: 'other': no volume of that name: add it",
    );
    check_container(mount(json!({"name": "data", "mountPath": ""})), "volumeMounts[0].mountPath: required value");
    check_container(mount(json!({"name": "data", "mountPath": "x"})), "volumeMounts[0].mountPath: invalid value: 'x'");
    check_container(
        mount(json!({"name": "data", "mountPath": "/a:b"})),
        "volumeMounts[0].mountPath: invalid value: '/a:b'",
    );
    check_container(mount(json!({"name": "data", "mountPath": "/a", "subPath": "../x"})), "volumeMounts[0].subPath");
    let twice = json!([{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/a"}]);
    check_container(json!({"volumeMounts": twice}), "volumeMounts[1].mountPath: invalid value: '/a': must be unique");
}

#[test]
fn bad_probes_and_hooks_are_refused_with_path_and_remedy() {
    let probe = |p: Value| json!({"livenessProbe": p});
    check_container(probe(json!({})), "livenessProbe: required value: one handler must be set: exec, httpGet");
    check_container(
        probe(json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}})),
        "livenessProbe.tcpSocket: forbidden: only one handler may be set, and exec is",
    );
    check_container(probe(json!({"exec": {}})), "livenessProbe.exec.command: required value");
    check_container(
        probe(json!({"httpGet": {"port": 0}})),
        "livenessProbe.httpGet.port: invalid value: '0': must be between",
    );
    check_container(
        probe(json!({"tcpSocket": {"port": "80"}})),
        "livenessProbe.tcpSocket.port: invalid value: '80': a number",
    );
    check_container(probe(json!({"grpc": {"port": 70000}})), "livenessProbe.grpc.port: invalid value");
    check_container(
        probe(json!({"httpGet": {"port": 1, "scheme": "FTP"}})),
        "livenessProbe.httpGet.scheme: unsupported",
    );
    check_container(
        probe(json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "x\r\nb: c"}]}})),
        "livenessProbe.httpGet.httpHeaders[0].value: invalid value",
    );
    check_container(
        probe(json!({"tcpSocket": {"port": 1}, "periodSeconds": -1})),
        "livenessProbe.periodSeconds: invalid value: '-1': must be at least 1",
    );
    check_container(
        probe(json!({"tcpSocket": {"port": 1}, "successThreshold": 2})),
        "livenessProbe.successThreshold: invalid value: '2': must be 1 except in a readinessProbe",
    );
    good(with(json!({"readinessProbe": {"httpGet": {"port": "http"}, "successThreshold": 2}})));
    let hook = |h: Value| json!({"lifecycle": {"preStop": h}});
    check_container(hook(json!({})), "lifecycle.preStop: required value: one handler");
    check_container(hook(json!({"exec": {"command": []}})), "lifecycle.preStop.exec.command: required value");
    check_container(hook(json!({"sleep": {"seconds": -1}})), "lifecycle.preStop.sleep.seconds");
    good(with(hook(json!({"httpGet": {"port": 80}}))));
}

#[test]
fn bad_resources_are_refused_with_path_and_remedy() {
    let resources = |r: Value| json!({"resources": r});
    check_container(
        resources(json!({"limits": {"cpu": "lots"}})),
        "resources.limits.cpu: invalid value: 'lots': must be a number",
    );
    check_container(
        resources(json!({"limits": {"cpu": -1}})),
        "resources.limits.cpu: invalid value: '-1': must be zero",
    );
    check_container(
        resources(json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}})),
        "resources.requests.memory: invalid value: '2Gi': must be at most the limit, 1Gi",
    );
    check_container(
        resources(json!({"limits": {"ram": "1"}})),
        "resources.limits: unsupported value: 'ram': supported values: cpu",
    );
    good(with(resources(json!({"limits": {"cpu": 0.5, "example.com/gpu": 1}}))));
}

#[test]
fn a_bad_limit_is_not_told_again_as_the_request_that_follows_from_it() {
    let limits = |r: Value| Object::validate(&pod(with(json!({"resources": r})))).unwrap_err();
    let error = limits(json!({"limits": {"memory": "lots", "ram": "1"}}));
    assert_eq!(error.causes.len(), 2, "{}", error.message);
    assert!(!error.message.contains("requests"), "{}", error.message);
    let error = limits(json!({"limits": {"memory": "lots"}, "requests": {"memory": "more"}}));
    assert_eq!(error.causes.len(), 2, "{}", error.message);
}

#[test]
fn bad_pod_fields_are_refused_with_path_and_remedy() {
    let field = |name: &str, value: Value| {
        let mut spec = with(json!({}));
        spec[name] = value;
        spec
    };
    check(
        field("restartPolicy", "Maybe".into()),
        "spec.restartPolicy: unsupported value: 'Maybe': supported values: Always",
    );
    check(field("dnsPolicy", "None".into()), "spec.dnsConfig.nameservers: required value");
    check(field("dnsPolicy", "x".into()), "spec.dnsPolicy: unsupported value");
    check(field("terminationGracePeriodSeconds", (-1).into()), "spec.terminationGracePeriodSeconds: invalid value");
    check(
        field("activeDeadlineSeconds", 0.into()),
        "spec.activeDeadlineSeconds: invalid value: '0': must be between 1",
    );
    check(field("nodeSelector", json!({"a b": "c"})), "spec.nodeSelector: invalid value: 'a b'");
    check(field("nodeName", "A".into()), "spec.nodeName: invalid value: 'A'");
    check(field("hostname", "a.b".into()), "spec.hostname: invalid value: 'a.b'");
    check(
        field("os", json!({"name": "windows"})),
        "spec.os.name: unsupported value: 'windows': supported values: linux",
    );
    check(field("tolerations", json!([{"operator": "x", "key": "k"}])), "spec.tolerations[0].operator: unsupported");
    check(
        field("tolerations", json!([{"effect": "NoSchedule"}])),
        "spec.tolerations[0].operator: invalid value: 'Equal'",
    );
    let required = |terms: Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        field("affinity", json!({ "nodeAffinity": required }))
    };
    let terms = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    check(required(json!([])), &format!("spec.affinity.nodeAffinity.{terms}: required value"));
    for (requirement, wrong) in [
        (json!({"key": "k", "operator": "Is"}), "operator: unsupported value: 'Is'"),
        (json!({"key": "k", "operator": "In"}), "values: required value"),
        (json!({"key": "k", "operator": "Exists", "values": ["v"]}), "values: forbidden"),
        (json!({"key": "k", "operator": "Gt", "values": ["v"]}), "values: invalid value: 'v'"),
        (json!({"key": "a b", "operator": "Exists"}), "key: invalid value: 'a b'"),
    ] {
        check(
            required(json!([{ "matchExpressions": [requirement] }])),
            &format!("{terms}[0].matchExpressions[0].{wrong}"),
        );
    }
    let named = json!([{"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["v"]}]}]);
    check(required(named), "matchFields[0].key: unsupported value: 'metadata.uid'");
    check(field("hostAliases", json!([{"ip": "x"}])), "spec.hostAliases[0].ip: invalid value");
    let mut bare = pod(with(json!({})));
    bare.spec = None;
    assert!(Object::validate(&bare).unwrap_err().message.contains("spec: required value"));
}

#[test]
fn init_containers_run_to_their_end_unless_they_are_sidecars() {
    let spec = |policy: Option<&str>| {
        let probe = json!({"tcpSocket": {"port": 1}});
        let mut init = json!({"name": "i", "image": "i", "readinessProbe": probe});
        if let Some(policy) = policy {
            init["restartPolicy"] = policy.into();
        }
        json!({"initContainers": [init], "containers": [{"name": "c", "image": "i"}]})
    };
    check(
        spec(None),
        "spec.initContainers[0].readinessProbe: forbidden: an init container without restartPolicy Always",
    );
    check(
        spec(Some("Never")),
        "spec.initContainers[0].restartPolicy: unsupported value: 'Never': supported values: Always",
    );
    good(spec(Some("Always")));
}

#[test]
fn the_name_of_a_pod_is_checked() {
    let mut pod = pod(with(json!({})));
    pod.metadata.name = Some("Not_A_Name".into());
    let error = Object::validate(&pod).unwrap_err();
    assert!(error.message.contains("metadata.name: invalid value: 'Not_A_Name'"), "{}", error.message);
}

#[test]
fn defaults_are_those_of_current_kubernetes() {
    let pod = pod(json!({
        "hostNetwork": true,
        "serviceAccountName": "robot",
        "containers": [{
            "name": "c", "image": "nginx",
            "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"port": 80}},
            "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        }],
        "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/x"}}],
    }));
    let get = json!({"path": "/", "port": 80, "scheme": "HTTP"});
    let expected = json!({
        "hostNetwork": true,
        "serviceAccountName": "robot",
        "serviceAccount": "robot",
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "enableServiceLinks": true,
        "containers": [{
            "name": "c", "image": "nginx", "imagePullPolicy": "Always",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
            "livenessProbe": {
                "httpGet": get, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
            },
            "lifecycle": {"preStop": {"httpGet": get}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        }],
        "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/x", "type": ""}}],
    });
    assert_eq!(serde_json::to_value(pod.spec).unwrap(), expected);
}

#[test]
fn of_a_running_pod_only_images_deadline_and_tolerations_change() {
    let old = pod(with(json!({})));
    let verdict = |change: &dyn Fn(&mut crate::core::PodSpec)| {
        let mut new = old.clone();
        change(new.spec.as_mut().unwrap());
        Object::validate_update(&new, &old).map_err(|e| e.message)
    };
    assert_eq!(verdict(&|s| s.containers[0].image = Some("nginx:2".into())), Ok(()));
    assert_eq!(verdict(&|s| s.active_deadline_seconds = Some(5)), Ok(()));
    assert_eq!(
        verdict(&|s| s.tolerations = serde_json::from_value(json!([{"key": "a", "operator": "Exists"}])).unwrap()),
        Ok(())
    );
    let error = verdict(&|s| s.containers[0].working_dir = Some("/x".into())).unwrap_err();
    assert!(error.contains("spec: forbidden: only containers[*].image"), "{error}");
    assert!(error.contains("to change containers[0].workingDir, delete the pod and create it again"), "{error}");
    let error = verdict(&|s| s.containers.push(s.containers[0].clone())).unwrap_err();
    assert!(error.contains("to change containers, delete"), "{error}");
    assert!(verdict(&|s| s.node_name = Some("n2".into())).unwrap_err().contains("to change nodeName"));
}

#[test]
fn a_deadline_is_only_lowered_and_tolerations_are_only_added() {
    let mut spec = with(json!({}));
    spec["activeDeadlineSeconds"] = 10.into();
    spec["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    let old = pod(spec);
    let mut new = old.clone();
    new.spec.as_mut().unwrap().active_deadline_seconds = Some(20);
    new.spec.as_mut().unwrap().tolerations = None;
    let error = Object::validate_update(&new, &old).unwrap_err().message;
    assert!(
        error.contains("spec.activeDeadlineSeconds: invalid value: '20': must be at most the present value, 10"),
        "{error}"
    );
    assert!(error.contains("spec.tolerations: forbidden: tolerations may be added"), "{error}");
}

#[test]
fn an_update_keeps_node_and_status() {
    let mut old = pod(with(json!({})));
    old.spec.as_mut().unwrap().node_name = Some("n1".into());
    TypedObject::prepare_create(&mut old);
    let mut new = pod(with(json!({"image": "nginx:2"})));
    TypedObject::prepare_update(&mut new, &old);
    assert_eq!(new.status, old.status);
    assert_eq!(TypedObject::field(&new, "spec.nodeName"), Some("n1"));
    assert_eq!(Object::validate_update(&new, &old), Ok(()));
    assert!(TypedObject::spec_changed(&new, &old));
}

#[test]
fn an_ordinary_pod_warns_of_nothing() {
    let mut spec = with(json!({
        "securityContext": {
            "privileged": true, "runAsUser": 1, "runAsGroup": 1, "readOnlyRootFilesystem": true,
            "capabilities": {"add": ["NET_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "startupProbe": {"tcpSocket": {"port": 1}},
        "resources": {"limits": {"cpu": "1"}},
    }));
    spec["hostname"] = "a".into();
    spec["subdomain"] = "b".into();
    spec["dnsPolicy"] = "None".into();
    spec["dnsConfig"] = json!({"nameservers": ["192.0.2.1"], "options": [{"name": "ndots", "value": "2"}]});
    assert_eq!(Object::warnings(&pod(spec)), Vec::<String>::new());
}

#[test]
fn what_nothing_acts_on_is_told() {
    let mut spec = with(json!({
        "securityContext": {"allowPrivilegeEscalation": false, "seccompProfile": {"type": "Unconfined"}},
        "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        "resources": {"limits": {"ephemeral-storage": "1Gi"}},
        "readinessProbe": {"httpGet": {"port": 1, "scheme": "HTTPS"}},
    }));
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]);
    let term = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
    spec["affinity"] = json!({
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
        },
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "host"}]},
    });
    spec["priorityClassName"] = "high".into();
    spec["serviceAccountName"] = "robot".into();
    spec["schedulerName"] = "mine".into();
    spec["hostPID"] = true.into();
    let toleration = json!({"key": "a", "operator": "Exists"});
    spec["tolerations"] = json!([toleration, {"key": "b", "operator": "Exists", "tolerationSeconds": 9}]);
    let all = Object::warnings(&pod(spec)).join("\n");
    for part in [
        "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution is stored but not enforced: use",
        "spec.affinity.podAntiAffinity is stored but not enforced: pods of one",
        "spec.priorityClassName is stored",
        "spec.serviceAccountName is stored",
        "spec.schedulerName: the pod waits for the scheduler mine",
        "spec.hostPID is stored",
        "spec.containers[0].securityContext.allowPrivilegeEscalation is stored",
        "spec.containers[0].securityContext.seccompProfile is stored",
        "spec.containers[0].env names A twice",
        "spec.containers[0].resources (ephemeral-storage) is stored",
        "spec.containers[0].readinessProbe.httpGet.scheme is stored",
    ] {
        assert!(all.contains(part), "{part:?} in {all}");
    }
    assert!(all.contains("spec.tolerations[1].tolerationSeconds is stored but not enforced"), "{all}");
    assert!(!all.contains("tolerations[0]") && !all.contains("nodeAffinity.required"), "{all}");
}

#[test]
fn requests_are_the_sum_or_the_largest_init_phase() {
    let c = |name: &str, cpu: &str, memory: &str| json!({"name": name, "image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
    let mut sidecar = c("s", "50m", "1");
    sidecar["restartPolicy"] = "Always".into();
    let pod = pod(json!({
        "initContainers": [sidecar, c("i", "1", "1Ki")],
        "containers": [c("a", "100m", "1Mi"), c("b", "0.2", "1Mi"), {"name": "d", "image": "i"}],
    }));
    assert_eq!(requests(&pod), Requests { milli_cpu: 1050, memory_bytes: (2 << 20) + 1 });
    assert_eq!(requests(&Pod::default()), Requests::default());
}

#[test]
fn host_ports_are_those_the_node_must_have_free() {
    let ports = json!([
        {"containerPort": 80},
        {"containerPort": 81, "hostPort": 8081, "hostIP": "0.0.0.0"},
        {"containerPort": 82, "hostPort": 8082, "protocol": "UDP", "hostIP": "192.0.2.1"},
    ]);
    let mut spec = with(json!({"ports": ports}));
    let found = host_ports(&pod(spec.clone()));
    assert_eq!(found, [("TCP".to_owned(), None, 8081), ("UDP".to_owned(), Some([192, 0, 2, 1].into()), 8082)]);
    spec["hostNetwork"] = true.into();
    spec["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    assert_eq!(host_ports(&pod(spec)), [("TCP".to_owned(), None, 80)]);
}

#[test]
fn phase_and_conditions_answer_the_common_questions() {
    let mut pod = pod(with(json!({})));
    assert!(!is_ready(&pod) && !is_terminal(&pod) && !is_terminating(&pod));
    pod.status =
        serde_json::from_value(json!({"phase": "Failed", "conditions": [{"type": "Ready", "status": "True"}]}))
            .unwrap();
    pod.metadata.deletion_timestamp = Some(crate::meta::Time(jiff::Timestamp::UNIX_EPOCH));
    assert!(is_ready(&pod) && is_terminal(&pod) && is_terminating(&pod));
    assert!(condition(&pod, "PodScheduled").is_none());
}

/// Specs that are often faulty, to reach every rule.
fn any_spec() -> impl Strategy<Value = Value> {
    let name = prop_oneof!["[a-b]", Just(String::new()), "\\PC{0,5}"];
    let number = prop_oneof![Just(0), 1..3i32, any::<i32>()];
    let port = (name.clone(), number.clone(), number.clone())
        .prop_map(|(n, c, h)| json!({"name": n, "containerPort": c, "hostPort": h}));
    let probe = (any::<bool>(), any::<bool>(), number.clone()).prop_map(|(get, tcp, n)| {
        let mut probe = json!({"periodSeconds": n});
        if get {
            probe["httpGet"] = json!({"port": n});
        }
        if tcp {
            probe["tcpSocket"] = json!({"port": "x"});
        }
        probe
    });
    let quantity = prop_oneof!["[0-9]{1,3}(m|Mi|)", Just("x".to_owned())];
    let resources =
        (quantity.clone(), quantity).prop_map(|(a, b)| json!({"limits": {"cpu": a}, "requests": {"memory": b}}));
    let ports = proptest::collection::vec(port, 0..3);
    let container = (name.clone(), "[a-z]{0,3}(:(latest|1))?", ports, proptest::option::of(probe), resources).prop_map(
        |(name, image, ports, probe, resources)| json!({"name": name, "image": image, "ports": ports, "livenessProbe": probe, "resources": resources}),
    );
    let volume = (name, any::<bool>(), any::<bool>()).prop_map(|(name, empty, host)| {
        let mut volume = json!({"name": name});
        if empty {
            volume["emptyDir"] = json!({});
        }
        if host {
            volume["hostPath"] = json!({"path": "/x"});
        }
        volume
    });
    let containers = proptest::collection::vec(container, 0..3);
    (containers.clone(), containers, proptest::collection::vec(volume, 0..3), any::<bool>()).prop_map(
        |(init, containers, volumes, host)| json!({"initContainers": init, "containers": containers, "volumes": volumes, "hostNetwork": host}),
    )
}

proptest! {
    #[test]
    fn defaults_filled_in_twice_change_nothing_more(spec in any_spec()) {
        let once = pod(spec);
        let mut twice = once.clone();
        TypedObject::set_defaults(&mut twice);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn any_spec_gets_a_verdict_and_never_a_panic(spec in any_spec()) {
        let pod = pod(spec);
        if let Err(error) = Object::validate(&pod) {
            prop_assert!(error.causes.iter().all(|c| c.path.starts_with("spec") && !c.detail.is_empty()));
        }
        let _ = (Object::warnings(&pod), host_ports(&pod), requests(&pod));
        prop_assert_eq!(Object::validate_update(&pod, &pod).is_ok(), Object::validate(&pod).is_ok());
    }
}

#[test]
fn finalizers_that_nobody_waits_for_are_told() {
    let mut pod = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    assert_eq!(Object::warnings(&pod), Vec::<String>::new());
    pod.metadata.finalizers = Some(vec!["example.com/wait".into()]);
    assert!(Object::warnings(&pod)[0].starts_with("metadata.finalizers is stored but not enforced"));
}
