//! Cuts UDP flows to backends that are gone: UDP has no end of a connection, so the kernel would
//! send a client there for as long as it keeps talking.
//!
//! Best effort with the `conntrack` tool: without it the flows end by time, 30 s after the last
//! packet.

use std::{net::SocketAddrV4, process::Stdio, time::Duration};

use tokio::process::Command;

use super::table::Portal;

/// Backends cut one by one; beyond that, all flows of the portal are, which costs the others a new
/// choice of backend.
const SINGLE_MAX: usize = 32;
/// For all of one change. The tool goes through every connection of the host for each call.
const LIMIT: Duration = Duration::from_secs(10);

/// Cuts the flows of each portal to each backend.
pub(super) async fn cut(flows: Vec<(Portal, SocketAddrV4)>) {
    let cutting = async {
        for arguments in plan(&flows) {
            let mut command = Command::new("conntrack");
            command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Status 1 means that there was none, which is fine.
            if let Err(error) = command.kill_on_drop(true).status().await {
                tracing::debug!(%error, "conntrack can't be run; UDP clients of gone backends change over in 30 s");
                return;
            }
        }
    };
    if tokio::time::timeout(LIMIT, cutting).await.is_err() {
        tracing::debug!(flows = flows.len(), "cutting UDP flows took too long");
    }
}

/// The calls of the tool.
fn plan(flows: &[(Portal, SocketAddrV4)]) -> Vec<Vec<String>> {
    let of_portal = |portal: &Portal| {
        let port = portal.port.to_string();
        let mut arguments =
            ["-D", "-p", portal.protocol.as_str(), "--orig-port-dst", &port].map(str::to_owned).to_vec();
        arguments.extend(portal.at.address().into_iter().flat_map(|ip| ["--orig-dst".to_owned(), ip.to_string()]));
        arguments
    };
    if flows.len() <= SINGLE_MAX {
        let single = flows.iter().map(|(portal, backend)| {
            let mut arguments = of_portal(portal);
            let reply = [("--reply-src", backend.ip().to_string()), ("--reply-port-src", backend.port().to_string())];
            arguments.extend(reply.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
            arguments
        });
        return single.collect();
    }
    let mut portals: Vec<_> = flows.iter().map(|(portal, _)| *portal).collect();
    portals.sort_unstable();
    portals.dedup();
    portals.iter().map(of_portal).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{super::table::Protocol, *};

    fn flows(count: u16) -> Vec<(Portal, SocketAddrV4)> {
        let portal = Portal::of_service(Ipv4Addr::new(10, 0, 0, 5), Protocol::Udp, 53);
        (0..count).map(|i| (portal, SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 2), 5000 + i))).collect()
    }

    #[test]
    fn few_backends_are_cut_alone_and_many_with_the_portal() {
        let one = plan(&flows(1)).into_iter().map(|a| a.join(" ")).collect::<Vec<_>>();
        let portal = "-D -p udp --orig-port-dst 53 --orig-dst 10.0.0.5";
        assert_eq!(one, [format!("{portal} --reply-src 10.244.0.2 --reply-port-src 5000")]);
        assert_eq!(plan(&flows(32)).len(), 32);
        assert_eq!(plan(&flows(33)).into_iter().map(|a| a.join(" ")).collect::<Vec<_>>(), [portal]);
    }
}
