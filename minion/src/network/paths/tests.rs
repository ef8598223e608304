//! The paths as values, and the kernel that takes them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn place(mode: PodRoutes) -> Place {
    Place {
        cluster_id: "0a1b2c3d".into(),
        mode,
        address: Ipv4Addr::new(192, 0, 2, 11),
        gateway: Ipv4Addr::new(10, 244, 1, 1),
        pod_cidr: net("10.244.1.0/24"),
        pods_cidr: net("10.244.0.0/16"),
    }
}

fn peer(host: &str, cidr: &str) -> Peer {
    Peer { address: host.parse().unwrap(), pod_cidr: net(cidr) }
}

/// A host with one address on a segment.
fn wanted(mode: PodRoutes, peers: &[Peer]) -> Desired {
    desired(&place(mode), &[(2, net("192.0.2.11/25"))], peers)
}

#[test]
fn nodes_on_a_segment_are_reached_straight_and_others_through_the_tunnel() {
    let peers = [peer("192.0.2.12", "10.244.2.0/24"), peer("192.0.2.201", "10.244.3.0/24")];
    let near = Hop::Segment { via: peers[0].address, interface: 2 };
    let far = |cidr: &str| Hop::Tunnel { via: net(cidr).network() };
    let check = |mode, second: Option<Hop>, third: Option<Hop>| {
        let all = wanted(mode, &peers);
        assert_eq!(all.routes[&net("10.244.0.0/16")], Hop::Nowhere);
        assert_eq!(all.routes.get(&peers[0].pod_cidr).copied(), second, "{mode:?}");
        assert_eq!(all.routes.get(&peers[1].pod_cidr).copied(), third, "{mode:?}");
        let tunnelled = all.routes.values().filter(|hop| matches!(hop, Hop::Tunnel { .. })).count();
        assert_eq!(all.far.len(), tunnelled);
        assert_eq!(all.unreached.len(), 3 - all.routes.len());
    };
    check(PodRoutes::Auto, Some(near), Some(far("10.244.3.0/24")));
    check(PodRoutes::Direct, Some(near), None);
    check(PodRoutes::Vxlan, Some(far("10.244.2.0/24")), Some(far("10.244.3.0/24")));
}

#[test]
fn what_a_node_claims_beyond_its_part_is_ignored() {
    let peers = [
        peer("192.0.2.12", "10.244.1.0/24"),
        peer("192.0.2.13", "10.244.0.0/16"),
        peer("192.0.2.14", "192.0.2.0/24"),
        peer("192.0.2.11", "10.244.7.0/24"),
        peer("192.0.2.15", "10.244.8.0/24"),
        peer("192.0.2.16", "10.244.8.0/24"),
    ];
    let all = wanted(PodRoutes::Auto, &peers);
    let via = Hop::Segment { via: peers[4].address, interface: 2 };
    assert_eq!(all.routes, BTreeMap::from([(net("10.244.0.0/16"), Hop::Nowhere), (net("10.244.8.0/24"), via)]));
}

#[test]
fn nodes_come_from_their_addresses_and_ranges() {
    let node = |name: &str, address: &str, cidr: &str| -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr}, "status": {"addresses": [
            {"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": address}]}}))
        .unwrap()
    };
    let mut peers = Peers::default();
    assert_eq!(peers.others("n1"), None, "not listed yet");
    peers.apply(Change::replaced(vec![
        node("n1", "192.0.2.11", "10.244.1.0/24"),
        node("n2", "192.0.2.12", "10.244.2.0/24"),
    ]));
    assert_eq!(peers.others("n1"), Some(vec![peer("192.0.2.12", "10.244.2.0/24")]));
    peers.apply(Change::applied(node("n3", "2001:db8::3", "10.244.3.0/24")));
    peers.apply(Change::applied(node("n2", "192.0.2.22", "10.244.2.0/24")));
    peers.apply(Change::Interrupted("x".into()));
    assert_eq!(peers.others("n1"), Some(vec![peer("192.0.2.22", "10.244.2.0/24")]));
    peers.apply(Change::deleted(node("n2", "192.0.2.22", "10.244.2.0/24")));
    assert_eq!(peers.others("n1"), Some(vec![]));
}

#[test]
fn a_tunnel_comes_before_its_routes_and_goes_after_them() {
    let with = wanted(PodRoutes::Vxlan, &[peer("192.0.2.12", "10.244.2.0/24")]);
    let without = wanted(PodRoutes::Vxlan, &[]);
    let nothing = Observed::default();
    let far = *with.far.first().unwrap();
    let (cidr, hop) = (net("10.244.2.0/24"), Hop::Tunnel { via: far.via });
    let nowhere = Step::SetRoute(net("10.244.0.0/16"), Hop::Nowhere);
    let made = [Step::AddTunnel, Step::RaiseTunnel, Step::AddFar(far), nowhere, Step::SetRoute(cidr, hop)];
    assert_eq!(plan(&with, &nothing), made);

    let tunnel = Tunnel { index: 7, up: true, right: true, far: with.far.clone() };
    let settled = Observed { routes: with.routes.clone(), tunnel: Some(tunnel.clone()) };
    assert_eq!(plan(&with, &settled), []);
    assert_eq!(plan(&without, &settled), [Step::RemoveRoute(cidr, hop), Step::RemoveTunnel]);
    let down = Observed { tunnel: Some(Tunnel { up: false, ..tunnel.clone() }), ..settled.clone() };
    assert_eq!(plan(&with, &down), [Step::RaiseTunnel, Step::SetRoute(cidr, hop)]);
    let wrong = Observed { tunnel: Some(Tunnel { right: false, ..tunnel }), ..settled };
    let anew = [Step::RemoveTunnel, Step::AddTunnel, Step::RaiseTunnel, Step::AddFar(far), Step::SetRoute(cidr, hop)];
    assert_eq!(plan(&with, &wrong), anew);
}

#[test]
fn the_tunnels_network_is_made_of_the_clusters_id() {
    assert_eq!(vni("0a1b2c3d"), 0x1b_2c3d);
    assert_eq!(vni("0a000000"), 1);
    assert!(tunnel_name("0a1b2c3d").len() <= 15);
    assert_eq!(hardware_of(Ipv4Addr::new(192, 0, 2, 11)), [0x02, 0xc0, 192, 0, 2, 11]);
}

/// Runs `body` in a network namespace of its own with one segment, `eth0` at 192.0.2.11/25.
fn in_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    use std::{os::fd::AsFd, process::Command};
    struct Namespace(String);
    impl Drop for Namespace {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }
    // Tests run side by side, each in a thread of its own.
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    let namespace = Namespace(format!("coracle-paths-{}-{thread}", std::process::id()));
    let run = |line: &str| {
        let status = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip {line}");
    };
    let ns = &namespace.0;
    run(&format!("netns add {ns}"));
    for line in [
        "link add eth0 type veth peer name eth1",
        "addr add 192.0.2.11/25 dev eth0",
        "link set eth1 up",
        "link set eth0 up",
        "route add default via 192.0.2.1",
        "link add cor-0a1b2c3d type bridge",
        "addr add 10.244.1.1/24 dev cor-0a1b2c3d",
        "link set cor-0a1b2c3d up",
    ] {
        run(&format!("-n {ns} {line}"));
    }
    let file = std::fs::File::open(format!("/run/netns/{ns}")).unwrap();
    let thread = std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    let ended = thread.join();
    drop(namespace);
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn the_kernel_takes_every_step_and_shows_what_was_done() {
    in_namespace(async || {
        let links = Links::open().unwrap();
        let near = peer("192.0.2.12", "10.244.2.0/24");
        let (far, moved) = (peer("192.0.2.201", "10.244.3.0/24"), peer("192.0.2.202", "10.244.3.0/24"));
        for (mode, peers) in [
            (PodRoutes::Auto, vec![]),
            (PodRoutes::Auto, vec![near, far]),
            (PodRoutes::Auto, vec![near, moved]),
            (PodRoutes::Vxlan, vec![near, moved]),
            (PodRoutes::Direct, vec![near]),
            (PodRoutes::Vxlan, vec![far]),
            (PodRoutes::Auto, vec![]),
        ] {
            let place = place(mode);
            let (observed, segments) = links.observe_paths(&place).await.unwrap();
            let wanted = desired(&place, &segments, &peers);
            assert_eq!(wanted.routes.len(), peers.len() + 1, "{segments:?}");
            for step in plan(&wanted, &observed) {
                links.apply_path(&place, &step).await.unwrap_or_else(|e| panic!("{step:?}: {e:?}"));
            }
            let (now, _) = links.observe_paths(&place).await.unwrap();
            assert_eq!(plan(&wanted, &now), [], "{mode:?} {peers:?}: {now:?}");
        }
        let used: Vec<_> = links.cidrs().await.unwrap().into_iter().map(|(_, cidr)| cidr).collect();
        assert!(!used.contains(&net("10.244.0.0/16")), "paths are in nobody's way: {used:?}");
    });
}

#[test]
fn a_tunnel_that_can_not_be_had_and_an_interface_that_is_down_keep_no_other_path_from_being_made() {
    in_namespace(async || {
        // The tunnel's port is someone else's.
        for line in [
            "link add vxe type vxlan external dstport 4789",
            "link set vxe up",
            "link add down0 type bridge",
            "addr add 203.0.113.1/24 dev down0",
            "link set lo up",
        ] {
            let status = std::process::Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        let links = Links::open().unwrap();
        let (near, far) = (peer("192.0.2.12", "10.244.2.0/24"), peer("192.0.2.201", "10.244.3.0/24"));
        let place = place(PodRoutes::Auto);
        let (observed, segments) = links.observe_paths(&place).await.unwrap();
        let all: Vec<_> = segments.iter().map(|(_, net)| *net).collect();
        assert_eq!(all, [net("192.0.2.11/25")], "neither loopback nor what is down");
        let wanted = desired(&place, &segments, &[near, far]);
        let refused = links.apply_paths(&place, &plan(&wanted, &observed)).await;
        assert!(refused.is_err(), "{refused:?}");
        let (now, _) = links.observe_paths(&place).await.unwrap();
        assert_eq!(now.routes.get(&near.pod_cidr), wanted.routes.get(&near.pod_cidr));
        assert!(!now.routes.contains_key(&far.pod_cidr));
    });
}

/// What the kernel has after these steps.
fn carried_out(mut observed: Observed, steps: &[Step]) -> Observed {
    for step in steps {
        let tunnel = observed.tunnel.as_mut();
        match (*step, tunnel) {
            (Step::AddTunnel, None) => {
                observed.tunnel = Some(Tunnel { index: 9, up: false, right: true, far: BTreeSet::new() });
            }
            (Step::RemoveTunnel, Some(_)) => {
                observed.tunnel = None;
                observed.routes.retain(|_, hop| !matches!(hop, Hop::Tunnel { .. }));
            }
            (Step::RaiseTunnel, Some(tunnel)) => tunnel.up = true,
            (Step::AddFar(far), Some(tunnel)) => assert!(tunnel.far.insert(far)),
            (Step::RemoveFar(far), Some(tunnel)) => assert!(tunnel.far.remove(&far)),
            (Step::SetRoute(cidr, hop), tunnel) => {
                if let Hop::Tunnel { via } = hop {
                    let tunnel = tunnel.expect("a route needs the tunnel");
                    assert!(tunnel.up && tunnel.far.iter().any(|far| far.via == via));
                }
                observed.routes.insert(cidr, hop);
            }
            (Step::RemoveRoute(cidr, _), _) => assert!(observed.routes.remove(&cidr).is_some()),
            (step, _) => panic!("{step:?}"),
        }
    }
    observed
}

proptest! {
    #[test]
    fn from_any_state_the_plan_leads_to_what_is_wanted(
        changes in prop::collection::vec((prop::collection::vec((1u8..8, 1u8..8), 0..6), any::<bool>(), any::<bool>()), 1..6),
    ) {
        let mut observed = Observed::default();
        for (peers, up, right) in changes {
            let host = |h: u8| Ipv4Addr::new(192, 0, 2, if h.is_multiple_of(2) { h } else { 200 + h });
            let cidr = |c: u8| Ipv4Net::new(Ipv4Addr::new(10, 244, c, 0), 24).unwrap();
            let peers: Vec<_> = peers.iter().map(|(h, c)| Peer { address: host(*h), pod_cidr: cidr(*c) }).collect();
            let wanted = wanted(PodRoutes::Auto, &peers);
            if let Some(tunnel) = &mut observed.tunnel {
                (tunnel.up, tunnel.right) = (up, right);
                if !up {
                    observed.routes.retain(|_, hop| !matches!(hop, Hop::Tunnel { .. }));
                }
            }
            let steps = plan(&wanted, &observed);
            observed = carried_out(observed, &steps);
            prop_assert_eq!(&observed.routes, &wanted.routes);
            prop_assert_eq!(observed.tunnel.as_ref().map(|t| t.far.clone()).unwrap_or_default(), wanted.far.clone());
            prop_assert_eq!(plan(&wanted, &observed), []);
        }
    }
}
