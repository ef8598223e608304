//! Cuts flows that the kernel would go on with as they began: it asks the rules about the first packet
//! of a flow only. UDP has no end of a connection, so a client would be sent to a backend that is gone
//! for as long as it keeps talking; and what began while nothing served its portal stays untranslated,
//! also when the client tries again from the same port.
//!
//! Best effort with the `conntrack` tool: without it the flows end by time, 30 s after the last packet
//! for UDP, 2 minutes for TCP.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    process::Stdio,
    time::Duration,
};

use ipnet::Ipv4Net;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::table::{Portal, Stale};

/// Backends cut one by one; beyond that, all flows of the portal are, which costs the others a new
/// choice of backend.
const SINGLE_MAX: usize = 32;
/// For all of one change. The tool goes through every connection of the host for each call.
const LIMIT: Duration = Duration::from_secs(10);

/// Cuts these. `range` is the service range.
pub(super) async fn cut(flows: Vec<Stale>, range: Ipv4Net) {
    let cutting = async {
        for arguments in plan(&flows) {
            run(&arguments).await?;
        }
        if flows.contains(&Stale::Unruled) {
            for address in untranslated(range).await? {
                let address = address.to_string();
                run(&["-D", "--orig-dst", &address, "--reply-src", &address].map(str::to_owned)).await?;
            }
        }
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(LIMIT, cutting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "conntrack can't be run; what clients began elsewhere goes on"),
        Err(_) => tracing::debug!(flows = flows.len(), "cutting flows took too long"),
    }
}

fn tool(arguments: &[String]) -> Command {
    let mut command = Command::new("conntrack");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(arguments: &[String]) -> io::Result<()> {
    // Status 1 means that there was none, which is fine.
    tool(arguments).status().await.map(drop)
}

/// The addresses in `range` to which there are flows that nobody translated.
async fn untranslated(range: Ipv4Net) -> io::Result<BTreeSet<Ipv4Addr>> {
    let mut list = tool(&["-L", "--orig-dst", &range.to_string()].map(str::to_owned)).stdout(Stdio::piped()).spawn()?;
    let mut found = BTreeSet::new();
    if let Some(output) = list.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            found.extend(untranslated_to(&line));
        }
    }
    list.wait().await?;
    Ok(found)
}

/// Where a flow of the tool's list goes, if whom it was sent to answers it:
/// `udp 17 29 src=A dst=B sport=1 dport=2 src=B dst=A sport=2 dport=1 mark=0 use=1`.
fn untranslated_to(line: &str) -> Option<Ipv4Addr> {
    let values = |key| line.split_whitespace().filter_map(move |field| field.strip_prefix(key));
    let to = values("dst=").next()?;
    (values("src=").nth(1)? == to).then(|| to.parse().ok())?
}

/// The calls of the tool, but for what only a look can tell.
fn plan(flows: &[Stale]) -> Vec<Vec<String>> {
    let of_portal = |portal: &Portal| {
        let port = portal.port.to_string();
        let mut arguments =
            ["-D", "-p", portal.protocol.as_str(), "--orig-port-dst", &port].map(str::to_owned).to_vec();
        arguments.extend(portal.at.address().into_iter().flat_map(|ip| ["--orig-dst".to_owned(), ip.to_string()]));
        arguments
    };
    let mut lost: Vec<_> = flows
        .iter()
        .filter_map(|flow| match flow {
            Stale::Lost(portal, backend) => Some((portal, backend)),
            Stale::Unserved(_) | Stale::Unruled => None,
        })
        .collect();
    let mut calls: Vec<_> = if lost.len() <= SINGLE_MAX {
        let single = |(portal, backend): &(&Portal, &SocketAddrV4)| {
            let mut arguments = of_portal(portal);
            let reply = [("--reply-src", backend.ip().to_string()), ("--reply-port-src", backend.port().to_string())];
            arguments.extend(reply.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
            arguments
        };
        lost.iter().map(single).collect()
    } else {
        lost.sort_unstable();
        lost.dedup_by_key(|(portal, _)| *portal);
        lost.iter().map(|(portal, _)| of_portal(portal)).collect()
    };
    // Translated, they would be answered from elsewhere.
    calls.extend(flows.iter().filter_map(|flow| {
        let Stale::Unserved(portal) = flow else { return None };
        let mut arguments = of_portal(portal);
        arguments.extend(match portal.at.address() {
            Some(ip) => ["--reply-src".to_owned(), ip.to_string()],
            None => ["--reply-port-src".to_owned(), portal.port.to_string()],
        });
        Some(arguments)
    }));
    calls
}

#[cfg(test)]
mod tests {
    use super::{
        super::table::{Frontend, Protocol},
        *,
    };

    fn lost(count: u16) -> Vec<Stale> {
        let portal = Portal::of_service(Ipv4Addr::new(10, 0, 0, 5), Protocol::Udp, 53);
        let backend = |i| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 2), 5000 + i);
        (0..count).map(|i| Stale::Lost(portal, backend(i))).collect()
    }

    fn calls(flows: &[Stale]) -> Vec<String> {
        plan(flows).into_iter().map(|arguments| arguments.join(" ")).collect()
    }

    #[test]
    fn few_backends_are_cut_alone_and_many_with_the_portal() {
        let portal = "-D -p udp --orig-port-dst 53 --orig-dst 10.0.0.5";
        assert_eq!(calls(&lost(1)), [format!("{portal} --reply-src 10.244.0.2 --reply-port-src 5000")]);
        assert_eq!(calls(&lost(32)).len(), 32);
        assert_eq!(calls(&lost(33)), [portal]);
    }

    #[test]
    fn of_flows_that_began_too_early_only_the_untranslated_are_cut() {
        let unserved = |at| Stale::Unserved(Portal { at, protocol: Protocol::Udp, port: 53 });
        let flows = [Frontend::External(Ipv4Addr::new(203, 0, 113, 1)), Frontend::Node].map(unserved);
        let expected = [
            "-D -p udp --orig-port-dst 53 --orig-dst 203.0.113.1 --reply-src 203.0.113.1",
            "-D -p udp --orig-port-dst 53 --reply-port-src 53",
        ];
        assert_eq!(calls(&flows), expected);
        assert_eq!(calls(&[Stale::Unruled]), [""; 0]);

        let line = |answering: &str| {
            format!(
                "tcp      6 117 SYN_SENT src=10.244.0.1 dst=10.0.0.5 sport=40000 dport=80 [UNREPLIED] \
                 src={answering} dst=10.244.0.1 sport=80 dport=40000 mark=0 use=1"
            )
        };
        assert_eq!(untranslated_to(&line("10.0.0.5")), Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(untranslated_to(&line("10.244.0.2")), None);
        assert_eq!(untranslated_to("conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown."), None);
    }
}
