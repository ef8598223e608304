//! Address ranges: which are taken on this host, and which of some candidates is free.
//!
//! Invariant: a range that is handed out overlaps no address and no route of the host, so using it
//! cuts nothing off.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{NetworkError, link::Links};

/// A route as wide as this or wider is a default route (or a half of one): it names no network.
const DEFAULT_ROUTE_PREFIX_MAX: u8 = 4;

/// A range that something on this host uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedCidr {
    /// The range.
    pub cidr: Ipv4Net,
    /// Who uses it: `interface eth0`.
    pub by: String,
}

/// Pod ranges to try, best first: 10.244.0.0/16 to 10.254.0.0/16.
pub fn pod_candidates() -> Vec<Ipv4Net> {
    (244..=254).map(|b| slash16(10, b)).collect()
}

/// Service ranges to try, best first: the article's 10.0.0.0/16, then 10.96.0.0/16 to
/// 10.111.0.0/16, then 172.30.0.0/16.
pub fn service_candidates() -> Vec<Ipv4Net> {
    let mut all = vec![slash16(10, 0)];
    all.extend((96..=111).map(|b| slash16(10, b)));
    all.push(slash16(172, 30));
    all
}

fn slash16(a: u8, b: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16)
}

/// Whether two ranges share an address.
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first candidate that overlaps nothing in `used`.
pub fn free_cidr(candidates: &[Ipv4Net], used: &[Ipv4Net]) -> Option<Ipv4Net> {
    candidates.iter().copied().find(|c| !used.iter().any(|u| overlap(c, u)))
}

/// The ranges of all addresses and routes of this host, without those by links of
/// `cluster_id` (a cluster does not stand in its own way) and without default routes.
pub async fn used_cidrs(cluster_id: Option<&str>) -> Result<Vec<UsedCidr>, NetworkError> {
    let links = Links::open()?;
    Ok(taken(links.cidrs().await?, |name| cluster_id.is_some_and(|id| super::is_own_link(name, id))))
}

/// What of (interface, range) is really taken.
fn taken(all: Vec<(String, Ipv4Net)>, is_own: impl Fn(&str) -> bool) -> Vec<UsedCidr> {
    let mut used: Vec<UsedCidr> = Vec::new();
    for (interface, cidr) in all {
        let cidr = cidr.trunc();
        let named = !is_own(&interface) && cidr.prefix_len() > DEFAULT_ROUTE_PREFIX_MAX;
        if named && !used.iter().any(|u| u.cidr == cidr) {
            used.push(UsedCidr { cidr, by: format!("interface {interface}") });
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn overlap_is_seen_whichever_range_is_larger() {
        let check = |a: &str, b: &str, expected: bool| {
            assert_eq!(overlap(&net(a), &net(b)), expected, "{a} {b}");
            assert_eq!(overlap(&net(b), &net(a)), expected, "{b} {a}");
        };
        check("10.0.0.0/16", "10.0.3.0/24", true);
        check("10.0.0.0/16", "10.0.0.0/16", true);
        check("10.0.0.0/16", "10.1.0.0/16", false);
        check("10.0.0.0/8", "10.244.0.0/16", true);
        check("10.0.0.7/32", "10.0.0.0/30", false);
    }

    #[test]
    fn a_lan_of_10_0_moves_the_services_elsewhere() {
        let check = |used: &[&str], expected: Option<&str>| {
            let used: Vec<_> = used.iter().map(|u| net(u)).collect();
            assert_eq!(free_cidr(&service_candidates(), &used), expected.map(net), "{used:?}");
        };
        check(&[], Some("10.0.0.0/16"));
        check(&["192.168.1.0/24", "172.17.0.0/16"], Some("10.0.0.0/16"));
        check(&["10.0.0.0/16"], Some("10.96.0.0/16"));
        check(&["10.0.255.0/24", "10.96.7.7/32"], Some("10.97.0.0/16"));
        check(&["10.0.0.0/8"], Some("172.30.0.0/16"));
        check(&["10.0.0.0/8", "172.16.0.0/12"], None);
    }

    #[test]
    fn default_routes_and_the_own_links_take_nothing() {
        let all = [
            ("eth0", "0.0.0.0/0"),
            ("tun0", "128.0.0.0/1"),
            ("cor-1", "10.244.0.1/24"),
            ("corn-1", "10.0.0.0/16"),
            ("eth0", "192.0.2.2/24"),
        ];
        let used = |id: &str| {
            let all = all.iter().map(|(i, c)| (i.to_string(), net(c))).collect();
            taken(all, |name| super::super::is_own_link(name, id)).into_iter().map(|u| u.cidr).collect::<Vec<_>>()
        };
        assert_eq!(used("1"), [net("192.0.2.0/24")]);
        assert_eq!(used("2"), [net("10.244.0.0/24"), net("10.0.0.0/16"), net("192.0.2.0/24")]);
    }

    proptest! {
        #[test]
        fn what_is_free_overlaps_nothing_used(used in prop::collection::vec((any::<u32>(), 5u8..=32), 0..20)) {
            let used: Vec<_> = used.into_iter().map(|(a, p)| Ipv4Net::new(a.into(), p).unwrap().trunc()).collect();
            for candidates in [pod_candidates(), service_candidates()] {
                match free_cidr(&candidates, &used) {
                    Some(free) => prop_assert!(!used.iter().any(|u| overlap(u, &free))),
                    None => prop_assert!(candidates.iter().all(|c| used.iter().any(|u| overlap(u, c)))),
                }
            }
        }
    }
}
