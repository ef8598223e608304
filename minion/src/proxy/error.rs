//! Why a table was not put in force.

use crate::rtnl::NetlinkError;

/// Errors of the data planes. Each is tried again with a full load.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The tool is not installed.
    #[error("nft was not found: install nftables (Debian, Ubuntu: apt install nftables) and check PATH")]
    Missing,
    /// The tool can't be run.
    #[error("running nft")]
    Run(#[from] std::io::Error),
    /// The kernel or the tool refused; nothing of the transaction is in force.
    #[error("nft refused {what} (this needs root): {output}")]
    Refused {
        /// Which transaction.
        what: &'static str,
        /// Its words, cut.
        output: String,
    },
    /// The kernel did not remove the table.
    #[error("removing the service table (this needs root)")]
    Remove(#[source] std::io::Error),
    /// The portals' network namespace can't be had.
    #[error("network namespace {name} can't be used (this needs root)")]
    Namespace {
        /// Its name.
        name: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A part of the proxy did not start.
    #[error("opening {what}")]
    Open {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The pod network is not there, or is being made again.
    #[error("there is no link {0}: the pod network must be there first")]
    NoBridge(String),
    /// A link that was there a moment ago, or was just made.
    #[error("the link {0} has gone; it is made again")]
    NoLink(String),
    /// The kernel refused a link or route, or did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No end in time; the outcome is unknown.
    #[error("nft took longer than {seconds} s for {what}")]
    Timeout {
        /// Which transaction.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
}
