//! How packets come to the portals: a port of the pod bridge in the namespace, and routes.
//!
//! ```text
//!   host:       service range via NEXT HOP dev bridge src gateway     (metric 0; the bare route onto
//!               NEXT HOP lladdr MAC dev bridge, permanent              the bridge is the pod network's)
//!               local EXTERNAL dev bridge, for each external address
//!   bridge  ──  corp-CLUSTER ═══ eth0 (MAC)  in the namespace
//!   namespace:  local service range dev lo; default via gateway dev eth0
//! ```
//!
//! The namespace is on the pod bridge, and not on a link of its own to the host: Docker translates
//! what pods send out of their bridge, which would hide all of them behind one address, and its
//! filters for containers take no answers from anywhere else. What the host sends back out of the
//! bridge where it came from makes the kernel point pods to the next hop; that answers no ARP, so
//! they keep the way through the host, which stays right when this is gone.
//!
//! Invariant: [`plan`] decides from a snapshot, [`Links::apply`] only carries out. Everything on the
//! host is on the bridge or in its name, and routes carry a protocol of their own.

use std::{collections::BTreeSet, future::Future, net::Ipv4Addr, os::fd::AsRawFd, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        link::{
            BridgePortState, InfoBridgePort, InfoData, InfoPortData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
            LinkMessage,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::namespace::Namespace;
use crate::{
    network::{self, bridge_name},
    proxy::{ProxyConfig, ProxyError},
};

/// The kernel answers at once; anything longer is a fault.
const LIMIT: Duration = Duration::from_secs(5);
/// For a bridge to take a new port into use.
const PORT_LIMIT: Duration = Duration::from_secs(3);
const PORT_INTERVAL: Duration = Duration::from_millis(10);
const TABLE_LOCAL: u8 = 255;
/// Marks routes as the proxy's own; no routing daemon has this number.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(67);
const INSIDE: &str = "eth0";
const LOOPBACK: &str = "lo";

/// What must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) bridge: String,
    pub(super) port: String,
    pub(super) gateway: Ipv4Addr,
    pub(super) services: Ipv4Net,
    pub(super) mac: [u8; 6],
    /// External addresses that this node answers for.
    pub(super) external: BTreeSet<Ipv4Addr>,
}

impl Desired {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        Self {
            bridge: bridge_name(&config.cluster_id),
            port: port_name(&config.cluster_id),
            gateway: network::gateway(config.pod_cidr).addr(),
            services: config.service_cidr.trunc(),
            mac: mac(&config.cluster_id),
            external: BTreeSet::new(),
        }
    }

    /// An address in the service range that no service has.
    fn next_hop(&self) -> Ipv4Addr {
        self.services.network()
    }
}

/// Name of the bridge's port; with an id of 8 digits it fits the kernel's 15 characters.
fn port_name(cluster_id: &str) -> String {
    format!("corp-{cluster_id}")
}

/// Locally administered, and the cluster's own.
fn mac(cluster_id: &str) -> [u8; 6] {
    let [a, b, c, d] = u32::from_str_radix(cluster_id, 16).unwrap_or_default().to_be_bytes();
    [0x02, 0xc0, a, b, c, d]
}

/// What is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Observed {
    bridge: Option<Bridge>,
    port: Option<Port>,
    inside: Option<Inside>,
    loopback: Option<(u32, bool)>,
    /// The range is routed to the next hop; the next hop's address is known.
    routed: bool,
    next_hop: bool,
    /// In the namespace: the range is its own; it knows the way back.
    local: bool,
    default: bool,
    external: BTreeSet<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bridge {
    index: u32,
    mtu: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    index: u32,
    up: bool,
    bridge: Option<u32>,
    forwards: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inside {
    index: u32,
    up: bool,
    /// The other end's index.
    pair: Option<u32>,
    mac: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    RemovePort(u32),
    RemoveInside(u32),
    MakePair(u32),
    AttachPort,
    RaiseInside,
    AwaitPort,
    RaiseLoopback(u32),
    RouteInside,
    RouteBack,
    SetNextHop(u32),
    RouteServices(u32),
    AddExternal(u32, Ipv4Addr),
    RemoveExternal(u32, Ipv4Addr),
}

/// What must change, in an order that the kernel accepts. `None` without a bridge.
pub(super) fn plan(desired: &Desired, observed: &Observed) -> Option<Vec<Step>> {
    let bridge = observed.bridge?;
    let mut steps = Vec::new();
    let (port, inside) = (observed.port, observed.inside);
    let paired = matches!((port, inside), (Some(p), Some(i)) if i.pair == Some(p.index) && i.mac);
    if !paired {
        steps.extend(port.map(|p| Step::RemovePort(p.index)));
        // The other end goes along, if it was one.
        steps.extend(
            inside.filter(|i| port.is_none_or(|p| i.pair != Some(p.index))).map(|i| Step::RemoveInside(i.index)),
        );
        steps.push(Step::MakePair(bridge.mtu));
    }
    if !paired || port.is_none_or(|p| !p.up || p.bridge != Some(bridge.index)) {
        steps.push(Step::AttachPort);
    }
    let raised = paired && inside.is_some_and(|i| i.up);
    if !raised {
        steps.push(Step::RaiseInside);
    }
    // The kernel takes up to a second to notice that both ends are up; until then, packets are lost.
    if !steps.is_empty() || port.is_none_or(|p| !p.forwards) {
        steps.push(Step::AwaitPort);
    }
    if let Some((index, false)) = observed.loopback {
        steps.push(Step::RaiseLoopback(index));
    }
    if !observed.local {
        steps.push(Step::RouteInside);
    }
    // Taking a link down has removed its routes too.
    if !observed.default || !raised {
        steps.push(Step::RouteBack);
    }
    if !observed.next_hop {
        steps.push(Step::SetNextHop(bridge.index));
    }
    if !observed.routed {
        steps.push(Step::RouteServices(bridge.index));
    }
    steps.extend(desired.external.difference(&observed.external).map(|ip| Step::AddExternal(bridge.index, *ip)));
    steps.extend(observed.external.difference(&desired.external).map(|ip| Step::RemoveExternal(bridge.index, *ip)));
    Some(steps)
}

/// Netlink connections to both sides. What happens to their links and routes is told.
#[derive(Debug)]
pub(super) struct Links {
    host: Handle,
    inside: Handle,
    /// The host's network namespace.
    host_namespace: std::fs::File,
    changed: Arc<Notify>,
    tasks: Vec<JoinHandle<()>>,
}

impl Links {
    pub(super) async fn open(namespace: &Namespace) -> Result<Self, ProxyError> {
        let changed = Arc::new(Notify::new());
        let failed = |source| ProxyError::Open { what: "netlink", source };
        let open = || rtnetlink::new_multicast_connection(&[MulticastGroup::Link, MulticastGroup::Ipv4Route]);
        let host_namespace = std::fs::File::open("/proc/thread-self/ns/net").map_err(failed)?;
        let here = open().map_err(failed)?;
        let runtime = tokio::runtime::Handle::current();
        // A socket belongs to the namespace of the thread that opens it, whoever uses it.
        let inside = move || {
            let _guard = runtime.enter();
            open()
        };
        let there = namespace.within(inside).await?.map_err(failed)?;
        let mut tasks = Vec::new();
        let [host, inside] = [here, there].map(|(connection, handle, mut events)| {
            let changed = Arc::clone(&changed);
            tasks.push(tokio::spawn(connection));
            tasks.push(tokio::spawn(async move {
                while events.next().await.is_some() {
                    changed.notify_one();
                }
            }));
            handle
        });
        Ok(Self { host, inside, host_namespace, changed, tasks })
    }

    /// Returns after a change of links or routes on either side. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) async fn observe(&self, desired: &Desired) -> Result<Observed, ProxyError> {
        let outer = links(&self.host).await?;
        let Some(bridge) = outer.iter().find(|l| name_of(l) == desired.bridge) else { return Ok(Observed::default()) };
        let index = bridge.header.index;
        let inner = links(&self.inside).await?;
        let is_up = |link: &LinkMessage| link.header.flags.contains(LinkFlags::Up);
        let port = outer.iter().find(|l| name_of(l) == desired.port).map(|l| Port {
            index: l.header.index,
            up: is_up(l),
            bridge: l.attributes.iter().find_map(|a| match a {
                LinkAttribute::Controller(index) => Some(*index),
                _ => None,
            }),
            forwards: forwards(l),
        });
        let inside = inner.iter().find(|l| name_of(l) == INSIDE).map(|l| Inside {
            index: l.header.index,
            up: is_up(l),
            pair: l.attributes.iter().find_map(|a| match a {
                LinkAttribute::Link(index) => Some(*index),
                _ => None,
            }),
            mac: l.attributes.iter().any(|a| matches!(a, LinkAttribute::Address(mac) if *mac == desired.mac)),
        });
        let loopback = inner.iter().find(|l| name_of(l) == LOOPBACK).map(|l| (l.header.index, is_up(l)));
        let host_routes = routes(&self.host).await?;
        let inner_routes = routes(&self.inside).await?;
        let through = |link: Option<u32>| move |r: &&RouteMessage| link.is_some() && interface_of(r) == link;
        let on_bridge = || host_routes.iter().filter(through(Some(index)));
        Ok(Observed {
            bridge: Some(Bridge { index, mtu: mtu_of(bridge) }),
            port,
            inside,
            loopback,
            routed: on_bridge().any(|r| {
                range_of(r) == Some(desired.services)
                    && gateway_of(r) == Some(desired.next_hop())
                    && source_of(r) == Some(desired.gateway)
            }),
            next_hop: next_hops(&self.host, index, desired.mac).await?.iter().any(|(ip, _)| *ip == desired.next_hop()),
            local: (inner_routes.iter().filter(through(loopback.map(|(index, _)| index))))
                .any(|r| r.header.kind == RouteType::Local && range_of(r) == Some(desired.services)),
            default: (inner_routes.iter().filter(through(inside.map(|i| i.index))))
                .any(|r| range_of(r) == Some(Ipv4Net::default()) && gateway_of(r) == Some(desired.gateway)),
            external: on_bridge().filter(|r| is_external(r)).filter_map(|r| Some(range_of(r)?.addr())).collect(),
        })
    }

    /// Makes everything as it must be.
    pub(super) async fn restore(&self, desired: &Desired) -> Result<(), ProxyError> {
        let observed = self.observe(desired).await?;
        let steps = plan(desired, &observed).ok_or_else(|| ProxyError::NoBridge(desired.bridge.clone()))?;
        for step in steps {
            tracing::debug!(?step, "setting the way to the portals right");
            self.apply(desired, &step).await?;
        }
        Ok(())
    }

    async fn apply(&self, desired: &Desired, step: &Step) -> Result<(), ProxyError> {
        let Self { host, inside, .. } = self;
        let up = |handle: &Handle, index| handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute();
        match step {
            Step::RemovePort(index) => call("removing a link", host.link().del(*index).execute()).await,
            Step::RemoveInside(index) => call("removing a link", inside.link().del(*index).execute()).await,
            Step::MakePair(mtu) => {
                let outer = LinkUnspec::new_with_name(&desired.port)
                    .mtu(*mtu)
                    .setns_by_fd(self.host_namespace.as_raw_fd())
                    .build();
                let pair = LinkVeth::new(INSIDE, &desired.port)
                    .mtu(*mtu)
                    .address(desired.mac.to_vec())
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(outer)));
                call("making the pair of links", inside.link().add(pair.build()).execute()).await
            }
            Step::AttachPort => {
                let bridge = index_of(host, &desired.bridge).await?;
                let port = index_of(host, &desired.port).await?;
                let link = LinkUnspec::new_with_index(port).controller(bridge).up().build();
                call("attaching the port", host.link().set(link).execute()).await
            }
            Step::RaiseInside => {
                let index = index_of(inside, INSIDE).await?;
                call("raising a link", up(inside, index)).await
            }
            Step::AwaitPort => {
                let deadline = Instant::now() + PORT_LIMIT;
                while !link(host, &desired.port).await.is_ok_and(|port| forwards(&port)) {
                    if Instant::now() >= deadline {
                        let what = "waiting for the port to forward";
                        return Err(ProxyError::NetlinkTimeout { what, seconds: PORT_LIMIT.as_secs() });
                    }
                    tokio::time::sleep(PORT_INTERVAL).await;
                }
                Ok(())
            }
            Step::RaiseLoopback(index) => call("raising a link", up(inside, *index)).await,
            Step::RouteInside => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(desired.services.network(), desired.services.prefix_len())
                    .output_interface(index_of(inside, LOOPBACK).await?)
                    .kind(RouteType::Local)
                    .table_id(TABLE_LOCAL.into())
                    .scope(RouteScope::Host)
                    .protocol(PROTOCOL);
                call("taking in the service range", inside.route().add(route.build()).replace().execute()).await
            }
            Step::RouteBack => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .gateway(desired.gateway)
                    .output_interface(index_of(inside, INSIDE).await?)
                    .onlink()
                    .protocol(PROTOCOL);
                call("routing back", inside.route().add(route.build()).replace().execute()).await
            }
            Step::SetNextHop(bridge) => {
                let add = host.neighbours().add(*bridge, desired.next_hop().into());
                let add = add.link_layer_address(&desired.mac).state(NeighbourState::Permanent).replace();
                call("setting the next hop", add.execute()).await
            }
            Step::RouteServices(bridge) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(desired.services.network(), desired.services.prefix_len())
                    .gateway(desired.next_hop())
                    .output_interface(*bridge)
                    .pref_source(desired.gateway)
                    .onlink()
                    .protocol(PROTOCOL);
                call("routing the service range", host.route().add(route.build()).replace().execute()).await
            }
            Step::AddExternal(bridge, ip) => {
                let route = external(*bridge, *ip);
                call("taking in an external address", host.route().add(route).replace().execute()).await
            }
            Step::RemoveExternal(bridge, ip) => {
                call("giving up an external address", host.route().del(external(*bridge, *ip)).execute()).await
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Removes what is on the host. None there is success.
pub(super) async fn remove(cluster_id: &str) -> Result<(), ProxyError> {
    let opened = rtnetlink::new_connection();
    let (connection, host, _) = opened.map_err(|source| ProxyError::Open { what: "netlink", source })?;
    let connection = tokio::spawn(connection);
    let removal = async {
        let all = links(&host).await?;
        if let Some(port) = all.iter().find(|l| name_of(l) == port_name(cluster_id)) {
            gone_is_done(call("removing a link", host.link().del(port.header.index).execute()).await)?;
        }
        let Some(bridge) = all.iter().find(|l| name_of(l) == bridge_name(cluster_id)) else { return Ok(()) };
        let index = bridge.header.index;
        for route in routes(&host).await?.into_iter().filter(|r| interface_of(r) == Some(index)) {
            if route.header.protocol == PROTOCOL {
                gone_is_done(call("removing a route", host.route().del(route).execute()).await)?;
            }
        }
        for (_, neighbour) in next_hops(&host, index, mac(cluster_id)).await? {
            gone_is_done(call("removing the next hop", host.neighbours().del(neighbour).execute()).await)?;
        }
        Ok(())
    };
    let result = removal.await;
    connection.abort();
    result
}

/// Links and what hangs on them may go at any time, with what removes them.
fn gone_is_done(result: Result<(), ProxyError>) -> Result<(), ProxyError> {
    const ABSENT: [i32; 3] = [-2, -3, -19];
    match result {
        Err(ProxyError::Netlink { source, what }) => match *source {
            rtnetlink::Error::NetlinkError(message) if ABSENT.contains(&message.raw_code()) => Ok(()),
            source => Err(ProxyError::Netlink { what, source: Box::new(source) }),
        },
        other => other,
    }
}

fn external(bridge: u32, ip: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(ip, 32)
        .output_interface(bridge)
        .kind(RouteType::Local)
        .table_id(TABLE_LOCAL.into())
        .scope(RouteScope::Host)
        .protocol(PROTOCOL)
        .build()
}

fn is_external(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Local && route.header.protocol == PROTOCOL
}

async fn call<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, ProxyError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ProxyError::Netlink { what, source: Box::new(source) }),
        Err(_) => Err(ProxyError::NetlinkTimeout { what, seconds: LIMIT.as_secs() }),
    }
}

async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, ProxyError> {
    call("listing links", handle.link().get().execute().try_collect()).await
}

async fn link(handle: &Handle, name: &str) -> Result<LinkMessage, ProxyError> {
    let found: Vec<_> =
        call("looking up a link", handle.link().get().match_name(name.to_owned()).execute().try_collect()).await?;
    found.into_iter().next().ok_or_else(|| ProxyError::NoBridge(name.to_owned()))
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, ProxyError> {
    Ok(link(handle, name).await?.header.index)
}

/// Whether this is a port that its bridge sends frames to.
fn forwards(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.iter().any(|p| matches!(p, InfoBridgePort::State(BridgePortState::Forwarding)))
        }
        _ => false,
    })
}

/// IPv4 routes of all tables.
async fn routes(handle: &Handle) -> Result<Vec<RouteMessage>, ProxyError> {
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    call("listing routes", handle.route().get(query).execute().try_collect()).await
}

/// Permanent neighbours with our address.
async fn next_hops(
    handle: &Handle,
    bridge: u32,
    mac: [u8; 6],
) -> Result<Vec<(Ipv4Addr, NeighbourMessage)>, ProxyError> {
    let all: Vec<NeighbourMessage> =
        call("listing neighbours", handle.neighbours().get().execute().try_collect()).await?;
    let ours = all.into_iter().filter(|n| {
        n.header.ifindex == bridge
            && n.header.state == NeighbourState::Permanent
            && n.attributes.iter().any(|a| matches!(a, NeighbourAttribute::LinkLayerAddress(found) if *found == mac))
    });
    let address = |n: &NeighbourMessage| {
        n.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
            _ => None,
        })
    };
    Ok(ours.filter_map(|n| Some((address(&n)?, n))).collect())
}

fn name_of(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(1500)
}

fn range_of(route: &RouteMessage) -> Option<Ipv4Net> {
    let RouteHeader { destination_prefix_length, .. } = route.header;
    let destination = attribute(route, |a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    Ipv4Net::new(destination.unwrap_or(Ipv4Addr::UNSPECIFIED), destination_prefix_length).ok()
}

fn interface_of(route: &RouteMessage) -> Option<u32> {
    attribute(route, |a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn gateway_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    attribute(route, |a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

fn source_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    attribute(route, |a| match a {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

fn attribute<T>(route: &RouteMessage, find: impl Fn(&RouteAttribute) -> Option<T>) -> Option<T> {
    route.attributes.iter().find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired() -> Desired {
        Desired {
            bridge: "cor-1".into(),
            port: "corp-1".into(),
            gateway: Ipv4Addr::new(10, 244, 3, 1),
            services: "10.0.0.0/16".parse().unwrap(),
            mac: mac("0a1b2c3d"),
            external: BTreeSet::from([Ipv4Addr::new(203, 0, 113, 7)]),
        }
    }

    fn settled() -> Observed {
        Observed {
            bridge: Some(Bridge { index: 7, mtu: 1500 }),
            port: Some(Port { index: 9, up: true, bridge: Some(7), forwards: true }),
            inside: Some(Inside { index: 2, up: true, pair: Some(9), mac: true }),
            loopback: Some((1, true)),
            routed: true,
            next_hop: true,
            local: true,
            default: true,
            external: desired().external,
        }
    }

    #[test]
    fn what_is_settled_needs_nothing_and_without_a_bridge_nothing_can_be_done() {
        assert_eq!(plan(&desired(), &settled()), Some(vec![]));
        assert_eq!(plan(&desired(), &Observed::default()), None);
    }

    #[test]
    fn names_and_addresses_are_the_clusters_own() {
        assert!(port_name("0a1b2c3d").len() <= 15);
        assert_eq!(mac("0a1b2c3d"), [0x02, 0xc0, 0x0a, 0x1b, 0x2c, 0x3d]);
    }

    #[test]
    fn each_missing_part_is_restored_in_the_order_the_kernel_accepts() {
        let check = |observed: Observed, expected: &[Step]| {
            assert_eq!(plan(&desired(), &observed).as_deref(), Some(expected), "{observed:?}");
        };
        let pair = [Step::MakePair(1500), Step::AttachPort, Step::RaiseInside, Step::AwaitPort, Step::RouteBack];
        check(Observed { port: None, inside: None, default: false, ..settled() }, &pair);
        // Ends of different pairs: one was left by a namespace that somebody still holds.
        let stray = Inside { index: 2, up: true, pair: Some(5), mac: true };
        let removals = [Step::RemovePort(9), Step::RemoveInside(2)];
        check(Observed { inside: Some(stray), ..settled() }, &[&removals[..], &pair[..]].concat());
        let wrong = Inside { mac: false, ..settled().inside.unwrap() };
        check(Observed { inside: Some(wrong), ..settled() }, &[&removals[..1], &pair[..]].concat());
        let loose = Port { bridge: None, ..settled().port.unwrap() };
        check(Observed { port: Some(loose), ..settled() }, &[Step::AttachPort, Step::AwaitPort]);
        let down = Inside { up: false, ..settled().inside.unwrap() };
        check(Observed { inside: Some(down), ..settled() }, &[Step::RaiseInside, Step::AwaitPort, Step::RouteBack]);
        check(Observed { routed: false, ..settled() }, &[Step::RouteServices(7)]);
        check(
            Observed { loopback: Some((1, false)), local: false, next_hop: false, ..settled() },
            &[Step::RaiseLoopback(1), Step::RouteInside, Step::SetNextHop(7)],
        );
        let (old, new) = (Ipv4Addr::new(203, 0, 113, 9), Ipv4Addr::new(203, 0, 113, 7));
        check(
            Observed { external: BTreeSet::from([old]), ..settled() },
            &[Step::AddExternal(7, new), Step::RemoveExternal(7, old)],
        );
    }
}
