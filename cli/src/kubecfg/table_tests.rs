//! The tables of the acceptance walk-through (spec §11), from captured wire forms.

use serde_json::json;

use super::*;

fn check(object: &Value, expected: &str) {
    assert_eq!(render(object).unwrap(), expected);
}

fn jenkins_pod() -> Value {
    json!({"kind":"Pod","id":"jenkins","uid":"0d03e9f4","creationTimestamp":"2026-11-23T05:38:02Z",
        "selfLink":"/api/v1beta1/pods/jenkins","resourceVersion":30,"apiVersion":"v1beta1","namespace":"default",
        "labels":{"name":"jenkins"},
        "desiredState":{"manifest":{"version":"v1beta1","id":"jenkins","uuid":"0d03e878",
            "volumes":[{"name":"jenkins-data","source":{"hostDir":null,"emptyDir":{},"persistentDisk":null,"gitRepo":null}}],
            "containers":[{"name":"jenkins","image":"csanchez/jenkins-swarm:1.565.3.3",
                "ports":[{"hostPort":8080,"containerPort":8080,"protocol":"TCP"}],"imagePullPolicy":""}],
            "restartPolicy":{"always":{}}},"status":"Running","host":""},
        "currentState":{"manifest":{"version":"","id":"","volumes":null,"containers":null,"restartPolicy":{}},
            "status":"Waiting"}})
}

#[test]
fn minions_are_one_column() {
    check(
        &json!({"kind":"MinionList","creationTimestamp":null,"apiVersion":"v1beta1",
            "items":[{"id":"127.0.0.2","resources":{}},{"id":"127.0.0.3","resources":{}}]}),
        "Minion identifier\n----------\n127.0.0.2\n127.0.0.3\n\n",
    );
}

#[test]
fn a_created_pod_is_unassigned_and_pending() {
    check(
        &jenkins_pod(),
        "\
Name                Image(s)                           Host                Labels              Status
----------          ----------                         ----------          ----------          ----------
jenkins             csanchez/jenkins-swarm:1.565.3.3   <unassigned>        name=jenkins        Pending

",
    );
}

#[test]
fn a_created_service_has_an_empty_labels_cell() {
    check(
        &json!({"kind":"Service","id":"jenkins","apiVersion":"v1beta1","port":8888,"protocol":"TCP",
            "selector":{"name":"jenkins"},"containerPort":8080,"portalIP":"10.0.188.133"}),
        "\
Name                Labels              Selector            IP                  Port
----------          ----------          ----------          ----------          ----------
jenkins                                 name=jenkins        10.0.188.133        8888

",
    );
}

#[test]
fn services_widen_the_selector_column() {
    let kube = json!({"component":"apiserver","provider":"kubernetes"});
    check(
        &json!({"kind":"ServiceList","items":[
            {"id":"jenkins-slave","port":50000,"selector":{"name":"jenkins"},"portalIP":"10.0.248.40"},
            {"id":"kubernetes","port":443,"selector":kube,"portalIP":"10.0.142.9"},
            {"id":"kubernetes-ro","port":80,"selector":kube,"portalIP":"10.0.86.201"},
            {"id":"jenkins","port":8888,"selector":{"name":"jenkins"},"portalIP":"10.0.188.133"}]}),
        "\
Name                Labels              Selector                                  IP                  Port
----------          ----------          ----------                                ----------          ----------
jenkins-slave                           name=jenkins                              10.0.248.40         50000
kubernetes                              component=apiserver,provider=kubernetes   10.0.142.9          443
kubernetes-ro                           component=apiserver,provider=kubernetes   10.0.86.201         80
jenkins                                 name=jenkins                              10.0.188.133        8888

",
    );
}

#[test]
fn a_replication_controller_shows_its_desired_replicas() {
    check(
        &json!({"kind":"ReplicationController","id":"jenkins-slave","currentState":{"replicas":0},
            "desiredState":{"replicas":1,"replicaSelector":{"name":"jenkins-slave"},"podTemplate":{"desiredState":{
                "manifest":{"containers":[{"name":"jenkins-slave","image":"csanchez/jenkins-swarm-slave:1.21"}]}}}}}),
        "\
Name                Image(s)                            Selector             Replicas
----------          ----------                          ----------           ----------
jenkins-slave       csanchez/jenkins-swarm-slave:1.21   name=jenkins-slave   1

",
    );
}

#[test]
fn running_pods_show_their_host() {
    let pod = |id: &str, image: &str, host: &str, label: &str| {
        json!({"id":id,"labels":{"name":label},
            "desiredState":{"manifest":{"containers":[{"name":"c","image":image}],"restartPolicy":{"always":{}}}},
            "currentState":{"status":"Running","host":host}})
    };
    check(
        &json!({"kind":"PodList","items":[
            pod("jenkins", "csanchez/jenkins-swarm:1.565.3.3", "127.0.0.2", "jenkins"),
            pod("0d101ee4-e700-11f1-a5cb-12a1c29a496c", "csanchez/jenkins-swarm-slave:1.21", "127.0.0.3", "jenkins-slave"),
            pod("0ee0e819-e700-11f1-a5cb-12a1c29a496c", "csanchez/jenkins-swarm-slave:1.21", "127.0.0.3", "jenkins-slave")]}),
        "\
Name                                   Image(s)                            Host                Labels               Status
----------                             ----------                          ----------          ----------           ----------
jenkins                                csanchez/jenkins-swarm:1.565.3.3    127.0.0.2/          name=jenkins         Running
0d101ee4-e700-11f1-a5cb-12a1c29a496c   csanchez/jenkins-swarm-slave:1.21   127.0.0.3/          name=jenkins-slave   Running
0ee0e819-e700-11f1-a5cb-12a1c29a496c   csanchez/jenkins-swarm-slave:1.21   127.0.0.3/          name=jenkins-slave   Running

",
    );
}

#[test]
fn a_deletion_prints_its_status() {
    check(
        &json!({"kind":"Status","creationTimestamp":null,"apiVersion":"v1beta1","status":"Success"}),
        "Status\n----------\nSuccess\n\n",
    );
}

#[test]
fn an_empty_list_is_a_header() {
    check(
        &json!({"kind":"ServiceList","items":null}),
        "\
Name                Labels              Selector            IP                  Port
----------          ----------          ----------          ----------          ----------

",
    );
}

#[test]
fn events_show_the_object_they_are_about() {
    check(
        &json!({"kind":"EventList","items":[{"id":"jenkins.1","involvedObject":{"kind":"Pod","name":"jenkins"},
            "status":"Pending","reason":"scheduled","message":"Successfully assigned jenkins to 127.0.0.2"}]}),
        "\
Name                Kind                Status              Reason              Message
----------          ----------          ----------          ----------          ----------
jenkins             Pod                 Pending             scheduled           Successfully assigned jenkins to 127.0.0.2

",
    );
}

#[test]
fn the_status_word_follows_the_wire_and_the_exit_codes() {
    let pod = |status: &str, policy: Value, code: i64| {
        json!({"desiredState":{"manifest":{"containers":[{"name":"a"}],"restartPolicy":policy}},
            "currentState":{"status":status,"info":{"a":{"state":{"termination":{"exitCode":code}}}}}})
    };
    for (status, policy, code, expected) in [
        ("Waiting", json!({"always":{}}), 0, "Pending"),
        ("", json!({"always":{}}), 0, "Pending"),
        ("Running", json!({"always":{}}), 0, "Running"),
        ("Terminated", json!({"always":{}}), 0, "Failed"),
        ("Terminated", json!({}), 0, "Failed"),
        ("Terminated", json!({"never":{}}), 0, "Succeeded"),
        ("Terminated", json!({"onFailure":{}}), 0, "Succeeded"),
        ("Terminated", json!({"never":{}}), 1, "Failed"),
    ] {
        assert_eq!(pod_phase(&pod(status, policy.clone(), code)), expected, "{status} {policy} {code}");
    }
}
