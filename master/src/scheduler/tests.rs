//! Decisions beside a naive reference that looks at every node and every pod, the sentences, and
//! what is promised about spreading.

use compact_str::CompactString;
use coracle_api::{
    core::{Node, Pod},
    objects::pod::{self as pods, Requests},
    quantity,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::registry::{HostPort, PodPhase};

/// A pod of a controller, for those who need no more of it.
pub(super) fn facts(node: Option<&str>, cpu: i64, port: u16, owner: u8) -> PodFacts {
    PodFacts {
        node: node.map(Into::into),
        phase: PodPhase::Running,
        ready: true,
        ready_changed_at: None,
        replace: None,
        template: None,
        terminating: false,
        lost: false,
        ip: None,
        owner: Some(format!("o{owner}").into()),
        siblings: u64::from(owner),
        created_at: None,
        requests: Requests { milli_cpu: cpu, memory_bytes: cpu * 1000 },
        ports: Box::default(),
        hostname: None,
        host_ports: [HostPort { protocol: "TCP".into(), ip: None, port }].into(),
    }
}

fn node(name: &str, change: impl FnOnce(&mut Value)) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"zone": "a"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut node);
    serde_json::from_value(node).unwrap()
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn asking(cpu: &str, memory: &str) -> Pod {
    pod(|p| p["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu, "memory": memory}}))
}

fn with_port(port: Value) -> Pod {
    pod(|p| p["spec"]["containers"][0]["ports"] = json!([port]))
}

/// A cluster, and beside it what the reference knows.
#[derive(Default)]
struct World {
    cluster: Cluster,
    nodes: Vec<Node>,
    placed: Vec<(Key, CompactString, Pod)>,
    created: usize,
}

impl World {
    fn of(nodes: Vec<Node>) -> Self {
        let mut world = Self { nodes, ..Default::default() };
        for node in &world.nodes {
            world.cluster.set_node(node.metadata.name.as_deref().unwrap(), Some(node));
        }
        world
    }

    fn wanted(&self, pod: &Pod) -> Wanted {
        Wanted { tie: wanted::hash(self.created), ..Wanted::of(pod, &PodFacts::of(pod)) }
    }

    fn place(&mut self, pod: &Pod) -> Decision {
        let decision = decide(&self.cluster, &self.wanted(pod));
        if let Decision::Place { node } = &decision {
            self.created += 1;
            let key = Key::new("n", &format!("p{}", self.created));
            self.cluster.assume(&key, &PodFacts::of(pod), node);
            self.placed.push((key, node.clone(), pod.clone()));
        }
        decision
    }

    fn placed_on(&mut self, pod: &Pod) -> String {
        match self.place(pod) {
            Decision::Place { node } => node.to_string(),
            Decision::Wait(why) => panic!("waits: {why}"),
        }
    }

    fn why(&mut self, pod: &Pod) -> String {
        match self.place(pod) {
            Decision::Wait(why) => why.to_string(),
            Decision::Place { node } => panic!("placed on {node}"),
        }
    }

    fn remove(&mut self, at: usize) {
        let (key, ..) = self.placed.swap_remove(at);
        self.cluster.set_pod(&key, None);
    }

    /// Written without a look at the scheduler: from the objects alone.
    fn fits(&self, node: &Node, pod: &Pod) -> bool {
        let name = node.metadata.name.as_deref().unwrap();
        let (spec, wants) = (node.spec.clone().unwrap_or_default(), pod.spec.as_ref().unwrap());
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let conditions = node.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        let tolerations = wants.tolerations.as_deref().unwrap_or_default();
        let bears = |t: &coracle_api::core::Taint| t.effect == "PreferNoSchedule" || pods::is_tolerated(t, tolerations);
        let on_it: Vec<&Pod> = self.placed.iter().filter(|(_, n, _)| n == name).map(|(.., p)| p).collect();
        let sum = |of: &dyn Fn(Requests) -> i64| on_it.iter().map(|p| of(pods::requests(p))).sum::<i64>();
        let offers = node.status.as_ref().unwrap().allocatable.clone().unwrap();
        let room = |needs: i64, used: i64, offered: i64| needs == 0 || used + needs <= offered;
        let needs = pods::requests(pod);
        let free = |mine: &(String, Option<std::net::IpAddr>, u16)| {
            on_it.iter().flat_map(|p| pods::host_ports(p)).all(|theirs| {
                mine.2 != theirs.2
                    || mine.0 != theirs.0
                    || (mine.1.is_some() && theirs.1.is_some() && mine.1 != theirs.1)
            })
        };
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            && spec.unschedulable != Some(true)
            && spec.taints.iter().flatten().all(bears)
            && wants.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
            && pods::required_node_affinity(wants).is_none_or(|a| pods::node_is_selected(a, name, &labels))
            && pods::host_ports(pod).iter().all(free)
            && (on_it.len() as i64) < quantity::bytes(&offers["pods"]).unwrap()
            && room(needs.milli_cpu, sum(&|r| r.milli_cpu), quantity::milli(&offers["cpu"]).unwrap())
            && room(needs.memory_bytes, sum(&|r| r.memory_bytes), quantity::bytes(&offers["memory"]).unwrap())
    }

    fn siblings(&self, node: &Node, pod: &Pod) -> usize {
        let owner = PodFacts::of(pod).siblings;
        let here = |(_, n, p): &&(Key, CompactString, Pod)| {
            Some(n.as_str()) == node.metadata.name.as_deref() && PodFacts::of(p).siblings == owner
        };
        if owner == 0 { 0 } else { self.placed.iter().filter(here).count() }
    }

    /// Places a pod, beside the reference.
    fn check(&mut self, pod: &Pod) -> Result<(), TestCaseError> {
        let fit: Vec<Node> = self.nodes.iter().filter(|node| self.fits(node, pod)).cloned().collect();
        let siblings: Vec<usize> = fit.iter().map(|node| self.siblings(node, pod)).collect();
        let first = decide(&self.cluster, &self.wanted(pod));
        prop_assert_eq!(&first, &self.place(pod), "the same input gives the same output");
        let node = match first {
            Decision::Wait(why) => {
                prop_assert!(fit.is_empty(), "{} though {:?} fits", why, fit[0].metadata.name);
                let told: usize = why.misfits().iter().map(|(_, count)| count).sum();
                prop_assert_eq!(told, self.nodes.len(), "every node is counted once");
                return Ok(());
            }
            Decision::Place { node } => node,
        };
        let at = fit.iter().position(|n| n.metadata.name.as_deref() == Some(&node));
        prop_assert!(at.is_some(), "{} does not fit", node);
        let tolerations = pod.spec.as_ref().unwrap().tolerations.clone().unwrap_or_default();
        let unwelcome = |node: &Node| {
            let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
            taints.filter(|t| t.effect == "PreferNoSchedule" && !pods::is_tolerated(t, &tolerations)).count()
        };
        if fit.len() <= 64 {
            // All are compared: then the order of the weights shows.
            let at = at.unwrap_or_default();
            let fewest_taints = fit.iter().map(unwelcome).min().unwrap_or_default();
            prop_assert_eq!(unwelcome(&fit[at]), fewest_taints, "a taint outweighs the rest");
            let alike = fit.iter().zip(&siblings).filter(|(n, _)| unwelcome(n) == fewest_taints);
            let fewest = alike.map(|(_, siblings)| *siblings).min().unwrap_or_default();
            prop_assert!(siblings[at] <= fewest + 1, "{} siblings where {} is possible", siblings[at], fewest);
        }
        Ok(())
    }
}

fn any_node() -> impl Strategy<Value = Value> {
    let taint = prop_oneof![
        6 => Just(json!([])),
        1 => Just(json!([{"key": "for", "value": "db", "effect": "NoSchedule"}])),
        1 => Just(json!([{"key": "old", "effect": "NoExecute"}])),
        1 => Just(json!([{"key": "slow", "effect": "PreferNoSchedule"}])),
    ];
    let labels = prop_oneof![Just(json!({"zone": "a"})), Just(json!({"zone": "b", "disk": "ssd"})), Just(json!({}))];
    (1i64..5, 1i64..5, 1i64..7, 0u8..10, taint, labels).prop_map(|(cpu, memory, most, state, taints, labels)| {
        json!({
            "metadata": {"labels": labels},
            "spec": {"unschedulable": state == 0, "taints": taints},
            "status": {
                "allocatable": {"cpu": cpu.to_string(), "memory": format!("{memory}Gi"), "pods": most.to_string()},
                "conditions": [{"type": "Ready", "status": if state == 1 { "False" } else { "True" }}],
            },
        })
    })
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let port = prop_oneof![
        4 => Just(json!([])),
        1 => (1u16..4, prop::sample::select(vec!["TCP", "UDP"]),
            prop::sample::select(vec![Value::Null, json!("0.0.0.0"), json!("127.0.0.1"), json!("127.0.0.2")]))
            .prop_map(|(port, protocol, ip)| {
                json!([{"containerPort": 1, "hostPort": port, "protocol": protocol, "hostIP": ip}])
            }),
    ];
    let selector = prop_oneof![
        3 => Just(Value::Null),
        1 => Just(json!({"zone": "a"})),
        1 => Just(json!({"zone": "b", "disk": "ssd"})),
        1 => Just(json!({"zone": "none"})),
    ];
    let tolerations = prop_oneof![
        3 => Just(Value::Null),
        1 => Just(json!([{"key": "for", "value": "db"}])),
        1 => Just(json!([{"operator": "Exists"}])),
    ];
    let term = json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]});
    let affinity = prop_oneof![
        3 => Just(Value::Null),
        1 => Just(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}})),
    ];
    (0i64..1500, 0i64..1500, 0u8..4, port, selector, tolerations, affinity).prop_map(
        |(cpu, memory, owner, ports, selector, tolerations, affinity)| {
            let mut pod = pod(|pod| {
                pod["spec"]["nodeSelector"] = selector;
                pod["spec"]["tolerations"] = tolerations;
                pod["spec"]["affinity"] = affinity;
                pod["spec"]["containers"][0]["ports"] = ports;
                let requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")});
                pod["spec"]["containers"][0]["resources"] = json!({ "requests": requests });
            });
            own(&mut pod, owner);
            pod
        },
    )
}

/// Gives a pod a controller; 0 is none.
fn own(pod: &mut Pod, owner: u8) {
    let reference = json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "r",
        "uid": format!("o{owner}"), "controller": true}]);
    pod.metadata.owner_references = (owner > 0).then(|| serde_json::from_value(reference).unwrap());
}

fn named(nodes: Vec<Value>) -> Vec<Node> {
    let name = |(i, mut node): (usize, Value)| {
        node["metadata"]["name"] = format!("n{i}").into();
        serde_json::from_value(node).unwrap()
    };
    nodes.into_iter().enumerate().map(name).collect()
}

proptest! {
    #[test]
    fn decisions_agree_with_a_look_at_all_nodes_and_pods(
        nodes in prop::collection::vec(any_node(), 0..12),
        steps in prop::collection::vec((any_pod(), 0usize..40), 0..60),
    ) {
        let mut world = World::of(named(nodes));
        for (pod, other) in steps {
            if other < world.placed.len() / 4 {
                world.remove(other);
            }
            world.check(&pod)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Where not all nodes are compared, and the last places are to be found.
    #[test]
    fn sampled_decisions_fit_and_miss_no_node(
        nodes in prop::collection::vec(any_node(), 150..400),
        some in prop::collection::vec(any_pod(), 1..8),
        extra in 0usize..50,
    ) {
        let mut world = World::of(named(nodes));
        let big = asking("900m", "900Mi");
        while matches!(world.place(&big), Decision::Place { .. }) {}
        world.check(&big)?;
        for _ in 0..extra.min(world.placed.len()) {
            world.remove(0);
        }
        for round in 0..6 * some.len() {
            world.check(&some[round % some.len()])?;
        }
    }

    /// Controllers of all sizes, their pods mixed, on nodes of all sizes, a fourth of which are left
    /// out.
    #[test]
    fn large_controllers_are_spread_evenly(seed in any::<u64>(), count in 200usize..700) {
        let random = |i: usize, below: u64| wanted::hash((seed, i)) % below;
        let nodes = (0..count).map(|i| {
            let (cpu, zone) = (8 << random(i, 4), if random(i + 1_000_000, 4) == 0 { "b" } else { "a" });
            node(&format!("host-{i}"), |n| {
                n["metadata"]["labels"]["zone"] = zone.into();
                n["status"]["allocatable"] = json!({"cpu": cpu.to_string(), "memory": "64Gi", "pods": "110"});
            })
        });
        let mut world = World::of(nodes.collect());
        let pod_of = |owner: u8| {
            let mut pod = asking("100m", "64Mi");
            own(&mut pod, owner);
            if owner == 3 {
                pod.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "a".to_owned())].into());
            }
            (PodFacts::of(&pod), Wanted::of(&pod, &PodFacts::of(&pod)))
        };
        let owned: Vec<_> = (0..5).map(pod_of).collect();
        let wanted_pods = [0, 4 * count, count / 2, 3 * count, 100];
        let mut left = wanted_pods;
        let mut i = 0;
        while left.iter().any(|n| *n > 0) {
            i += 1;
            let owner = random(i, 5) as usize;
            if left[owner] == 0 { continue; }
            left[owner] -= 1;
            let (facts, wanted) = &owned[owner];
            let wanted = Wanted { tie: wanted::hash(i), ..wanted.clone() };
            let Decision::Place { node } = decide(&world.cluster, &wanted) else { panic!("there is room for all") };
            world.cluster.assume(&Key::new("n", &i.to_string()), facts, &node);
        }
        for (owner, pods) in wanted_pods.iter().enumerate().skip(1) {
            let siblings = world.cluster.siblings(owned[owner].0.siblings).unwrap();
            let in_zone = |n: &&cluster::NodeState| owner != 3 || n.labels["zone"] == "a";
            let nodes: Vec<_> = world.cluster.nodes().iter().enumerate().filter(|(_, n)| in_zone(n)).collect();
            let on: Vec<u32> = nodes.iter().map(|(id, _)| siblings.on(*id as u32)).collect();
            let even = *pods as f64 / nodes.len() as f64;
            let far = on.iter().map(|on| (f64::from(*on) - even).abs()).fold(0.0, f64::max);
            prop_assert!(far <= 2.0, "{pods} pods on {} nodes: between {:?} and {:?}", nodes.len(), on.iter().min(), on.iter().max());
        }
    }
}

#[test]
fn every_reason_has_its_sentence() {
    let check = |nodes: Vec<Node>, pod: &Pod, expected: &str| {
        assert_eq!(World::of(nodes).why(pod), expected);
    };
    let plain = || node("a", |_| {});
    let tainted = |taint: Value| node("a", |n| n["spec"]["taints"] = json!([taint]));
    let any = pod(|_| {});
    check(vec![], &any, "no minion has joined yet: start one with `coracle minion --master URL`");
    let silent = node("a", |n| n["status"]["conditions"][0]["status"] = "Unknown".into());
    check(vec![silent], &any, "0/1 minions fit: 1 not ready");
    check(vec![node("a", |n| n["spec"]["unschedulable"] = true.into())], &any, "0/1 minions fit: 1 cordoned");
    check(
        vec![node("a", |n| n["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into())],
        &any,
        "0/1 minions fit: 1 cordoned",
    );
    check(
        vec![tainted(json!({"key": "for", "value": "db", "effect": "NoSchedule"}))],
        &any,
        "0/1 minions fit: 1 with the taint for=db:NoSchedule that the pod does not tolerate",
    );
    check(
        vec![tainted(json!({"key": "old", "effect": "NoExecute"}))],
        &any,
        "0/1 minions fit: 1 with the taint old:NoExecute that the pod does not tolerate",
    );
    check(
        vec![plain()],
        &pod(|p| p["spec"]["nodeSelector"] = json!({"disk": "ssd", "zone": "b"})),
        "0/1 minions fit: 1 without the labels disk=ssd,zone=b",
    );
    let term = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    check(
        vec![plain()],
        &pod(|p| p["spec"]["affinity"] = json!({ "nodeAffinity": required })),
        "0/1 minions fit: 1 outside the pod's node affinity",
    );
    check(
        vec![plain()],
        &pod(|p| p["spec"]["nodeName"] = "b".into()),
        "0/1 minions fit: 1 other than the named minion b",
    );
    check(vec![plain()], &asking("4500m", "0"), "0/1 minions fit: 1 too little cpu (needs 4500m, largest free 4000m)");
    check(vec![plain()], &asking("0", "5Gi"), "0/1 minions fit: 1 too little memory (needs 5Gi, largest free 4Gi)");
    let mut taken = World::of(vec![plain()]);
    taken.placed_on(&with_port(json!({"containerPort": 1, "hostPort": 53, "protocol": "UDP"})));
    assert_eq!(
        taken.why(&with_port(json!({"containerPort": 1, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}))),
        "0/1 minions fit: 1 with host port 127.0.0.1:53/UDP taken"
    );
    let mut full = World::of(vec![node("a", |n| n["status"]["allocatable"]["pods"] = "1".into())]);
    full.placed_on(&any);
    assert_eq!(full.why(&any), "0/1 minions fit: 1 full of pods");
}

#[test]
fn a_sentence_counts_all_nodes_the_most_frequent_reason_first() {
    let small = |name: &str, memory: &str| node(name, |n| n["status"]["allocatable"]["memory"] = memory.into());
    let cordoned = node("c", |n| n["spec"]["unschedulable"] = true.into());
    let mut world = World::of(vec![cordoned, small("a", "100Mi"), small("b", "120Mi")]);
    assert_eq!(
        world.why(&asking("100m", "512Mi")),
        "0/3 minions fit: 2 too little memory (needs 512Mi, largest free 120Mi), 1 cordoned"
    );
}

#[test]
fn taints_of_all_sorts_make_no_endless_sentence() {
    let taint = |i: usize| json!([{"key": format!("t{i}"), "effect": "NoSchedule"}]);
    let nodes = (0..100).map(|i| node(&format!("n{i}"), |n| n["spec"]["taints"] = taint(i)));
    let why = World::of(nodes.collect()).why(&pod(|_| {}));
    assert!(why.starts_with("0/100 minions fit: 76 with other taints") && why.len() < 2000, "{why}");
}

#[test]
fn a_port_conflicts_only_on_the_same_protocol_and_address() {
    let mut world = World::of(vec![node("a", |_| {})]);
    let port = |protocol: &str, ip: Value| {
        with_port(json!({"containerPort": 1, "hostPort": 53, "protocol": protocol, "hostIP": ip}))
    };
    world.placed_on(&port("TCP", "127.0.0.1".into()));
    world.placed_on(&port("UDP", Value::Null));
    world.placed_on(&port("TCP", "127.0.0.2".into()));
    world.why(&port("TCP", "0.0.0.0".into()));
    world.why(&port("UDP", "127.0.0.1".into()));
}

#[test]
fn tolerations_open_tainted_nodes_and_unwelcome_ones_are_the_last_resort() {
    let tainted = |name: &str, effect: &str| {
        node(name, |n| n["spec"]["taints"] = json!([{"key": "for", "value": "db", "effect": effect}]))
    };
    let bearing = pod(|p| p["spec"]["tolerations"] = json!([{"key": "for", "operator": "Exists"}]));
    for effect in ["NoSchedule", "NoExecute"] {
        assert_eq!(World::of(vec![tainted("a", effect)]).placed_on(&bearing), "a");
    }
    let mut world = World::of(vec![tainted("a", "PreferNoSchedule"), node("b", |_| {})]);
    let mut replica = pod(|_| {});
    own(&mut replica, 1);
    let on: Vec<_> = (0..20).map(|_| world.placed_on(&replica)).collect();
    assert!(on[..10].iter().all(|n| n == "b") && on[10..].iter().all(|n| n == "a"), "{on:?}");
}

#[test]
fn siblings_are_spread_over_the_nodes() {
    let nodes = ["a", "b", "c", "d"].map(|name| node(name, |_| {}));
    let mut replica = pod(|_| {});
    own(&mut replica, 1);
    // Without a controller, those with the same labels.
    for sibling in [replica, pod(|p| p["metadata"]["labels"] = json!({"app": "web"}))] {
        let mut world = World::of(nodes.to_vec());
        (0..8).for_each(|_| drop(world.placed_on(&sibling)));
        assert!(["a", "b", "c", "d"].iter().all(|n| world.cluster.pods_on(n) == 2), "two each");
    }
}

#[test]
fn the_choice_counts_what_the_pod_itself_asks_for() {
    // All of the small one is free, and half of the large one; with the pod, a tenth and two fifths.
    let sized = |name: &str, cpu: &str| node(name, |n| n["status"]["allocatable"]["cpu"] = cpu.into());
    let mut world = World::of(vec![sized("small", "1")]);
    world.cluster.set_node("large", Some(&sized("large", "8")));
    world.cluster.assume(&Key::new("n", "first"), &PodFacts::of(&asking("4", "0")), "large");
    assert_eq!(world.placed_on(&asking("900m", "0")), "large");
}

#[test]
fn use_stays_balanced_and_images_draw() {
    let has = |name: &str, images: Value| node(name, |n| n["status"]["images"] = json!([{ "names": images }]));
    let mut world = World::of(vec![has("a", json!(["docker.io/library/i:latest"])), has("b", json!(["j"]))]);
    assert_eq!(world.placed_on(&asking("100m", "100Mi")), "a");
    let mut world = World::of(vec![node("a", |_| {}), node("b", |_| {})]);
    world.cluster.assume(&Key::new("n", "cpu"), &PodFacts::of(&asking("2", "0")), "a");
    world.cluster.assume(&Key::new("n", "memory"), &PodFacts::of(&asking("0", "2Gi")), "b");
    assert_eq!(world.placed_on(&asking("0", "2Gi")), "a");
}

#[test]
fn an_explanation_is_what_decide_does() {
    let mut world = World::of(vec![
        node("a", |_| {}),
        node("b", |n| n["spec"]["unschedulable"] = true.into()),
        node("c", |n| n["status"]["allocatable"]["cpu"] = "1".into()),
    ]);
    let planned = |pod: Pod, name: &str, replicas| explain::Planned { pod, name: name.into(), replicas };
    let mut foreign = asking("1", "0");
    foreign.spec.as_mut().unwrap().scheduler_name = Some("mine".into());
    let named = pod(|p| p["spec"]["nodeName"] = "b".into());
    let all = [planned(asking("900m", "1Gi"), "web", 5), planned(foreign, "theirs", 1), planned(named, "fixed", 1)];
    let explained = explain::explain(&mut world.cluster, &all);
    let told: Vec<_> =
        explained.pods.iter().map(|p| (p.name.as_str(), p.minion.as_deref(), p.message.as_str())).collect();
    assert_eq!(told[0], ("web-1", Some("a"), "goes to a, the best of 2 minions that fit"));
    assert_eq!(told[5], ("theirs", None, "waits for the scheduler mine to bind it"));
    assert_eq!(
        told[6],
        (
            "fixed",
            Some("b"),
            "is bound to b by its own spec.nodeName, though 0/3 minions fit: 2 other than the named minion b, 1 cordoned"
        )
    );
    let used: Vec<_> = told[..5].iter().map(|t| t.1).collect();
    assert_eq!(used.iter().filter(|n| **n == Some("c")).count(), 1, "each counts those before: {used:?}");
    assert_eq!(used.iter().filter(|n| n.is_none()).count(), 0);
    let first = &explained.pods[0].verdicts;
    assert_eq!(first.iter().map(|v| v.minion.as_str()).collect::<Vec<_>>(), ["a", "c", "b"]);
    assert_eq!((first[2].reason.as_deref(), first[2].message.as_str()), (Some("Cordoned"), "cordoned"));
    assert_eq!(first[0].points.len(), explained.priorities.len());
    assert!(first[0].total > first[1].total, "{first:?}");
}
