//! The kernel's side of the pod network: bridge, address, service route and hairpin ports, through
//! netlink.
//!
//! Invariant: [`plan`] decides from a snapshot, [`Links::apply`] only carries out.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkBridgePort, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        link::{InfoBridgePort, LinkAttribute, LinkMessage},
        route::{RouteMessage, RouteScope},
    },
};

use super::{NetworkError, neighbours, paths};
use crate::rtnl::{
    self, NetlinkError, TABLE_LOCAL, address_of, call, interface_of, is_port, is_up, metric_of, name_of, named,
    range_of, source_of,
};

/// Of the service route. It is the net below: the service proxy may have a better one.
const SERVICE_ROUTE_METRIC: u32 = 1024;

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
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The addresses of interfaces: (interface, address and prefix).
    pub(super) async fn interface_addresses(&self) -> Result<Vec<(u32, Ipv4Net)>, NetworkError> {
        let addresses = rtnl::addresses(&self.handle).await?;
        Ok(addresses.iter().filter_map(|a| Some((a.header.index, address_of(a)?))).collect())
    }

    /// The bridge as it is, or `None` where there is none.
    pub(super) async fn observe(&self, desired: &Desired) -> Result<Option<Observed>, NetworkError> {
        let links = self.links().await?;
        let bridge = match named(&links, &desired.bridge) {
            Some(bridge) => bridge.clone(),
            // A list that is made while links come and go may lack one that is there.
            None => match rtnl::link(&self.handle, &desired.bridge).await? {
                Some(bridge) => bridge,
                None => return Ok(None),
            },
        };
        let index = bridge.header.index;
        let addresses = rtnl::addresses(&self.handle).await?;
        let routes = self.routes().await?;
        Ok(Some(Observed {
            index,
            up: is_up(&bridge),
            addresses: addresses.iter().filter(|a| a.header.index == index).filter_map(address_of).collect(),
            service_routes: routes
                .iter()
                .filter(|r| interface_of(r) == Some(index) && range_of(r) == Some(desired.service_cidr))
                .filter(|r| metric_of(r) == Some(SERVICE_ROUTE_METRIC))
                .map(source_of)
                .collect(),
            gives_up: neighbours::gives_up_early(&desired.bridge),
            plain_ports: links.iter().filter(|l| is_plain_port(l, index)).map(|l| l.header.index).collect(),
        }))
    }

    /// Carries out one step. A port that has gone meanwhile is no error.
    pub(super) async fn apply(&self, desired: &Desired, index: u32, step: &Step) -> Result<(), NetlinkError> {
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
        let addresses = rtnl::addresses(&self.handle).await?;
        let routes = self.routes().await?;
        let of_addresses = addresses.iter().filter_map(|a| Some((name(Some(a.header.index)), address_of(a)?)));
        let foreign = routes.iter().filter(|r| r.header.protocol != paths::PROTOCOL);
        let of_routes = foreign.filter_map(|r| Some((name(interface_of(r)), range_of(r)?)));
        Ok(of_addresses.chain(of_routes).collect())
    }

    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        Ok(rtnl::links(&self.handle).await?)
    }

    /// IPv4 routes of all tables but the local one.
    pub(super) async fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let mut routes = rtnl::routes(&self.handle).await?;
        routes.retain(|r| r.header.table != TABLE_LOCAL);
        Ok(routes)
    }
}

fn is_plain_port(link: &LinkMessage, bridge: u32) -> bool {
    let ours = link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(c) if *c == bridge));
    ours && is_port(link, |info| matches!(info, InfoBridgePort::HairpinMode(false)))
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
