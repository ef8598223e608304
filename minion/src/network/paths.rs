//! The ways to the pods of other nodes: a route for each node, over the segment that both are on or
//! through a VXLAN tunnel, and no way at all for the rest of the cluster's pod range.
//!
//! ```text
//! 10.244.7.0/24 via 192.0.2.17 dev eth0          a node on one of this host's segments
//! 10.244.9.0/24 via 10.244.9.0 dev cox-<id>      a node elsewhere, through the tunnel
//! unreachable 10.244.0.0/16                      what no node has
//! ```
//!
//! Every route has the bridge's address as its source. The host therefore talks to pods as one of
//! the cluster, answers find the way back, and the kernel takes the routes away with the bridge.
//!
//! The tunnel learns nothing from packets: next hop, hardware address and host of each node follow
//! from its Node alone. A node's hardware address in the tunnel is made of its address, so that
//! nobody has to tell it.
//!
//! Invariant: [`desired`] and [`plan`] decide from values; only routes with our protocol number and
//! our source are ever removed. A route of others to the same range, with the same metric, is replaced.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use coracle_api::{client::Change, core::Node};
use ipnet::Ipv4Net;
use rtnetlink::{
    LinkUnspec, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
        route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType},
    },
};

use super::{NetworkError, link::Links};
use crate::{
    node::registration::pod_cidr_of,
    rtnl::{
        self, USUAL_MTU, call, gateway_of, infos_of, interface_of, is_up, mtu_of, name_of, named, range_of, source_of,
    },
};

/// Marks routes as ours; unassigned in the kernel's list and in iproute2's `rt_protos`.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(203);
/// IANA's port of VXLAN.
const VXLAN_PORT: u16 = 4789;
/// What VXLAN adds to a packet on an IPv4 network, in bytes.
const VXLAN_OVERHEAD: u32 = 50;
/// Any route of the host itself is better.
const NOWHERE_METRIC: u32 = 4_000_000;

/// How the pods of other nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodRoutes {
    /// Straight to nodes on a segment of this host, through a tunnel to all others.
    #[default]
    Auto,
    /// Straight only; nodes elsewhere are not reached.
    Direct,
    /// Through the tunnel only: for segments that drop packets from foreign addresses.
    Vxlan,
}

impl FromStr for PodRoutes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "vxlan" => Ok(Self::Vxlan),
            _ => Err("expected auto, direct or vxlan".into()),
        }
    }
}

/// Name of the cluster's tunnel; like the bridge's it fits the kernel's 15 characters.
pub(super) fn tunnel_name(cluster_id: &str) -> String {
    format!("cox-{cluster_id}")
}

/// The VXLAN network of the cluster: 24 bits of its id, and never 0.
fn vni(cluster_id: &str) -> u32 {
    (u32::from_str_radix(cluster_id, 16).unwrap_or_default() & 0xff_ffff).max(1)
}

/// Another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// Where its host is.
    pub(super) address: Ipv4Addr,
    /// The addresses of its pods.
    pub(super) pod_cidr: Ipv4Net,
}

/// The nodes that the watch showed, by name. `None` before the first list: what is there stays.
#[derive(Debug, Default)]
pub(super) struct Peers {
    listed: bool,
    nodes: BTreeMap<String, Peer>,
}

impl Peers {
    pub(super) fn apply(&mut self, change: Change<Node>) {
        match change {
            Change::Replaced(all) => {
                self.listed = true;
                self.nodes = all.iter().filter_map(|node| Some((name(node), peer(node)?))).collect();
            }
            Change::Applied(node) => match peer(&node) {
                Some(peer) => drop(self.nodes.insert(name(&node), peer)),
                None => drop(self.nodes.remove(&name(&node))),
            },
            Change::Deleted(node) => drop(self.nodes.remove(&name(&node))),
            Change::Interrupted(error) => tracing::debug!(error, "the paths to other nodes stay as they are"),
        }
    }

    /// All but `own`; nothing before the first list.
    pub(super) fn others(&self, own: &str) -> Option<Vec<Peer>> {
        let others = self.nodes.iter().filter(|(name, _)| *name != own).map(|(_, peer)| *peer);
        self.listed.then(|| others.collect())
    }
}

fn name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

fn peer(node: &Node) -> Option<Peer> {
    let addresses = node.status.as_ref()?.addresses.as_deref()?;
    let internal = addresses.iter().filter(|a| a.type_ == "InternalIP");
    let address = internal.filter_map(|a| a.address.parse().ok()).next()?;
    Some(Peer { address, pod_cidr: pod_cidr_of(node)?.trunc() })
}

/// Where this node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) cluster_id: String,
    pub(super) mode: PodRoutes,
    /// This host's address, where others reach it.
    pub(super) address: Ipv4Addr,
    /// The bridge's address.
    pub(super) gateway: Ipv4Addr,
    /// Addresses of this node's pods.
    pub(super) pod_cidr: Ipv4Net,
    /// Addresses of all pods.
    pub(super) pods_cidr: Ipv4Net,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// To this host, on this interface.
    Segment { via: Ipv4Addr, interface: u32 },
    /// To the node that has this address in the tunnel.
    Tunnel { via: Ipv4Addr },
    /// Refused at once.
    Nowhere,
}

/// A node at the other end of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Far {
    /// Its address in the tunnel: the network address of its pod range, which no pod has.
    pub(super) via: Ipv4Addr,
    /// Its host.
    pub(super) host: Ipv4Addr,
}

impl Far {
    /// Its hardware address in the tunnel: locally administered, made of the host's address.
    fn hardware(&self) -> [u8; 6] {
        hardware_of(self.host)
    }
}

fn hardware_of(host: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = host.octets();
    [0x02, 0xc0, a, b, c, d]
}

/// What the kernel must have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Desired {
    pub(super) routes: BTreeMap<Ipv4Net, Hop>,
    /// Nodes that need the tunnel; without any there is none.
    pub(super) far: BTreeSet<Far>,
    /// Nodes that can't be reached in this mode.
    pub(super) unreached: Vec<Ipv4Addr>,
}

/// The paths to `peers` from a host with these segments: (interface, its address and prefix).
pub(super) fn desired(place: &Place, segments: &[(u32, Ipv4Net)], peers: &[Peer]) -> Desired {
    let mut all = Desired::default();
    all.routes.insert(place.pods_cidr, Hop::Nowhere);
    for peer in peers {
        // A Node left over from a host's former life may still have what is ours now.
        let overlaps = super::overlap(&peer.pod_cidr, &place.pod_cidr) || !place.pods_cidr.contains(&peer.pod_cidr);
        if overlaps || peer.address == place.address || all.routes.contains_key(&peer.pod_cidr) {
            continue;
        }
        // The longest prefix wins, as in routing.
        let segment =
            segments.iter().filter(|(_, net)| net.contains(&peer.address)).max_by_key(|(_, n)| n.prefix_len());
        let hop = match (place.mode, segment) {
            (PodRoutes::Auto | PodRoutes::Direct, Some((interface, _))) => {
                Hop::Segment { via: peer.address, interface: *interface }
            }
            (PodRoutes::Direct, None) => {
                all.unreached.push(peer.address);
                continue;
            }
            (PodRoutes::Auto, None) | (PodRoutes::Vxlan, _) => {
                let far = Far { via: peer.pod_cidr.network(), host: peer.address };
                all.far.insert(far);
                Hop::Tunnel { via: far.via }
            }
        };
        all.routes.insert(peer.pod_cidr, hop);
    }
    all
}

/// The tunnel as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) index: u32,
    pub(super) up: bool,
    /// Whether network, port and own addresses are right: a tunnel that is not is made anew.
    pub(super) right: bool,
    /// Nodes that can be reached: both the next hop's hardware address and that one's host are known.
    pub(super) far: BTreeSet<Far>,
}

/// What the kernel has of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Observed {
    pub(super) routes: BTreeMap<Ipv4Net, Hop>,
    pub(super) tunnel: Option<Tunnel>,
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    RemoveTunnel,
    AddTunnel,
    RaiseTunnel,
    AddFar(Far),
    RemoveFar(Far),
    SetRoute(Ipv4Net, Hop),
    RemoveRoute(Ipv4Net, Hop),
}

/// What must change, in the order in which no packet goes astray: routes lead to what is there, and
/// what they led to goes after them.
pub(super) fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let wanted = !desired.far.is_empty();
    let tunnel = observed.tunnel.as_ref().filter(|tunnel| tunnel.right);
    if wanted && tunnel.is_none() {
        if observed.tunnel.is_some() {
            steps.push(Step::RemoveTunnel);
        }
        steps.push(Step::AddTunnel);
    }
    let raised = tunnel.is_some_and(|tunnel| tunnel.up);
    if wanted && !raised {
        steps.push(Step::RaiseTunnel);
    }
    let none = BTreeSet::new();
    let known = tunnel.map_or(&none, |tunnel| &tunnel.far);
    // A node that has moved keeps its next hop: what leads to the old host goes first.
    if wanted {
        steps.extend(known.difference(&desired.far).map(|far| Step::RemoveFar(*far)));
    }
    steps.extend(desired.far.difference(known).map(|far| Step::AddFar(*far)));
    for (cidr, hop) in &desired.routes {
        // A tunnel that was down or is new has lost its routes.
        let lost = matches!(hop, Hop::Tunnel { .. }) && !raised;
        if observed.routes.get(cidr) != Some(hop) || lost {
            steps.push(Step::SetRoute(*cidr, *hop));
        }
    }
    for (cidr, hop) in observed.routes.iter().filter(|(cidr, _)| !desired.routes.contains_key(cidr)) {
        let gone_with_tunnel = matches!(hop, Hop::Tunnel { .. }) && tunnel.is_none();
        if !gone_with_tunnel {
            steps.push(Step::RemoveRoute(*cidr, *hop));
        }
    }
    if !wanted && observed.tunnel.is_some() {
        steps.push(Step::RemoveTunnel);
    }
    steps
}

impl Links {
    /// What the kernel has, and this host's segments: (interface, its address and prefix), without
    /// our own interfaces.
    pub(super) async fn observe_paths(&self, place: &Place) -> Result<(Observed, Vec<(u32, Ipv4Net)>), NetworkError> {
        let links = self.links().await?;
        let tunnel_name = tunnel_name(&place.cluster_id);
        let tunnel_index = named(&links, &tunnel_name).map(|l| l.header.index);
        // Through an interface that is down, or to the host itself, there is no way to anybody.
        let usable = |index: u32| {
            links.iter().find(|l| l.header.index == index).is_some_and(|link| {
                let usable = is_up(link) && !link.header.flags.contains(LinkFlags::Loopback);
                usable && !super::is_own_link(name_of(link), &place.cluster_id)
            })
        };
        let segments = self.interface_addresses().await?.into_iter().filter(|(index, _)| usable(*index)).collect();

        let routes = self.routes().await?;
        let ours = routes.iter().filter(|r| r.header.protocol == PROTOCOL && source_of(r) == Some(place.gateway));
        let routes = ours.filter_map(|r| Some((range_of(r)?, hop_of(r, tunnel_index)?))).collect();
        let tunnel = match named(&links, &tunnel_name) {
            None => None,
            Some(link) => Some(Tunnel {
                index: link.header.index,
                up: is_up(link),
                right: is_right(link, place),
                far: self.far(link.header.index).await?,
            }),
        };
        Ok((Observed { routes, tunnel }, segments))
    }

    /// Carries out all steps. One that fails keeps no other from being done, but for those that need the
    /// tunnel that it should have made; the first error is returned.
    pub(super) async fn apply_paths(&self, place: &Place, steps: &[Step]) -> Result<(), NetworkError> {
        let (mut result, mut tunnel_failed) = (Ok(()), false);
        for step in steps {
            if tunnel_failed
                && matches!(step, Step::RaiseTunnel | Step::AddFar(_) | Step::SetRoute(_, Hop::Tunnel { .. }))
            {
                continue;
            }
            tracing::debug!(step = ?step, "setting the paths to other nodes right");
            if let Err(error) = self.apply_path(place, step).await {
                tunnel_failed |= matches!(step, Step::AddTunnel | Step::RaiseTunnel);
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Carries out one step.
    pub(super) async fn apply_path(&self, place: &Place, step: &Step) -> Result<(), NetworkError> {
        let name = tunnel_name(&place.cluster_id);
        let index = async || {
            let links = self.links().await?;
            let found = named(&links, &name).map(|l| l.header.index);
            found.ok_or_else(|| NetworkError::Gone(name.clone()))
        };
        match step {
            Step::AddTunnel => {
                let link = LinkVxlan::new(&name, vni(&place.cluster_id))
                    .local(place.address)
                    .port(VXLAN_PORT)
                    .learning(false)
                    .address(hardware_of(place.address).to_vec())
                    .mtu(self.mtu_towards(place.address).await?.saturating_sub(VXLAN_OVERHEAD));
                call(format!("making the tunnel {name}"), self.handle().link().add(link.build()).execute()).await?
            }
            Step::RaiseTunnel => {
                let link = LinkUnspec::new_with_index(index().await?).up().build();
                call(format!("setting {name} up"), self.handle().link().set(link).execute()).await?
            }
            Step::RemoveTunnel => self.remove_tunnel(&place.cluster_id).await?,
            Step::AddFar(far) => {
                let (index, hardware) = (index().await?, far.hardware());
                let entry = self.handle().neighbours().add_bridge(index, &hardware).destination(far.host.into());
                let mut entry = entry.replace();
                entry.message_mut().header.flags = NeighbourFlags::Own;
                call(format!("telling {name} of the node at {}", far.host), entry.execute()).await?;
                let entry = self.handle().neighbours().add(index, far.via.into()).link_layer_address(&hardware);
                call(format!("telling {name} of the next hop {}", far.via), entry.replace().execute()).await?
            }
            Step::RemoveFar(far) => {
                let index = index().await?;
                let mut next_hop = NeighbourMessage::default();
                next_hop.header.family = AddressFamily::Inet;
                next_hop.header.ifindex = index;
                next_hop.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(far.via))];
                let mut host = NeighbourMessage::default();
                host.header.family = AddressFamily::Bridge;
                host.header.ifindex = index;
                host.header.flags = NeighbourFlags::Own;
                host.attributes = vec![
                    NeighbourAttribute::LinkLayerAddress(far.hardware().to_vec()),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(far.host)),
                ];
                for entry in [next_hop, host] {
                    let removal = self.handle().neighbours().del(entry).execute();
                    if let Err(error) = call(format!("forgetting the node at {}", far.host), removal).await {
                        tracing::debug!(%error, "an entry of the tunnel was gone already");
                    }
                }
            }
            Step::SetRoute(cidr, hop) => {
                let tunnel = if matches!(hop, Hop::Tunnel { .. }) { index().await? } else { 0 };
                let add = self.handle().route().add(route(place, *cidr, *hop, tunnel)).replace();
                call(format!("the route to {cidr}"), add.execute()).await?
            }
            Step::RemoveRoute(cidr, hop) => {
                // What is deleted is named by range, metric and protocol; the rest would only have to match.
                let mut message = route(place, *cidr, *hop, 0);
                message
                    .attributes
                    .retain(|a| matches!(a, RouteAttribute::Destination(_) | RouteAttribute::Priority(_)));
                let removal = self.handle().route().del(message).execute();
                if let Err(error) = call(format!("the route to {cidr}"), removal).await {
                    tracing::debug!(%error, "a route was gone already");
                }
            }
        }
        Ok(())
    }

    /// Removes the cluster's tunnel; none there is success.
    pub(super) async fn remove_tunnel(&self, cluster_id: &str) -> Result<(), NetworkError> {
        let name = tunnel_name(cluster_id);
        let links = self.links().await?;
        let Some(link) = named(&links, &name) else { return Ok(()) };
        Ok(call(format!("removing {name}"), self.handle().link().del(link.header.index).execute()).await?)
    }

    /// The nodes that the tunnel knows both entries of.
    async fn far(&self, index: u32) -> Result<BTreeSet<Far>, NetworkError> {
        let list = async |family| {
            let all = rtnl::neighbours(self.handle(), family).await?;
            Ok::<_, NetworkError>(all.into_iter().filter(|n: &NeighbourMessage| n.header.ifindex == index))
        };
        let hosts: BTreeMap<Vec<u8>, Ipv4Addr> =
            list(AddressFamily::Bridge).await?.filter_map(|n| Some((hardware_in(&n)?, address_in(&n)?))).collect();
        let next_hops = list(AddressFamily::Inet).await?;
        let far = next_hops.filter_map(|n| {
            let (via, hardware) = (address_in(&n)?, hardware_in(&n)?);
            Some(Far { via, host: *hosts.get(&hardware)? })
        });
        Ok(far.filter(|far| hosts.get(far.hardware().as_slice()) == Some(&far.host)).collect())
    }

    /// The largest packet of the interface that has an address; the usual where none has.
    async fn mtu_towards(&self, address: Ipv4Addr) -> Result<u32, NetworkError> {
        let of_address = self.interface_addresses().await?.into_iter().find(|(_, net)| net.addr() == address);
        let Some((index, _)) = of_address else { return Ok(USUAL_MTU) };
        let links = self.links().await?;
        Ok(links.iter().find(|l| l.header.index == index).map_or(USUAL_MTU, mtu_of))
    }
}

fn route(place: &Place, cidr: Ipv4Net, hop: Hop, tunnel: u32) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(cidr.network(), cidr.prefix_len())
        .protocol(PROTOCOL)
        .pref_source(place.gateway);
    match hop {
        Hop::Segment { via, interface } => builder.gateway(via).output_interface(interface).build(),
        Hop::Tunnel { via } => builder.gateway(via).output_interface(tunnel).onlink().build(),
        Hop::Nowhere => builder.kind(RouteType::Unreachable).priority(NOWHERE_METRIC).build(),
    }
}

fn hop_of(route: &RouteMessage, tunnel: Option<u32>) -> Option<Hop> {
    if route.header.kind == RouteType::Unreachable {
        return Some(Hop::Nowhere);
    }
    let (interface, via) = (interface_of(route)?, gateway_of(route)?);
    Some(if Some(interface) == tunnel { Hop::Tunnel { via } } else { Hop::Segment { via, interface } })
}

fn is_right(link: &LinkMessage, place: &Place) -> bool {
    let vxlan: Vec<&InfoVxlan> = infos_of(link)
        .filter_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(vxlan)) => Some(vxlan),
            _ => None,
        })
        .flatten()
        .collect();
    let has = |wanted: InfoVxlan| vxlan.iter().any(|info| **info == wanted);
    let hardware = LinkAttribute::Address(hardware_of(place.address).to_vec());
    has(InfoVxlan::Id(vni(&place.cluster_id)))
        && has(InfoVxlan::Port(VXLAN_PORT))
        && has(InfoVxlan::Local(place.address))
        && link.attributes.contains(&hardware)
}

fn hardware_in(neighbour: &NeighbourMessage) -> Option<Vec<u8>> {
    neighbour.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(bytes.clone()),
        _ => None,
    })
}

fn address_in(neighbour: &NeighbourMessage) -> Option<Ipv4Addr> {
    neighbour.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
        // In entries of a bridge's family the library does not say what kind of address it is.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    })
}

/// The address of a node for paths; nodes without one in IPv4 have none.
pub(super) fn place_address(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests;
