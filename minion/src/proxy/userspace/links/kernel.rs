//! What the kernel tells over netlink, and how long it may take.

use std::{future::Future, net::Ipv4Addr, time::Duration};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        address::AddressMessage,
        link::{BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::NeighbourMessage,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
        rule::RuleMessage,
    },
};

use crate::proxy::ProxyError;

/// The kernel answers at once; anything longer is a fault.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn call<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, ProxyError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ProxyError::Netlink { what, source: Box::new(source) }),
        Err(_) => Err(ProxyError::NetlinkTimeout { what, seconds: LIMIT.as_secs() }),
    }
}

pub(super) async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, ProxyError> {
    call("listing links", handle.link().get().execute().try_collect()).await
}

pub(super) async fn link(handle: &Handle, name: &str) -> Result<LinkMessage, ProxyError> {
    let found: Vec<_> =
        call("looking up a link", handle.link().get().match_name(name.to_owned()).execute().try_collect()).await?;
    found.into_iter().next().ok_or_else(|| ProxyError::NoLink(name.to_owned()))
}

pub(super) async fn index_of(handle: &Handle, name: &str) -> Result<u32, ProxyError> {
    Ok(link(handle, name).await?.header.index)
}

/// Whether this is a port that its bridge sends frames to.
pub(super) fn forwards(link: &LinkMessage) -> bool {
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
pub(super) async fn routes(handle: &Handle) -> Result<Vec<RouteMessage>, ProxyError> {
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    call("listing routes", handle.route().get(query).execute().try_collect()).await
}

/// Neighbours of all links.
pub(super) async fn neighbours(handle: &Handle) -> Result<Vec<NeighbourMessage>, ProxyError> {
    call("listing neighbours", handle.neighbours().get().execute().try_collect()).await
}

pub(super) fn name_of(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

pub(super) fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(1500)
}

pub(super) fn range_of(route: &RouteMessage) -> Option<Ipv4Net> {
    let RouteHeader { destination_prefix_length, .. } = route.header;
    let destination = attribute(route, |a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    Ipv4Net::new(destination.unwrap_or(Ipv4Addr::UNSPECIFIED), destination_prefix_length).ok()
}

pub(super) fn interface_of(route: &RouteMessage) -> Option<u32> {
    attribute(route, |a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(super) fn gateway_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    attribute(route, |a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

pub(super) fn source_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    attribute(route, |a| match a {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

fn attribute<T>(route: &RouteMessage, find: impl Fn(&RouteAttribute) -> Option<T>) -> Option<T> {
    route.attributes.iter().find_map(find)
}

/// A route's table; those beyond 255 are told beside the header.
pub(super) fn table_of(route: &RouteMessage) -> u32 {
    let beside = attribute(route, |a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    beside.unwrap_or(route.header.table.into())
}

/// Addresses of all links.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<AddressMessage>, ProxyError> {
    call("listing addresses", handle.address().get().execute().try_collect()).await
}

/// The rules for IPv4 packets; `None`: this kernel knows none (`CONFIG_IP_MULTIPLE_TABLES`).
pub(super) async fn rules(handle: &Handle) -> Result<Option<Vec<RuleMessage>>, ProxyError> {
    const UNSUPPORTED: [i32; 2] = [-95, -97];
    let listed = call("listing rules", handle.rule().get(IpVersion::V4).execute().try_collect()).await;
    match listed {
        Err(ProxyError::Netlink { source, what }) => match *source {
            rtnetlink::Error::NetlinkError(message) if UNSUPPORTED.contains(&message.raw_code()) => Ok(None),
            source => Err(ProxyError::Netlink { what, source: Box::new(source) }),
        },
        other => other.map(Some),
    }
}
