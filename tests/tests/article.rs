//! The article, start to finish: create the pod, discover it through services, replicate the
//! slaves, resize them, tear it down. Tables must come out as the binaries of 2014 printed them.

use anyhow::{Context, Result};
use coracle_tests::{Cluster, docker, eventually, http, tables};

/// Replaces what differs from run to run by what the golden table has there.
fn check_table(actual: &str, mask: &[(usize, usize)], golden: &[&[&str]]) {
    let mut rows = tables::cells(actual);
    let expected: Vec<Vec<String>> = golden.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect();
    assert_eq!(rows.len(), expected.len() + 1, "rows of\n{actual}");
    assert_eq!(tables::print(&rows), actual, "layout");
    for (row, column) in mask {
        assert!(!rows[row + 1][*column].is_empty(), "row {row} column {column} of\n{actual}");
        rows[row + 1][*column] = expected[*row][*column].clone();
    }
    let header = rows.remove(0);
    assert!(header.iter().all(|h| !h.is_empty()));
    assert_eq!(rows, expected, "cells of\n{actual}");
}

const DASHES: &[&str] = &["----------"; 5];

fn running_slaves(cluster: &Cluster) -> Option<usize> {
    let table = cluster.kubecfg(&["-l", "name=jenkins-slave", "list", "pods"]).ok()?;
    let rows = tables::cells(&table);
    let pods = rows.get(2..)?;
    pods.iter().all(|r| r.get(4).is_some_and(|s| s == "Running")).then_some(pods.len())
}

fn connected_slaves(portal: &str) -> Option<usize> {
    let json = http::get(format!("{portal}:8888").parse().ok()?, "/api/json")?;
    let value: serde_json::Value = serde_json::from_str(&json).ok()?;
    value["slaves"].as_array().map(Vec::len)
}

#[test]
fn the_article_works_as_it_is_written() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let pod = Cluster::example("jenkins/pod.json");

    let minions = cluster.kubecfg(&["list", "minions"])?;
    assert!(minions.starts_with("Minion identifier\n----------\n"), "{minions}");
    assert!(minions.ends_with("\n\n") && minions.lines().count() == 4, "{minions}");

    let created = cluster.kubecfg(&["-c", &pod, "create", "pods"])?;
    let image = "csanchez/jenkins-swarm:1.565.3.3";
    let row = ["jenkins", image, "<unassigned>", "name=jenkins", "Pending"];
    check_table(&created, &[], &[DASHES, &row]);

    let created = cluster.kubecfg(&["-c", &Cluster::example("jenkins/service-http.json"), "create", "services"])?;
    check_table(&created, &[(1, 3)], &[DASHES, &["jenkins", "", "name=jenkins", "10.0.188.133", "8888"]]);
    cluster.kubecfg(&["-c", &Cluster::example("jenkins/service-slave.json"), "create", "services"])?;
    let services = tables::cells(&cluster.kubecfg(&["list", "services"])?);
    let mut names: Vec<_> = services.iter().skip(2).map(|r| (r[0].as_str(), r[2].as_str(), r[4].as_str())).collect();
    names.sort_unstable();
    let master = "component=apiserver,provider=kubernetes";
    assert_eq!(
        names,
        [
            ("jenkins", "name=jenkins", "8888"),
            ("jenkins-slave", "name=jenkins", "50000"),
            ("kubernetes", master, "443"),
            ("kubernetes-ro", master, "80")
        ]
    );

    eventually("the Jenkins pod runs", || {
        let table = cluster.kubecfg(&["list", "pods"]).ok()?;
        (tables::cells(&table).get(2)?.get(4)? == "Running").then_some(())
    })
    // It may not: the article's host ports are one pod's of the whole machine.
    .with_context(|| cluster.coracle(&["describe", "pod", "jenkins"]).unwrap_or_default())?;
    let created =
        cluster.kubecfg(&["-c", &Cluster::example("jenkins/replication.json"), "create", "replicationControllers"])?;
    let slave_image = "csanchez/jenkins-swarm-slave:1.21";
    check_table(&created, &[], &[&DASHES[..4], &["jenkins-slave", slave_image, "name=jenkins-slave", "1"]]);

    let portal = cluster.kubecfg(&["-template", "{{.portalIP}}", "get", "services/jenkins"])?;
    let portal = portal.trim();
    eventually("one slave runs", || (running_slaves(&cluster)? == 1).then_some(()))?;
    eventually("the slave found its master", || (connected_slaves(portal)? == 1).then_some(()))?;

    let resized = cluster.kubecfg(&["resize", "jenkins-slave", "2"])?;
    assert!(resized.contains("spec:\n  replicas: 2\n  selector:\n    name: jenkins-slave\n"), "{resized}");
    eventually("two slaves run", || (running_slaves(&cluster)? == 2).then_some(()))?;
    eventually("two slaves found their master", || (connected_slaves(portal)? == 2).then_some(()))?;
    let table = cluster.kubecfg(&["list", "pods"])?;
    let mask: Vec<_> = (1..4).map(|row| (row, 2)).chain((1..4).map(|row| (row, 0))).collect();
    let mut rows = tables::cells(&table);
    rows[2..].sort_by_key(|r| r[3].clone());
    assert!(rows[2][2].contains('/'), "host/ip: {table}");
    let slave = ["uuid", slave_image, "127.0.0.3/", "name=jenkins-slave", "Running"];
    let jenkins = ["jenkins", image, "127.0.0.2/", "name=jenkins", "Running"];
    check_table(&tables::print(&rows), &mask, &[DASHES, &jenkins, &slave, &slave]);
    assert!(rows[3][0].len() == 36, "replicas of 2014 are named by UUID: {table}");

    let id = cluster.id()?;
    let slave = docker::running(&[("io.coracle.cluster", &id), ("io.coracle.container", "jenkins-slave")])?;
    let env = docker::docker(&["exec", slave.first().context("a slave container")?, "env"])?;
    for variable in [
        format!("JENKINS_SERVICE_HOST={portal}"),
        "JENKINS_SERVICE_PORT=8888".into(),
        format!("JENKINS_PORT_8888_TCP=tcp://{portal}:8888"),
        "JENKINS_SLAVE_SERVICE_PORT=50000".into(),
        "KUBERNETES_RO_SERVICE_PORT=80".into(),
    ] {
        assert!(env.lines().any(|line| line == variable), "{variable} in\n{env}");
    }

    cluster.kubecfg(&["stop", "jenkins-slave"])?;
    eventually("the slaves are gone", || (running_slaves(&cluster)? == 0).then_some(()))?;
    assert_eq!(cluster.kubecfg(&["rm", "jenkins-slave"])?, "");
    for object in ["pods/jenkins", "services/jenkins", "services/jenkins-slave"] {
        assert_eq!(cluster.kubecfg(&["delete", object])?, "Status\n----------\nSuccess\n\n");
    }
    let (code, out, err) = cluster.kubecfg_raw(&["delete", "pods/jenkins"])?;
    assert_eq!((code, out.as_str()), (255, ""));
    assert!(err.trim_end().ends_with("pod \"jenkins\" not found"), "{err}");
    eventually("no container of a pod is left", || {
        docker::all(&[("io.coracle.cluster", &id), ("io.coracle.pod.name", "jenkins")]).ok()?.is_empty().then_some(())
    })?;

    assert!(cluster.interrupt()?, "Ctrl-C ends it well:\n{}", cluster.log());
    Ok(())
}

#[test]
fn pods_keep_running_without_the_cluster_and_are_found_again() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.kubecfg(&["-c", &cluster.jenkins_without_host_ports()?, "create", "pods"])?;
    let id = cluster.id()?;
    let labels = [("io.coracle.cluster", id.as_str()), ("io.coracle.container", "jenkins")];
    let running = eventually("the container runs", || docker::running(&labels).ok()?.pop())?;
    eventually("the pod is Running", || cluster.kubecfg(&["list", "pods"]).ok()?.contains("Running").then_some(()))?;

    assert!(cluster.interrupt()?);
    assert_eq!(docker::running(&labels)?, std::slice::from_ref(&running), "Ctrl-C leaves it running");
    cluster.launch()?;
    cluster.wait_ready()?;
    eventually("the pod is Running again", || {
        cluster.kubecfg(&["list", "pods"]).ok()?.contains("Running").then_some(())
    })?;
    assert_eq!(docker::all(&labels)?, [running], "adopted: neither restarted nor doubled");
    Ok(())
}
