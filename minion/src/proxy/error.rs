//! Why the packet filter was not set.

/// Errors of the data plane in the kernel. Each is tried again with a full load.
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
    /// No end in time; the outcome is unknown.
    #[error("nft took longer than {seconds} s for {what}")]
    Timeout {
        /// Which transaction.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
}
