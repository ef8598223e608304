//! Links, addresses, routes, neighbours and rules of the kernel (`rtnetlink(7)`): how they are asked
//! for, and what of them [`crate::network`] and the userspace proxy read.

use std::{
    borrow::Cow,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        link::{InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::NeighbourMessage,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
        rule::RuleMessage,
    },
};

/// The kernel answers at once; anything longer is a fault.
const LIMIT: Duration = Duration::from_secs(5);
/// What Ethernet has, in bytes.
pub(crate) const USUAL_MTU: u32 = 1500;
/// Routes of the host's own addresses; they repeat the addresses.
pub(crate) const TABLE_LOCAL: u8 = 255;

/// Why the kernel did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("{what} through netlink (this needs root)")]
    Refused {
        /// What was asked.
        what: Cow<'static, str>,
        /// Its answer.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// It did not answer in time; the outcome is unknown.
    #[error("{what} through netlink took longer than {seconds} s")]
    Timeout {
        /// What was asked.
        what: Cow<'static, str>,
        /// The limit.
        seconds: u64,
    },
}

impl NetlinkError {
    /// Whether the kernel's answer was one of these error numbers, as it has them: positive.
    pub(crate) fn is_one_of(&self, numbers: &[i32]) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        matches!(&**source, rtnetlink::Error::NetlinkError(message) if numbers.contains(&-message.raw_code()))
    }
}

/// One request, within a limit.
pub(crate) async fn call<T>(
    what: impl Into<Cow<'static, str>>,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(NetlinkError::Refused { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(NetlinkError::Timeout { what: what.into(), seconds: LIMIT.as_secs() }),
    }
}

pub(crate) async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, NetlinkError> {
    call("listing links", handle.link().get().execute().try_collect()).await
}

/// The link of that name, asked for alone.
pub(crate) async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    /// `ENODEV`.
    const ABSENT: [i32; 1] = [19];
    let request = handle.link().get().match_name(name.to_owned());
    let found: Result<Vec<_>, _> = call("looking up a link", request.execute().try_collect()).await;
    match found {
        Err(error) if error.is_one_of(&ABSENT) => Ok(None),
        found => Ok(found?.into_iter().next()),
    }
}

/// Addresses of all links.
pub(crate) async fn addresses(handle: &Handle) -> Result<Vec<AddressMessage>, NetlinkError> {
    call("listing addresses", handle.address().get().execute().try_collect()).await
}

/// IPv4 routes of all tables.
pub(crate) async fn routes(handle: &Handle) -> Result<Vec<RouteMessage>, NetlinkError> {
    let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
    call("listing routes", handle.route().get(query).execute().try_collect()).await
}

/// Neighbours of all links: their addresses, or with the family `Bridge` where their frames go.
pub(crate) async fn neighbours(handle: &Handle, family: AddressFamily) -> Result<Vec<NeighbourMessage>, NetlinkError> {
    let request = handle.neighbours().get().set_address_family(family);
    call("listing neighbours", request.execute().try_collect()).await
}

/// The rules for IPv4 packets; `None`: this kernel knows none (`CONFIG_IP_MULTIPLE_TABLES`).
pub(crate) async fn rules(handle: &Handle) -> Result<Option<Vec<RuleMessage>>, NetlinkError> {
    /// `EOPNOTSUPP`, `EAFNOSUPPORT`.
    const UNSUPPORTED: [i32; 2] = [95, 97];
    match call("listing rules", handle.rule().get(IpVersion::V4).execute().try_collect()).await {
        Err(error) if error.is_one_of(&UNSUPPORTED) => Ok(None),
        listed => listed.map(Some),
    }
}

pub(crate) fn named<'a>(links: &'a [LinkMessage], name: &str) -> Option<&'a LinkMessage> {
    links.iter().find(|link| name_of(link) == name)
}

pub(crate) fn name_of(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

pub(crate) fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

/// In bytes; the usual where the kernel does not tell.
pub(crate) fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(USUAL_MTU)
}

/// What the kernel tells of a link as one of its kind.
pub(crate) fn infos_of(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

/// Whether the link is a port of a bridge, and what the kernel tells of it as one has `is`.
pub(crate) fn is_port(link: &LinkMessage, is: impl Fn(&InfoBridgePort) -> bool) -> bool {
    infos_of(link).any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => port.iter().any(&is),
        _ => false,
    })
}

/// An address with its link's prefix. `None`: not IPv4.
pub(crate) fn address_of(message: &AddressMessage) -> Option<Ipv4Net> {
    message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(IpAddr::V4(ip)) => Ipv4Net::new(*ip, message.header.prefix_len).ok(),
        _ => None,
    })
}

/// Where a route leads to; the default route to all.
pub(crate) fn range_of(route: &RouteMessage) -> Option<Ipv4Net> {
    let RouteHeader { destination_prefix_length, .. } = route.header;
    let destination = attribute(route, |a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    Ipv4Net::new(destination.unwrap_or(Ipv4Addr::UNSPECIFIED), destination_prefix_length).ok()
}

pub(crate) fn interface_of(route: &RouteMessage) -> Option<u32> {
    attribute(route, |a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(crate) fn gateway_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    attribute(route, |a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

pub(crate) fn metric_of(route: &RouteMessage) -> Option<u32> {
    attribute(route, |a| match a {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    })
}

pub(crate) fn source_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    attribute(route, |a| match a {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

/// A route's table; those beyond 255 are told beside the header.
pub(crate) fn table_of(route: &RouteMessage) -> u32 {
    let beside = attribute(route, |a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    beside.unwrap_or(route.header.table.into())
}

fn attribute<T>(route: &RouteMessage, find: impl Fn(&RouteAttribute) -> Option<T>) -> Option<T> {
    route.attributes.iter().find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: i32) -> NetlinkError {
        let mut message = rtnetlink::packet_core::ErrorMessage::default();
        message.code = std::num::NonZeroI32::new(-number);
        let source = Box::new(rtnetlink::Error::NetlinkError(message));
        NetlinkError::Refused { what: "asking".into(), source }
    }

    #[test]
    fn errors_are_known_by_the_kernels_numbers() {
        assert!(refused(19).is_one_of(&[2, 19]));
        assert!(!refused(19).is_one_of(&[2, 3]));
        assert!(!NetlinkError::Timeout { what: "asking".into(), seconds: 5 }.is_one_of(&[0, 2]));
    }

    #[test]
    fn routes_are_read_with_what_they_lack() {
        let everywhere = RouteMessage::default();
        assert_eq!(range_of(&everywhere), Some(Ipv4Net::default()));
        assert_eq!((gateway_of(&everywhere), source_of(&everywhere), metric_of(&everywhere)), (None, None, None));
        let range: Ipv4Net = "10.0.0.0/16".parse().unwrap();
        let gateway = Ipv4Addr::new(10, 244, 0, 1);
        let built = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .gateway(gateway)
            .pref_source(gateway)
            .priority(1024)
            .output_interface(7);
        let (near, far) = (built.clone().table_id(254).build(), built.table_id(70_000).build());
        assert_eq!((range_of(&near), interface_of(&near)), (Some(range), Some(7)));
        assert_eq!((gateway_of(&near), source_of(&near), metric_of(&near)), (Some(gateway), Some(gateway), Some(1024)));
        assert_eq!((table_of(&near), table_of(&far)), (254, 70_000));
    }
}
