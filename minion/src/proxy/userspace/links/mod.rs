//! How packets come to the portals: two pairs of links into the namespace, and routes.
//!
//! ```text
//!   host:       service range via NEXT HOP dev bridge src OWN         (metric 0; the bare route onto
//!               NEXT HOP lladdr MAC dev bridge, permanent              the bridge is the pod network's)
//!               local EXTERNAL dev bridge, for each external address
//!   bridge  ──  corp-CLUSTER ═══ eth0 (MAC)  in the namespace
//!
//!   host:       from OWN to service range: table CLUSTER
//!   table:      service range via NEXT HOP dev corn-CLUSTER src OWN; NEXT HOP lladdr MAC, permanent
//!               corn-CLUSTER (OWN) ═══ eth1 (MAC)  in the namespace
//!
//!   namespace:  local service range dev lo; default via gateway dev eth0; OWN dev eth1
//! ```
//!
//! For pods the namespace is on the pod bridge, and not on a link of its own to the host: Docker translates
//! what pods send out of their bridge, which would hide all of them behind one address, and its
//! filters for containers take no answers from anywhere else. What the host sends back out of the
//! bridge where it came from makes the kernel point pods to the next hop; that answers no ARP, so
//! they keep the way through the host, which stays right when this is gone.
//!
//! The node's own clients have a pair for themselves, which saves them the bridge both ways. They get its address
//! OWN from the route onto the bridge, and with it the rule, which leads them to their table. Pods' packets must not
//! follow that rule, and neither may the kernel when it asks itself (`rp_filter`) whether an answer to a pod came
//! the right way: hence one by source. A datagram that is sent without connecting goes by the bridge, and its answer
//! by the other pair.
//!
//! Invariant: [`plan()`] decides from a snapshot, [`Links::apply`] only carries out. Everything on the
//! host is on the bridge or in its name, and routes carry a protocol of their own.

mod kernel;
mod plan;

use std::{net::Ipv4Addr, os::fd::AsRawFd, sync::Arc, time::Duration};

use futures_util::StreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
        neighbour::NeighbourState,
        route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute},
    },
};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::namespace::Namespace;
use crate::{network::bridge_name, proxy::ProxyError};
use kernel::{
    addresses, call, forwards, gateway_of, index_of, interface_of, link, links, mtu_of, name_of, next_hops, range_of,
    routes, rules, source_of, table_of,
};
use plan::{Bridge, Inner, Observed, Outer, Pair, Step, Way, inner_name, mac, number, outer_name, table};
pub(super) use plan::{Desired, plan};

/// For a bridge to take a new port into use.
const PORT_LIMIT: Duration = Duration::from_secs(3);
const PORT_INTERVAL: Duration = Duration::from_millis(10);
const TABLE_LOCAL: u8 = 255;
/// Of the rule: before the kernel's for its main table.
const PRIORITY: u32 = 6700;
/// Marks routes and rules as the proxy's own; no routing daemon has this number.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(67);
const LOOPBACK: &str = "lo";

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
        let open = || {
            rtnetlink::new_multicast_connection(&[
                MulticastGroup::Link,
                MulticastGroup::Ipv4Route,
                MulticastGroup::Ipv4Rule,
            ])
        };
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
        let loopback = inner.iter().find(|l| name_of(l) == LOOPBACK).map(|l| (l.header.index, is_up(l)));
        let seen = Seen {
            host_routes: routes(&self.host).await?,
            inner_routes: routes(&self.inside).await?,
            outer: &outer,
            inner: &inner,
        };
        let on_bridge = through(&seen.host_routes, Some(index));
        Ok(Observed {
            bridge: Some(Bridge { index, mtu: mtu_of(bridge) }),
            loopback,
            local: through(&seen.inner_routes, loopback.map(|(index, _)| index))
                .any(|r| r.header.kind == RouteType::Local && range_of(r) == Some(desired.services)),
            pods: self.observe_pair(desired, Way::Bridge, &seen).await?,
            own: self.observe_pair(desired, Way::Node, &seen).await?,
            rule: rules(&self.host, desired.table()).await?.iter().any(|rule| {
                let has = |a| rule.attributes.contains(&a);
                has(RuleAttribute::Source(desired.address().into()))
                    && has(RuleAttribute::Destination(desired.services.network().into()))
                    && rule.header.dst_len == desired.services.prefix_len()
            }),
            external: on_bridge.filter(|r| is_external(r)).filter_map(|r| Some(range_of(r)?.addr())).collect(),
        })
    }

    async fn observe_pair(&self, desired: &Desired, way: Way, seen: &Seen<'_>) -> Result<Pair, ProxyError> {
        let named = |links: &'_ [LinkMessage], name: &str| links.iter().find(|l| name_of(l) == name).cloned();
        let device = named(seen.outer, desired.device(way)).map(|l| l.header.index);
        let outer = match named(seen.outer, desired.outer(way)) {
            None => None,
            Some(link) => {
                let index = link.header.index;
                let settled = match way {
                    Way::Bridge => link
                        .attributes
                        .iter()
                        .any(|a| matches!(a, LinkAttribute::Controller(bridge) if Some(*bridge) == device)),
                    Way::Node => addresses(&self.host, index).await?.contains(&desired.address()),
                };
                Some(Outer { index, up: is_up(&link), settled, forwards: way == Way::Node || forwards(&link) })
            }
        };
        let inner = named(seen.inner, inner_name(way)).map(|link| Inner {
            index: link.header.index,
            up: is_up(&link),
            pair: link.attributes.iter().find_map(|a| match a {
                LinkAttribute::Link(index) => Some(*index),
                _ => None,
            }),
            mac: link.attributes.iter().any(|a| matches!(a, LinkAttribute::Address(mac) if *mac == desired.mac(way))),
        });
        let next_hop = match device {
            None => false,
            Some(device) => {
                let known = next_hops(&self.host, device, desired.mac(way)).await?;
                known.iter().any(|(ip, _)| *ip == desired.next_hop())
            }
        };
        let back = match way {
            Way::Bridge => (Some(Ipv4Net::default()), Some(desired.gateway)),
            Way::Node => (Some(desired.address().into()), None),
        };
        Ok(Pair {
            outer,
            inner,
            next_hop,
            routed: through(&seen.host_routes, device).any(|r| {
                range_of(r) == Some(desired.services)
                    && gateway_of(r) == Some(desired.next_hop())
                    && source_of(r) == Some(desired.address())
                    && (way == Way::Bridge || table_of(r) == desired.table())
            }),
            back: through(&seen.inner_routes, inner.map(|i| i.index)).any(|r| (range_of(r), gateway_of(r)) == back),
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
        let up = |index| LinkUnspec::new_with_index(index).up();
        match *step {
            Step::RemoveOuter(index) => call("removing a link", host.link().del(index).execute()).await,
            Step::RemoveInner(index) => call("removing a link", inside.link().del(index).execute()).await,
            Step::MakePair(way, mtu) => {
                let name = desired.outer(way);
                let outer =
                    LinkUnspec::new_with_name(name).mtu(mtu).setns_by_fd(self.host_namespace.as_raw_fd()).build();
                let pair = LinkVeth::new(inner_name(way), name)
                    .mtu(mtu)
                    .address(desired.mac(way).to_vec())
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(outer)));
                call("making a pair of links", inside.link().add(pair.build()).execute()).await
            }
            Step::SettleOuter(Way::Bridge) => {
                let bridge = index_of(host, &desired.bridge).await?;
                let link = up(index_of(host, &desired.port).await?).controller(bridge).build();
                call("attaching the port", host.link().set(link).execute()).await
            }
            Step::SettleOuter(Way::Node) => {
                let index = index_of(host, &desired.node).await?;
                let address = host.address().add(index, desired.address().into(), 32).replace();
                call("addressing the node's link", address.execute()).await?;
                call("raising a link", host.link().set(up(index).build()).execute()).await
            }
            Step::RaiseInner(way) => {
                let index = index_of(inside, inner_name(way)).await?;
                call("raising a link", inside.link().set(up(index).build()).execute()).await
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
            Step::RaiseLoopback(index) => call("raising a link", inside.link().set(up(index).build()).execute()).await,
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
            Step::RouteBack(way) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .output_interface(index_of(inside, inner_name(way)).await?)
                    .protocol(PROTOCOL);
                let route = match way {
                    Way::Bridge => route.gateway(desired.gateway).onlink(),
                    Way::Node => route.destination_prefix(desired.address(), 32).scope(RouteScope::Link),
                };
                call("routing back", inside.route().add(route.build()).replace().execute()).await
            }
            Step::SetNextHop(way) => {
                let device = index_of(host, desired.device(way)).await?;
                let add = host.neighbours().add(device, desired.next_hop().into());
                let add = add.link_layer_address(&desired.mac(way)).state(NeighbourState::Permanent).replace();
                call("setting the next hop", add.execute()).await
            }
            Step::RouteServices(way) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(desired.services.network(), desired.services.prefix_len())
                    .gateway(desired.next_hop())
                    .output_interface(index_of(host, desired.device(way)).await?)
                    .pref_source(desired.address())
                    .onlink()
                    .protocol(PROTOCOL);
                let route = if way == Way::Node { route.table_id(desired.table()) } else { route };
                call("routing the service range", host.route().add(route.build()).replace().execute()).await
            }
            Step::AddRule => {
                let rule = host.rule().add().v4().action(RuleAction::ToTable).table_id(desired.table());
                let services = desired.services;
                let mut rule = rule
                    .priority(PRIORITY)
                    .source_prefix(desired.address(), 32)
                    .destination_prefix(services.network(), services.prefix_len());
                rule.message_mut().attributes.push(RuleAttribute::Protocol(PROTOCOL));
                call("leading the node's clients to their table", rule.execute()).await
            }
            Step::AddExternal(bridge, ip) => {
                let route = external(bridge, ip);
                call("taking in an external address", host.route().add(route).replace().execute()).await
            }
            Step::RemoveExternal(bridge, ip) => {
                call("giving up an external address", host.route().del(external(bridge, ip)).execute()).await
            }
        }
    }
}

/// What was found on both sides.
struct Seen<'a> {
    host_routes: Vec<RouteMessage>,
    inner_routes: Vec<RouteMessage>,
    outer: &'a [LinkMessage],
    inner: &'a [LinkMessage],
}

fn through(routes: &[RouteMessage], link: Option<u32>) -> impl Iterator<Item = &RouteMessage> {
    routes.iter().filter(move |r| link.is_some() && interface_of(r) == link)
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
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
        for way in [Way::Bridge, Way::Node] {
            if let Some(outer) = all.iter().find(|l| name_of(l) == outer_name(cluster_id, way)) {
                gone_is_done(call("removing a link", host.link().del(outer.header.index).execute()).await)?;
            }
        }
        let id = number(cluster_id);
        for rule in rules(&host, table(id)).await? {
            gone_is_done(call("removing a rule", host.rule().del(rule).execute()).await)?;
        }
        let Some(bridge) = all.iter().find(|l| name_of(l) == bridge_name(cluster_id)) else { return Ok(()) };
        let index = bridge.header.index;
        for route in routes(&host).await?.into_iter().filter(|r| interface_of(r) == Some(index)) {
            if route.header.protocol == PROTOCOL {
                gone_is_done(call("removing a route", host.route().del(route).execute()).await)?;
            }
        }
        for (_, neighbour) in next_hops(&host, index, mac(id, Way::Bridge)).await? {
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
