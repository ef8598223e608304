//! The kernel's side of the pod network: bridge, address, service route and hairpin ports, through
//! netlink.
//!
//! Invariant: [`plan`] decides from a snapshot, [`Links::apply`] only carries out.

use std::{future::Future, net::Ipv4Addr, time::Duration};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkBridgePort, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope},
    },
};

use super::{NetworkError, neighbours, paths};

/// The kernel answers at once; anything longer is a fault.
const LIMIT: Duration = Duration::from_secs(5);
/// Of the service route. It is the net below: the service proxy may have a better one.
const SERVICE_ROUTE_METRIC: u32 = 1024;
/// Routes of the host's own addresses; they repeat the addresses.
const TABLE_LOCAL: u8 = 255;

/// What the node's bridge must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) bridge: String,
    /// Gateway address with the pod range's prefix.
    pub(super) gateway: Ipv4Net,
    pub(super) service_cidr: Ipv4Net,
}

/// What the node's bridge is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) index: u32,
    pub(super) up: bool,
    pub(super) addresses: Vec<Ipv4Net>,
    /// Source addresses of routes of the service range onto the bridge with the right metric.
    pub(super) service_routes: Vec<Option<Ipv4Addr>>,
    /// Whether it gives up on an address that nobody has as soon as we want.
    pub(super) gives_up: bool,
    /// Ports of the bridge that do not send a frame back where it came from.
    pub(super) plain_ports: Vec<u32>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Up,
    AddAddress(Ipv4Net),
    SetServiceRoute,
    GiveUp,
    Hairpin(u32),
}

/// What must change, in the order in which the kernel accepts it: a route needs its source
/// address, and both need the bridge up.
pub(super) fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if !observed.up {
        steps.push(Step::Up);
    }
    let addressed = observed.addresses.contains(&desired.gateway);
    if !addressed {
        steps.push(Step::AddAddress(desired.gateway));
    }
    // Taking the bridge down or its address away has removed the route too.
    if !observed.service_routes.contains(&Some(desired.gateway.addr())) || !steps.is_empty() {
        steps.push(Step::SetServiceRoute);
    }
    if !observed.gives_up {
        steps.push(Step::GiveUp);
    }
    steps.extend(observed.plain_ports.iter().map(|port| Step::Hairpin(*port)));
    steps
}

/// A netlink connection. Its background task ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Links {
    handle: Handle,
}

impl Links {
    pub(super) fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The addresses of interfaces: (interface, address and prefix).
    pub(super) async fn interface_addresses(&self) -> Result<Vec<(u32, Ipv4Net)>, NetworkError> {
        let addresses = self.addresses().await?;
        Ok(addresses.iter().filter_map(|a| Some((a.header.index, address_cidr(a)?))).collect())
    }

    /// The bridge as it is, or `None` where there is none.
    pub(super) async fn observe(&self, desired: &Desired) -> Result<Option<Observed>, NetworkError> {
        let links = self.links().await?;
        let Some(bridge) = links.iter().find(|l| name_of(l) == desired.bridge) else { return Ok(None) };
        let index = bridge.header.index;
        let addresses = self.addresses().await?;
        let routes = self.routes().await?;
        Ok(Some(Observed {
            index,
            up: bridge.header.flags.contains(LinkFlags::Up),
            addresses: addresses.iter().filter(|a| a.header.index == index).filter_map(address_cidr).collect(),
            service_routes: routes
                .iter()
                .filter(|r| route_interface(r) == Some(index) && route_cidr(r) == Some(desired.service_cidr))
                .filter(|r| route_metric(r) == Some(SERVICE_ROUTE_METRIC))
                .map(route_source)
                .collect(),
            gives_up: neighbours::gives_up_early(&desired.bridge),
            plain_ports: links.iter().filter(|l| is_plain_port(l, index)).map(|l| l.header.index).collect(),
        }))
    }

    /// Carries out one step. A port that has gone meanwhile is no error.
    pub(super) async fn apply(&self, desired: &Desired, index: u32, step: &Step) -> Result<(), NetworkError> {
        let bridge = &desired.bridge;
        match step {
            Step::Up => {
                let link = LinkUnspec::new_with_index(index).up().build();
                call(format!("setting {bridge} up"), self.handle.link().set(link).execute()).await
            }
            Step::AddAddress(address) => {
                let add = self.handle.address().add(index, address.addr().into(), address.prefix_len());
                call(format!("adding {address} to {bridge}"), add.execute()).await
            }
            Step::SetServiceRoute => {
                let cidr = desired.service_cidr;
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(cidr.network(), cidr.prefix_len())
                    .output_interface(index)
                    .pref_source(desired.gateway.addr())
                    .priority(SERVICE_ROUTE_METRIC)
                    .scope(RouteScope::Link)
                    .build();
                let add = self.handle.route().add(route).replace();
                call(format!("routing {cidr} onto {bridge}"), add.execute()).await
            }
            Step::GiveUp => {
                if let Err(error) = neighbours::give_up_early(bridge) {
                    tracing::debug!(bridge, %error, "pod addresses that nobody has are refused late");
                }
                Ok(())
            }
            Step::Hairpin(port) => {
                let set = LinkBridgePort::new(*port).hairpin(true).build();
                let done = call(format!("hairpin on a port of {bridge}"), self.handle.link().set_port(set).execute());
                if let Err(error) = done.await {
                    tracing::debug!(bridge, port, error = %error, "bridge port not set, it may be gone");
                }
                Ok(())
            }
        }
    }

    /// Every address and route of the host but paths to pods of other nodes: (interface, range).
    pub(super) async fn cidrs(&self) -> Result<Vec<(String, Ipv4Net)>, NetworkError> {
        let links = self.links().await?;
        let name = |index: Option<u32>| {
            links
                .iter()
                .find(|l| Some(l.header.index) == index)
                .map_or_else(|| "(none)".into(), |l| name_of(l).to_owned())
        };
        let addresses = self.addresses().await?;
        let routes = self.routes().await?;
        let of_addresses = addresses.iter().filter_map(|a| Some((name(Some(a.header.index)), address_cidr(a)?)));
        let foreign = routes.iter().filter(|r| r.header.protocol != paths::PROTOCOL);
        let of_routes = foreign.filter_map(|r| Some((name(route_interface(r)), route_cidr(r)?)));
        Ok(of_addresses.chain(of_routes).collect())
    }

    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        call("listing links", self.handle.link().get().execute().try_collect()).await
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, NetworkError> {
        call("listing addresses", self.handle.address().get().execute().try_collect()).await
    }

    /// IPv4 routes of all tables but the local one.
    pub(super) async fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all: Vec<_> = call("listing routes", self.handle.route().get(query).execute().try_collect()).await?;
        Ok(all.into_iter().filter(|r| r.header.table != TABLE_LOCAL).collect())
    }
}

pub(super) async fn call<T>(
    what: impl Into<String>,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetworkError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(NetworkError::Netlink { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(NetworkError::NetlinkTimeout { what: what.into(), seconds: LIMIT.as_secs() }),
    }
}

pub(super) fn name_of(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn is_plain_port(link: &LinkMessage, bridge: u32) -> bool {
    let ours = link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(c) if *c == bridge));
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    ours && infos.flatten().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.iter().any(|p| matches!(p, InfoBridgePort::HairpinMode(false)))
        }
        _ => false,
    })
}

fn address_cidr(message: &AddressMessage) -> Option<Ipv4Net> {
    message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(std::net::IpAddr::V4(ip)) => Ipv4Net::new(*ip, message.header.prefix_len).ok(),
        _ => None,
    })
}

pub(super) fn route_cidr(route: &RouteMessage) -> Option<Ipv4Net> {
    let RouteHeader { destination_prefix_length, .. } = route.header;
    let destination = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    Ipv4Net::new(destination.unwrap_or(Ipv4Addr::UNSPECIFIED), destination_prefix_length).ok()
}

pub(super) fn route_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn route_metric(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    })
}

pub(super) fn route_source(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired() -> Desired {
        Desired {
            bridge: "cor-1".into(),
            gateway: "10.244.3.1/24".parse().unwrap(),
            service_cidr: "10.0.0.0/16".parse().unwrap(),
        }
    }

    fn settled() -> Observed {
        let gateway = desired().gateway;
        let service_routes = vec![Some(gateway.addr())];
        let (up, gives_up) = (true, true);
        Observed { index: 7, up, addresses: vec![gateway], service_routes, gives_up, plain_ports: Vec::new() }
    }

    #[test]
    fn a_settled_bridge_needs_nothing() {
        assert_eq!(plan(&desired(), &settled()), []);
    }

    #[test]
    fn each_missing_part_is_restored_in_the_order_the_kernel_accepts() {
        let check = |observed: Observed, expected: &[Step]| assert_eq!(plan(&desired(), &observed), expected);
        let address = Step::AddAddress(desired().gateway);
        check(Observed { service_routes: vec![], ..settled() }, &[Step::SetServiceRoute]);
        check(Observed { service_routes: vec![None], ..settled() }, &[Step::SetServiceRoute]);
        check(Observed { gives_up: false, ..settled() }, &[Step::GiveUp]);
        check(Observed { plain_ports: vec![9, 11], ..settled() }, &[Step::Hairpin(9), Step::Hairpin(11)]);
        check(Observed { addresses: vec![], ..settled() }, &[address.clone(), Step::SetServiceRoute]);
        check(
            Observed { up: false, addresses: vec![], service_routes: vec![], ..settled() },
            &[Step::Up, address, Step::SetServiceRoute],
        );
    }
}
