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
//! A kernel that knows no rules has the node's clients go by the bridge, from the gateway's address.
//!
//! Invariant: [`plan()`] decides from a snapshot, [`Links::apply`] only carries out. Everything on the
//! host is on the bridge or in its name, and routes carry a protocol of their own.

mod plan;
mod seen;

use std::{net::Ipv4Addr, os::fd::AsRawFd, sync::Arc, time::Duration};

use futures_util::StreamExt;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressScope,
        link::{InfoData, InfoVeth},
        neighbour::NeighbourState,
        route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute},
    },
};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::namespace::Namespace;
use crate::{
    network::bridge_name,
    proxy::ProxyError,
    rtnl::{NetlinkError, TABLE_LOCAL, addresses, call, interface_of, link, links, named, neighbours, routes, rules},
};
pub(super) use plan::{Desired, plan};
use plan::{Observed, Step, Way, inner_mac, inner_name, outer_mac, outer_name, own_address, table};
use seen::{Seen, forwards, is_next_hop, is_own_rule};

/// For a bridge to take a new port into use.
const PORT_LIMIT: Duration = Duration::from_secs(3);
const PORT_INTERVAL: Duration = Duration::from_millis(10);
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
        let seen = Seen {
            outer: links(&self.host).await?,
            inner: links(&self.inside).await?,
            outer_routes: routes(&self.host).await?,
            inner_routes: routes(&self.inside).await?,
            addresses: addresses(&self.host).await?,
            neighbours: neighbours(&self.host, AddressFamily::Inet).await?,
            rules: rules(&self.host).await?,
        };
        Ok(seen.observed(desired))
    }

    /// Makes everything as it must be.
    pub(super) async fn restore(&self, desired: &Desired) -> Result<(), ProxyError> {
        let observed = self.observe(desired).await?;
        let steps = plan(desired, &observed).ok_or_else(|| ProxyError::NoBridge(desired.bridge()))?;
        for step in steps {
            tracing::debug!(?step, "setting the way to the portals right");
            self.apply(desired, &step).await?;
        }
        Ok(())
    }

    async fn apply(&self, desired: &Desired, step: &Step) -> Result<(), ProxyError> {
        let (Self { host, inside, .. }, id) = (self, desired.cluster_id.as_str());
        let up = |index| LinkUnspec::new_with_index(index).up();
        match *step {
            Step::RemoveOuter(index) => call("removing a link", host.link().del(index).execute()).await?,
            Step::RemoveInner(index) => call("removing a link", inside.link().del(index).execute()).await?,
            Step::MakePair(way, mtu) => {
                let name = outer_name(id, way);
                let outer = LinkUnspec::new_with_name(&name)
                    .mtu(mtu)
                    .address(outer_mac(id, way).to_vec())
                    .setns_by_fd(self.host_namespace.as_raw_fd())
                    .build();
                let pair = LinkVeth::new(inner_name(way), &name)
                    .mtu(mtu)
                    .address(inner_mac(id, way).to_vec())
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(outer)));
                call("making a pair of links", inside.link().add(pair.build()).execute()).await?
            }
            Step::SettleOuter(Way::Pods) => {
                let bridge = index_of(host, &desired.bridge()).await?;
                let link = up(index_of(host, &outer_name(id, Way::Pods)).await?).controller(bridge).build();
                call("attaching the port", host.link().set(link).execute()).await?
            }
            Step::SettleOuter(Way::Node) => {
                let index = index_of(host, &outer_name(id, Way::Node)).await?;
                let mut address = host.address().add(index, own_address(id).into(), 32).replace();
                // Nobody who looks for an address of this host takes it.
                address.message_mut().header.scope = AddressScope::Link;
                call("addressing the node's link", address.execute()).await?;
                call("raising a link", host.link().set(up(index).build()).execute()).await?
            }
            Step::RaiseInner(way) => {
                let index = index_of(inside, inner_name(way)).await?;
                call("raising a link", inside.link().set(up(index).build()).execute()).await?
            }
            Step::AwaitPort => {
                let (name, deadline) = (outer_name(id, Way::Pods), Instant::now() + PORT_LIMIT);
                while !link(host, &name).await.is_ok_and(|port| port.as_ref().is_some_and(forwards)) {
                    if Instant::now() >= deadline {
                        let what = "waiting for the port to forward".into();
                        return Err(NetlinkError::Timeout { what, seconds: PORT_LIMIT.as_secs() }.into());
                    }
                    tokio::time::sleep(PORT_INTERVAL).await;
                }
            }
            Step::RaiseLoopback(index) => {
                call("raising a link", inside.link().set(up(index).build()).execute()).await?
            }
            Step::RouteInside => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(desired.services.network(), desired.services.prefix_len())
                    .output_interface(index_of(inside, LOOPBACK).await?)
                    .kind(RouteType::Local)
                    .table_id(TABLE_LOCAL.into())
                    .scope(RouteScope::Host)
                    .protocol(PROTOCOL);
                call("taking in the service range", inside.route().add(route.build()).replace().execute()).await?
            }
            Step::RouteBack(way) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .output_interface(index_of(inside, inner_name(way)).await?)
                    .protocol(PROTOCOL);
                let route = match way {
                    Way::Pods => route.gateway(desired.gateway).onlink(),
                    Way::Node => route.destination_prefix(own_address(id), 32).scope(RouteScope::Link),
                };
                call("routing back", inside.route().add(route.build()).replace().execute()).await?
            }
            Step::SetNextHop(way) => {
                let device = index_of(host, &desired.device(way)).await?;
                let add = host.neighbours().add(device, desired.next_hop().into());
                let add = add.link_layer_address(&desired.inner_mac(way)).state(NeighbourState::Permanent).replace();
                call("setting the next hop", add.execute()).await?
            }
            Step::RouteServices(way, source) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(desired.services.network(), desired.services.prefix_len())
                    .gateway(desired.next_hop())
                    .output_interface(index_of(host, &desired.device(way)).await?)
                    .pref_source(source)
                    .onlink()
                    .protocol(PROTOCOL);
                let route = if way == Way::Node { route.table_id(table(id)) } else { route };
                call("routing the service range", host.route().add(route.build()).replace().execute()).await?
            }
            Step::AddRule => {
                let rule = host.rule().add().v4().action(RuleAction::ToTable).table_id(table(id));
                let services = desired.services;
                let mut rule = rule
                    .priority(PRIORITY)
                    .source_prefix(own_address(id), 32)
                    .destination_prefix(services.network(), services.prefix_len());
                rule.message_mut().attributes.push(RuleAttribute::Protocol(PROTOCOL));
                call("leading the node's clients to their table", rule.execute()).await?
            }
            Step::AddExternal(bridge, ip) => {
                let route = external(bridge, ip);
                call("taking in an external address", host.route().add(route).replace().execute()).await?
            }
            Step::RemoveExternal(bridge, ip) => {
                call("giving up an external address", host.route().del(external(bridge, ip)).execute()).await?
            }
        }
        Ok(())
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
        for way in [Way::Pods, Way::Node] {
            if let Some(outer) = named(&all, &outer_name(cluster_id, way)) {
                gone_is_done(call("removing a link", host.link().del(outer.header.index).execute()).await)?;
            }
        }
        for rule in rules(&host).await?.into_iter().flatten().filter(|rule| is_own_rule(rule, cluster_id)) {
            gone_is_done(call("removing a rule", host.rule().del(rule).execute()).await)?;
        }
        let Some(bridge) = named(&all, &bridge_name(cluster_id)) else { return Ok(()) };
        let index = bridge.header.index;
        for route in routes(&host).await?.into_iter().filter(|r| interface_of(r) == Some(index)) {
            if route.header.protocol == PROTOCOL {
                gone_is_done(call("removing a route", host.route().del(route).execute()).await)?;
            }
        }
        for neighbour in neighbours(&host, AddressFamily::Inet).await? {
            if is_next_hop(&neighbour, index, inner_mac(cluster_id, Way::Pods)) {
                gone_is_done(call("removing the next hop", host.neighbours().del(neighbour).execute()).await)?;
            }
        }
        Ok(())
    };
    let result = removal.await;
    connection.abort();
    result
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, ProxyError> {
    let found = link(handle, name).await?;
    found.map(|link| link.header.index).ok_or_else(|| ProxyError::NoLink(name.to_owned()))
}

/// Links and what hangs on them may go at any time, with what removes them.
fn gone_is_done(result: Result<(), NetlinkError>) -> Result<(), ProxyError> {
    /// `ENOENT`, `ESRCH`, `ENODEV`.
    const ABSENT: [i32; 3] = [2, 3, 19];
    match result {
        Err(error) if error.is_one_of(&ABSENT) => Ok(()),
        other => Ok(other?),
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
