//! Why the pod network could not be made.

use ipnet::Ipv4Net;

use crate::rtnl::NetlinkError;

/// Errors of the pod network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The range is in use by something else on this host: another range must be chosen.
    #[error(
        "{flag} {cidr} overlaps {other} of {by} on this host: choose a free range with {flag}, or remove what uses it"
    )]
    Overlap {
        /// The flag that sets the range: `--pod-cidr` or `--service-cidr`.
        flag: &'static str,
        /// The range asked for.
        cidr: Ipv4Net,
        /// The range in its way.
        other: Ipv4Net,
        /// Who has that: `Docker network x` or `interface y`.
        by: String,
    },
    /// The range is too small to hold a gateway and pods.
    #[error("--pod-cidr {0} has no room for pods: choose a range of /29 or larger")]
    TooSmall(Ipv4Net),
    /// The cluster's network has other addresses and containers on it.
    #[error(
        "Docker network {network} is on {subnet}, not {wanted}, and {containers} container(s) use it: \
         remove them (docker network inspect {network}) or start with --pod-cidr {subnet}"
    )]
    InUse {
        /// The network's name.
        network: String,
        /// Its range, as Docker tells it.
        subnet: String,
        /// The range asked for.
        wanted: Ipv4Net,
        /// How many containers are on it.
        containers: usize,
    },
    /// A network of that name exists without the cluster's label.
    #[error("Docker network {0} was not made by this cluster: remove it (docker network rm {0})")]
    NotOurs(String),
    /// The engine refused or can't be reached.
    #[error("{what} at the Docker engine")]
    Engine {
        /// The call.
        what: String,
        /// The engine's answer.
        #[source]
        source: Box<bollard::errors::Error>,
    },
    /// The engine did not answer in time; the outcome is unknown.
    #[error("{what} at the Docker engine took longer than {seconds} s")]
    EngineTimeout {
        /// The call.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The kernel refused, or did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An interface went away while it was set up.
    #[error("{0} was removed meanwhile")]
    Gone(String),
    /// The packet filter refused.
    #[error("iptables {rule}: {output}")]
    Filter {
        /// The arguments.
        rule: String,
        /// What the tool said.
        output: String,
    },
    /// No netlink socket.
    #[error("opening a netlink socket")]
    Socket(#[source] std::io::Error),
}
