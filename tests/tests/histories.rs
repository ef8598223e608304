//! Clients that compare and set, and watchers, while masters die: what they saw adds up.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use coracle_test_etcd::Cluster;
use coracle_tests::{eventually, http, master::Master, random::pass, registers::Registers};

/// Waits until `count` more writes were acknowledged than before.
fn progress(registers: &Registers, count: usize) -> Result<()> {
    let before = registers.acknowledged();
    eventually("writes are acknowledged", || (registers.acknowledged() >= before + count).then_some(()))
}

#[test]
fn a_master_that_is_killed_again_and_again_keeps_every_promise() -> Result<()> {
    let mut master = Master::start(&[])?;
    let registers = Registers::create(vec![master.address], 4)?;
    let history = registers.record(6, 3, |registers| {
        for _ in 0..8 {
            progress(registers, 40)?;
            master.kill()?;
            master.launch()?;
            master.wait_ready()?;
        }
        progress(registers, 40)
    })?;
    history.check().with_context(|| master.log())
}

#[test]
fn a_master_that_stands_still_for_a_while_loses_no_watcher_and_no_write() -> Result<()> {
    let master = Master::start(&[])?;
    let registers = Registers::create(vec![master.address], 4)?;
    let history = registers.record(4, 2, |registers| {
        for _ in 0..3 {
            progress(registers, 40)?;
            master.signal("STOP")?;
            pass(Duration::from_millis(700));
            master.signal("CONT")?;
        }
        progress(registers, 40)
    })?;
    assert_eq!(history.watches.len(), 2, "nobody had to list again");
    history.check()
}

/// Two masters on one etcd, and how they are started.
fn two_masters(etcd: &Cluster) -> Result<[Master; 2]> {
    let store = format!("etcd://{}", etcd.endpoints().join(","));
    Ok([Master::start(&["--store", &store])?, Master::start(&["--store", &store])?])
}

#[test]
fn two_masters_of_one_etcd_keep_every_promise_though_each_is_killed_in_turn() -> Result<()> {
    let etcd = Cluster::start(1)?;
    let mut masters = two_masters(&etcd)?;
    let registers = Registers::create(masters.iter().map(|m| m.address).collect(), 4)?;
    let history = registers.record(6, 4, |registers| {
        for round in 0..6 {
            progress(registers, 40)?;
            masters[round % 2].kill()?;
            progress(registers, 20)?;
            masters[round % 2].launch()?;
            masters[round % 2].wait_ready()?;
        }
        progress(registers, 40)
    })?;
    history.check().with_context(|| format!("{}\n{}", masters[0].log(), masters[1].log()))
}

#[test]
fn masters_keep_every_promise_while_members_of_their_etcd_die_freeze_and_part() -> Result<()> {
    let mut etcd = Cluster::start(3)?;
    let masters = two_masters(&etcd)?;
    let registers = Registers::create(masters.iter().map(|m| m.address).collect(), 4)?;
    let history = registers.record(6, 4, |registers| {
        progress(registers, 40)?;
        let leader = etcd.wait_for_leader()?;
        etcd.kill((leader + 1) % 3)?;
        progress(registers, 40)?;
        etcd.restart((leader + 1) % 3)?;
        progress(registers, 20)?;

        let leader = etcd.wait_for_leader()?;
        etcd.kill(leader)?;
        progress(registers, 40)?;
        etcd.restart(leader)?;
        progress(registers, 20)?;

        for member in 0..3 {
            etcd.freeze(member)?;
        }
        degraded_and_serving(&masters)?;
        for member in 0..3 {
            etcd.thaw(member)?;
        }
        progress(registers, 40)?;

        let leader = etcd.wait_for_leader()?;
        etcd.isolate(leader);
        progress(registers, 40)?;
        etcd.heal();
        progress(registers, 40)
    })?;
    history.check().with_context(|| format!("{}\n{}", masters[0].log(), masters[1].log()))
}

/// Without etcd, masters refuse writes with a reason, and answer reads with a warning.
fn degraded_and_serving(masters: &[Master]) -> Result<()> {
    for master in masters {
        eventually("reads are answered with a warning", || {
            let (code, head, body) =
                http::exchange_all(master.address, "GET", "/api/v1/namespaces/default", "").ok()?;
            (code == 200 && head.contains("last known state") && body.contains("\"default\"")).then_some(())
        })?;
        let namespace = r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"refused"}}"#;
        let (code, body) = http::exchange(master.address, "POST", "/api/v1/namespaces", namespace)?;
        assert_eq!(code, 503, "{body}");
        assert!(body.contains("does not answer") && body.contains("majority"), "{body}");
    }
    Ok(())
}

#[test]
fn the_other_master_leads_within_5_s_and_500_are_exactly_500() -> Result<()> {
    const NODE: &str = r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"},
        "status":{"allocatable":{"cpu":"64","memory":"64Gi","pods":"1000"}}}"#;
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let etcd = Cluster::start(1)?;
    let [mut leader, other] = two_masters(&etcd)?;
    http::post(other.address, "/api/v1/nodes", NODE)?;
    let (code, body) = http::exchange(other.address, "PUT", "/api/v1/nodes/n1/status", NODE)?;
    assert_eq!(code, 200, "{body}");
    let rc = serde_json::json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "many"},
        "spec": {"replicas": 0, "selector": {"app": "many"}, "template": {"metadata": {"labels": {"app": "many"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    http::post(other.address, "/api/v1/namespaces/default/replicationcontrollers", &rc.to_string())?;
    let list = || -> Option<(usize, usize)> {
        let pods: serde_json::Value = serde_json::from_str(&http::get(other.address, PODS)?).ok()?;
        let pods = pods["items"].as_array()?;
        Some((pods.len(), pods.iter().filter(|p| p["spec"]["nodeName"] == "n1").count()))
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beating = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                let beat = r#"{"ready":true,"reason":"MinionReady"}"#;
                http::exchange(other.address, "PUT", "/coracle/v1/nodes/n1/heartbeat", beat)?;
                pass(Duration::from_millis(500));
            }
            Ok(())
        });
        let result = (|| {
            eventually("the leader hears of the minion from the other master", || {
                http::get(other.address, "/api/v1/nodes/n1")?.contains("\"MinionReady\"").then_some(())
            })?;
            let changes = http::Stream::open(other.address, &format!("{PODS}?watch=true"))?;
            let scale =
                r#"{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"many"},"spec":{"replicas":500}}"#;
            let path = "/api/v1/namespaces/default/replicationcontrollers/many/scale";
            let (code, body) = http::exchange(other.address, "PUT", path, scale)?;
            anyhow::ensure!(code == 200, "{body}");
            eventually("the scaling has begun", || list().filter(|(pods, _)| *pods > 0))?;
            leader.kill()?;
            let killed = Instant::now();
            let (then, _) = list().context("a list")?;
            anyhow::ensure!(then < 500, "the leader was killed too late: {then}");
            eventually("the other master goes on", || list().filter(|(pods, bound)| *pods > then || *bound == 500))
                .with_context(|| format!("from {then} on:\n{}", other.log()))?;
            let handover = killed.elapsed();
            eventually("all are there and have a minion", || list().filter(|found| *found == (500, 500)))
                .with_context(|| format!("{:?}:\n{}", list(), other.log()))?;
            // Another round of its loops would correct what is wrong.
            leader.launch()?;
            leader.wait_ready()?;
            eventually("the controller says that it is done", || {
                let rc = http::get(other.address, "/api/v1/namespaces/default/replicationcontrollers/many")?;
                let rc: serde_json::Value = serde_json::from_str(&rc).ok()?;
                (rc["status"]["replicas"] == 500).then_some(())
            })?;
            anyhow::ensure!(list() == Some((500, 500)), "{:?}", list());
            let seen = changes.finish()?;
            anyhow::ensure!(!seen.contains("\"DELETED\""), "there were more than 500 for a while");
            anyhow::ensure!(handover < Duration::from_secs(5), "handed over after {handover:?}");
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        beating.join().map_err(|_| anyhow::anyhow!("the minion panicked"))??;
        result
    })
}
